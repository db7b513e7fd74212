"""The engine from the command line: `python -m include.queue_etl COMMAND`, from the project's folder.

The same steps as in Airflow, without it (cron, Lambda, tests). Connections come from the environment:
QUEUE_ETL_WAREHOUSE_DSN, QUEUE_ETL_KEYSET_FILE, and what boto3 reads itself (AWS_ENDPOINT_URL and others).
"""

import argparse
import gc
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from include.contracts import contract_names, load_contract
from include.queue_etl.aws import from_environment
from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError, QueueRefused, SettingsError, StagedFileDamaged
from include.queue_etl.keyset import Keyset
from include.queue_etl.pipeline import Pipeline, Run
from include.queue_etl.settings import Settings
from include.queue_etl.staging import Kind

if TYPE_CHECKING:
    from boto3 import Session

    from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
    from include.queue_etl.privacy.audit import Purpose
    from include.queue_etl.privacy.keys import KeyFile
    from include.queue_etl.privacy.officer import OfficerPipeline
    from include.queue_etl.privacy.rotation import RotationPipeline
    from include.queue_etl.sqs import SqsQueue

Arguments = argparse.Namespace
SomePipeline = TypeVar("SomePipeline", bound=Pipeline)
MAX_RECEIVES_BEFORE_DEAD_LETTER = 100  # above max_receives: the quarantine should come first
RETENTION_SECONDS = 14 * 86_400  # the longest SQS keeps a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed with one clear message on standard error, 2 wrong usage."""
    # Reference counts free what a run makes; to look for cycles after every 700 objects takes 4% of its CPU.
    gc.set_threshold(100_000)
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if parsed.verbose else logging.WARNING, format="%(message)s"
    )
    signal.signal(signal.SIGTERM, _stop)
    try:
        parsed.command(parsed)
    except (QueueEtlError, ValueError, OSError) as error:
        print(f"{parsed.name}: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: object) -> NoReturn:
    # As an exception, so that what is held is given back on the way out.
    raise SystemExit(128 + number)


# The commands -------------------------------------------------------------------------------------


def check(arguments: Arguments) -> None:
    """Check settings, queue, warehouse, keys and staging; receive nothing."""
    with _pipeline(arguments) as pipeline:
        pipeline.preflight()
    print("ready: queue, warehouse, keyset and staging answer")


def drain(arguments: Arguments) -> None:
    """Run the whole pipeline once: receive, mask, load, delete."""
    from include.queue_etl import steps

    overrides = {} if arguments.max is None else {"max_messages": arguments.max}
    with _pipeline(arguments, **overrides) as pipeline:
        try:
            for batch in steps.extract(pipeline, asdict(pipeline.queue.depth())):
                steps.load(pipeline, steps.mask(pipeline, batch["batch"])["batch"])
        except BaseException:
            _finish_failed(pipeline)
            raise
        summary = steps.finish(pipeline)
    _show(summary, arguments.json)


def step(arguments: Arguments) -> None:
    """Run one step of a run as a process of its own, as Airflow does."""
    from include.queue_etl import steps

    with _pipeline(arguments) as pipeline:
        if arguments.step == "extract":
            result: Any = steps.extract(pipeline)
        elif arguments.step == "finish":
            result = steps.finish(pipeline, upstream_failed=arguments.upstream_failed)
        else:
            one, kind = (steps.mask, Kind.RAW) if arguments.step == "mask" else (steps.load, Kind.MASKED)
            if arguments.batch:
                result = one(pipeline, arguments.batch)
            else:
                result = [one(pipeline, batch) for batch in pipeline.staging.batches(kind)]
    _show(result, as_json=True)


def send(arguments: Arguments) -> None:
    """Put messages on the queue, one body a line."""
    with _queue(arguments) as queue, arguments.file.open("rb") as lines:
        sent = queue.send(body for line in lines if (body := line.rstrip(b"\r\n")))
    print(f"sent {sent} messages to {queue.name}")


def depth(arguments: Arguments) -> None:
    """Show how many messages the queue holds."""
    with _queue(arguments) as queue:
        _show(asdict(queue.depth()), arguments.json)


def create_queue(arguments: Arguments) -> None:
    """Create the queue and its dead-letter queue, where they are missing (for development)."""
    from botocore.exceptions import BotoCoreError, ClientError

    contract = load_contract(arguments.contract)
    try:
        _create_queues(_session().client("sqs"), contract)
    except ClientError as error:
        raise QueueRefused(f"queue {contract.queue!r}: {error.response['Error']['Code']}") from None
    except BotoCoreError as error:
        raise QueueRefused(f"queue {contract.queue!r}: {type(error).__name__}") from None
    print(f"queues {contract.queue} and {contract.dead_letter_queue} are there")


def _create_queues(client: Any, contract: Contract) -> None:
    retention = {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
    dead = _queue_url(client, contract.dead_letter_queue, retention)
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES_BEFORE_DEAD_LETTER}
    _queue_url(client, contract.queue, {**retention, "RedrivePolicy": json.dumps(redrive)})


def _queue_url(client: Any, name: str, attributes: Mapping[str, str]) -> str:
    """URL of the queue, which is made with these attributes where it is missing."""
    try:
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
    except client.exceptions.QueueDoesNotExist:
        url = client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    return str(url)


def create_keyset(arguments: Arguments) -> None:
    """Make a keyset for development, in a new file that only its owner can read."""
    from include.queue_etl.privacy.unmask import private_file

    with private_file(arguments.file) as file:
        file.write(Keyset.new_json(development=True))
    print(f"made {arguments.file}: keep a copy, without it nothing can be unmasked")


def migrate(arguments: Arguments) -> None:
    """Bring the warehouse's schema and roles up to date, and set the roles' passwords."""
    from include.migrations import upgrade

    variables = {
        "etl_loader": "QUEUE_ETL_LOADER_PASSWORD",
        "etl_maintainer": "QUEUE_ETL_MAINTAINER_PASSWORD",
        "etl_remasker": "QUEUE_ETL_REMASKER_PASSWORD",
        "analyst": "QUEUE_ETL_ANALYST_PASSWORD",
        "pii_officer": "QUEUE_ETL_OFFICER_PASSWORD",
        "ops_ro": "QUEUE_ETL_OPS_PASSWORD",
    }
    upgrade(
        _variable("QUEUE_ETL_OWNER_DSN", "libpq connection string of a role that may create roles"),
        {role: os.environ[name] for role, name in variables.items() if os.environ.get(name)},
    )
    print("warehouse: schema and roles are up to date")


def redrive(arguments: Arguments) -> None:
    """Replay quarantined messages through the current contract; without --apply only say what would be."""
    from include.queue_etl.operations import redrive as engine

    with _upkeep(arguments) as pipeline:
        selection = engine.selection(pipeline, arguments.reason, arguments.since, arguments.until)
        _show(engine.redrive(pipeline, selection, dry_run=not arguments.apply), arguments.json)


def reconcile(arguments: Arguments) -> None:
    """After a restore: load from the retained masked files what the ledger misses, of every contract."""
    from include.queue_etl.operations.reconcile import reconcile as again

    with _upkeep(arguments) as pipeline:
        result = again(pipeline, load_contract)
    _show(result, arguments.json)
    if result["damaged"]:
        raise StagedFileDamaged(f"{result['damaged']} batches could not be read; -v names them")


def dead_letters(arguments: Arguments) -> None:
    """Empty the dead-letter queue: delete what is committed, send back the rest; --apply does it."""
    from include.queue_etl.operations.dead_letters import bring_back

    with _upkeep(arguments) as pipeline:
        result = bring_back(pipeline, max_messages=arguments.max, dry_run=not arguments.apply)
    _show(result, arguments.json)


def maintain(arguments: Arguments) -> None:
    """Ledger days, expired quarantine, unfinished runs, staged files; of every contract."""
    from include.queue_etl.operations.maintenance import maintain as upkeep

    with _upkeep(arguments) as pipeline:
        _show(upkeep(pipeline, {name: load_contract(name) for name in contract_names()}), arguments.json)


def unmask(arguments: Arguments) -> None:
    """Recover masked values, as the privacy officer, with an audit entry."""
    from include.queue_etl.privacy import unmask as recovery

    contract, tokens = load_contract(arguments.contract), []
    if arguments.user_id is None:
        column = recovery.personal_field(contract, arguments.field or "")
        tokens = [(column, token) for token in arguments.tokens or _lines(arguments.file)]
    with _officer(arguments) as pipeline:
        pipeline.check_warehouse()
        if arguments.user_id is not None:
            tokens = pipeline.warehouse.tokens_where(contract, "user_id", arguments.user_id)
        entry, values = recovery.unmask(pipeline, tokens, _purpose(arguments))
        if arguments.output is None:
            recovery.write_csv(values, sys.stdout)
            return
        with recovery.private_file(arguments.output) as file:
            count = recovery.write_csv(values, file)
    print(f"{count} values in {arguments.output}, readable by you alone; audit entry {entry.mark}")


def verify_audit(arguments: Arguments) -> None:
    """Follow the audit's chain of hashes; fail at the first entry that was changed, removed or put in."""
    from include.queue_etl.privacy import audit

    with _officer(arguments) as pipeline:
        last = audit.verify(pipeline.warehouse.audit_entries(), arguments.mark)
    print(f"the audit is whole; last entry {last.mark}" if last else "the audit is empty")


def erase(arguments: Arguments) -> None:
    """Erase a user, an address or a device; without --apply only count. The value comes on standard input."""
    from include.queue_etl.privacy import erase as erasure

    values = _lines(arguments.file)
    if len(values) != 1:
        raise ValueError(f"give one value, on a line of its own: there are {len(values)}")
    subject = erasure.Subject(load_contract(arguments.contract), arguments.by, values[0])
    with _officer(arguments) as pipeline:
        result = erasure.erase(pipeline, subject, _purpose(arguments), dry_run=not arguments.apply)
    _show(result, arguments.json)


def remask(arguments: Arguments) -> None:
    """Move everything, of every contract, to the keyset's primary key; pipelines may run."""
    from include.queue_etl.privacy import rotation

    with _rotation(arguments) as pipeline:
        _show(rotation.remask(pipeline, _contracts(), _purpose(arguments)), arguments.json)


def create_key(arguments: Arguments) -> None:
    """Make a new keyset, wrapped where QUEUE_ETL_KMS_KEY_URI names a key."""
    if arguments.print:
        print(_key_file().sealed(Keyset.new_json()))
        return
    _key_file().create(Keyset.new_json())
    print("made the keyset: keep a copy, without it nothing can be unmasked")


def add_key(arguments: Arguments) -> None:
    """Add a key that opens but does not mask yet: give the keyset to every process, then promote the key."""
    from include.queue_etl.privacy import keys

    text, key_id = keys.added(_key_file().read())
    _keep_keyset(arguments, text, f"added key {key_id}: give the keyset to every process, then promote it")


def promote_key(arguments: Arguments) -> None:
    """Let a key mask from now on: give the keyset to every process, then remask."""
    from include.queue_etl.privacy import keys

    text = keys.promoted(_key_file().read(), arguments.key_id)
    _keep_keyset(arguments, text, f"key {arguments.key_id} is primary: give the keyset to every process")


def wrap_keys(arguments: Arguments) -> None:
    """Wrap the keyset with the key of QUEUE_ETL_KMS_KEY_URI."""
    _variable("QUEUE_ETL_KMS_KEY_URI", "the AWS KMS key that wraps: aws-kms://arn:...")
    _keep_keyset(arguments, _key_file().read(), "wrapped the keyset")


def key_status(arguments: Arguments) -> None:
    """Show each key, and what bears it."""
    from include.queue_etl.privacy import rotation

    with _rotation(arguments) as pipeline:
        for key in rotation.status(pipeline, _contracts()):
            _show(key, arguments.json)


def destroy_key(arguments: Arguments) -> None:
    """Remove a key for good; refused while anything bears it."""
    from include.queue_etl.privacy import rotation

    with _rotation(arguments) as pipeline:
        text = rotation.retire(
            pipeline, _contracts(), arguments.key_id, _purpose(arguments), arguments.abandon_one_way
        )
    _keep_keyset(arguments, text, f"key {arguments.key_id} is gone: give the keyset to every process")


# Arguments ----------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.queue_etl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, check)
    one = _add(commands, drain)
    one.add_argument("--max", type=int, help="take at most this many messages")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one = _add(commands, step)
    one.add_argument("step", choices=("extract", "mask", "load", "finish"))
    one.add_argument("--batch", help="for mask and load: a batch's name; default: all of the run, in turn")
    one.add_argument("--upstream-failed", action="store_true", help="for finish: an earlier step failed")
    _add(commands, send).add_argument("file", type=Path)
    _add(commands, depth).add_argument("--json", action="store_true", help="print one JSON object")
    _add(commands, create_queue)
    _add(commands, create_keyset).add_argument("file", type=Path)
    _add(commands, migrate)
    _add_upkeep(commands)
    _add_privacy(commands)
    return parser


def _add(
    commands: Any, command: Callable[[Arguments], None], name: str | None = None
) -> argparse.ArgumentParser:
    name = name or command.__name__.replace("_", "-")
    summary = (command.__doc__ or "").strip()
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command, name=name)
    parser.add_argument("--contract", choices=contract_names(), default="user_logins")
    parser.add_argument(
        "--run-id", default=None, help="name of the run; give an earlier one to go on with it"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what each step does")
    return parser


def _add_upkeep(commands: Any) -> None:
    one = _add(commands, redrive)
    one.add_argument("--reason", help="only messages rejected for it; default: any but too_many_receives")
    one.add_argument(
        "--since", metavar="TIME", help="only those quarantined then or later: 2026-11-21[T08:30[+01:00]]"
    )
    one.add_argument("--until", metavar="TIME", help="only those quarantined before")
    dead = _add(commands, dead_letters)
    dead.add_argument("--max", type=int, help="take at most this many messages")
    for changing in (one, dead):
        changing.add_argument("--apply", action="store_true", help="do it")
    for each in (one, dead, _add(commands, reconcile), _add(commands, maintain)):
        each.add_argument("--json", action="store_true", help="print one JSON object")


def _add_privacy(commands: Any) -> None:
    one = _add(commands, unmask)
    one.add_argument(
        "tokens", nargs="*", metavar="TOKEN", help="tokens of one field; default: standard input"
    )
    one.add_argument("--file", type=Path, help="file with a token a line, in place of TOKEN")
    one.add_argument("--field", help="the event field the tokens stand for, such as ip")
    one.add_argument("--user-id", help="all tokens in the rows of this user, in place of TOKEN")
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="new CSV file, readable by you alone")
    where.add_argument("--stdout", action="store_true", help="CSV on standard output")
    _add_purpose(one)
    one = _add(commands, erase)
    one.add_argument("--by", required=True, metavar="FIELD", help="user_id, ip or device_id")
    one.add_argument("--file", type=Path, help="file that holds the value; default: standard input")
    one.add_argument("--apply", action="store_true", help="do it")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_purpose(one)
    one = _add(commands, remask)
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_purpose(one)
    actions = commands.add_parser("audit", help="the audit of personal data").add_subparsers(
        required=True, metavar="ACTION"
    )
    one = _add(actions, verify_audit, "verify")
    one.add_argument("--mark", metavar="ID:HASH", help="as a command printed it: that entry must be there")
    _add_keys(commands)


