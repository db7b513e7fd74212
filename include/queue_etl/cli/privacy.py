"""What the privacy officer does: unmask, erase, keys, audit."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from include.contracts import load_contract, load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import (
    Arguments,
    UsageError,
    add,
    add_contract,
    add_json,
    add_purpose,
    read_lines,
)
from include.queue_etl.cli.output import show, show_table
from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.private_files import new_text_file
from include.queue_etl.resources import Resources

if TYPE_CHECKING:
    from include.queue_etl.privacy.audit import AuditLog, Purpose


MARK = re.compile(r"[1-9][0-9]*:[0-9a-f]{64}")  # Entry.mark
CSV_HELP = "; a value that begins with = + - @ has ' before it, as spreadsheets take it for a formula"


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    _add_unmask(commands)
    _add_erase(commands)
    one = add(commands, remask)
    add_json(one)
    add_purpose(one)
    actions = commands.add_parser("audit", help="the audit of personal data").add_subparsers(
        required=True, metavar="ACTION"
    )
    one = add(actions, verify_audit, "verify", group="audit")
    one.add_argument(
        "--mark",
        type=_mark,
        metavar="ID:HASH",
        help="as a command printed it: that entry must be there",
    )
    _add_keys(commands)


def _add_unmask(commands: Any) -> None:
    parser = add(commands, unmask)
    add_contract(parser)
    parser.add_argument(
        "tokens", nargs="*", metavar="TOKEN", help="tokens of one field; default: standard input"
    )
    parser.add_argument("--file", type=Path, help="file with a token a line, in place of TOKEN")
    parser.add_argument("--field", help="the event field the tokens stand for, such as ip")
    parser.add_argument("--user-id", help="all tokens in the rows of this user, in place of TOKEN")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="new CSV file, readable by you alone" + CSV_HELP)
    where.add_argument("--stdout", action="store_true", help="CSV on standard output")
    add_purpose(parser)


def _add_erase(commands: Any) -> None:
    parser = add(commands, erase)
    add_contract(parser)
    parser.add_argument(
        "--by",
        required=True,
        metavar="FIELD",
        help="user_id, or a personal field of the contract, such as ip",
    )
    parser.add_argument("--file", type=Path, help="file that holds the value; default: standard input")
    parser.add_argument("--apply", action="store_true", help="do it")
    add_json(parser)
    add_purpose(parser)


def _add_keys(commands: Any) -> None:
    actions = commands.add_parser("keys", help="the keys of QUEUE_ETL_KEYSET_FILE").add_subparsers(
        required=True, metavar="ACTION"
    )
    create, wrap = (
        add(actions, create_key, "create", group="keys"),
        add(actions, wrap_keys, "wrap", group="keys"),
    )
    create.add_argument("--development", action="store_true", help="mark the key: production refuses it")
    adding = add(actions, add_key, "add", group="keys")
    promote, destroy = (
        add(actions, promote_key, "promote", group="keys"),
        add(actions, destroy_key, "destroy", group="keys"),
    )
    for changing in (create, wrap, adding, promote, destroy):
        changing.add_argument(
            "--print",
            action="store_true",
            help="print the keyset, for a secrets backend; leave the file alone",
        )
    for parser in (promote, destroy):
        parser.add_argument("key_id", type=int)
    destroy.add_argument(
        "--abandon-one-way",
        action="store_true",
        help="let one-way tokens stay, which nothing matches any more",
    )
    add_purpose(destroy)
    add_json(add(actions, key_status, "status", group="keys"), "print a JSON object a key")


def _mark(text: str) -> str:
    if not MARK.fullmatch(text):
        raise argparse.ArgumentTypeError("not a mark: give the whole ID:HASH as a command printed it")
    return text


def unmask(arguments: Arguments) -> None:
    """Recover masked values, as the privacy officer, with an audit entry."""
    from include.queue_etl.privacy import unmask as recovery
    from include.queue_etl.privacy.officer_store import OfficerStore

    contract, tokens = load_contract(arguments.contract), []
    with _usage():
        column = _column_asked_for(arguments, contract)
    if column is not None:
        tokens = [(column, token) for token in arguments.tokens or read_lines(arguments.file)]
    with wiring.resources(wiring.OFFICER) as resources, _audited(resources) as audit:
        resources.require_schema()
        if column is None:
            subject = recovery.require_subject(contract)
            tokens = OfficerStore(resources.database).tokens_where(contract, subject.name, arguments.user_id)
        with _destination(arguments.output) as file:
            values = recovery.unmask(resources, audit, contract, tokens, _purpose(arguments))
            count = recovery.write_csv(values, file)
    if not tokens:
        print(f"{contract.table} has no token of that person", file=sys.stderr)
    if arguments.output:
        print(f"{count} values in {arguments.output}, readable by you alone")


def _column_asked_for(arguments: Arguments, contract: Contract) -> MaskedField | None:
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
    recovery.require_subject(contract)
    return None


def _destination(path: Path | None) -> AbstractContextManager[TextIO]:
    """Where the values go. A file is there before anything is on record, and goes again if there are none."""
    return new_text_file(path) if path else nullcontext(sys.stdout)


@contextmanager
def _usage() -> Iterator[None]:
    """Report as wrong usage what only the contract could tell."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _audited(resources: Resources) -> "Iterator[AuditLog]":
    """The audit; the mark of its last entry made meanwhile is printed, also where the deed itself failed."""
    from include.queue_etl.privacy.audit import AuditLog

    audit = AuditLog(resources.database)
    try:
        yield audit
    finally:
        if entry := audit.last_entry:
            print(f"audit entry {entry.mark}", file=sys.stderr)


