"""The pipeline itself, and what it needs to be there: queue, keyset, schema."""

import codecs
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from include.contracts import load_contract, load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import (
    Arguments,
    UsageError,
    add,
    add_contract,
    add_json,
    add_run_name,
    positive,
)
from include.queue_etl.cli.output import show, show_run
from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.counts import in_words
from include.queue_etl.errors import (
    PreflightError,
    QueueEtlError,
    QueueMissing,
    QueueRefused,
    RunFailed,
)
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import read_all
from include.queue_etl.staging.area import Kind
from include.queue_etl.warehouses import by_warehouse, of_warehouse

MAX_RECEIVES_BEFORE_DEAD_LETTER = 100  # above max_receives: the quarantine should come first
RETENTION_SECONDS = 14 * 86_400  # the longest SQS keeps a message


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    add_contract(add(commands, check))
    one = add(commands, drain)
    one.add_argument("--max", type=positive, help="a run takes at most this many messages")
    runs: Any = one.add_mutually_exclusive_group()
    runs.add_argument(
        "--until-empty",
        action="store_true",
        help="begin another run as long as one is full: a backlog in one process",
    )
    add_run_name(runs)
    add_json(one, "print one JSON object a run")
    two = add(commands, step)
    two.add_argument("step", choices=("extract", "mask", "load", "finish"))
    two.add_argument("--upstream-failed", action="store_true", help="for finish: an earlier step failed")
    add_run_name(two)
    for run in (one, two):
        add_contract(run)
    one = add(commands, send)
    add_contract(one)
    one.add_argument("file", type=Path)
    for command in (depth, create_queue):
        one = add(commands, command)
        add_json(one)
        add_contract(one)
        one.add_argument(
            "--all", dest="contract", action="store_const", const=None, help="the queues of every contract"
        )
    add(commands, migrate)


def check(arguments: Arguments) -> None:
    """Check everything a run needs; receive no messages."""
    from include.queue_etl.postgres import checks

    contract = load_contract(arguments.contract)
    with wiring.of_contract(wiring.LOADER, contract, queues=True) as resources:
        RunContext(resources, contract, "check").preflight()
        _warn(checks.log_warnings(resources.database))
    print("ready: queue, warehouse, keyset and staging answer")


def drain(arguments: Arguments) -> None:
    """Run the whole pipeline once: receive, mask, load, delete."""
    is_full = _drain_once(arguments)
    while is_full and arguments.until_empty:
        is_full = _drain_once(arguments)


def _drain_once(arguments: Arguments) -> bool:
    """One run; returns whether it took as many messages as a run may: then there may be more."""
    from include.queue_etl import steps

    overrides = {} if arguments.max is None else {"max_messages": arguments.max}
    with wiring.run_context(arguments, **overrides) as context:
        context.preflight()  # first, so that all that is wrong is listed at once
        seen = asdict(context.queue.depth())
        try:
            batches = steps.extract(context, seen)
            if not batches and context.store.run_state(context.run.id) is None:
                _show_nothing(context, arguments.json)
                return False
            for batch in batches:
                steps.load(context, steps.mask(context, batch["batch"])["batch"])
        except PreflightError:  # the run is not open: there is nothing to finish
            raise
        except BaseException:
            _finish_failed(context)
            raise
        summary = steps.finish(context)
        is_full = bool(summary["received"] >= context.settings.max_messages)
    show_run(summary, arguments.json)
    return is_full


def _show_nothing(context: RunContext, as_json: bool) -> None:
    """Say that no message came; nothing is recorded of such a run."""
    if not as_json:
        print(f"queue {context.contract.queue} gave no message: nothing to do")
        return
    names = ("received", "loaded", "quarantined", "duplicates", "deleted")
    run = {"contract": context.run.contract, "airflow_run_id": context.run.name}
    show_run({**run, **dict.fromkeys(names, 0)}, as_json)


def step(arguments: Arguments) -> None:
    """Run one step of a run as a process of its own, as Airflow does."""
    from include.queue_etl import steps

    if arguments.step != "extract" and not arguments.run_id:
        raise UsageError(f"{arguments.step} needs --run-id: of which run?")
    # mask does without Postgres, as long as there is something to do
    with wiring.run_context(arguments, check_dsn=arguments.step != "mask") as context:
        if arguments.step == "extract":
            result: Any = steps.extract(context)
        elif arguments.step == "finish":
            result = _finish(context, arguments.upstream_failed)
        else:
            one, kind = (steps.mask, Kind.RAW) if arguments.step == "mask" else (steps.load, Kind.MASKED)
            result = [one(context, batch) for batch in context.staging.batches(kind)]
            if not result:  # only now, for mask's sake
                _require_started(context)
    show(result, as_json=True)


def _require_started(context: RunContext) -> None:
    """Raises RunFailed where the warehouse does not know the run."""
    run = context.run
    if context.store.run_state(run.id) is None:
        raise RunFailed(
            f"the run never started: etl.run_summary has no airflow_run_id {run.name!r} of {run.contract}"
        )


def _finish(context: RunContext, upstream_failed: bool) -> dict[str, Any]:
    from include.queue_etl import steps

    try:
        return steps.finish(context, upstream_failed=upstream_failed)
    except RunFailed:
        _require_started(context)
        raise


