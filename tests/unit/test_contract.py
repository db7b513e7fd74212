"""What a contract may say, and how contracts are found."""

from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

import include.contracts
from include.contracts import DEFAULT_CONTRACT, contract_names, load_contract, load_contracts
from include.queue_etl.contract import Canonical, Contract, Derived, Personal, SentDay, Text
from tests.contracts import newsletter_signups


class Event(Struct):
    short: Annotated[str, Meta(max_length=8)]
    nullable: Annotated[str, Meta(max_length=9)] | None
    endless: str
    endless_nullable: str | None
    secret: Annotated[str, Meta(max_length=159)]
    too_long_secret: Annotated[str, Meta(max_length=160)]


class Untidy(Struct):
    number: int
    nested: dict[str, str]
    text: str | None
    unused: float


def contract(*columns):
    return Contract(name="visits", queue="visits", table="public.visits", event=Event, columns=columns)


def test_a_contract_may_name_every_kind_of_column():
    columns = (
        Text("a", "short"),
        Personal("b", "secret"),
        Derived("c", "endless", lambda text: len(text or "")),
        SentDay("d"),
    )
    assert contract(*columns).columns == columns


def test_columns_of_unknown_fields_are_refused_all_at_once():
    with pytest.raises(ValueError, match="contract visits: no such event field: nobody, nowhere"):
        contract(Text("a", "nowhere"), Personal("b", "nobody"), SentDay("c"))


def test_fields_that_are_no_text_are_refused_all_at_once():
    columns = (Text("a", "number"), Text("b", "nested"), Text("c", "text"))
    with pytest.raises(ValueError, match=r"declare as str, or str \| None: nested, number$"):
        Contract(name="visits", queue="visits", table="public.visits", event=Untidy, columns=columns)


@pytest.mark.parametrize("field", ["endless", "endless_nullable", "too_long_secret"])
def test_a_personal_field_whose_token_might_not_fit_is_refused(field):
    with pytest.raises(ValueError, match=rf"give {field} a Meta\(max_length\) of at most 159.*fits token"):
        contract(Personal("token", field))


def test_a_narrower_column_allows_only_shorter_values():
    assert Personal("token", "short", token_chars=51).max_bytes == 15
    assert contract(Personal("token", "short", token_chars=51))
    with pytest.raises(ValueError, match="at most -1"):
        contract(Personal("token", "short", token_chars=50))


def test_the_longest_text_of_a_field_is_what_its_struct_allows():
    lengths = {field: contract().max_length(field) for field in Event.__struct_fields__}
    assert lengths == {
        "short": 8,
        "nullable": 9,
        "endless": float("inf"),
        "endless_nullable": float("inf"),
        "secret": 159,
        "too_long_secret": 160,
    }


def test_personal_columns_come_in_table_order():
    first, second = Personal("z", "secret", Canonical.IP), Personal("a", "short")
    assert contract(Text("m", "short"), first, SentDay("n"), second).personal == (first, second)


def test_the_dead_letter_queue_is_named_after_the_queue():
    assert contract().dead_letter_queue == "visits-dlq"


def test_a_derived_value_is_computed_once_for_each_text():
    calls = []
    column = Derived("a", "endless", lambda text: calls.append(text))
    for text in ("x", "y", "x", None, None):
        column.convert(text)
    assert calls == ["x", "y", None]


def test_what_a_derived_column_remembers_is_bounded():
    column = Derived("a", "endless", lambda text: text)
    for number in range(5_000):
        column.convert(str(number))
    convert: Any = column.convert
    assert convert.cache_info().currsize == 4_096


# How contracts are found ------------------------------------------------------------------------------------


def test_commands_and_forms_mean_a_contract_that_is_there():
    assert DEFAULT_CONTRACT in contract_names()


@pytest.mark.parametrize("name", contract_names())
def test_a_contract_bears_the_name_of_its_module(name):
    assert load_contract(name).name == name


def test_every_contract_is_loaded_by_its_name():
    loaded = load_contracts()
    assert sorted(loaded) == contract_names()
    assert all(loaded[name] is load_contract(name) for name in contract_names())


def test_a_contract_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KeyError, match=f"no contract 'nothing'; there are: {', '.join(contract_names())}"):
        load_contract("nothing")


@pytest.mark.parametrize("name", ["..user_logins", "user_logins.CONTRACT", "", "os"])
def test_a_name_that_is_no_contract_imports_nothing(name):
    with pytest.raises(KeyError):
        load_contract(name)


def test_a_second_contract_is_one_more_file(monkeypatch):
    before = contract_names()
    folder = newsletter_signups.__file__.rpartition("/")[0]
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, folder])
    assert contract_names() == sorted([*before, "newsletter_signups"])
    assert load_contract("newsletter_signups").queue == "newsletter-signups"
