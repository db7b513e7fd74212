"""Loads make the partitions that they need; maintenance makes those to come and drops old ones."""

import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Annotated

import psycopg
import pytest

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract, Day, Derived, Month
from include.queue_etl.errors import WarehouseRefused, WarehouseUnavailable
from include.queue_etl.operations.maintenance import maintain_partitions
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.postgres import checks, migrations, partitions
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.loading import BatchCounts
from tests.integration.project import Project, login, project
from tests.integration.scratch import TODAY, Database, masked_batch, new_messages, open_run
from tests.support.contracts import redeclared
from tests.support.resources import open_store

__all__ = ["project"]
MakeTable = Callable[..., Contract]


@pytest.fixture
def make_table(clean_database: Database) -> Iterator[MakeTable]:
    """Makes a table like user_logins, without partitions, and registers it; gives its contract."""
    made = []

    def make(
        partition_by: Month | Day, retain_days: int | None = None, name: str = "", more: str = ""
    ) -> Contract:
        table = f"public.{name or f'logins_{secrets.token_hex(4)}'}"
        made.append(table)
        with clean_database.owner() as connection:
            connection.execute(
                f"CREATE TABLE {table} (LIKE public.user_logins {more}) PARTITION BY RANGE (create_date)"
            )
            connection.execute(f"SELECT etl.grant_contract('{table}', '{{masked_ip, masked_device_id}}')")
        contract = replace(CONTRACT, table=table, partition_by=partition_by, retain_days=retain_days)
        migrations.upgrade(clean_database.owner_dsn, {}, [contract])
        return contract

    yield make
    with clean_database.owner() as connection:
        for table in made:
            connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
            connection.execute("DELETE FROM etl.tables WHERE table_name = %s", [table])


@pytest.fixture
def months(make_table: MakeTable) -> Contract:
    return make_table(Month("create_date"))


def parts(database: Database, contract: Contract) -> list[str]:
    """What the names of the table's partitions add to its own, by their days."""
    found = database.rows(
        f"SELECT partition_table::text FROM etl.partition_ranges('{contract.table}') ORDER BY first_day"  # noqa: S608
    )
    return [name.removeprefix(contract.table.removeprefix("public.")) for (name,) in found]


def rows_by_part(database: Database, contract: Contract) -> dict[str, list[str]]:
    found = database.rows(
        f"SELECT tableoid::regclass::text, create_date::text FROM {contract.table} ORDER BY create_date"  # noqa: S608
    )
    by_part: dict[str, list[str]] = {}
    for name, day in found:
        by_part.setdefault(name.removeprefix(contract.table.removeprefix("public.")), []).append(day)
    return by_part


def load_rows(database: Database, contract: Contract, *days: str) -> BatchCounts:
    """Load messages sent today whose rows have these dates: those of an event may be anything."""
    with open_store(database.loader_dsn) as store:
        run_id = open_run(store)
        masked, rejected = masked_batch(run_id, sorted(new_messages(len(days))))
        lines = masked.rows.decode().splitlines()
        masked.rows = "".join(
            line.rpartition("\t")[0] + f"\t{day}\n" for line, day in zip(lines, days, strict=True)
        ).encode()
        assert contract.partition_by
        masked.partitions = sorted(
            {f"{day[:7]}-01" if isinstance(contract.partition_by, Month) else day for day in days}
        )
        return store.load(run_id, contract, "0000", masked, rejected)


def maintained(project: Project, *contracts: Contract) -> dict[str, int]:
    with project.resources() as resources:
        return maintain_partitions(
            resources, {f"{number}": contract for number, contract in enumerate(contracts)}
        )


# Loads


def test_a_run_makes_the_partition_of_its_month(project: Project, make_table: MakeTable) -> None:
    contract = replace(make_table(Month("create_date")), queue=project.contract.queue)
    project.send(login("u1"), login("u2"))
    assert replace(project, contract=contract).drain()["loaded"] == 2
    assert parts(project.database, contract) == [f"_p{TODAY:%Y%m}"]
    project.send(login("u3"))
    assert replace(project, contract=contract).drain()["loaded"] == 1
    assert rows_by_part(project.database, contract) == {f"_p{TODAY:%Y%m}": [str(TODAY)] * 3}


