"""What operators do: look at shapes, redrive, replay, dead letters, reconcile, maintenance."""

import logging
import sys
from typing import Any

from include.contracts import load_contract, load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import (
    Arguments,
    Parser,
    UsageError,
    add,
    add_contract,
    add_json,
    add_run_name,
    positive,
)
from include.queue_etl.cli.output import show
from include.queue_etl.errors import SettingsError, StagedFileDamaged
from include.queue_etl.resources import Resources
from include.queue_etl.warehouses import Contracts, in_each

REPLAY_EXAMPLES = """
examples; without --apply they only count:
  replay --contract orders --since 2026-10-01 --apply           into its own table, which has a key
  replay --table public.user_logins_again --until 2026-11-01    into one of the contract's replay_tables
"""


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    _add_shape(commands)
    one = add(commands, redrive)
    one.add_argument("--reason", help="only messages rejected for it; default: any but too_many_receives")
    one.add_argument(
        "--since", metavar="TIME", help="only those quarantined then or later: 2026-11-21[T08:30[+01:00]]"
    )
    one.add_argument("--until", metavar="TIME", help="only those quarantined before")
    add_run_name(one)
    again = _add_replay(commands)
    dead = add(commands, dead_letters)
    dead.add_argument("--max", type=positive, help="take at most this many messages")
    for changing in (one, again, dead):
        add_contract(changing)
        changing.add_argument("--apply", action="store_true", help="do it")
    for each in (one, again, dead, add(commands, reconcile), add(commands, maintain)):
        add_json(each)


def _add_replay(commands: Any) -> Parser:
    parser = add(commands, replay, examples=REPLAY_EXAMPLES)
    parser.add_argument(
        "--table", metavar="SCHEMA.TABLE", help="one of the contract's replay_tables; default: its own table"
    )
    parser.add_argument(
        "--since", metavar="TIME", help="only messages sent then or later: 2026-11-21[T08:30[+01:00]], UTC"
    )
    parser.add_argument("--until", metavar="TIME", help="only messages sent before")
    add_run_name(parser)
    return parser


def _add_shape(commands: Any) -> None:
    parser = add(commands, shape, examples="example: shape --reason 'missing_field ip'")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--reason", help="only messages rejected for it: missing_field, or 'missing_field ip'")
    what.add_argument("--kept", action="store_true", help="of the undeclared fields kept beside rows instead")
    parser.add_argument(
        "--limit", type=positive, default=20, help="show at most this many groups; default 20"
    )
    add_contract(parser)
    add_json(parser, "print one JSON object a group")


def shape(arguments: Arguments) -> None:
    """Group what waits in quarantine by reason and shape: paths and types, never a value."""
    from include.queue_etl.operations.shapes import kept_shapes, waiting_shapes

    contract = load_contract(arguments.contract)
    with wiring.database(wiring.ON_CALL, contract) as database:
        if arguments.kept:
            groups, total = kept_shapes(database, contract, arguments.limit)
        else:
            groups, total = waiting_shapes(database, contract, arguments.reason, arguments.limit)
    for group in groups:
        show(group, arguments.json)
        if not arguments.json:
            print()
    if not groups:
        nothing = "has kept fields" if arguments.kept else "waits in quarantine for that"
        print(f"nothing of {contract.queue} {nothing}", file=sys.stderr)
    elif total > len(groups):
        print(f"the largest {len(groups)} of {total} groups; --limit shows more", file=sys.stderr)


def redrive(arguments: Arguments) -> None:
    """Put quarantined messages through the current contract; without --apply only count them."""
    from include.queue_etl.operations.redrive import redrive, selection

    try:
        contract = load_contract(arguments.contract)
        selected = selection(contract, arguments.reason, arguments.since, arguments.until)
    except SettingsError as error:
        raise UsageError("; ".join(error.problems)) from None
    with wiring.run_context(arguments, wiring.MAINTAINER) as context:
        show(redrive(context, selected, dry_run=not arguments.apply), arguments.json)


def replay(arguments: Arguments) -> None:
    """Put archived messages through the current contract; without --apply only count them."""
    from include.queue_etl.operations import replay as engine
    from include.queue_etl.operations.redrive import selection

    logging.getLogger(engine.__name__).setLevel(logging.INFO)  # how far it is, without -v too
    try:
        contract = load_contract(arguments.contract)
        chosen = selection(contract, None, arguments.since, arguments.until)
        request = engine.Request(arguments.table or "", chosen.since, chosen.until)
        engine.require_table(contract, request.table)
    except SettingsError as error:
        raise UsageError("; ".join(error.problems)) from None
    with wiring.run_context(arguments, wiring.MAINTAINER) as context:
        if arguments.apply:
            print(f"after a stop, go on with --run-id {context.run.name}", file=sys.stderr)
        result = engine.replay(context, request, dry_run=not arguments.apply)
    if arguments.json:
        show(result, as_json=True)
    else:
        print(engine.in_one_line(result))
    _refuse_incomplete(result)


def _refuse_incomplete(result: dict[str, Any]) -> None:
    if result["damaged"]:
        raise StagedFileDamaged(f"{result['damaged']} archived batches could not be read")
    if result["forgotten"]:
        raise SettingsError(
            [
                f"{result['forgotten']} messages were left out: they were sent so long ago that the ledger "
                "may forget them, and then they would load twice. Before the first replay into a new table "
                "raise QUEUE_ETL_LEDGER_DAYS, for maintenance too"
            ]
        )


def reconcile(arguments: Arguments) -> None:
    """After a restore: load from the retained masked files what the ledger misses, of every contract."""
    from include.queue_etl.operations.reconcile import reconcile

    result = in_each(load_contracts().usable(), wiring.opening(wiring.MAINTAINER), reconcile)
    show(result, arguments.json)
    if result["damaged"]:
        raise StagedFileDamaged(f"{result['damaged']} batches could not be read; -v names them")


def dead_letters(arguments: Arguments) -> None:
    """Empty the dead-letter queue: delete what is committed, redrive the rest; --apply does it."""
    from include.queue_etl.operations.dead_letters import redrive_dead_letters

    contract = load_contract(arguments.contract)
    with wiring.of_contract(wiring.MAINTAINER, contract, queues=True) as resources:
        result = redrive_dead_letters(
            resources, contract, max_messages=arguments.max, dry_run=not arguments.apply
        )
    show(result, arguments.json)


def maintain(arguments: Arguments) -> None:
    """Prepare ledger days, delete expired data, close abandoned runs, tidy staging; of every contract."""
    from include.queue_etl.operations.maintenance import maintain

    contracts = load_contracts()

    def job(resources: Resources, own: Contracts) -> dict[str, int]:
        return maintain(resources, own, contracts.broken)

    show(in_each(contracts.usable(), wiring.opening(wiring.MAINTAINER), job), arguments.json)
