"""docs/contracts.md: its example works, and every mark and option is there."""

import io
import re
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from include.queue_etl import contract as everything
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import contract_tables
from include.queue_etl.contract import Contract, MessageColumn, Normalization, Personal, Rejected, Scheme
from include.queue_etl.postgres import revisions, table_plan
from include.queue_etl.transform.parsing import Parser
from tests.support.contract_changes import COMPATIBLE
from tests.support.guide import TEXT, commands, example

ROOT = Path(__file__).resolve().parents[2]
# What a contract's file does not need.
INTERNAL = {"Column", "Contract", "Form", "MaskedField", "MessageColumn", "Normalization", "Scheme"}
INTERNAL |= {"KINDS", "SUBJECT"}


def first_column(heading: str) -> set[str]:
    """What stands in code in the first column of the table with that heading."""
    table = TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {
        name
        for row in re.findall(r"^\| (.+?) \| ", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }


@pytest.fixture
def purchases(monkeypatch) -> Contract:
    """The contract of the example."""
    module = ModuleType("purchases")
    monkeypatch.setitem(sys.modules, "purchases", module)  # msgspec looks for the types there
    exec(compile(example("python"), "purchases.py", "exec"), module.__dict__)
    return module.CONTRACT


def test_the_revision_of_the_example_makes_the_table_that_is_shown(purchases):
    assert example("sql") in revisions.creation(purchases)


def test_the_example_accepts_the_message_that_is_shown(purchases):
    found = Parser(purchases, 100_000).parse(example("json").encode())
    assert not isinstance(found, Rejected), found
    assert msgspec.to_builtins(found)["customer"] == {"id": 17, "email": "ann@example.org"}


def test_the_guide_has_as_many_commands_as_it_says():
    assert f"These are {len(commands())} commands" in TEXT


def test_every_mark_is_in_the_reference():
    marks = first_column("mark") | first_column("in `message`") | first_column("option")
    told = marks | set(re.findall(r"`(\w+)\(", TEXT)) | set(re.findall(r"`(\w+)`", TEXT))
    assert "Personal" in told
    assert set(everything.__all__) - INTERNAL - told == set()


def test_every_option_of_a_contract_and_of_personal_is_in_the_reference():
    assert first_column("option") == {field.name for field in fields(Contract)}
    assert first_column("option of `Personal`") == {field.name for field in msgspec.structs.fields(Personal)}


def test_every_fact_of_a_message_is_in_the_reference():
    assert first_column("in `message`") == {fact.__name__ for fact in MessageColumn.__args__}


def test_every_normalization_and_scheme_is_in_the_reference():
    told = set(re.findall(r"`(?:Normalization\.|Scheme\.)?(\w+)`", TEXT))
    assert {one.name for one in (*Normalization, *Scheme)} <= told


def test_every_action_of_the_documents_exists():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
    told = set(re.findall(r"(?:`|run |queue_etl )contract ([a-z]+)", text))
    with pytest.raises(SystemExit, match="0"), redirect_stdout(io.StringIO()) as help_text:
        cli.main(["contract", "--help"])
    assert told == set(re.findall(r"^    ([a-z]+)\b", help_text.getvalue(), re.MULTILINE))


def test_every_format_of_an_export_is_in_the_reference():
    assert first_column("format") == set(contract_tables.FORMATS)


def test_a_mark_that_is_not_there_would_be_missed():
    assert "Nothing" not in first_column("mark")
    assert first_column("mark") >= {"Personal", "Zone", "Jsonb"}


def test_the_costs_that_are_told_are_those_of_the_plan():
    costs = {cost for _, _, cost in COMPATIBLE.values()}
    assert costs == {table_plan.AT_ONCE, table_plan.READS, table_plan.WRITES}
    assert all(words in TEXT for words in ("done at once", "the whole table is read", "written anew"))