def test_late_rows_go_where_their_date_says(clean_database: Database, months: Contract) -> None:
    assert load_rows(clean_database, months, "2026-11-30", "2026-12-01", "2024-02-29").loaded == 3
    assert load_rows(clean_database, months, "2024-02-01", "2026-11-01").loaded == 2
    assert rows_by_part(clean_database, months) == {
        "_p202402": ["2024-02-01", "2024-02-29"],
        "_p202611": ["2026-11-01", "2026-11-30"],
        "_p202612": ["2026-12-01"],
    }


def test_a_batch_of_an_earlier_version_loads_though_it_names_no_partition(
    clean_database: Database, months: Contract
) -> None:
    with open_store(clean_database.loader_dsn) as store:
        run_id = open_run(store)
        masked, rejected = masked_batch(run_id, sorted(new_messages(3, TODAY - timedelta(days=40))))
        assert masked.partitions == []
        assert store.load(run_id, months, "0000", masked, rejected).loaded == 3


def test_two_loads_that_need_the_same_new_partition_both_load(
    clean_database: Database, months: Contract
) -> None:
    with clean_database.owner() as connection, ThreadPoolExecutor(2) as threads:
        connection.execute("SELECT pg_advisory_lock(%s::regclass::oid::bigint)", [months.table])
        loads = [threads.submit(load_rows, clean_database, months, "2026-11-21") for _ in range(2)]
        clean_database.wait_for_blocked(2)
        connection.execute("SELECT pg_advisory_unlock_all()")
        assert [done.result().loaded for done in loads] == [1, 1]
    assert rows_by_part(clean_database, months) == {"_p202611": ["2026-11-21"] * 2}


def test_readers_and_loads_do_not_keep_a_load_from_a_new_partition(
    clean_database: Database, months: Contract
) -> None:
    """A DEFAULT partition would: to attach another beside it waits for all of them."""
    load_rows(clean_database, months, "2026-11-21")
    with (
        psycopg.connect(clean_database.dsn("analyst")) as reader,
        psycopg.connect(clean_database.loader_dsn) as loader,
    ):
        reader.execute(f"SELECT * FROM {months.table}")  # noqa: S608
        loader.execute(f"INSERT INTO {months.table} (create_date) VALUES ('2026-11-22')")  # noqa: S608
        locks = replace(clean_database, owner_dsn=f"{clean_database.owner_dsn} options='-c lock_timeout=5s'")
        with locks.owner() as connection:
            connection.execute("SET ROLE etl_loader")
            made = connection.execute("SELECT etl.ensure_partition(%s, '2026-12-01')", [months.table])
            assert made.fetchone() == (1,)
        assert load_rows(clean_database, months, "2026-12-24", "2027-01-01").loaded == 2


