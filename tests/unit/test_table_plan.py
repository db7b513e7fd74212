"""`contract plan` without a database: what is said of each change, and with which SQL."""

import re
from dataclasses import replace
from typing import Annotated, Any

import pytest
from msgspec import Meta

from include.queue_etl.contract import Contract, Month, Personal, Scheme
from include.queue_etl.contract.comments import Masking
from include.queue_etl.postgres import tables
from include.queue_etl.postgres.table_plan import (
    AT_ONCE,
    Change,
    Found,
    changes,
    creation,
    missing_room,
    widening,
)
from tests.support import every_type
from tests.support.contract_changes import BREAKING, COMPATIBLE, event

HEAD = 'ALTER TABLE "public"."everything"'


def found(contract: Contract) -> Found:
    """The contract's table as the database would have it."""
    table = tables.of_contract(contract)
    return Found(
        table,
        {one.name: tables.check_name(table.name, one.name) for one in table.columns if one.choices},
        {index: f"index_{number}" for number, index in enumerate(table.indexes)},
    )


THERE = found(every_type.contract())


def altered(column: str, **facts: Any) -> Found:
    """The table of every type, with another column of that name."""
    columns = [replace(one, **facts) if one.name == column else one for one in THERE.table.columns]
    return replace(THERE, table=replace(THERE.table, columns=tuple(columns)))


def said(contract: Contract, there: Found = THERE) -> list[str]:
    return [change.what for change in changes(contract, there)]


def sql(contract: Contract) -> list[str]:
    return [statement for change in changes(contract, THERE) for statement in change.sql]


def test_a_table_that_is_not_there_is_made_at_once():
    assert creation(every_type.contract()).sql == tuple(tables.create(every_type.contract()))


def test_a_table_as_its_contract_says_has_no_change():
    assert changes(every_type.contract(), THERE) == []


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change_has_its_cost_and_its_sql(case):
    contract, expected, cost = COMPATIBLE[case]
    (change,) = changes(contract, THERE)
    assert ([change.what], change.cost, change.is_breaking) == (expected, cost, False)
    assert change.sql


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_table_lacks_room_where_it_refuses_what_the_contract_accepts(case):
    contract, expected, _ = COMPATIBLE[case]
    room = [change.what for change in missing_room(contract, THERE)]
    assert room == [what for what in expected if re.search("becomes|may be NULL|may also be", what)]


def test_a_table_that_takes_more_than_its_contract_accepts_has_room():
    assert missing_room(event(code=Annotated[str, Meta(max_length=8)]), THERE) == []
    assert missing_room(every_type.contract(), altered("code", nullable=True)) == []


def test_a_check_of_choices_that_the_contract_has_not_may_be_meant():
    assert missing_room(every_type.contract(), altered("code", choices=("a", "b"))) == []


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_has_what_to_do_and_no_sql(case):
    contract, expected = BREAKING[case]
    (change,) = [one for one in changes(contract, THERE) if one.what == expected]
    assert change.is_breaking
    assert change.sql == ()


def test_the_sql_of_a_new_column():
    assert sql(event(note_2=Annotated[str | None, Meta(max_length=9, description="It's")])) == [
        f'{HEAD} ADD COLUMN "note_2" varchar(9);',
        'COMMENT ON COLUMN "public"."everything"."note_2" IS\n    \'It\'\'s. From `note_2`.\';',
    ]


def test_the_sql_of_another_choice_drops_the_check_that_is_there():
    there = replace(THERE, checks={"currency": 'odd"name', "size": "everything_size_check"})
    (change,) = changes(COMPATIBLE["another choice"][0], there)
    (statement,) = change.sql
    assert statement.startswith(
        f'{HEAD} DROP CONSTRAINT "odd""name", ADD CONSTRAINT "everything_currency_check" CHECK ("currency" IN'
    )


def test_the_sql_of_a_wider_column_and_of_a_larger_integer():
    assert sql(COMPATIBLE["wider varchar"][0]) == [f'{HEAD} ALTER COLUMN "code" TYPE varchar(64);']
    assert sql(COMPATIBLE["larger integer"][0]) == [f'{HEAD} ALTER COLUMN "small" TYPE integer;']


def test_a_column_that_is_marked_no_longer_loaded_may_stay():
    contract = BREAKING["a field that is gone"][0]
    gone = "column User is not in the contract"
    assert gone in said(contract)
    assert gone not in said(contract, altered("User", comment="No longer loaded."))


