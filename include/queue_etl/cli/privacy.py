"""What the privacy officer does: unmask, mask, show, erase, keys, audit."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

from include.contracts import load_contract, load_contracts
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import (
    Arguments,
    UsageError,
    add,
    add_contract,
    add_json,
    add_one_or_all_contracts,
    add_purpose,
    read_lines,
)
from include.queue_etl.cli.output import one_line, readable, show, show_table
from include.queue_etl.contract import KINDS, SUBJECT
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.private_files import new_text_file
from include.queue_etl.resources import Resources
from include.queue_etl.warehouses import Contracts, all_open, by_warehouse

if TYPE_CHECKING:
    from include.queue_etl.privacy.audit import AuditLog, Purpose
    from include.queue_etl.privacy.everywhere import Part
    from include.queue_etl.privacy.officer_store import KeptFields, StoredMessage
    from include.queue_etl.transform.quarantine import Original
    from include.queue_etl.transform.shapes import Shapes


MARK = re.compile(r"[1-9][0-9]*:[0-9a-f]{64}")  # Entry.mark
CSV_HELP = "; a value that begins with = + - @ has ' before it, as spreadsheets take it for a formula"
# What erase counts of the value itself
FOUND = ("rows", "quarantined", "kept_fields", "file_rows", "file_messages", "file_kept_fields")
BY_HELP = (
    "the field that holds the value: user_id, or a personal field of the contract, such as ip, "
    f"items[*].phone or attribute:trace-id; with --all-contracts the kind of value: {', '.join(KINDS)}"
)
UNMASK_EXAMPLES = """
examples, each with --reason, --ticket, and --output FILE or --stdout:
  unmask --field ip --file tokens.txt             tokens of one field, a line each
  unmask --user-id 424cdd21                       all of a user, in one contract
  unmask --by 'items[*].phone' < value.txt        all in the rows with this value, in one contract
  unmask --all-contracts --by email < value.txt   the same in every contract, whatever its fields are called
"""
MASK_EXAMPLES = "example: mask --field ip --count --reason fraud --ticket SEC-4 < addresses.txt"
SHOW_EXAMPLES = (
    "example: show 6f1c0d9e-3b52-4c1e-9a37-2f1d6c0a7b11 --reason 'unknown version' --ticket OPS-12"
)
ERASE_EXAMPLES = """
examples, each with --reason and --ticket; without --apply they only count:
  erase --by ip < value.txt                        one field of one contract
  erase --by user_id --file value.txt --apply      all of a user, in one contract
  erase --all-contracts --by email < value.txt     every field of every contract that is an e-mail address
  erase --all-contracts --by user_id < value.txt   all of a user, in every contract
