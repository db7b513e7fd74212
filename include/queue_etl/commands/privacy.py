"""What the privacy officer does: unmask, erase, keys, audit."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from include.contracts import any_contract, load_contract, load_contracts
from include.queue_etl.commands import connections
from include.queue_etl.commands.terminal import Arguments, add, lines, show
from include.queue_etl.contract import Contract, Personal
from include.queue_etl.keyset import Keyset

if TYPE_CHECKING:
    from include.queue_etl.privacy.audit import AuditedWarehouse, Purpose


MARK = re.compile(r"[1-9][0-9]*:[0-9a-f]{64}")  # Entry.mark
CSV_HELP = "; a value that begins with = + - @ has ' before it, as spreadsheets take it for a formula"


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    one = add(commands, unmask)
    one.add_argument(
        "tokens", nargs="*", metavar="TOKEN", help="tokens of one field; default: standard input"
    )
    one.add_argument("--file", type=Path, help="file with a token a line, in place of TOKEN")
    one.add_argument("--field", help="the event field the tokens stand for, such as ip")
    one.add_argument("--user-id", help="all tokens in the rows of this user, in place of TOKEN")
    where = one.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="new CSV file, readable by you alone" + CSV_HELP)
    where.add_argument("--stdout", action="store_true", help="CSV on standard output")
    _add_purpose(one)
    one = add(commands, erase)
    one.add_argument(
        "--by",
        required=True,
        metavar="FIELD",
        help="user_id, or a personal field of the contract, such as ip",
    )
    one.add_argument("--file", type=Path, help="file that holds the value; default: standard input")
    one.add_argument("--apply", action="store_true", help="do it")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_purpose(one)
    one = add(commands, remask)
    one.add_argument("--json", action="store_true", help="print one JSON object")
    _add_purpose(one)
    actions = commands.add_parser("audit", help="the audit of personal data").add_subparsers(
        required=True, metavar="ACTION"
    )
    one = add(actions, verify_audit, "verify")
    one.add_argument(
        "--mark",
        type=_mark,
        metavar="ID:HASH",
        help="as a command printed it: that entry must be there",
    )
    _add_keys(commands)


def _add_keys(commands: Any) -> None:
    actions = commands.add_parser("keys", help="the keys of QUEUE_ETL_KEYSET_FILE").add_subparsers(
        required=True, metavar="ACTION"
    )
    changing = [
        add(actions, command, name)
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
    add(actions, key_status, "status").add_argument("--json", action="store_true", help="a JSON object a key")


def _mark(text: str) -> str:
    if not MARK.fullmatch(text):
        raise argparse.ArgumentTypeError("not a mark: give the whole ID:HASH as a command printed it")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is blank")
    return text


def _add_purpose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", type=_said, required=True, help="why; kept in the audit")
    parser.add_argument(
        "--ticket", type=_said, required=True, help="reference of the request; kept in the audit"
    )


def unmask(arguments: Arguments) -> None:
    """Recover masked values, as the privacy officer, with an audit entry."""
    from include.queue_etl.privacy import unmask as recovery
    from include.queue_etl.privacy.officer import USER

    contract, tokens = load_contract(arguments.contract), []
    with _usage(arguments):
        column = _column_asked_for(arguments, contract)
    if column is not None:
        tokens = [(column, token) for token in arguments.tokens or lines(arguments.file)]
    with connections.officer(arguments) as pipeline, _mark_shown(pipeline.warehouse):
        pipeline.check_warehouse()
        if column is None:
            tokens = pipeline.warehouse.tokens_where(contract, USER, arguments.user_id)
        with _destination(arguments.output) as file:
            _, values = recovery.unmask(pipeline, tokens, _purpose(arguments))
            count = recovery.write_csv(values, file)
    if arguments.output:
        print(f"{count} values in {arguments.output}, readable by you alone")


def _column_asked_for(arguments: Arguments, contract: Contract) -> Personal | None:
    """The column of --field, or None for all of a user; ValueError for what does not go together."""
    from include.queue_etl.privacy import unmask as recovery

    given = {"TOKEN": arguments.tokens, "--file": arguments.file, "--field": arguments.field}
    named = [name for name, value in given.items() if value not in (None, [])]
    if arguments.user_id is None:
        if arguments.field is None:
            raise ValueError("give --field and its tokens, or --user-id")
        if arguments.tokens and arguments.file:
            raise ValueError("give TOKEN or --file, not both")
        return recovery.personal_field(contract, arguments.field)
    if named:
        raise ValueError(f"--user-id means all of a user: not with {', '.join(named)}")
    recovery.require_user_id(contract)
    return None


def _destination(path: Path | None) -> AbstractContextManager[TextIO]:
    """Where the values go. A file is there before anything is on record, and goes again if there are none."""
    from include.queue_etl.privacy.unmask import private_file

    return private_file(path) if path else nullcontext(sys.stdout)


@contextmanager
def _usage(arguments: Arguments) -> Iterator[None]:
    """Say as wrong usage what only the contract could tell."""
    try:
        yield
    except ValueError as error:
        arguments.misused(str(error))


@contextmanager
def _mark_shown(warehouse: "AuditedWarehouse") -> Iterator[None]:
    """Print the mark of the last audit entry that was made meanwhile, also where the deed itself failed."""
    try:
        yield
    finally:
        if entry := warehouse.last_entry:
            print(f"audit entry {entry.mark}", file=sys.stderr)


def verify_audit(arguments: Arguments) -> None:
    """Follow the audit's chain of hashes; fail at the first entry that was changed, removed or put in."""
    from include.queue_etl.privacy import audit

    with connections.officer(arguments, any_contract()) as pipeline:
        last = audit.verify(pipeline.warehouse.audit_entries(), arguments.mark)
    print(f"the audit is whole; last entry {last.mark}" if last else "the audit is empty")