def _add_keys(commands: Any) -> None:
    actions = commands.add_parser("keys", help="the keys of QUEUE_ETL_KEYSET_FILE").add_subparsers(
        required=True, metavar="ACTION"
    )
    changing = [
        _add(actions, command, name)
        for command, name in (
            (create_key, "create"),
            (add_key, "add"),
            (promote_key, "promote"),
            (wrap_keys, "wrap"),
            (destroy_key, "destroy"),
        )
    ]
    for one in changing:
        one.add_argument(
            "--print",
            action="store_true",
            help="print the keyset, for a secrets backend; leave the file alone",
        )
    for one in (changing[2], changing[4]):
        one.add_argument("key_id", type=int)
    changing[4].add_argument(
        "--abandon-one-way",
        action="store_true",
        help="let one-way tokens stay, which nothing matches any more",
    )
    _add_purpose(changing[4])
    _add(actions, key_status, "status").add_argument(
        "--json", action="store_true", help="a JSON object a key"
    )


def _add_purpose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="why; kept in the audit")
    parser.add_argument("--ticket", required=True, help="reference of the request; kept in the audit")


# Connections --------------------------------------------------------------------------------------


@contextmanager
def _pipeline(arguments: Arguments, **overrides: int) -> Iterator[Pipeline]:
    dsn = _variable("QUEUE_ETL_WAREHOUSE_DSN", "libpq connection string of role etl_loader")
    with _parts(Pipeline, arguments, dsn, **overrides) as pipeline:
        yield pipeline


