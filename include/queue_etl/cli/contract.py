"""Contracts: from a sample of real messages to a file in include/contracts."""

import argparse
import codecs
import json
import keyword
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.contracts import PROJECT, load_contracts
from include.queue_etl.cli import contract_tables, wiring
from include.queue_etl.cli.arguments import Arguments, UsageError, add, positive
from include.queue_etl.cli.output import show_table
from include.queue_etl.contract.contract import table_problem
from include.queue_etl.counts import in_words
from include.queue_etl.settings import queue_suffix

if TYPE_CHECKING:
    from include.queue_etl.onboarding.draft import Draft, Member, Struct
    from include.queue_etl.onboarding.survey import Field, Survey

MOST_BODIES = 10_000  # of a sample; more say nothing new and take memory
# A peek holds messages for some seconds. If it is killed, they come back after a minute.
PEEK_SECONDS, PEEK_HIDDEN_SECONDS = 20, 60
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    actions = commands.add_parser("contract", help="write and compare contracts").add_subparsers(
        required=True, metavar="ACTION"
    )
    contract_tables.add_to(actions)
    call = "new orders --queue orders-queue --sample orders.jsonl --personal customer.note --choices currency"
    parser = add(actions, new, group="contract", examples=contract_tables.example(call))
    parser.add_argument("contract_name", metavar="NAME", type=_name, help="of the contract, its file and DAG")
    parser.add_argument("--queue", required=True, help="name of the SQS queue")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--sample",
        type=Path,
        action="append",
        metavar="FILE",
        help="real messages: JSON lines, a JSON array, or one JSON document; may be given several times",
    )
    source.add_argument(
        "--peek", type=positive, metavar="N", help="receive N messages and release them at once"
    )
    parser.add_argument("--table", type=_table, help="schema.table; default: public.NAME")
    for option, meaning in (
        ("--personal", "this field is personal: mask it"),
        ("--not-personal", "this field is proposed as personal and is not"),
        ("--choices", "this text is a closed set: write its values into the contract"),
    ):
        parser.add_argument(option, action="append", default=[], metavar="PATH", help=meaning)
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def new(arguments: Arguments) -> None:
    """Propose a contract from a sample of real messages: show what they hold, and write its files.

    No value of the sample is shown or written, but those of fields that are named with --choices.
    """
    from include.queue_etl.onboarding import survey

    files = _files(arguments.contract_name)
    _refuse_to_replace(files, arguments.force)
    _refuse_table_of_another(arguments.contract_name, _table_of(arguments))
    suffixed = arguments.queue + queue_suffix(os.environ)  # as the contract's queue will be
    bodies = _peek(suffixed, arguments.peek) if arguments.peek else _read(arguments.sample)
    found = survey.survey(bodies[:MOST_BODIES])
    if not found.events:
        why = in_words(found.unusable) if bodies else "there is no message"
        raise ValueError(f"no JSON object among {found.bodies} messages: {why}")
    draft = _draft(arguments, found)
    show_table(list(_rows(draft.event)))
    print()
    for note in _notes(found, draft, len(bodies)):
        print(note)
    _write(files, _texts(arguments, found, draft))
    print(f"next, when you have read {_shown(files[0])}:")
    for command in ("contract migration {}", "migrate", "check --contract {}"):
        print(f"  ./dev run {command.format(arguments.contract_name)}")
    print("without ./dev: the same behind `python -m include.queue_etl`")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or keyword.iskeyword(text) or text in sys.stdlib_module_names:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name for a contract: give lower-case letters, digits and _, "
            "and no word or module of Python"
        )
    return text


def _table(text: str) -> str:
    if problem := table_problem(text):
        raise argparse.ArgumentTypeError(problem)
    return text


def _files(name: str) -> list[Path]:
    """The contract, its made-up events, and the test of both."""
    return [
        PROJECT / "include" / "contracts" / f"{name}.py",
        PROJECT / "tests" / "events" / f"{name}.jsonl",
        PROJECT / "tests" / "unit" / f"test_contract_{name}.py",
    ]


def _refuse_to_replace(files: Sequence[Path], force: bool) -> None:
    there = [_shown(file) for file in files if file.exists()]
    if there and not force:
        raise ValueError(f"there already: {', '.join(there)}; --force replaces them")


def _table_of(arguments: Arguments) -> str:
    return arguments.table or f"public.{arguments.contract_name}"


def _refuse_table_of_another(name: str, table: str) -> None:
    for other in load_contracts().good.values():
        if other.name != name and table in (one.table for one in other.each_table()):
            raise ValueError(f"table {table} is that of the contract {other.name}: give another with --table")


def _shown(file: Path) -> str:
    return str(file.relative_to(PROJECT))


def _read(files: Sequence[Path]) -> list[bytes]:
    return [body for file in files for body in _bodies(file.read_bytes().removeprefix(codecs.BOM_UTF8))]


