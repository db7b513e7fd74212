"""Tables made from contracts, on a real Postgres: made, found again, compared, changed."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import psycopg
import pytest
from msgspec import Meta

from include.contracts import load_contract, load_contracts
from include.contracts.user_logins import CONTRACT as USER_LOGINS
from include.queue_etl import steps
from include.queue_etl.contract import (
    Contract,
    Month,
    Personal,
    SentDay,
)
from include.queue_etl.postgres import catalogue, masked_columns, revisions, table_plan, tables
from include.queue_etl.postgres.connection import connect
from include.queue_etl.postgres.table_plan import AT_ONCE, WRITES, Change
from tests.integration import queues
from tests.integration.project import KEYSET
from tests.integration.scratch import Database
from tests.support import every_type, second_opinion
from tests.support.contract_changes import BREAKING, COMPATIBLE, UNSEEN, event
from tests.support.resources import open_run


def made(database: Database, contract: Contract) -> None:
    with database.owner() as connection:
        connection.execute(revisions.creation(contract))


def changes(database: Database, contract: Contract) -> list[Change]:
    with connect(database.owner_dsn) as connection:
        found = catalogue.find(connection, contract.table)
        assert found is not None
        return table_plan.changes(contract, found)


def differs(database: Database, contract: Contract) -> list[str]:
    return second_opinion.differences(contract, database.owner_dsn)


@pytest.fixture
def everything(clean_database: Database) -> Iterator[Database]:
    """The scratch database with the table of every type."""
    made(clean_database, every_type.contract())
    yield clean_database
    with clean_database.owner() as connection:
        connection.execute("DROP TABLE public.everything CASCADE")
        connection.execute("DELETE FROM etl.masked_columns WHERE contract = 'everything'")


@pytest.fixture
def sales(clean_database: Database) -> Iterator[Database]:
    yield clean_database
    with clean_database.owner() as connection:
        connection.execute("DROP SCHEMA IF EXISTS sales CASCADE")


def test_a_table_of_every_type_is_as_its_contract_says(everything):
    with connect(everything.owner_dsn) as connection:
        found = catalogue.find(connection, "public.everything")
    assert found is not None
    wanted = tables.of_contract(every_type.contract())
    assert found.table.columns == wanted.columns
    assert set(found.table.indexes) == set(wanted.indexes)
    assert found.table.comment == wanted.comment
    assert changes(everything, every_type.contract()) == []
    assert differs(everything, every_type.contract()) == []


def test_an_event_of_every_type_is_loaded_into_its_table(everything, tmp_path):
    with queues.own_queue(every_type.contract()) as contract:
        queues.send(contract, [json.dumps(every_type.GOOD).encode()])
        chosen = queues.settings(tmp_path)
        with open_run(contract, "first", chosen, everything.loader_dsn, KEYSET) as context:
            context.preflight()
            for batch in steps.extract(context):
                steps.load(context, steps.mask(context, batch["batch"])["batch"])
            assert steps.finish(context)["loaded"] == 1
    shown = """
        SELECT small, total, currency, address_city, "User", placed_at, items #>> '{0,sku}'
        FROM public.everything
    """
    assert everything.rows(shown) == [
        (1, Decimal("12.50"), "EUR", "Bonn", 1, datetime(2026, 11, 26, 10, tzinfo=UTC), "x")
    ]
    secret = "SELECT count(*) FROM public.everything AS row WHERE row::text ~ '202-555|example.org'"
    assert everything.rows(secret) == [(0,)]


def test_a_partitioned_table_in_its_own_schema_is_as_its_contract_says(sales):
    contract = every_type.contract(table="sales.order", partition_by=Month("placed_at"))
    made(sales, contract)
    with sales.owner() as connection:
        connection.execute(
            'CREATE TABLE sales.part PARTITION OF sales."order" FOR VALUES FROM (MINVALUE) TO (MAXVALUE)'
        )
    assert changes(sales, contract) == []
    assert differs(sales, contract) == []


def test_each_role_has_its_rights_to_a_table_in_a_schema_of_its_own(sales):
    contract = Contract("sales", "sales", "sales.logins", USER_LOGINS.event, (SentDay("create_date"),))
    made(sales, contract)
    with psycopg.connect(sales.dsn("etl_loader"), autocommit=True) as connection:
        connection.execute("INSERT INTO sales.logins (user_id, create_date) VALUES ('ann', '2026-01-01')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT user_id FROM sales.logins")
    with psycopg.connect(sales.dsn("analyst"), autocommit=True) as connection:
        assert connection.execute("SELECT user_id FROM sales.logins").fetchall() == [("ann",)]
    with psycopg.connect(sales.dsn("pii_officer"), autocommit=True) as connection:
        connection.execute("UPDATE sales.logins SET user_id = NULL, masked_ip = NULL")
    with psycopg.connect(sales.dsn("etl_remasker"), autocommit=True) as connection:
        connection.execute("SELECT masked_ip FROM sales.logins")
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'logins'"
    assert sales.rows(owner) == [("etl_owner",)]


def test_what_a_contract_cannot_say_is_left_alone(everything):
    with everything.owner() as connection:
        connection.execute("""
            CREATE UNIQUE INDEX ON public.everything (code) WHERE paid;
            CREATE UNIQUE INDEX ON public.everything (lower(code));
            CREATE INDEX ON public.everything USING hash (code);
            CREATE INDEX ON public.everything (day);
            ALTER TABLE public.everything ADD CHECK (small < large), ADD CHECK (small > -1);
            ALTER TABLE public.everything ADD COLUMN gone text;
            ALTER TABLE public.everything DROP COLUMN gone;
        """)
    assert changes(everything, every_type.contract()) == []


def test_a_unique_index_with_further_columns_is_one_of_its_key(everything):
    with everything.owner() as connection:
        connection.execute("CREATE UNIQUE INDEX ON public.everything (code) INCLUDE (day)")
    assert [one.what for one in changes(everything, every_type.contract())] == [
        "rows are unique by code, which is not the key"
    ]


def test_a_table_that_is_partitioned_by_list_is_not_as_its_contract_says(sales):
    contract = every_type.contract(table="sales.listed", partition_by=Month("day"))
    with sales.owner() as connection:
        connection.execute(revisions.creation(contract).replace("BY RANGE", "BY LIST"))
    assert [one.is_breaking for one in changes(sales, contract)] == [True]


def test_a_key_makes_its_rows_unique(sales):
    contract = every_type.contract(table="sales.keyed", key="code")
    made(sales, contract)
    assert changes(sales, contract) == []
    assert differs(sales, contract) == []


def test_a_table_of_an_earlier_version_gets_room_for_replaced_rows(sales):
    contract = every_type.contract(table="sales.keyed", key="code")
    made(sales, contract)
    with sales.owner() as connection:
        connection.execute("ALTER TABLE sales.keyed RESET (fillfactor)")
        planned = changes(sales, contract)
        assert [change.what for change in planned] == ["new pages keep room for rows that are replaced"]
        connection.execute(revisions.alteration(contract, planned))
    assert changes(sales, contract) == []
    assert sales.rows("SELECT reloptions FROM pg_class WHERE oid = 'sales.keyed'::regclass") == [
        (["fillfactor=90"],)
    ]


@pytest.mark.parametrize("name", load_contracts().good)
def test_the_table_of_each_contract_that_ships_is_as_it_says(name, clean_database):
    assert changes(clean_database, load_contract(name)) == []


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change_is_made_by_the_revision_it_is_shown_with(everything, case):
    contract, expected, cost = COMPATIBLE[case]
    planned = changes(everything, contract)
    assert [change.what for change in planned] == expected
    assert [change.cost for change in planned] == [cost]
    assert (case in UNSEEN) != bool(differs(everything, contract))
    file = "SELECT pg_relation_filenode('public.everything')"
    before = everything.rows(file)
    with everything.owner() as connection:
        connection.execute(revisions.alteration(contract, planned))
    assert (everything.rows(file) != before) == (cost == WRITES)
    assert changes(everything, contract) == []
    assert differs(everything, contract) == []


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_says_what_to_do_instead(everything, case):
    contract, expected = BREAKING[case]
    breaking = [change for change in changes(everything, contract) if change.is_breaking]
    assert expected in [change.what for change in breaking]
    assert all(change.instead and not change.sql for change in breaking)


BY_HAND = re.compile(r"(?:ALTER|COMMENT|CREATE) .*?;(?= |$)")


@pytest.mark.parametrize(
    "case",
    [
        "narrower varchar",
        "smaller integer",
        "fewer digits",
        "no longer null",
        "fewer choices",
        "another key",
        "a field that is gone",
    ],
)
def test_what_to_do_instead_is_sql_that_does_it(everything, case):
    contract, expected = BREAKING[case]
    (change,) = (one for one in changes(everything, contract) if one.what == expected)
    with everything.owner() as connection:
        connection.execute(BY_HAND.findall(change.instead)[0])
    assert expected not in [one.what for one in changes(everything, contract)]


def test_a_column_whose_clear_values_are_gone_may_become_personal(everything):
    contract = event(code=Annotated[str | None, Meta(max_length=32), Personal(token_chars=160)])
    change, *_ = changes(everything, contract)
    assert change.what == "column code becomes personal: code"
    with everything.owner() as connection:
        connection.execute(BY_HAND.findall(change.instead)[0])
    assert [one.is_breaking for one in changes(everything, contract)] == [False, False]


def test_a_table_without_comments_is_judged_by_the_register(everything):
    with everything.owner() as connection:
        for column in ("born", "code"):
            connection.execute(f"COMMENT ON COLUMN public.everything.{column} IS 'by hand'")
        masked_columns.register(connection, every_type.contract())
    assert [one.what for one in changes(everything, every_type.contract())] == [
        "comment of column code",
        "comment of column born",
    ]
    personal = event(code=Annotated[str | None, Meta(max_length=32), Personal(token_chars=160)])
    assert changes(everything, personal)[0].what == "column code becomes personal: code"
    clear = event(born=Annotated[str | None, Meta(max_length=160)])
    assert "column born: born is no longer masked" in [one.what for one in changes(everything, clear)]


def test_a_revision_gives_up_where_somebody_reads_the_table(everything):
    contract = COMPATIBLE["wider varchar"][0]
    text = revisions.alteration(contract, changes(everything, contract))
    assert text.count("lock_timeout = '30s'") == 1
    with psycopg.connect(everything.owner_dsn) as reader, everything.owner() as connection:
        reader.execute("SELECT count(*) FROM public.everything")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute(text.replace("'30s'", "'50ms'"))
    assert [change.cost for change in changes(everything, contract)] == [AT_ONCE]
