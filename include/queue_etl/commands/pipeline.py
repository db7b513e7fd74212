"""The pipeline itself, and what it needs to be there: queue, keyset, schema."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from include.contracts import load_contract, load_contracts
from include.queue_etl.commands import connections
from include.queue_etl.commands.terminal import Arguments, add, positive, show
from include.queue_etl.contract import Contract
from include.queue_etl.errors import (
    PreflightError,
    QueueEtlError,
    QueueMissing,
    QueueRefused,
    RunFailed,
    StagedFileDamaged,
)
from include.queue_etl.keyset import Keyset
from include.queue_etl.pipeline import Pipeline
from include.queue_etl.staging import Kind

MAX_RECEIVES_BEFORE_DEAD_LETTER = 100  # above max_receives: the quarantine should come first
RETENTION_SECONDS = 14 * 86_400  # the longest SQS keeps a message
BATCH = re.compile(r"[0-9]{4,}-[0-9a-f]{6}")  # staging.batch_name


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    add(commands, check)
    one = add(commands, drain)
    one.add_argument("--max", type=positive, help="take at most this many messages")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one = add(commands, step)
    one.add_argument("step", choices=("extract", "mask", "load", "finish"))
    one.add_argument(
        "--batch", type=_batch, help="for mask and load: a batch's name; default: all of the run, in turn"
    )
    one.add_argument("--upstream-failed", action="store_true", help="for finish: an earlier step failed")
    add(commands, send).add_argument("file", type=Path)
    for command in (depth, create_queue):
        one = add(commands, command)
        one.add_argument("--json", action="store_true", help="print one JSON object")
        one.add_argument(
            "--all", dest="contract", action="store_const", const=None, help="the queues of every contract"
        )
    add(commands, create_keyset).add_argument("file", type=Path)
    add(commands, migrate)


def check(arguments: Arguments) -> None:
    """Check settings, queue, warehouse, keys and staging; receive nothing."""
    with connections.pipeline(arguments) as pipeline:
        pipeline.preflight()
        _warn(pipeline.warehouse.log_warnings())
    print("ready: queue, warehouse, keyset and staging answer")


def drain(arguments: Arguments) -> None:
    """Run the whole pipeline once: receive, mask, load, delete."""
    from include.queue_etl import steps

    overrides = {} if arguments.max is None else {"max_messages": arguments.max}
    with connections.pipeline(arguments, **overrides) as pipeline:
        pipeline.preflight()  # first, so that all that is wrong is said at once
        seen = asdict(pipeline.queue.depth())
        try:
            for batch in steps.extract(pipeline, seen):
                steps.load(pipeline, steps.mask(pipeline, batch["batch"])["batch"])
        except PreflightError:  # the run is not open: there is nothing to finish
            raise
        except BaseException:
            _finish_failed(pipeline)
            raise
        summary = steps.finish(pipeline)
    show(summary, arguments.json)


def step(arguments: Arguments) -> None:
    """Run one step of a run as a process of its own, as Airflow does."""
    from include.queue_etl import steps

    if arguments.step != "extract" and not arguments.run_id:
        arguments.misused(f"{arguments.step} needs --run-id: of which run?")
    # mask does without Postgres, as long as there is something to do
    with connections.pipeline(arguments, check_dsn=arguments.step != "mask") as pipeline:
        if arguments.step == "extract":
            result: Any = steps.extract(pipeline)
        elif arguments.step == "finish":
            result = _finish(pipeline, arguments.upstream_failed)
        else:
            one, kind = (steps.mask, Kind.RAW) if arguments.step == "mask" else (steps.load, Kind.MASKED)
            if arguments.batch:
                result = _of_batch(pipeline, one, arguments.batch)
            else:
                result = [one(pipeline, batch) for batch in pipeline.staging.batches(kind)]
                if not result:  # only now, for mask's sake
                    _require_started(pipeline)
    show(result, as_json=True)


def _batch(text: str) -> str:
    if not BATCH.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a batch: give one such as 0003-9f2c1a")
    return text


def _of_batch(pipeline: Pipeline, one: Callable[[Pipeline, str], Any], batch: str) -> Any:
    try:
        return one(pipeline, batch)
    except StagedFileDamaged:
        staged = pipeline.staging.batches(Kind.RECEIPTS)  # the first file of each, and the last to go
        if batch in staged:
            raise
        _require_started(pipeline)
        there_are = ", ".join(staged) or "none"
        raise ValueError(f"the run has no batch {batch!r}; its batches: {there_are}") from None


def _require_started(pipeline: Pipeline) -> None:
    """Raises RunFailed where the warehouse does not know the run."""
    run = pipeline.run
    if pipeline.warehouse.run_state(run.id) is None:
        raise RunFailed(
            f"the run never started: etl.run_summary has no airflow_run_id {run.airflow_run_id!r} "
            f"of {run.contract}"
        )


def _finish(pipeline: Pipeline, upstream_failed: bool) -> dict[str, Any]:
    from include.queue_etl import steps

    try:
        return steps.finish(pipeline, upstream_failed=upstream_failed)
    except RunFailed:
        _require_started(pipeline)
        raise


def send(arguments: Arguments) -> None:
    """Put messages on the queue, one body a line."""
    if not arguments.file.exists() or arguments.file.is_dir():
        raise ValueError(f"no such file: {arguments.file}")
    name = load_contract(arguments.contract).queue
    with connections.queue(name) as queue, arguments.file.open("rb") as lines:
        sent = queue.send(body for line in lines if (body := line.rstrip(b"\r\n")))
    print(f"sent {sent} messages to {queue.name}")


def depth(arguments: Arguments) -> None:
    """Show how many messages the queue holds; with --all, each queue and each dead-letter queue."""
    if arguments.contract is not None:
        with connections.queue(load_contract(arguments.contract).queue) as queue:
            show(asdict(queue.depth()), arguments.json)
        return
    contracts = load_contracts().usable().values()
    depths = {name: _depth(name) for one in contracts for name in (one.queue, one.dead_letter_queue)}
    words = {name: _in_words(found) for name, found in depths.items()}
    show(depths if arguments.json else words, arguments.json)


def _depth(name: str) -> dict[str, int] | None:
    """Counts of the queue; None where it does not exist."""
    try:
        with connections.queue(name) as queue:
            return asdict(queue.depth())
    except QueueMissing:
        return None


def _in_words(depth: Mapping[str, int] | None) -> str:
    if depth is None:
        return "does not exist"
    return ", ".join(f"{kind} {count}" for kind, count in depth.items())


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
    queue, dead = contract.queue, contract.dead_letter_queue
    try:
        client = connections.session().client("sqs")
        url, said = _queue_url(client, dead, retention)
        arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES_BEFORE_DEAD_LETTER}
        attributes = {**retention, "RedrivePolicy": json.dumps(redrive)}
        return {queue: _queue_url(client, queue, attributes)[1], dead: said}
    except ClientError as error:
        raise QueueRefused(f"queue {queue!r}: {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise QueueRefused(f"queue {queue!r}: {type(error).__name__}") from None


def _queue_url(client: Any, name: str, attributes: Mapping[str, str]) -> tuple[str, str]:
    """URL of the queue, and `there`; or `made` where it was missing and has these attributes now."""
    try:
        return client.get_queue_url(QueueName=name)["QueueUrl"], "there"
    except client.exceptions.QueueDoesNotExist:
        return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], "made"


def create_keyset(arguments: Arguments) -> None:
    """Make a keyset for development, in a new file that only its owner can read."""
    from include.queue_etl.privacy.unmask import private_file

    with private_file(arguments.file) as file:
        file.write(Keyset.new_json(development=True))
    print(f"made {arguments.file}: keep a copy, without it nothing can be unmasked")


def migrate(arguments: Arguments) -> None:
    """Bring the warehouse's schema, roles and grants up to date, and set the roles' passwords."""
    from include.migrations import upgrade

    variables = {
        "etl_loader": "QUEUE_ETL_LOADER_PASSWORD",
        "etl_maintainer": "QUEUE_ETL_MAINTAINER_PASSWORD",
        "etl_remasker": "QUEUE_ETL_REMASKER_PASSWORD",
        "analyst": "QUEUE_ETL_ANALYST_PASSWORD",
        "pii_officer": "QUEUE_ETL_OFFICER_PASSWORD",
        "ops_ro": "QUEUE_ETL_OPS_PASSWORD",
    }
    contracts = load_contracts().usable()
    warnings = upgrade(
        connections.connection_string(
            "QUEUE_ETL_OWNER_DSN", "libpq connection string of a role that may create roles"
        ),
        {role: os.environ[name] for role, name in variables.items() if os.environ.get(name)},
        contracts.values(),
    )
    _warn(warnings)
    print("warehouse: schema, roles and grants are up to date")


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _finish_failed(pipeline: Pipeline) -> None:
    """Give back what the failed run holds; its own error, which is being raised, matters more."""
    from include.queue_etl import steps

    try:
        steps.finish(pipeline, upstream_failed=True)
    except QueueEtlError as error:
        print(error, file=sys.stderr)