@contextmanager
def _upkeep(arguments: Arguments) -> "Iterator[UpkeepPipeline]":
    from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline

    dsn = _variable("QUEUE_ETL_MAINTAINER_DSN", "libpq connection string of role etl_maintainer")
    with _parts(UpkeepPipeline, arguments, dsn) as pipeline:
        yield pipeline


@contextmanager
def _officer(arguments: Arguments) -> "Iterator[OfficerPipeline]":
    from include.queue_etl.privacy.officer import OfficerPipeline

    dsn = _variable("QUEUE_ETL_OFFICER_DSN", "libpq connection string of role pii_officer")
    with _parts(OfficerPipeline, arguments, dsn) as pipeline:
        yield pipeline


@contextmanager
def _rotation(arguments: Arguments) -> "Iterator[RotationPipeline]":
    from include.queue_etl.privacy.rotation import RotationPipeline

    dsn = _variable("QUEUE_ETL_REMASKER_DSN", "libpq connection string of role etl_remasker")
    with _parts(RotationPipeline, arguments, dsn) as pipeline:
        yield pipeline


def _parts(kind: type[SomePipeline], arguments: Arguments, dsn: str, **overrides: int) -> SomePipeline:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = arguments.run_id or f"{arguments.name}__{moment}-{secrets.token_hex(2)}"
    return kind(
        load_contract(arguments.contract),
        Run(arguments.contract, name),
        Settings.from_environment(os.environ, **overrides),
        session=_session,
        endpoint_urls={},
        warehouse_dsn=dsn,
        keyset_json=_keyset_json(),
        access=from_environment(os.environ),
    )


