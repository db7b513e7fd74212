"""What a contract may say, and how contracts are found."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, defstruct

import include.contracts
from include.contracts import DEFAULT_CONTRACT, contract_names, load_contract, load_contracts
from include.queue_etl.contract import Contract, Personal
from include.queue_etl.errors import ContractBroken
from tests.contracts import newsletter_signups


def contract(*fields, queue="visits", **declared):
    """A contract whose event has these fields: (name, annotation) or (name, annotation, default)."""
    event = defstruct("Event", fields or [("a", str)], kw_only=True)
    return Contract(name="visits", queue=queue, table="public.visits", event=event, **declared)


@pytest.mark.parametrize("length", [None, 160])
def test_a_personal_field_whose_token_might_not_fit_is_refused(length):
    text = Annotated[Annotated[str, Meta(max_length=length)] | None, Personal(token_chars=256)]
    with pytest.raises(ValueError, match=r"give a a Meta\(max_length\) of at most 159.*fits a"):
        contract(("a", text))


def test_a_narrower_column_allows_only_shorter_values():
    short = Annotated[str, Meta(max_length=8)]
    assert Personal(token_chars=51).max_bytes == 15
    assert contract(("a", Annotated[short, Personal(token_chars=51)]))
    with pytest.raises(ValueError, match="at most -1"):
        contract(("a", Annotated[short, Personal(token_chars=50)]))


def test_a_token_without_a_limit_takes_a_column_without_one():
    (column,) = contract(("a", Annotated[str, Personal()])).columns
    assert (column.sql_type, column.nullable, column.is_token) == ("text", True, True)


def test_a_fifo_queue_is_refused():
    with pytest.raises(
        ValueError, match=r"contract visits: visits\.fifo is a FIFO queue, .*: give it a standard"
    ):
        contract(queue="visits.fifo")


def test_the_dead_letter_queue_is_named_after_the_queue():
    assert contract().dead_letter_queue == "visits-dlq"


def test_a_contract_is_asked_for_each_of_its_tables():
    own = contract(replay_tables=("public.visits_again", "old.visits"))
    assert [one.table for one in own.each_table()] == ["public.visits", "public.visits_again", "old.visits"]
    assert [one.column_names for one in own.each_table()] == [own.column_names] * 3
    assert [one.replay_tables for one in own.each_table()] == [own.replay_tables, (), ()]
    alone = contract()
    assert alone.each_table() == (alone,)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (("visits_again",), "table 'visits_again': give its schema and its name"),
        (("public.visits",), r"table 'public\.visits' is named 2 times"),
        (("public.a", "public.a"), r"table 'public\.a' is named 2 times"),
    ],
)
def test_a_replay_table_that_is_no_other_table_is_refused(tables, problem):
    with pytest.raises(ValueError, match=problem):
        contract(replay_tables=tables)


# How contracts are found ------------------------------------------------------------------------------------


def test_commands_and_forms_mean_a_contract_that_is_there():
    assert DEFAULT_CONTRACT in contract_names()


@pytest.mark.parametrize("name", contract_names())
def test_a_contract_has_the_name_of_its_module(name):
    assert load_contract(name).name == name


def test_every_contract_is_loaded_by_its_name():
    loaded = load_contracts()
    assert loaded.broken == {}
    assert loaded.complete() is loaded.usable() is loaded.good
    assert sorted(loaded.good) == contract_names()
    assert all(loaded.good[name] is load_contract(name) for name in contract_names())


def test_a_contract_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KeyError, match=f"no contract 'nothing'; there are: {', '.join(contract_names())}"):
        load_contract("nothing")


@pytest.mark.parametrize("name", ["..user_logins", "user_logins.CONTRACT", "", "os"])
def test_a_name_that_is_no_contract_imports_nothing(name):
    with pytest.raises(KeyError):
        load_contract(name)


def test_a_further_contract_is_one_more_file(monkeypatch):
    before = contract_names()
    folder = newsletter_signups.__file__.rpartition("/")[0]
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, folder])
    assert contract_names() == sorted([*before, "clicks", "deliveries", "newsletter_signups"])
    assert load_contract("newsletter_signups").queue == "newsletter-signups"


# Broken ones ------------------------------------------------------------------------------------------------

GOOD = Path(newsletter_signups.__file__).read_text()
LINE = GOOD[: GOOD.index("CONTRACT = ")].count("\n") + 1
BROKEN = {
    "wrong_field": (
        GOOD.replace("newsletter: Annotated[str, Meta(max_length=40)]", "newsletter: bytes"),
        f", line {LINE}: contract newsletter_signups: newsletter: bytes has no column type: declare it",
    ),
    "wrong_syntax": (
        GOOD.replace("CONTRACT = Contract(", "CONTRACT = Contract(("),
        f", line {LINE}: '(' was never closed: correct the Python there",
    ),
    "wrong_name": (GOOD, ": its contract has the name 'newsletter_signups': give both the same name"),
    "wrong_import": (
        "import no_such_module",
        ", line 1: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "no_contract": ('"""Nothing."""', ": it has no CONTRACT = Contract(...): add one"),
    "no_kind_of_contract": ("CONTRACT = 1", ": it has no CONTRACT = Contract(...): add one"),
}


@pytest.fixture
def contracts_beside(monkeypatch, tmp_path):
    """Puts files with these texts beside the contracts of the project; returns their folder."""
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, str(tmp_path)])

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        return tmp_path

    yield write
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"include.contracts.{file.stem}", None)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_named_with_its_file_and_the_hint(name, contracts_beside):
    text, told = BROKEN[name]
    folder = contracts_beside(**{name: text})
    with pytest.raises(ContractBroken) as caught:
        load_contract(name)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{folder}/{name}.py{told}")


def test_a_broken_contract_keeps_no_other_from_being_loaded(contracts_beside, caplog):
    before = contract_names()
    contracts_beside(**{name: text for name, (text, _) in BROKEN.items()})
    loaded = load_contracts()
    assert sorted(loaded.good) == before
    assert sorted(loaded.broken) == sorted(BROKEN)
    with caplog.at_level(logging.WARNING):
        assert loaded.usable() is loaded.good
    assert [
        f"contract {name} is left out: {loaded.broken[name]}" for name in sorted(BROKEN)
    ] == caplog.messages


def test_what_needs_all_contracts_is_told_of_every_broken_one(contracts_beside):
    contracts_beside(first="", second="CONTRACT = None")
    loaded = load_contracts()
    with pytest.raises(ContractBroken) as caught:
        loaded.complete()
    assert caught.value.problems == (loaded.broken["first"], loaded.broken["second"])