"""


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    _add_unmask(commands)
    _add_mask(commands)
    _add_show(commands)
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
    one.add_argument(
        "--warehouse", default="", metavar="NAME", help="whose audit; default: the one without a name"
    )
    _add_keys(commands)


def _add_unmask(commands: Any) -> None:
    parser = add(commands, unmask, examples=UNMASK_EXAMPLES)
    add_one_or_all_contracts(parser)
    parser.add_argument(
        "tokens", nargs="*", metavar="TOKEN", help="tokens of one field; default: standard input"
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="file with a token a line, or with the value of --by; default: standard input",
    )
    parser.add_argument("--field", help="the event field the tokens stand for, such as ip")
    parser.add_argument("--user-id", help="all tokens in the rows of this user, in place of TOKEN")
    parser.add_argument("--by", metavar="FIELD", help=f"all tokens in the rows that hold a value; {BY_HELP}")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="new CSV file, readable by you alone" + CSV_HELP)
    where.add_argument("--stdout", action="store_true", help="CSV on standard output")
    add_purpose(parser)


def _add_mask(commands: Any) -> None:
    parser = add(commands, mask, examples=MASK_EXAMPLES)
    add_contract(parser)
    parser.add_argument(
        "values",
        nargs="*",
        metavar="VALUE",
        help="values of one field; default: standard input, so that they are in no shell history",
    )
    parser.add_argument("--file", type=Path, help="file with a value a line, in place of VALUE")
    parser.add_argument("--field", required=True, help="a personal field of the contract, such as ip")
    parser.add_argument("--count", action="store_true", help="say how many rows of the table have each token")
    add_json(parser, "print one JSON object a token")
    add_purpose(parser)


def _add_show(commands: Any) -> None:
    parser = add(commands, show_message, "show", examples=SHOW_EXAMPLES)
    add_contract(parser)
    parser.add_argument("message_id", type=UUID, metavar="MESSAGE_ID", help="as `shape` names it")
    parser.add_argument("--shape", action="store_true", help="paths, types and lengths; no value")
    parser.add_argument(
        "--output", type=Path, help="new file, readable by you alone; default: standard output"
    )
    add_purpose(parser)


def _add_erase(commands: Any) -> None:
    parser = add(commands, erase, examples=ERASE_EXAMPLES)
    add_one_or_all_contracts(parser)
    parser.add_argument("--by", required=True, metavar="FIELD", help=BY_HELP)
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
    with _usage():
        _check_unmask(arguments)
        by = _searched_by(arguments)
    if by is None:
        _unmask_tokens(arguments)
    else:
        _unmask_rows(arguments, by)


def _unmask_tokens(arguments: Arguments) -> None:
    """Open the tokens of one field."""
    from include.queue_etl.privacy import subjects
    from include.queue_etl.privacy import unmask as recovery

    contract = load_contract(arguments.contract)
    with _usage():
        masked = subjects.require_recoverable(contract, arguments.field)
    tokens = [(masked, token) for token in arguments.tokens or read_lines(arguments.file)]
    with wiring.of_contract(wiring.OFFICER, contract) as resources, _audited(resources) as audit:
        resources.require_schema()
        with _destination(arguments.output) as file:
            values = recovery.unmask(resources, audit, contract, tokens, _purpose(arguments))
            count = recovery.write_csv(values, file)
    _show_unmasked(arguments, count, contract.table)


def _unmask_rows(arguments: Arguments, by: str) -> None:
    """Open all tokens of the rows that hold a value."""
    value = _one_value(arguments.file) if arguments.user_id is None else arguments.user_id
    if arguments.contract is None:
        _unmask_everywhere(arguments, by, value)
    else:
        _unmask_in_one(arguments, by, value)


def _unmask_in_one(arguments: Arguments, by: str, value: str) -> None:
    from include.queue_etl.privacy import unmask as recovery
    from include.queue_etl.privacy.subjects import Search

    contract = load_contract(arguments.contract)
    search = Search.of_field(contract, by, value)
    with wiring.of_contract(wiring.OFFICER, contract) as resources, _audited(resources) as audit:
        resources.require_schema()
        ((_, tokens),) = recovery.find(resources, [search])
        with _destination(arguments.output) as file:
            values = recovery.unmask(resources, audit, contract, tokens, _purpose(arguments))
            count = recovery.write_csv(values, file)
    _show_unmasked(arguments, count, contract.table)


def _unmask_everywhere(arguments: Arguments, by: str, value: str) -> None:
    from include.queue_etl.privacy import everywhere
    from include.queue_etl.privacy import unmask as recovery

    contracts, purpose = load_contracts().complete(), _purpose(arguments)
    with _everywhere(wiring.OFFICER, contracts) as parts, _destination(arguments.output) as file:
        values = everywhere.unmask(parts, by, value, purpose)
        count = recovery.write_csv(values, file, recovery.NAMES)
    _show_unmasked(arguments, count, "no contract")


def _show_unmasked(arguments: Arguments, count: int, where: str) -> None:
    if not count:
        has = "has a" if where == "no contract" else "has no"
        print(f"{where} {has} token of that person", file=sys.stderr)
    if arguments.output:
        print(f"{count} values in {arguments.output}, readable by you alone")


def _check_unmask(arguments: Arguments) -> None:
    """Raises ValueError for what does not go together."""
    ways = {"--user-id": arguments.user_id, "--by": arguments.by, "--field": arguments.field}
    others = {"TOKEN": arguments.tokens, "--file": arguments.file, "--field": arguments.field}
    given = [name for name, value in others.items() if value not in (None, [])]
    if all(value is None for value in ways.values()):
        raise ValueError("give --field and its tokens, or --by, or --user-id")
    if arguments.user_id is not None and (named := [*(["--by"] if arguments.by else []), *given]):
        raise ValueError(f"--user-id means all of a user: not with {', '.join(named)}")
    if arguments.by is not None and (named := [name for name in given if name != "--file"]):
        raise ValueError(f"--by takes one value, from --file or standard input: not with {', '.join(named)}")
    if arguments.field is not None and arguments.contract is None:
        raise ValueError("the tokens of --field are of one contract: not with --all-contracts")
    if arguments.tokens and arguments.file:
        raise ValueError("give TOKEN or --file, not both")


def _searched_by(arguments: Arguments) -> str | None:
    """By which field or kind rows are searched, None where none are; ValueError where there is no such."""
    from include.queue_etl.privacy import subjects

    if arguments.field is not None:
        return None
    by: str | None = arguments.by
    if by is None:
        by = SUBJECT
        if arguments.contract is not None:
            by = subjects.require_subject(load_contract(arguments.contract)).field
    _require_searchable(arguments.contract, by)
    return by


def _require_searchable(contract: str | None, by: str) -> None:
    """Raises ValueError where there is no such field or kind, before anybody is asked for the value."""
    from include.queue_etl.privacy import subjects

    if contract is None:
        subjects.require_kind(by)
    else:
        subjects.require_field(load_contract(contract), by)


def _one_value(file: Path | None) -> str:
    values = read_lines(file)
    if len(values) != 1:
        raise ValueError(f"give one value, on a line of its own: there are {len(values)}")
    return values[0]


def mask(arguments: Arguments) -> None:
    """Find the tokens of values under every key, as the privacy officer, with an audit entry."""
    from include.queue_etl.privacy import mask as masking
    from include.queue_etl.privacy import subjects
    from include.queue_etl.privacy.officer_store import OfficerStore

    contract = load_contract(arguments.contract)
    with _usage():
        column = subjects.require_personal(contract, arguments.field)
        if arguments.values and arguments.file:
            raise ValueError("give VALUE or --file, not both")
    values = arguments.values or read_lines(arguments.file)
    if not values:
        raise ValueError("give a value, each on a line of its own")
    with wiring.of_contract(wiring.OFFICER, contract) as resources, _audited(resources) as audit:
        resources.require_schema()
        found = masking.mask(resources, audit, contract, column, values, _purpose(arguments))
        lines = [masked._asdict() for masked in found]
        if arguments.count:
            store = OfficerStore(resources.database)
            places = [subjects.Place(column.column, column.path, [masked.token], False) for masked in found]
            tables = contract.each_table()
            rows = [sum(store.count_rows(table, [place]) for table in tables) for place in places]
            lines = [{**line, "rows": count} for line, count in zip(lines, rows, strict=True)]
    if not arguments.json:
        show_table(lines)
    for line in lines if arguments.json else []:
        show(line, as_json=True)


def show_message(arguments: Arguments) -> None:
    """Look at a quarantined message, or at what is kept of one, as the privacy officer, on record."""
    from include.queue_etl.privacy.officer_store import OfficerStore
    from include.queue_etl.privacy.show import show
    from include.queue_etl.transform.shapes import Shapes

    contract = load_contract(arguments.contract)
    with wiring.of_contract(wiring.OFFICER, contract) as resources, _audited(resources) as audit:
        resources.require_schema()
        messages = OfficerStore(resources.database).of_message(contract, arguments.message_id)
        if not messages:
            raise ValueError(f"nothing of a message {arguments.message_id} of {contract.queue} is stored")
        with _destination(arguments.output) as file:
            opened = show(
                resources, audit, contract, messages, _purpose(arguments), shape_alone=arguments.shape
            )
            for message, original in opened:
                _write_message(message, original, file, Shapes(contract) if arguments.shape else None)
    if arguments.output:
        print(f"the message is in {arguments.output}, readable by you alone")


def _write_message(
    message: "StoredMessage | KeptFields", original: "Original", file: TextIO, shapes: "Shapes | None"
) -> None:
    """Its facts, then its body; in place of values its shape, where `shapes` makes one."""
    facts: dict[str, object] = {name: value for name, value in message._asdict().items() if name != "payload"}
    for name, value in original.facts.items():
        facts[name] = one_line(value) if shapes is None else f"{len(value)} long"
    show(facts, file=file)
    print(file=file)
    if shapes is None:
        print(readable(original.body), file=file)
    else:
        show_table([line._asdict() for line in shapes.lines(original.body)], file)


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
        _show_mark(resources, audit)


@contextmanager
def _everywhere(role: tuple[str, str], contracts: Contracts) -> "Iterator[list[Part]]":
    """Every warehouse in this role, with its audit; marks are printed as `_audited` does."""
    from include.queue_etl.privacy.everywhere import Part

    with all_open(contracts, wiring.opening(role)) as opened:
        parts = [*map(Part.of, opened)]
        try:
            yield parts
        finally:
            for part in parts:
                _show_mark(part.resources, part.audit)


def _show_mark(resources: Resources, audit: "AuditLog") -> None:
    if entry := audit.last_entry:
        where = f" of warehouse {resources.warehouse}" if resources.warehouse else ""
        print(f"audit entry {entry.mark}{where}", file=sys.stderr)


def verify_audit(arguments: Arguments) -> None:
    """Follow an audit's chain of hashes; fail at the first entry that was changed, removed or put in."""
    from include.queue_etl.privacy import audit

    groups = by_warehouse(load_contracts().usable())
    if arguments.warehouse not in groups:
        raise UsageError(f"no contract names a warehouse {arguments.warehouse!r}")
    with wiring.resources(wiring.OFFICER, arguments.warehouse, groups[arguments.warehouse]) as resources:
        last = audit.verify(audit.AuditLog(resources.database).entries(), arguments.mark)
    print(f"the audit is whole; last entry {last.mark}" if last else "the audit is empty")