def verify_audit(arguments: Arguments) -> None:
    """Follow the audit's chain of hashes; fail at the first entry that was changed, removed or put in."""
    from include.queue_etl.privacy import audit

    with wiring.resources(wiring.OFFICER) as resources:
        last = audit.verify(audit.AuditLog(resources.database).entries(), arguments.mark)
    print(f"the audit is whole; last entry {last.mark}" if last else "the audit is empty")


def erase(arguments: Arguments) -> None:
    """Erase a user, or one personal value; without --apply only count. The value comes on standard input."""
    from include.queue_etl.privacy.erase import Subject, erase, require_field

    contract = load_contract(arguments.contract)
    with _usage():
        require_field(contract, arguments.by)
    values = read_lines(arguments.file)
    if len(values) != 1:
        raise ValueError(f"give one value, on a line of its own: there are {len(values)}")
    subject = Subject(contract, arguments.by, values[0])
    with wiring.resources(wiring.OFFICER) as resources, _audited(resources) as audit:
        result = erase(resources, audit, subject, _purpose(arguments), dry_run=not arguments.apply)
    show(result, arguments.json)
    if not any(result[kind] for kind in ("rows", "quarantined", "file_rows", "file_messages")):
        print(f"nothing of {contract.name} has this {arguments.by}", file=sys.stderr)


def remask(arguments: Arguments) -> None:
    """Move everything, of every contract, to the keyset's primary key; pipelines may run."""
    from include.queue_etl.privacy import rotation

    with wiring.resources(wiring.REMASKER) as resources, _audited(resources) as audit:
        show(
            rotation.remask(resources, audit, load_contracts().usable(), _purpose(arguments)), arguments.json
        )


def create_key(arguments: Arguments) -> None:
    """Make a new keyset, wrapped where QUEUE_ETL_KMS_KEY_URI names a key."""
    document = KeysetDocument.new(development=arguments.development)
    if arguments.print:
        print(wiring.keyset_file().stored(document).text)
        return
    wiring.keyset_file().create(document)
    print("made the keyset: keep a copy, without it nothing can be unmasked")


def add_key(arguments: Arguments) -> None:
    """Add a key that opens but does not mask yet: give the keyset to every process, then promote the key."""
    document, key_id = wiring.keyset_file().read().add_key()
    _keep_keyset(
        arguments, document, f"added key {key_id}: give the keyset to every process, then promote it"
    )


def promote_key(arguments: Arguments) -> None:
    """Let a key mask from now on: give the keyset to every process, then remask."""
    document = wiring.keyset_file().read().promote_key(arguments.key_id)
    _keep_keyset(arguments, document, f"key {arguments.key_id} is primary: give the keyset to every process")


def wrap_keys(arguments: Arguments) -> None:
    """Wrap the keyset with the key of QUEUE_ETL_KMS_KEY_URI."""
    wiring.required_variable("QUEUE_ETL_KMS_KEY_URI", "the AWS KMS key that wraps: aws-kms://arn:...")
    _keep_keyset(arguments, wiring.keyset_file().read(), "wrapped the keyset")


def key_status(arguments: Arguments) -> None:
    """Show each key, and what is encrypted with it."""
    from include.queue_etl.privacy import rotation

    with wiring.resources(wiring.REMASKER) as resources:
        keys = rotation.status(resources, load_contracts().usable())
    if arguments.json:
        for key in keys:
            show(key, as_json=True)
    else:
        show_table(keys)


def destroy_key(arguments: Arguments) -> None:
    """Remove a key for good; refused while anything is encrypted with it."""
    from include.queue_etl.privacy import rotation

    with wiring.resources(wiring.REMASKER) as resources, _audited(resources) as audit:
        document = rotation.retire(
            resources,
            audit,
            load_contracts().complete(),
            arguments.key_id,
            _purpose(arguments),
            arguments.abandon_one_way,
        )
    _keep_keyset(arguments, document, f"key {arguments.key_id} is gone: give the keyset to every process")


def _keep_keyset(arguments: Arguments, document: KeysetDocument, done: str) -> None:
    if arguments.print:
        print(wiring.keyset_file().stored(document).text)
        print(done, file=sys.stderr)
        return
    wiring.keyset_file().replace(document)
    print(done)


def _purpose(arguments: Arguments) -> "Purpose":
    from include.queue_etl.privacy.audit import Purpose

    return Purpose(arguments.reason, arguments.ticket)