@contextmanager
def _queue(arguments: Arguments) -> "Iterator[SqsQueue]":
    from include.queue_etl.sqs import SqsQueue

    settings = Settings.from_environment({"QUEUE_ETL_STAGING": "/", **os.environ})
    name, access = load_contract(arguments.contract).queue, from_environment(os.environ)
    if access and settings.sqs_client == "pycurl":
        queue = SqsQueue.at(access, name, settings)
    else:
        queue = SqsQueue.connect(_session(), name, settings)
    try:
        yield queue
    finally:
        queue.close()


def _session() -> "Session":
    import boto3

    return boto3.Session()


def _contracts() -> dict[str, Contract]:
    return {name: load_contract(name) for name in contract_names()}


def _key_file() -> "KeyFile":
    from include.queue_etl.pipeline import kms_key
    from include.queue_etl.privacy.keys import KeyFile

    path = Path(_variable("QUEUE_ETL_KEYSET_FILE", "file with the Tink JSON keyset"))
    uri = Settings.from_environment({"QUEUE_ETL_STAGING": "/", **os.environ}).kms_key_uri
    return KeyFile(path, (lambda: kms_key(uri, _session())) if uri else None)


def _keep_keyset(arguments: Arguments, text: str, done: str) -> None:
    if arguments.print:
        print(_key_file().sealed(text))
        print(done, file=sys.stderr)
        return
    _key_file().replace(text)
    print(done)