def test_a_partition_that_maintenance_drops_before_the_load_is_made_again(
    clean_database: Database, months: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure, calls = partitions.ensure, []

    def dropped_at_first(database: Connected, table: str, days: list[str]) -> int:
        calls.append(days)
        return ensure(database, table, days) if len(calls) > 1 else 0

    monkeypatch.setattr(partitions, "ensure", dropped_at_first)
    assert load_rows(clean_database, months, "2026-11-21").loaded == 1
    assert calls == [["2026-11-01"]] * 2


def test_a_constraint_of_the_table_still_refuses_the_batch(
    clean_database: Database, months: Contract
) -> None:
    with clean_database.owner() as connection:
        connection.execute(
            f"ALTER TABLE {months.table} ADD CONSTRAINT no_android CHECK (device_type <> 'android')"
        )
    with pytest.raises(WarehouseRefused, match="constraint no_android"):
        load_rows(clean_database, months, "2026-11-21")


def test_a_redrive_makes_the_partitions_of_its_messages(project: Project, make_table: MakeTable) -> None:
    contract = replace(make_table(Month("create_date")), queue=project.contract.queue)
    project.send(login("v", app_version="v2"))
    assert replace(project, contract=contract).drain()["quarantined"] == 1
    assert parts(project.database, contract) == []
    accepting = redeclared(contract, app_version=Annotated[str | None, Derived(lambda version: 2, int)])
    with replace(project, contract=accepting).open_redrive("") as context:
        assert redrive(context, Selection(contract.queue), dry_run=False)["loaded"] == 1
    assert rows_by_part(project.database, contract) == {f"_p{TODAY:%Y%m}": [str(TODAY)]}


# Forged dates

FORGED = ("0001-01-01", "1969-12-31", "1970-01-01", "2100-12-31", "2101-01-01", "9999-12-31")


def test_forged_dates_load_and_share_the_outer_partitions(clean_database: Database, months: Contract) -> None:
    assert load_rows(clean_database, months, *FORGED).loaded == len(FORGED)
    assert rows_by_part(clean_database, months) == {
        "_before": ["0001-01-01", "1969-12-31"],
        "_p197001": ["1970-01-01"],
        "_p210012": ["2100-12-31"],
        "_after": ["2101-01-01", "9999-12-31"],
    }
    assert load_rows(clean_database, months, *FORGED, str(TODAY)).loaded == len(FORGED) + 1
    assert len(parts(clean_database, months)) == 5


@pytest.mark.parametrize(("kind", "least", "most"), [("month", 1_574, 1_574), ("day", 1_985, 2_000)])
def test_all_dates_there_are_need_so_many_partitions_and_no_more(
    database: Database, kind: str, least: int, most: int
) -> None:
    days = "generate_series(timestamp '1960-01-01', timestamp '2110-12-31', interval '1 day')"
    ((found,),) = database.rows(
        f"SELECT count(DISTINCT (first_day, end_day)) FROM {days} AS day,"  # noqa: S608
        f" etl.partition_range('{kind}', day::date)"
    )
    assert least <= found <= most


def test_days_near_today_have_a_partition_each_and_others_share_a_month(
    clean_database: Database, make_table: MakeTable
) -> None:
    days = make_table(Day("create_date"))
    near = [str(TODAY + timedelta(days=ahead)) for ahead in (-400, 0, 30)]
    assert load_rows(clean_database, days, *near, "2019-05-04", "2019-05-31", "2099-07-01").loaded == 6
    by_part = rows_by_part(clean_database, days)
    assert by_part.pop("_p201905") == ["2019-05-04", "2019-05-31"]
    assert by_part.pop("_p209907") == ["2099-07-01"]
    assert by_part == {f"_p{day.replace('-', '')}": [day] for day in near}


def test_a_month_of_forged_days_serves_when_its_days_are_near(
    clean_database: Database, make_table: MakeTable
) -> None:
    """As when time has passed: a day that lies in a partition already gets none of its own."""
    days = make_table(Day("create_date"))
    first = TODAY.replace(day=1)
    with clean_database.owner() as connection:
        connection.execute(
            f"CREATE TABLE {days.table}_month PARTITION OF {days.table} FOR VALUES"
            f" FROM ('{first}') TO ('{(first + timedelta(days=31)).replace(day=1)}')"
        )
    assert load_rows(clean_database, days, str(first), str(TODAY)).loaded == 2
    assert parts(clean_database, days) == ["_month"]


def test_each_partition_of_a_batch_is_made_in_a_transaction_of_its_own(
    clean_database: Database, months: Contract
) -> None:
    """Each takes some five of the server's locks: a thousand at once would be more than there are."""
    forged = [f"{year}-01-01" for year in range(1971, 2011)]
    assert load_rows(clean_database, months, *forged).loaded == 40
    transactions = clean_database.rows(
        "SELECT count(DISTINCT pg_class.xmin::text) FROM pg_inherits JOIN pg_class ON oid = inhrelid"  # noqa: S608
        f" WHERE inhparent = '{months.table}'::regclass"
    )
    assert transactions == [(40,)]


def test_a_loader_makes_no_partition_of_another_table(clean_database: Database, months: Contract) -> None:
    with clean_database.owner() as connection:
        connection.execute("DELETE FROM etl.tables WHERE table_name = %s", [months.table])
    for table in (months.table, "etl.runs", "etl.ledger"):
        with (
            psycopg.connect(clean_database.loader_dsn) as connection,
            pytest.raises(psycopg.errors.InvalidParameterValue, match=r"etl\.tables has no table"),
        ):
            connection.execute("SELECT etl.ensure_partition(%s, '2026-11-01')", [table])


# What the partitions are


def test_new_partitions_give_nobody_rights(clean_database: Database, months: Contract) -> None:
    defaults = "ALTER DEFAULT PRIVILEGES FOR ROLE etl_owner IN SCHEMA public {} ON TABLES {} analyst, PUBLIC"
    with clean_database.owner() as connection:
        connection.execute(defaults.format("GRANT SELECT", "TO"))
        try:
            load_rows(clean_database, months, "2026-11-21")
        finally:
            connection.execute(defaults.format("REVOKE SELECT", "FROM"))
    granted = clean_database.rows(
        "SELECT grantee::regrole::text FROM pg_class, aclexplode(relacl)"  # noqa: S608
        f" WHERE oid = '{months.table}_p202611'::regclass"
    )
    assert {grantee for (grantee,) in granted} == {"etl_owner"}


def test_partitions_of_tables_with_long_names_do_not_collide(
    clean_database: Database, make_table: MakeTable
) -> None:
    long = f"logins_{'x' * 55}"
    tables = [make_table(Month("create_date"), name=f"{long}{end}") for end in "ab"]
    for contract in tables:
        assert load_rows(clean_database, contract, "2026-11-21").loaded == 1
        (name,) = rows_by_part(clean_database, contract)
        assert name.startswith("logins_x_")
        assert name.endswith("_p202611")


def test_a_detached_partition_keeps_its_name_and_late_rows_load(
    clean_database: Database, months: Contract
) -> None:
    load_rows(clean_database, months, "2026-11-21")
    with clean_database.owner() as connection:
        connection.execute(f"ALTER TABLE {months.table} DETACH PARTITION {months.table}_p202611")
        assert load_rows(clean_database, months, "2026-11-22").loaded == 1
        connection.execute(f"DROP TABLE {months.table}_p202611")
    assert rows_by_part(clean_database, months) == {"_p202611_2": ["2026-11-22"]}
    assert load_rows(clean_database, months, "2026-11-23").loaded == 1


def test_what_partitions_made_by_hand_leave_of_a_month_is_filled(
    clean_database: Database, months: Contract
) -> None:
    with clean_database.owner() as connection:
        for number, (first, end) in enumerate([("2026-11-09", "2026-11-16"), ("2026-11-20", "2026-12-05")]):
            connection.execute(
                f"CREATE TABLE {months.table}_week{number} PARTITION OF {months.table}"
                f" FOR VALUES FROM ('{first}') TO ('{end}')"
            )
    everyday = [f"2026-11-{day:02}" for day in range(1, 31)] + ["2026-12-01", "2026-12-31"]
    assert load_rows(clean_database, months, *everyday).loaded == 32
    assert parts(clean_database, months) == [
        "_p20261101", "_week0", "_p20261116", "_week1", "_p20261205",
    ]  # fmt: skip


def test_indexes_and_checks_of_the_table_are_those_of_new_partitions(
    clean_database: Database, make_table: MakeTable
) -> None:
    contract = make_table(Month("create_date"), more="INCLUDING ALL, CHECK (locale <> 'xx')")
    with clean_database.owner() as connection:
        connection.execute(f"CREATE INDEX ON {contract.table} (user_id)")
        load_rows(clean_database, contract, "2026-11-21")
        indexes = connection.execute(
            "SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", [f"{contract.table}_p202611"]
        ).fetchone()
        assert indexes == (1,)
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(f"UPDATE {contract.table} SET locale = 'xx'")  # noqa: S608


def test_moments_are_cut_at_midnight_of_utc_wherever_the_session_is(clean_database: Database) -> None:
    table = f"public.moments_{secrets.token_hex(4)}"
    with clean_database.owner() as connection:
        connection.execute(f"CREATE TABLE {table} (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        connection.execute(f"ALTER TABLE {table} OWNER TO etl_owner")
        connection.execute("INSERT INTO etl.tables VALUES (%s, 'month', 'at', 400)", [table])
        try:
            connection.execute("SET timezone = 'America/New_York'")
            connection.execute("SET datestyle = 'SQL, DMY'")
            for _ in range(2):
                for day in ("2024-11-01", "1960-01-01", "2200-01-01"):
                    connection.execute("SELECT etl.ensure_partition(%s, %s)", [table, day])
            moments = [
                ("2024-11-01 00:00+00", "_p202411"),
                ("2024-11-30 23:59:59.999999+00", "_p202411"),
                ("1969-12-31 23:59:59+00", "_before"),
                ("2101-01-01 00:00+00", "_after"),
                ("infinity", "_after"),
            ]
            for moment, part in moments:
                inserted = connection.execute(
                    f"INSERT INTO {table} VALUES (%s) RETURNING tableoid::regclass::text",  # noqa: S608
                    [moment],
                )
                assert f"public.{inserted.fetchone()[0]}" == table + part
            finite = "isfinite(first_day) AND isfinite(end_day)"
            ranges = f"SELECT first_day, end_day FROM etl.partition_ranges(%s) WHERE {finite}"  # noqa: S608
            (november,) = connection.execute(ranges, [table]).fetchall()
            assert november == (date(2024, 11, 1), date(2024, 12, 1))
            expired = "SELECT partition::text FROM etl.expired_partitions(%s) AS partition"
            found = connection.execute(expired, [table]).fetchall()
            assert [f"public.{name}" for (name,) in found] == [f"{table}_before", f"{table}_p202411"]
        finally:
            connection.execute(f"DROP TABLE {table}")
            connection.execute("DELETE FROM etl.tables WHERE table_name = %s", [table])


# Before a run


def problems(database: Database, contract: Contract) -> list[str]:
    with Connected(database.loader_dsn) as connected:
        return checks.loading_problems(connected, contract)


def test_a_run_does_not_start_while_the_database_knows_other_partitions(
    clean_database: Database, make_table: MakeTable
) -> None:
    contract = make_table(Month("create_date"), retain_days=400)
    assert problems(clean_database, contract) == []
    for changed in (
        replace(contract, retain_days=30),
        replace(contract, retain_days=None),
        replace(contract, partition_by=Day("create_date")),
    ):
        (problem,) = problems(clean_database, changed)
        assert problem.startswith(
            f"the contract has other partitions or retain_days for {contract.table} than the database: run"
        )
        migrations.upgrade(clean_database.owner_dsn, {}, [changed])
        assert problems(clean_database, changed) == []


def test_a_run_does_not_start_on_a_table_that_is_not_partitioned(
    clean_database: Database, months: Contract
) -> None:
    with clean_database.owner() as connection:
        connection.execute(f"DROP TABLE {months.table}")
        connection.execute(f"CREATE TABLE {months.table} (LIKE public.user_logins)")
        connection.execute(f"GRANT INSERT ON {months.table} TO etl_loader")
    assert problems(clean_database, months) == [
        f"table {months.table} is not partitioned by range of create_date: its migration is missing"
    ]


# Maintenance


def test_this_month_and_the_next_are_made_ahead_once(project: Project, months: Contract) -> None:
    expected = [f"_p{TODAY:%Y%m}", f"_p{TODAY.replace(day=1) + timedelta(days=31):%Y%m}"]
    assert maintained(project, months) == {
        "partitions_made": 2,
        "partitions_dropped": 0,
        "kept_fields_expired": 0,
    }
    assert parts(project.database, months) == expected
    assert maintained(project, months) == {
        "partitions_made": 0,
        "partitions_dropped": 0,
        "kept_fields_expired": 0,
    }


def test_today_and_three_days_are_made_ahead_once(project: Project, make_table: MakeTable) -> None:
    days = make_table(Day("create_date"))
    assert maintained(project, days, replace(days, partition_by=None))["partitions_made"] == 4
    assert parts(project.database, days) == [f"_p{TODAY + timedelta(days=n):%Y%m%d}" for n in range(4)]
    assert maintained(project, days)["partitions_made"] == 0


def test_rows_stay_for_their_days_and_go_with_the_partition(
    project: Project, make_table: MakeTable, caplog: pytest.LogCaptureFixture
) -> None:
    contract = make_table(Day("create_date"), retain_days=30)
    kept, gone, long_gone = (str(TODAY - timedelta(days=days)) for days in (30, 31, 4_000))
    load_rows(project.database, contract, kept, gone, long_gone, "1969-12-31", "2101-01-01")
    ledger = project.database.rows("SELECT count(*) FROM etl.ledger")
    with caplog.at_level(logging.INFO):
        assert maintained(project, contract)["partitions_dropped"] == 3
    days = [day for days in rows_by_part(project.database, contract).values() for day in days]
    assert days == [kept, "2101-01-01"]
    assert project.database.rows("SELECT count(*) FROM etl.ledger") == ledger == [(5,)]
    assert "user_logins: its rows are older than 30 days" in caplog.text
    assert f"_p{gone.replace('-', '')}" in caplog.text
    assert maintained(project, contract)["partitions_dropped"] == 0


def test_a_month_goes_when_its_last_day_is_past(project: Project, make_table: MakeTable) -> None:
    last = (TODAY.replace(day=1) - timedelta(days=1)).replace(day=1) - timedelta(days=1)
    age = (TODAY - last).days
    contract = make_table(Month("create_date"), retain_days=age)
    load_rows(project.database, contract, str(last.replace(day=1)))
    assert maintained(project, contract)["partitions_dropped"] == 0
    sooner = replace(contract, retain_days=age - 1)
    migrations.upgrade(project.database.owner_dsn, {}, [sooner])
    assert maintained(project, sooner)["partitions_dropped"] == 1


def test_without_retain_days_nothing_is_dropped(project: Project, months: Contract) -> None:
    load_rows(project.database, months, "1970-01-01", "0001-01-01")
    assert maintained(project, months)["partitions_dropped"] == 0
    assert len(rows_by_part(project.database, months)) == 2


def test_more_partitions_than_one_transaction_drops_all_go(project: Project, make_table: MakeTable) -> None:
    contract = make_table(Month("create_date"), retain_days=30)
    load_rows(project.database, contract, *[f"{1971 + n // 12}-{n % 12 + 1:02}-01" for n in range(53)])
    drop = f"SELECT etl.drop_partitions('{contract.table}')"
    with psycopg.connect(project.database.dsn("etl_maintainer")) as connection:
        assert connection.execute(drop).fetchone() == (50,)
        connection.rollback()
    assert maintained(project, contract)["partitions_dropped"] == 53


def test_a_table_that_is_read_is_left_for_the_next_time_and_stops_no_other(
    project: Project, make_table: MakeTable
) -> None:
    read, other = (make_table(Month("create_date"), retain_days=30) for _ in range(2))
    for contract in (read, other):
        load_rows(project.database, contract, "2020-01-01")
    with psycopg.connect(project.database.dsn("analyst")) as reader:
        reader.execute(f"SELECT * FROM {read.table}")  # noqa: S608
        with pytest.raises(WarehouseUnavailable, match="55P03"):
            maintained(project, read, other)
        assert "_p202001" in parts(project.database, read)
        assert "_p202001" not in parts(project.database, other)
    assert maintained(project, read, other)["partitions_dropped"] == 1


def test_a_message_whose_row_was_dropped_is_not_loaded_again(project: Project, make_table: MakeTable) -> None:
    contract = make_table(Day("create_date"), retain_days=1)
    day = TODAY - timedelta(days=2)
    messages = sorted(new_messages(2, day))
    with open_store(project.database.loader_dsn) as store:
        first = open_run(store)
        assert store.load(first, contract, "0000", *masked_batch(first, messages)).loaded == 2
        assert maintained(project, contract)["partitions_dropped"] == 1
        second = open_run(store)
        assert store.load(second, contract, "0000", *masked_batch(second, messages)).duplicates == 2