def _bodies(content: bytes) -> list[bytes]:
    """The documents in a file: of a JSON array, of JSON lines, or the only one."""
    import msgspec

    try:
        if content.lstrip().startswith(b"["):
            return [bytes(item) for item in msgspec.json.decode(content, type=list[msgspec.Raw])]
        return [bytes(msgspec.json.decode(content, type=msgspec.Raw))]
    except (msgspec.DecodeError, RecursionError):
        return [line for line in content.splitlines() if line.strip()]


def _peek(name: str, most: int) -> list[bytes]:
    """Bodies of messages that are visible again when it returns."""
    print(
        f"peek: receives up to {most} messages of {name} and releases them. It raises their receive count by "
        "one: a message that was one short of the queue's maxReceiveCount goes to the dead-letter queue when "
        "it is received next.",
        file=sys.stderr,
    )
    with wiring.queue(
        name, visibility_timeout_seconds=PEEK_HIDDEN_SECONDS, receive_seconds=PEEK_SECONDS
    ) as queue:
        messages = []
        try:
            with closing(queue.receive(min(most, MOST_BODIES), PEEK_SECONDS)) as arriving:
                for some in arriving:
                    messages += some
        finally:
            released = queue.release([message.receipt_handle for message in messages]).done if messages else 0
    if messages:
        highest = max(message.receive_count for message in messages)
        print(f"peek: received {len(messages)}, highest receive count {highest}; released {released}")
    return [message.body for message in messages]


def _draft(arguments: Arguments, found: "Survey") -> "Draft":
    from include.queue_etl.onboarding import draft, personal

    if both := set(arguments.personal) & set(arguments.not_personal):
        raise UsageError(f"both --personal and --not-personal: {', '.join(sorted(both))}")
    try:
        proposals = personal.proposals(found.event, arguments.personal, arguments.not_personal)
        return draft.draft(
            found, arguments.contract_name, proposals, arguments.choices, arguments.not_personal
        )
    except personal.UnknownPath as error:
        raise UsageError(f"the sample has no path {error.path!r}") from None
    except draft.NoChoices as error:
        raise UsageError(f"--choices {error.path!r}: {error.why}") from None


def _rows(struct: "Struct") -> Iterator[dict[str, object]]:
    """A line for each path, those inside jsonb too."""
    for member in struct.members:
        if member.struct:
            yield from _rows(member.struct)
            continue
        yield _row(member.found, member, member.sql_type, member.note)
        for part in member.found.parts:
            for inner in part.walk():
                yield _row(inner, member, "/".join(sorted(inner.kinds)) or None, "")


def _row(found: "Field", member: "Member", kind: str | None, note: str) -> dict[str, object]:
    from include.queue_etl.onboarding.personal import percent
    from include.queue_etl.onboarding.survey import MOST_DISTINCT

    proposal = member.personal if found is member.found else member.inside_at(found)
    return {
        "path": found.path,
        "column": member.column,
        "type": kind,
        "null": percent(found.nulls / max(1, found.seen)),
        "missing": percent(found.missing / max(1, found.parents)),
        "longest": found.texts.longest if found.texts else None,
        "distinct": f"{found.distinct}+" if found.distinct >= MOST_DISTINCT else found.distinct,
        "personal, and why": f"{proposal.normalization}: {proposal.reason}" if proposal else None,
        "note": note,
    }


def _notes(found: "Survey", draft: "Draft", bodies: int) -> Iterator[str]:
    yield f"{found.events} events in {found.bodies} messages"
    if bodies > found.bodies:
        yield f"{bodies - found.bodies} further messages were not looked at"
    if found.unusable:
        yield f"no contract would load the others: {in_words(found.unusable)}"
    if found.envelope:
        yield "SNS notifications: the contract takes the event out of them"
    from include.queue_etl.onboarding.survey import COMMON_EVENTS

    if found.data_names:
        yield (
            f"left out: {found.data_names} names at the top of the events, which look like data, have signs "
            f"that values have, or have blanks and are not in {COMMON_EVENTS} events and half of the sample. "
            'Declare them with field(name="..."), or keep their values, encrypted, with unknown_fields="keep"'
        )
    if draft.subject:
        kinds = {kind for field in found.event.walk() if field.path == draft.subject for kind in field.kinds}
        unseen = "" if kinds else ". It is null in the whole sample"
        yield f"{draft.subject} says whose row it is: erase and unmask find a person's rows by it{unseen}"
    else:
        yield "no field says whose row it is: mark one with Subject(), so that erase can go by it"
    personal = sum(len(member.inside) or bool(member.personal) for member in draft.event.columns())
    yield f"{personal} fields are proposed as personal; all others would be loaded in the clear"


def _texts(arguments: Arguments, found: "Survey", draft: "Draft") -> list[str]:
    from include.queue_etl.onboarding import example, source

    name = arguments.contract_name
    made_up = "".join(f"{json.dumps(event)}\n" for event in example.events(found, draft))
    return [
        source.contract_source(draft, name, arguments.queue, _table_of(arguments)),
        made_up,
        example.test_source(name),
    ]


def _write(files: Sequence[Path], texts: Sequence[str]) -> None:
    for file, text in zip(files, texts, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {_shown(file)}")