def _keyset_json() -> str:
    path = Path(_variable("QUEUE_ETL_KEYSET_FILE", "file with the Tink JSON keyset"))
    return path.read_text(encoding="utf-8")


def _variable(name: str, meaning: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SettingsError([f"{name} is not set: {meaning} (`./dev` writes it to .dev/env)"])
    return value


def _purpose(arguments: Arguments) -> "Purpose":
    from include.queue_etl.privacy.audit import Purpose

    return Purpose(arguments.reason, arguments.ticket)


def _lines(file: Path | None) -> list[str]:
    """The lines of a file, or of standard input, without blanks around them and without empty ones."""
    text = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    return [line.strip() for line in text.split("\n") if line.strip()]


# Output -------------------------------------------------------------------------------------------


def _finish_failed(pipeline: Pipeline) -> None:
    """Give back what the failed run holds; its own error, which is being raised, matters more."""
    from include.queue_etl import steps

    try:
        steps.finish(pipeline, upstream_failed=True)
    except QueueEtlError as error:
        print(error, file=sys.stderr)


def _show(result: Mapping[str, Any] | Sequence[Any], as_json: bool) -> None:
    if as_json or not isinstance(result, Mapping):
        print(json.dumps(result))
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        print(f"{key:{width}}  {value}")


if __name__ == "__main__":
    status = main()
    # On its way out the interpreter looks for cycles several times: 45 ms of CPU that free nothing of use.
    gc.freeze()
    sys.exit(status)