def erase(arguments: Arguments) -> None:
    """Erase a user, or one personal value; without --apply only count. The value comes on standard input."""
    from include.queue_etl.privacy import erase as erasure

    contract = load_contract(arguments.contract)
    with _usage(arguments):
        erasure.require_field(contract, arguments.by)
    values = lines(arguments.file)
    if len(values) != 1:
        raise ValueError(f"give one value, on a line of its own: there are {len(values)}")
    subject = erasure.Subject(contract, arguments.by, values[0])
    with connections.officer(arguments) as pipeline, _mark_shown(pipeline.warehouse):
        result = erasure.erase(pipeline, subject, _purpose(arguments), dry_run=not arguments.apply)
    show(result, arguments.json)


def remask(arguments: Arguments) -> None:
    """Move everything, of every contract, to the keyset's primary key; pipelines may run."""
    from include.queue_etl.privacy import rotation

    with connections.rotation(arguments) as pipeline, _mark_shown(pipeline.warehouse):
        show(rotation.remask(pipeline, load_contracts().usable(), _purpose(arguments)), arguments.json)


def create_key(arguments: Arguments) -> None:
    """Make a new keyset, wrapped where QUEUE_ETL_KMS_KEY_URI names a key."""
    if arguments.print:
        print(connections.key_file().sealed(Keyset.new_json()))
        return
    connections.key_file().create(Keyset.new_json())
    print("made the keyset: keep a copy, without it nothing can be unmasked")


def add_key(arguments: Arguments) -> None:
    """Add a key that opens but does not mask yet: give the keyset to every process, then promote the key."""
    from include.queue_etl.privacy import keys

    text, key_id = keys.added(connections.key_file().read())
    _keep_keyset(arguments, text, f"added key {key_id}: give the keyset to every process, then promote it")


def promote_key(arguments: Arguments) -> None:
    """Let a key mask from now on: give the keyset to every process, then remask."""
    from include.queue_etl.privacy import keys

    text = keys.promoted(connections.key_file().read(), arguments.key_id)
    _keep_keyset(arguments, text, f"key {arguments.key_id} is primary: give the keyset to every process")


def wrap_keys(arguments: Arguments) -> None:
    """Wrap the keyset with the key of QUEUE_ETL_KMS_KEY_URI."""
    connections.variable("QUEUE_ETL_KMS_KEY_URI", "the AWS KMS key that wraps: aws-kms://arn:...")
    _keep_keyset(arguments, connections.key_file().read(), "wrapped the keyset")


def key_status(arguments: Arguments) -> None:
    """Show each key, and what bears it."""
    from include.queue_etl.privacy import rotation

    with connections.rotation(arguments) as pipeline:
        for key in rotation.status(pipeline, load_contracts().usable()):
            show(key, arguments.json)


def destroy_key(arguments: Arguments) -> None:
    """Remove a key for good; refused while anything bears it."""
    from include.queue_etl.privacy import rotation

    with connections.rotation(arguments) as pipeline, _mark_shown(pipeline.warehouse):
        text = rotation.retire(
            pipeline,
            load_contracts().complete(),
            arguments.key_id,
            _purpose(arguments),
            arguments.abandon_one_way,
        )
    _keep_keyset(arguments, text, f"key {arguments.key_id} is gone: give the keyset to every process")


def _keep_keyset(arguments: Arguments, text: str, done: str) -> None:
    if arguments.print:
        print(connections.key_file().sealed(text))
        print(done, file=sys.stderr)
        return
    connections.key_file().replace(text)
    print(done)


def _purpose(arguments: Arguments) -> "Purpose":
    from include.queue_etl.privacy.audit import Purpose

    return Purpose(arguments.reason, arguments.ticket)