def erase(arguments: Arguments) -> None:
    """Erase a user, or one personal value; without --apply only count. The value comes on standard input."""
    with _usage():
        _require_searchable(arguments.contract, arguments.by)
    value = _one_value(arguments.file)
    if arguments.contract is None:
        _erase_everywhere(arguments, value)
    else:
        _erase_in_one(arguments, value)


def _erase_in_one(arguments: Arguments, value: str) -> None:
    from include.queue_etl.privacy.erase import erase
    from include.queue_etl.privacy.subjects import Subject

    contract = load_contract(arguments.contract)
    subject = Subject(contract, arguments.by, value)
    with wiring.of_contract(wiring.OFFICER, contract) as resources, _audited(resources) as audit:
        result = erase(resources, audit, subject, _purpose(arguments), dry_run=not arguments.apply)
    show(result, arguments.json)
    if not any(result[kind] for kind in FOUND):
        print(f"nothing of {contract.name} has this {arguments.by}", file=sys.stderr)


def _erase_everywhere(arguments: Arguments, value: str) -> None:
    from include.queue_etl.privacy import everywhere
    from include.queue_etl.privacy.erase import COUNTS
    from include.queue_etl.privacy.subjects import Search

    contracts, dry_run = load_contracts().complete(), not arguments.apply
    searches = [Search.of_kind(contract, arguments.by, value) for contract in contracts.values()]
    with _everywhere(wiring.OFFICER, contracts) as parts:
        counts = everywhere.erase(parts, arguments.by, value, _purpose(arguments), dry_run=dry_run)
    total = {name: sum(one[name] for one in counts.values()) for name in COUNTS}
    if arguments.json:
        show({"dry_run": dry_run, "contracts": counts, "total": total}, as_json=True)
    else:
        fields = {search.contract.name: ", ".join(search.fields) or None for search in searches}
        rows = [{"contract": name, "fields": fields[name], **one} for name, one in counts.items()]
        show_table([*rows, {"contract": "total", "fields": None, **total}])
    if not any(total[kind] for kind in FOUND):
        print(f"no contract has anything of this {arguments.by}", file=sys.stderr)


def remask(arguments: Arguments) -> None:
    """Move everything, of every contract, to the keyset's primary key; pipelines may run."""
    from include.queue_etl.privacy import everywhere

    with _everywhere(wiring.REMASKER, load_contracts().usable()) as parts:
        show(everywhere.remask(parts, _purpose(arguments)), arguments.json)


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
    from include.queue_etl.privacy import everywhere

    with _everywhere(wiring.REMASKER, load_contracts().usable()) as parts:
        keys = everywhere.status(parts)
    if arguments.json:
        for key in keys:
            show(key, as_json=True)
    else:
        show_table(keys)


def destroy_key(arguments: Arguments) -> None:
    """Remove a key for good; refused while anything is encrypted with it."""
    from include.queue_etl.privacy import everywhere

    with _everywhere(wiring.REMASKER, load_contracts().complete()) as parts:
        document = everywhere.retire(parts, arguments.key_id, _purpose(arguments), arguments.abandon_one_way)
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