def send(arguments: Arguments) -> None:
    """Put messages on the queue, one body a line."""
    if not arguments.file.is_file():
        problem = "is a directory" if arguments.file.is_dir() else "no such file"
        raise ValueError(f"{arguments.file}: {problem}")
    with arguments.file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
        if first.removeprefix(codecs.BOM_UTF8).strip() in (b"[", b"{", b"[{"):
            raise ValueError(
                f"{arguments.file}: it is indented JSON, and each line would be a message: put each on one "
                "line, as `jq -c .` does, or `jq -c '.[]'` for a list"
            )
    contract = load_contract(arguments.contract)
    with wiring.queue(contract.queue, contract.place) as queue, arguments.file.open("rb") as lines:
        sent = queue.send(body for line in lines if (body := line.rstrip(b"\r\n")))
    print(f"sent {sent} messages to {queue.name}")


def depth(arguments: Arguments) -> None:
    """Show how many messages the queue holds; with --all, each queue and each dead-letter queue."""
    if arguments.contract is not None:
        contract = load_contract(arguments.contract)
        with wiring.queue(contract.queue, contract.place) as queue:
            show(asdict(queue.depth()), arguments.json)
        return
    contracts = load_contracts().usable().values()
    pairs = [(name, one.place) for one in contracts for name in (one.queue, one.dead_letter_queue)]
    depths = {name: _depth(name, place) for name, place in pairs}
    words = {name: in_words(found) if found else "does not exist" for name, found in depths.items()}
    show(depths if arguments.json else words, arguments.json)


def _depth(name: str, place: QueuePlace) -> dict[str, int] | None:
    """Counts of the queue; None where it does not exist."""
    try:
        with wiring.queue(name, place) as queue:
            return asdict(queue.depth())
    except QueueMissing:
        return None


def create_queue(arguments: Arguments) -> None:
    """Create the queue and its dead-letter queue, where they are missing (for development)."""
    one = arguments.contract
    found: dict[str, str] = {}
    for contract in [load_contract(one)] if one is not None else load_contracts().usable().values():
        found |= _create_queues(contract)
    show(found, arguments.json)


def _create_queues(contract: Contract) -> dict[str, str]:
    """Name of each of the contract's two queues -> `made`, or `there` where it was there already."""
    from botocore.exceptions import BotoCoreError, ClientError

    retention = {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
    queue, dead, account = contract.queue, contract.dead_letter_queue, contract.queue_account
    try:
        client = wiring.session(contract.place).client("sqs")
        url, state = _queue_url(client, dead, account, retention)
        arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES_BEFORE_DEAD_LETTER}
        attributes = {**retention, "RedrivePolicy": json.dumps(redrive)}
        return {queue: _queue_url(client, queue, account, attributes)[1], dead: state}
    except ClientError as error:
        raise QueueRefused(f"queue {queue!r}: {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise QueueRefused(f"queue {queue!r}: {type(error).__name__}") from None


def _queue_url(client: Any, name: str, account: str, attributes: Mapping[str, str]) -> tuple[str, str]:
    """URL of the queue, and `there`; or `made` where it was missing and has these attributes now."""
    owner = {"QueueOwnerAWSAccountId": account} if account else {}
    try:
        return client.get_queue_url(QueueName=name, **owner)["QueueUrl"], "there"
    except client.exceptions.QueueDoesNotExist:
        return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], "made"


def migrate(arguments: Arguments) -> None:
    """Bring schema, roles and grants of every warehouse up to date, and set the roles' passwords."""
    from include.queue_etl.postgres.migrations import upgrade

    groups = by_warehouse(load_contracts().usable())
    dsns = read_all(*(partial(wiring.owner_dsn, warehouse, own) for warehouse, own in groups.items()))
    for dsn, (warehouse, contracts) in zip(dsns, groups.items(), strict=True):
        _warn(upgrade(dsn, _passwords(warehouse), contracts.values()))
        print(f"warehouse{warehouse and f' {warehouse}'}: schema, roles and grants are up to date")


def _passwords(warehouse: str) -> dict[str, str]:
    """Role -> the password that the environment has for it."""
    variables = {
        "etl_loader": "QUEUE_ETL_LOADER_PASSWORD",
        "etl_maintainer": "QUEUE_ETL_MAINTAINER_PASSWORD",
        "etl_remasker": "QUEUE_ETL_REMASKER_PASSWORD",
        "analyst": "QUEUE_ETL_ANALYST_PASSWORD",
        "pii_officer": "QUEUE_ETL_OFFICER_PASSWORD",
        "ops_ro": "QUEUE_ETL_OPS_PASSWORD",
    }
    given = {role: os.environ.get(of_warehouse(name, warehouse)) for role, name in variables.items()}
    return {role: password for role, password in given.items() if password}


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _finish_failed(context: RunContext) -> None:
    """Release what the failed run holds; its own error, which is being raised, matters more."""
    from include.queue_etl import steps

    try:
        steps.finish(context, upstream_failed=True)
    except QueueEtlError as error:
        print(error, file=sys.stderr)
