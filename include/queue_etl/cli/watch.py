"""What tells whether all is well: verify, a pass of the watch, and alerts."""

import os
from datetime import date
from functools import partial
from typing import Any

from include.contracts import contract_names, load_contract, load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import Arguments, UsageError, add, add_contract, add_json, positive
from include.queue_etl.cli.output import show, show_table
from include.queue_etl.contract import Contract
from include.queue_etl.errors import SettingsError
from include.queue_etl.resources import Resources
from include.queue_etl.sqs.age import oldest_age_seconds
from include.queue_etl.warehouses import Contracts, in_each


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    one = add(commands, verify, examples="example: verify --contract user_logins --day 2026-11-25")
    one.add_argument("--day", help="of sending, as 2026-11-25; default: yesterday, in UTC")
    one.add_argument("--contract", choices=contract_names(), help="default: all of them")
    add_json(one)
    add_json(add(commands, watch))
    actions = commands.add_parser("alerts", help="what needs a person").add_subparsers(
        required=True, metavar="ACTION"
    )
    one = add(actions, list_alerts, "list", group="alerts")
    one.add_argument("--ended", type=positive, default=0, metavar="N", help="and the last N that ended")
    add_contract(one)
    add_json(one, "print one JSON object an alert")
    add_json(add(actions, send_test_alert, "test", group="alerts"))


def verify(arguments: Arguments) -> None:
    """Recount a day: is every message of the ledger a row, or in quarantine, and do runs' sums agree?"""
    from include.queue_etl.operations import verify as engine

    day = _day(arguments.day) or engine.yesterday()
    name = arguments.contract
    contracts = {name: load_contract(name)} if name else load_contracts().usable()
    found: list[engine.Verified] = []

    def job(resources: Resources, own: Contracts) -> dict[str, int]:
        verified = engine.verify(resources, own, day)
        engine.report(resources, own, day, verified)
        found.extend(verified)
        return {}

    in_each(contracts, wiring.opening(wiring.MAINTAINER), job)
    lines = [one.line() for one in found]
    if arguments.json:
        show([{**line, "problems": list(one.problems)} for line, one in zip(lines, found, strict=True)])
    else:
        show_table(lines)
    engine.refuse(found)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{text!r} is no day: give one such as 2026-11-25") from None


def watch(arguments: Arguments) -> None:
    """Look at all queues and runs, raise and end alerts, and tell the receivers of QUEUE_ETL_ALERT_URLS."""
    from include.queue_etl.operations.notices import receivers
    from include.queue_etl.operations.watch import Outside
    from include.queue_etl.operations.watch import watch as look

    contracts = load_contracts()
    outside = Outside(contracts.broken, receivers(os.environ), _cloudwatch_age)
    job = partial(look, outside=outside)
    show(in_each(contracts.good, wiring.opening(wiring.MAINTAINER), job), arguments.json)


def _cloudwatch_age(contract: Contract) -> int | None:
    return oldest_age_seconds(wiring.session(contract.place), contract.queue)


def list_alerts(arguments: Arguments) -> None:
    """List the open alerts of a contract's warehouse, the newest first."""
    from include.queue_etl.operations.alerts import open_alerts

    with wiring.database(wiring.ON_CALL, load_contract(arguments.contract)) as database:
        found = open_alerts(database, ended_too=arguments.ended)
    for alert in found:
        times = {"since": alert.since, "raised_at": alert.raised_at, "ended_at": alert.ended_at}
        shown = {name: time.isoformat(timespec="seconds") if time else None for name, time in times.items()}
        show({**alert._asdict(), **shown}, arguments.json)
        if not arguments.json:
            print()
    if not found and not arguments.json:
        print("no alert is open")


def send_test_alert(arguments: Arguments) -> None:
    """Send a test to every receiver of QUEUE_ETL_ALERT_URLS; exit code 1 where one did not take it."""
    from include.queue_etl.operations.notices import VARIABLE, receivers, send_test

    to = receivers(os.environ)
    if not to:
        raise SettingsError([f"{VARIABLE} is not set: give addresses of Apprise, with blanks between them"])
    took = send_test(to)
    show({name: "sent" if done else "did not take it" for name, done in took.items()}, arguments.json)
    if failed := [name for name, done in took.items() if not done]:
        raise ValueError(f"{len(failed)} of {len(to)} receivers did not take the test: {', '.join(failed)}")
