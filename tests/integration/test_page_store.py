"""What the page and analysts read of a real warehouse: by role ops_ro, and never more than figures."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

from include.contracts.user_logins import CONTRACT
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.page.store import PageStore
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.runs import RunStore, RunTotals
from tests.integration.scratch import TODAY, Database, close, load, new_messages, open_run

NAME, QUEUE = CONTRACT.name, CONTRACT.queue


@pytest.fixture
def store(clean_database: Database) -> Iterator[PageStore]:
    with Connected(clean_database.dsn("ops_ro")) as database:
        yield PageStore(database)


def finished(
    warehouse: RunStore, good: int, bad: int, state: str = "succeeded", released: int = 0
) -> uuid.UUID:
    """A run with one batch."""
    run_id = open_run(warehouse)
    warehouse.record_extract(run_id, good + bad + released, 1.5, 40)
    messages = [*new_messages(good), *new_messages(bad, user="bad_json")]
    if messages:
        load(warehouse, run_id, messages)
    warehouse.close_run(run_id, state, RunTotals(deleted=good + bad, released=released, visible_after=0))
    return run_id


def test_a_contract_without_a_run_has_a_standing_of_nothing(store: PageStore) -> None:
    found = store.standings([(NAME, QUEUE), ("other", "other-queue")])
    assert set(found) == {NAME, "other"}
    standing = found[NAME]
    assert (standing.rows_today, standing.waiting, standing.last_success) == (0, 0, None)


def test_a_standing_counts_today_and_what_waits(warehouse: RunStore, store: PageStore) -> None:
    finished(warehouse, 8, 2)
    finished(warehouse, 0, 0, "failed", released=3)
    standing = store.standings([(NAME, QUEUE)])[NAME]
    assert (standing.rows_today, standing.quarantined_today, standing.handled_today) == (8, 2, 10)
    assert standing.waiting == 2
    assert standing.last_success is not None
    assert standing.last_failure is not None
    assert standing.last_success < standing.last_failure
    assert standing.running_since is None
    assert standing.oldest_age_seconds == 40


def test_a_running_run_counts_with_what_it_has_committed(warehouse: RunStore, store: PageStore) -> None:
    run_id = open_run(warehouse)
    load(warehouse, run_id, [*new_messages(5), *new_messages(1, user="bad_json")])
    standing = store.standings([(NAME, QUEUE)])[NAME]
    assert (standing.rows_today, standing.quarantined_today, standing.handled_today) == (5, 1, 6)
    assert standing.running_since is not None
    (line,) = store.runs(NAME, 5)
    assert (line.state, line.loaded, line.quarantined, line.difference) == ("running", 5, 1, None)


def test_the_newest_runs_come_first_each_with_its_balance(warehouse: RunStore, store: PageStore) -> None:
    first, second = finished(warehouse, 3, 1), finished(warehouse, 2, 0, "failed", released=4)
    lines = store.runs(NAME, 5)
    assert [line.run_id for line in lines] == [second, first]
    assert [line.difference for line in lines] == [0, 0]
    assert lines[0].released == 4
    assert store.runs(NAME, 1) == lines[:1]
    assert store.run([uuid.uuid4(), first]) == lines[1]
    assert store.run([uuid.uuid4()]) is None


def test_messages_that_no_count_holds_are_the_difference(warehouse: RunStore, store: PageStore) -> None:
    run_id = open_run(warehouse)
    warehouse.record_extract(run_id, 10, 1.0)
    load(warehouse, run_id, new_messages(4))
    close(warehouse, run_id, "failed")
    assert store.runs(NAME, 1)[0].difference == 6


def test_slices_add_up_the_runs_of_each_step(warehouse: RunStore, store: PageStore) -> None:
    finished(warehouse, 8, 2)
    finished(warehouse, 4, 0)
    since = datetime.now(UTC) - timedelta(hours=1)
    (one,) = store.slices(NAME, since, timedelta(hours=2))
    assert one.at == since
    assert (one.received, one.loaded, one.quarantined) == (14, 12, 2)
    assert one.extract_seconds == 1.5
    assert store.slices(NAME, datetime.now(UTC) + timedelta(hours=1), timedelta(hours=1)) == []
    assert store.slices("other", since, timedelta(hours=2)) == []


def test_the_batches_of_a_run_have_their_counts(warehouse: RunStore, store: PageStore) -> None:
    run_id = finished(warehouse, 8, 2)
    (batch,) = store.batches(run_id)
    assert (batch.batch, batch.loaded, batch.quarantined, batch.duplicates) == ("0000", 8, 2, 0)
    assert store.batches(uuid.uuid4()) == []


def test_the_quarantine_is_told_by_reason_day_and_shape(
    warehouse: RunStore, store: PageStore, clean_database: Database
) -> None:
    finished(warehouse, 1, 3)
    with clean_database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET shape = 'not JSON'")
        connection.execute(
            "UPDATE etl.quarantine SET redriven_at = now() WHERE message_id IN"
            " (SELECT message_id FROM etl.quarantine LIMIT 1)"
        )
    (line,) = store.rejected(QUEUE)
    assert (line.reason, line.day, line.messages, line.waiting) == ("bad_json", TODAY, 3, 2)
    (shape,) = store.shapes(QUEUE)
    assert (shape.shape, shape.waiting) == ("not JSON", 2)
    assert set(store.oldest_waiting([QUEUE, "other"])) == {QUEUE}
    assert store.rejected("other") == []
    assert store.shapes("other") == []


def test_keys_are_told_with_their_share_of_a_sample(
    warehouse: RunStore, store: PageStore, clean_database: Database
) -> None:
    warehouse.register_columns(CONTRACT)
    warehouse.add_key_check(7, "check")
    with clean_database.owner() as connection:
        connection.execute("SELECT etl.ensure_partition('public.user_logins', current_date)")
        # AQAAAAc... is what a token of key 7 begins with, AQAAAAg... one of key 8.
        connection.execute(
            "INSERT INTO public.user_logins (masked_ip, create_date)"
            " SELECT CASE WHEN n <= 3 THEN 'AQAAAAcxxxx' WHEN n = 4 THEN 'AQAAAAhxxxx' END, current_date"
            " FROM generate_series(1, 5) AS n"
        )
    assert [(key.key_id, key.retired_at) for key in store.used_keys()] == [(7, None)]
    assert store.sampled_keys("public.user_logins", "masked_ip") == {7: 3, 8: 1}


def test_the_last_remask_is_told_with_who_began_it(store: PageStore, clean_database: Database) -> None:
    assert store.last_remask() is None
    for role, action in (("etl_remasker", "remask"), ("pii_officer", "unmask")):
        with psycopg.connect(clean_database.dsn(role)) as connection:
            connection.execute("SELECT pii.record(%s, 'r', 't', '{}')", [action])
    found = store.last_remask()
    assert found is not None
    assert (found.number, found.action, found.tokens) == (1, "remask", None)
    assert found.who.startswith("etl_remasker")


def test_open_runs_are_known_and_closed_ones_where_they_are_asked_for(
    warehouse: RunStore, store: PageStore
) -> None:
    closed, other, opened = finished(warehouse, 1, 0), finished(warehouse, 1, 0), open_run(warehouse)
    found = {run.run_id: run.is_open for run in store.known_runs([closed, uuid.uuid4()])}
    assert found == {closed: False, opened: True}
    assert other not in found


@pytest.mark.parametrize("column", ["user_id", "ctid", "masked_ip; DROP TABLE etl.runs"])
def test_a_column_without_tokens_is_not_sampled(warehouse: RunStore, store: PageStore, column: str) -> None:
    warehouse.register_columns(CONTRACT)
    with pytest.raises(WarehouseRefused):
        store.sampled_keys("public.user_logins", column)


def test_the_audit_is_told_without_reason_and_ticket(store: PageStore, clean_database: Database) -> None:
    with psycopg.connect(clean_database.dsn("pii_officer")) as connection:
        connection.execute(
            """SELECT pii.record('unmask', 'canary-reason', 'canary-ticket', '{"tokens": 4}')"""
        )
    (entry,) = store.audit(5)
    assert (entry.number, entry.action, entry.tokens) == (1, "unmask", 4)
    assert "canary" not in repr(entry)


def test_sizes_tell_each_partition_of_a_table(warehouse: RunStore, store: PageStore) -> None:
    finished(warehouse, 8, 2)
    lines = store.sizes(["etl.ledger", "public.user_logins", "etl.runs"])
    assert {line.table for line in lines} == {"etl.ledger", "public.user_logins", "etl.runs"}
    days = [line for line in lines if line.table == "etl.ledger"]
    assert f"ledger_{TODAY:%Y%m%d}" in {line.name for line in days}
    assert all(line.bounds for line in days)
    (today,) = [line for line in lines if line.name == f"ledger_{TODAY:%Y%m%d}"]
    assert today.size > today.pages * 8192 > 0


def test_a_connection_lost_while_nobody_looked_is_made_again(
    store: PageStore, clean_database: Database
) -> None:
    store.used_keys()
    with clean_database.owner() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            [f"ops_ro_{clean_database.suffix}"],
        )
    assert store.used_keys() == []


def test_an_analyst_sees_how_fresh_and_complete_a_table_is(
    warehouse: RunStore, clean_database: Database
) -> None:
    finished(warehouse, 8, 2)
    run_id = open_run(warehouse)
    warehouse.record_extract(run_id, 6, 1.0)
    freshness = "SELECT * FROM etl.table_freshness"
    with psycopg.connect(clean_database.dsn("analyst"), row_factory=dict_row) as connection:
        (line,) = connection.execute(freshness).fetchall()
        assert (line["contract"], line["table_name"], line["day"]) == (NAME, CONTRACT.table, TODAY)
        assert (line["received"], line["loaded"], line["quarantined"], line["missing"]) == (16, 8, 2, 6)
        assert (line["open_runs"], line["is_complete"]) == (1, False)
        warehouse.close_run(run_id, "failed", RunTotals(released=6))
        (line,) = connection.execute(freshness).fetchall()
    assert (line["missing"], line["is_complete"], line["failed_runs"]) == (0, True, 1)
    assert line["newest_row_at"] == line["last_load_at"]
    assert line["newest_row_at"] > datetime.now(UTC) - timedelta(minutes=5)


def test_every_column_and_view_of_the_schema_has_a_comment(database: Database) -> None:
    columns = """
        SELECT pg_class.relname || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'etl'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
          AND attnum > 0 AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL
    """
    relations = """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'etl'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
          AND obj_description(oid, 'pg_class') IS NULL
    """
    assert sorted(database.rows(columns)) == []
    assert sorted(database.rows(relations)) == []