def test_a_column_without_null_that_is_gone_has_to_allow_null():
    contract = event(words=every_type.Everything.__annotations__["note"])
    there = altered("User", nullable=False)
    (change,) = [one for one in changes(contract, there) if "not in the contract" in one.what]
    assert f'{HEAD} ALTER COLUMN "User" DROP NOT NULL; COMMENT ON COLUMN' in change.instead
    assert "IS 'No longer loaded.'; Or give up its values:" in " ".join(change.instead.split())


def test_the_comment_to_write_by_hand_is_one_literal():
    words = "word " * 40
    contract = event(code=Annotated[str, Meta(max_length=32, description=words), Personal(token_chars=160)])
    (change,) = [one for one in changes(contract, THERE) if "becomes personal" in one.what]
    assert f"IS '{words.strip()}. From `code`. Masked: recoverable token" in change.instead


def test_a_comment_of_somebody_else_leaves_it_to_the_register():
    by_hand = altered("born", comment="When. Not from anywhere.")
    assert said(every_type.contract(), by_hand)[0] == "column born becomes personal: born"
    known = frozenset({("born", Masking("born", Scheme.RECOVERABLE, None))})
    assert said(every_type.contract(), replace(by_hand, masked=known)) == ["comment of column born"]
    other = frozenset({("born", Masking("born", Scheme.ONE_WAY, None))})
    assert said(every_type.contract(), replace(by_hand, masked=other))[0].endswith("masked in another way")


def test_another_comment_of_the_table_is_a_change():
    there = replace(THERE, table=replace(THERE.table, comment="Old."))
    assert changes(every_type.contract(), there) == [
        Change("comment of the table", sql=(tables.comment_on_table(THERE.table),))
    ]


def test_an_index_that_somebody_made_stays():
    indexed = found(every_type.contract(indexes=(("code",), ("customer", "placed_at"), ("day",))))
    assert said(every_type.contract(), indexed) == []


def test_tokens_of_another_field_are_one_breaking_change():
    told = [what for what in said(BREAKING["tokens of another field"][0]) if "column born" in what]
    assert told == [
        "column born gets the tokens of words",
        "column born is varchar(160), and becomes text",
        "comment of column born",
    ]


def test_a_table_with_a_key_gets_room_unless_a_fillfactor_is_set():
    keyed = every_type.contract(key="code")
    there = found(keyed)
    (change,) = changes(keyed, replace(there, table=replace(there.table, fillfactor=None)))
    assert (change.cost, change.sql) == (AT_ONCE, (f"{HEAD} SET (fillfactor = 90);",))
    assert changes(keyed, replace(there, table=replace(there.table, fillfactor=100))) == []


def test_the_key_and_the_partitions_of_the_table_may_not_be_given_up():
    keyed = found(every_type.contract(key="code"))
    change = changes(every_type.contract(), keyed)[0]
    assert change.what == "rows are unique by code, which is not the key"
    assert 'drop the index "index_0"' in change.instead
    monthly = found(every_type.contract(partition_by=Month("placed_at")))
    assert said(every_type.contract(), monthly) == [
        "the table is partitioned by placed_at, and not by nothing"
    ]


@pytest.mark.parametrize(
    ("old", "new", "cost"),
    [
        ("varchar(9)", "varchar(10)", "at once"),
        ("varchar(10)", "varchar(9)", ""),
        ("varchar(10)", "varchar(100)", "at once"),
        ("varchar(9)", "text", "at once"),
        ("text", "varchar(9)", ""),
        ("varchar", "text", "at once"),
        ("varchar", "varchar(9)", ""),
        ("smallint", "bigint", "writes the whole table anew"),
        ("bigint", "smallint", ""),
        ("integer", "numeric", ""),
        ("integer", "text", ""),
        ("numeric(4,2)", "numeric", "at once"),
        ("numeric", "numeric(4,2)", ""),
        ("numeric(4,2)", "numeric(5,2)", "at once"),
        ("numeric(4,2)", "numeric(3,2)", ""),
        ("numeric(4,2)", "numeric(5,3)", "writes the whole table anew"),
        ("numeric(4,2)", "numeric(4,3)", ""),
        ("numeric(4,2)", "numeric(4,1)", ""),
        ("date", "timestamptz", ""),
        ("jsonb", "text", ""),
    ],
)
def test_a_type_is_widened_only_where_every_value_fits(old, new, cost):
    assert widening(old, new) == cost
