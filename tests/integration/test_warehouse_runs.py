"""What the warehouse knows of runs and keys, and what it says when something is wrong."""

import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from include.contracts import load_contract
from include.contracts.user_logins import CONTRACT
from include.queue_etl.errors import QueueEtlError, WarehouseRefused, WarehouseUnavailable
from include.queue_etl.postgres import checks, migrations
from include.queue_etl.postgres import connection as postgres
from include.queue_etl.postgres.checks import MIGRATE
from include.queue_etl.postgres.runs import RunState, RunStore
from tests.integration.scratch import TODAY, Database, close, load, masked_batch, new_messages, open_run
from tests.support.resources import open_store

SECRET = "s3cret-0123"  # stands for anything personal


# Runs


def test_a_new_run_is_running(warehouse: RunStore) -> None:
    state = warehouse.open_run(uuid4(), CONTRACT, "manual", {"visible": 3})
    assert state == RunState(1, "running")
    assert not state.closed


def test_a_run_that_was_never_opened_is_none(warehouse: RunStore) -> None:
    assert warehouse.run_state(uuid4()) is None


def test_a_run_opened_again_is_left_as_it_is(warehouse: RunStore) -> None:
    run_id = uuid4()
    warehouse.open_run(run_id, CONTRACT, "manual", {"visible": 3, "oldest_age_seconds": 60})
    first = warehouse.run_summary(run_id)
    warehouse.open_run(run_id, CONTRACT, "manual", {"visible": 99})
    again = warehouse.run_summary(run_id)
    assert first
    assert again
    assert again | {"total_seconds": 0} == first | {"total_seconds": 0}
    assert (again["visible_before"], again["oldest_age_seconds"]) == (3, 60)


def test_opening_many_runs_uses_up_one_queue_number(warehouse: RunStore, clean_database: Database) -> None:
    for _ in range(5):
        open_run(warehouse)
    assert clean_database.rows("SELECT last_value FROM etl.queues_queue_id_seq") == [(1,)]


def test_a_closed_run_holds_the_sums_of_its_batches(warehouse: RunStore) -> None:
    run_id = open_run(warehouse)
    warehouse.record_extract(run_id, 9, 1.25)
    load(warehouse, run_id, [*new_messages(4), *new_messages(1, user="bad_a")], "0000")
    load(warehouse, run_id, [*new_messages(2), *new_messages(2, user="bad_a")], "0001")
    before = warehouse.run_summary(run_id)
    close(warehouse, run_id)
    after = warehouse.run_summary(run_id)
    counts = {
        "received": 9,
        "loaded": 6,
        "quarantined": 3,
        "quarantined_by_reason": {"bad_a": 3},
        "duplicates": 0,
        "extract_seconds": 1.25,
        "mask_seconds": 1.0,
        "visible_before": 5,
    }
    assert before.items() >= counts.items()
    assert after.items() >= {**counts, "state": "succeeded", "deleted": 1, "finish_seconds": 0.25}.items()
    assert after["staged_bytes"] == before["staged_bytes"] > 0
    assert after["load_seconds"] == before["load_seconds"] > 0
    assert after["finished_at"] > after["started_at"]


def test_a_run_without_batches_closes_with_zeros(warehouse: RunStore) -> None:
    run_id = open_run(warehouse)
    close(warehouse, run_id, "failed")
    expected = {
        "state": "failed",
        "loaded": 0,
        "quarantined": 0,
        "quarantined_by_reason": {},
        "duplicates": 0,
    }
    assert warehouse.run_summary(run_id).items() >= expected.items()
    assert warehouse.run_state(run_id).closed


def test_a_closed_run_is_never_changed(warehouse: RunStore, caplog: pytest.LogCaptureFixture) -> None:
    run_id = open_run(warehouse)
    close(warehouse, run_id, "failed")
    closed = warehouse.run_summary(run_id)
    with caplog.at_level(logging.INFO):
        close(warehouse, run_id, "succeeded")
    warehouse.record_extract(run_id, 100, 1.0)
    warehouse.open_run(run_id, CONTRACT, "manual", {"visible": 99})
    assert warehouse.run_summary(run_id) == closed
    assert "nothing to record" in caplog.text


@pytest.mark.parametrize(
    ("seen", "received", "recorded"), [(None, 12, 12), (None, 0, 0), (900, 12, 900), (5, 12, 12)]
)
def test_the_oldest_age_is_recorded_on_every_run(
    warehouse: RunStore, seen: int | None, received: int, recorded: int
) -> None:
    run_id = uuid4()
    warehouse.open_run(run_id, CONTRACT, "manual", {} if seen is None else {"oldest_age_seconds": seen})
    warehouse.record_extract(run_id, 9, 1.25, received)
    assert warehouse.run_summary(run_id)["oldest_age_seconds"] == recorded


def test_closing_a_run_that_was_never_opened_enters_nothing(
    warehouse: RunStore, clean_database: Database
) -> None:
    close(warehouse, uuid4())
    assert clean_database.rows("SELECT count(*) FROM etl.runs") == [(0,)]


def test_a_key_keeps_the_check_value_of_its_first_use(warehouse: RunStore, clean_database: Database) -> None:
    warehouse.add_key_check(2**32 - 1, "first")
    warehouse.add_key_check(2**32 - 1, "second")
    warehouse.add_key_check(1, "other")
    with postgres.Database(clean_database.loader_dsn) as database:
        assert checks.key_checks(database) == {2**32 - 1: "first", 1: "other"}


# Errors


def chain(error: BaseException) -> str:
    """All that a log could show of an error: its text, and all that hangs on it."""
    return "".join(traceback.format_exception(error)) + repr((error.__cause__, error.__context__))


def spoiled(part: str) -> Callable[[RunStore], object]:
    """Loads a batch that Postgres refuses, with something personal in the line that is wrong."""

    def attempt(warehouse: RunStore) -> object:
        run_id = open_run(warehouse)
        masked, rejected = masked_batch(run_id, new_messages(2))
        if part == "integer":
            masked.rows = masked.rows.replace(b"\t2\t", f"\t{SECRET}\t".encode())
        elif part == "length":
            masked.rows = masked.rows.replace(b"android", (SECRET * 9).encode())
        elif part == "nul":
            masked.rows = masked.rows.replace(b"android", f"{SECRET}\x00".encode())
        else:
            masked.rows = masked.rows.replace(b"android", f"{SECRET}\tandroid".encode())
        return warehouse.load(run_id, CONTRACT, "0000", masked, rejected)

    return attempt


@pytest.mark.parametrize(
    ("part", "sqlstate"), [("integer", "22P02"), ("length", "22001"), ("nul", "22021"), ("columns", "22P04")]
)
def test_a_refused_batch_is_told_by_sqlstate_and_never_by_value(
    warehouse: RunStore, clean_database: Database, part: str, sqlstate: str
) -> None:
    log = clean_database.server_log()
    with pytest.raises(WarehouseRefused) as caught:
        spoiled(part)(warehouse)
    assert caught.value.sqlstate == sqlstate
    assert sqlstate in str(caught.value)
    assert SECRET not in chain(caught.value)
    assert SECRET not in log.since()
    assert clean_database.counts() == (0, 0, 0)


def test_the_server_log_would_show_a_value_of_another_role(clean_database: Database) -> None:
    """Else the test above could not fail."""
    log = clean_database.server_log()
    with clean_database.owner() as connection, pytest.raises(psycopg.Error):
        connection.execute(f"SELECT '{SECRET}'::integer")
    assert SECRET in log.since()


def test_a_constraint_is_named(warehouse: RunStore, clean_database: Database) -> None:
    with clean_database.owner() as connection:
        connection.execute(
            "ALTER TABLE user_logins ADD CONSTRAINT no_androids CHECK (device_type <> 'android')"
        )
        try:
            with pytest.raises(WarehouseRefused) as caught:
                load(warehouse, open_run(warehouse), new_messages(1))
        finally:
            connection.execute("ALTER TABLE user_logins DROP CONSTRAINT no_androids")
    assert (caught.value.sqlstate, caught.value.constraint) == ("23514", "no_androids")


def test_a_unique_key_of_the_table_itself_refuses_the_batch(
    warehouse: RunStore, clean_database: Database
) -> None:
    with clean_database.owner() as connection:
        connection.execute("CREATE UNIQUE INDEX one_login ON user_logins (user_id, create_date)")
        try:
            with pytest.raises(WarehouseRefused) as caught:
                load(warehouse, open_run(warehouse), new_messages(2, user=SECRET))
        finally:
            connection.execute("DROP INDEX one_login")
    # Of the partition, to whose index Postgres gives a name.
    assert (caught.value.sqlstate, caught.value.constraint) == (
        "23505", f"user_logins_p{TODAY:%Y%m}_user_id_create_date_idx",
    )  # fmt: skip
    assert SECRET not in chain(caught.value)
    assert clean_database.counts() == (0, 0, 0)


def test_a_lost_connection_is_replaced_at_the_next_call(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    clean_database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'queue_etl'"
    )
    with pytest.raises(WarehouseUnavailable) as caught:
        warehouse.run_state(run_id)
    assert caught.value.__context__ is None
    assert warehouse.run_state(run_id) == RunState(1, "running")


def test_a_forgotten_lock_ends_a_load_in_one_line_and_nothing_comes_later(
    clean_database: Database,
) -> None:
    with open_store(clean_database.loader_dsn, silence_seconds=0.5) as warehouse:
        run_id = open_run(warehouse)
        with clean_database.owner() as forgetful, forgetful.transaction():
            forgetful.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(WarehouseUnavailable) as caught:
                load(warehouse, run_id, new_messages(3))
            with pytest.raises(
                WarehouseUnavailable
            ):  # its load may still commit, for all that Postgres knows
                close(warehouse, run_id)
        assert str(caught.value) == "Postgres has not answered for 0.5 s: it hangs, or waits for a lock"
        assert caught.value.__context__ is None
        assert load(warehouse, run_id, new_messages(3)).loaded == 3
    assert clean_database.counts() == (3, 3, 0)


def test_what_waits_for_a_forgotten_lock_leaves_no_session_behind(clean_database: Database) -> None:
    waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with open_store(clean_database.loader_dsn, silence_seconds=0.5) as warehouse:
        run_id = open_run(warehouse)
        with clean_database.owner() as forgetful, forgetful.transaction():
            forgetful.execute("LOCK TABLE user_logins IN ACCESS EXCLUSIVE MODE")
            for _ in range(2):
                with pytest.raises(WarehouseUnavailable):
                    load(warehouse, run_id, new_messages(3))
            assert clean_database.rows(f"SELECT count(*) {waiting}") == [(2,)]
            clean_database.wait_for(f"SELECT count(*) = 0 {waiting}")  # 10 s: migration 0004
            close(warehouse, run_id, "failed")


@contextmanager
def unreachable_standby(database: Database) -> Iterator[None]:
    """Every COMMIT waits for a standby that does not exist."""
    with database.owner() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background and a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_commit_interrupted_while_it_awaits_its_standby_does_not_count(
    clean_database: Database,
) -> None:
    waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"

    def interrupt() -> None:
        clean_database.wait_for(waits)
        os.kill(os.getpid(), signal.SIGINT)

    with open_store(clean_database.loader_dsn) as warehouse:
        run_id = open_run(warehouse)
        load(warehouse, run_id, new_messages(1))  # makes the ledger's day
        with unreachable_standby(clean_database):
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                load(warehouse, run_id, new_messages(3), "0001")
            thread.join()
            assert list(warehouse.committed_batches(run_id)) == ["0000"]
        clean_database.wait_for("SELECT count(*) = 2 FROM etl.batches")
    assert clean_database.counts() == (4, 4, 0)


def test_a_statement_that_goes_on_bringing_something_may_take_long(clean_database: Database) -> None:
    # Postgres sends what it has when it has 8 KiB.
    slow = "SELECT repeat('x', 9000), pg_sleep(0.2) FROM generate_series(1, 15)"
    with postgres.connect(clean_database.loader_dsn, silence_seconds=2) as connection:
        assert len(connection.execute(slow).fetchall()) == 15


def test_a_closed_warehouse_has_no_session_left(clean_database: Database) -> None:
    sessions = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with postgres.Database(clean_database.loader_dsn) as database:
        database.execute("SELECT 1")
        assert clean_database.rows(sessions) == [(1,)]
    clean_database.wait_for(f"SELECT ({sessions}) = 0")


def test_what_the_connection_string_says_wins_over_our_defaults(clean_database: Database) -> None:
    name = "SELECT application_name FROM pg_stat_activity WHERE application_name = 'mine'"
    with postgres.Database(make_conninfo(clean_database.loader_dsn, application_name="mine")) as database:
        database.execute("SELECT 1")
        assert clean_database.rows(name) == [("mine",)]


# Preflight


def problems_of(dsn: str) -> list[str]:
    with postgres.Database(dsn) as database:
        return checks.loading_problems(database, CONTRACT)


def test_a_lock_on_the_table_is_said_before_anything_is_received(
    clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.queue_etl.postgres.checks.LOCK_PATIENCE", "SET LOCAL lock_timeout = '100ms'")
    with clean_database.owner() as forgetful, forgetful.transaction():
        forgetful.execute("LOCK TABLE user_logins IN SHARE MODE")
        assert problems_of(clean_database.loader_dsn) == [
            "another session holds a lock on public.user_logins or etl.ledger: pg_locks names it"
        ]
    assert problems_of(clean_database.loader_dsn) == []


def test_a_warehouse_that_is_ready_has_no_problems(clean_database: Database) -> None:
    assert problems_of(clean_database.loader_dsn) == []


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_no_server_is_one_problem_that_says_where(clean_database: Database, unused_port: int) -> None:
    (problem,) = problems_of(make_conninfo(clean_database.loader_dsn, host="127.0.0.1", port=unused_port))
    assert problem.startswith(
        f"Postgres at 127.0.0.1:{unused_port}, database {clean_database.name}, user etl"
    )
    assert problem.endswith("cannot connect (connection refused)")
    assert clean_database.password not in problem


def test_a_wrong_password_is_said_and_not_shown(clean_database: Database) -> None:
    (problem,) = problems_of(make_conninfo(clean_database.loader_dsn, password=SECRET))
    assert problem.endswith("wrong user or password")
    assert SECRET not in problem


def test_a_wrong_password_is_nothing_to_retry(clean_database: Database) -> None:
    with pytest.raises(WarehouseRefused) as caught:
        postgres.Database(make_conninfo(clean_database.loader_dsn, password=SECRET)).execute("SELECT 1")
    assert caught.value.sqlstate == "28P01"
    assert SECRET not in chain(caught.value)


def test_a_missing_database_is_said(clean_database: Database) -> None:
    (problem,) = problems_of(make_conninfo(clean_database.loader_dsn, dbname="nowhere"))
    assert problem.endswith("there is no such database")


def test_an_unresolvable_host_is_said(clean_database: Database) -> None:
    (problem,) = problems_of(make_conninfo(clean_database.loader_dsn, host="nowhere.invalid"))
    assert problem.startswith("Postgres at nowhere.invalid:")
    assert "cannot connect" in problem


@pytest.mark.parametrize("dsn", [f"host=127.0.0.1 {SECRET}", f"postgresql://u:{SECRET}@h:port:/x?{SECRET}"])
def test_a_malformed_connection_string_is_not_shown(dsn: str) -> None:
    (problem,) = problems_of(dsn)
    assert SECRET not in problem


def test_an_empty_database_is_to_be_migrated(
    empty_database: Callable[[], str], clean_database: Database
) -> None:
    (problem,) = problems_of(empty_database())
    assert "has no schema" in problem
    assert "migrate" in problem


@pytest.mark.parametrize(
    ("revision", "words"), [("0000", "is at revision 0000, not"), ("9999", "newer than this code")]
)
def test_another_revision_is_said(clean_database: Database, revision: str, words: str) -> None:
    with clean_database.owner() as connection:
        connection.execute("UPDATE etl.schema_revision SET version_num = %s", (revision,))
        try:
            (problem,) = problems_of(clean_database.loader_dsn)
        finally:
            connection.execute(
                "UPDATE etl.schema_revision SET version_num = %s", (migrations.head_revision(),)
            )
    assert words in problem


def test_every_missing_privilege_is_said(clean_database: Database) -> None:
    with clean_database.owner() as connection:
        connection.execute("REVOKE INSERT ON etl.ledger, public.user_logins FROM etl_loader")
        try:
            problems = problems_of(clean_database.loader_dsn)
        finally:
            connection.execute("GRANT INSERT ON etl.ledger, public.user_logins TO etl_loader")
    role = "role etl_loader may not INSERT INTO"
    assert problems == [f"{role} etl.ledger: {MIGRATE}", f"{role} public.user_logins: {MIGRATE}"]


def test_a_missing_privilege_that_only_duplicates_need_is_said_in_advance(
    clean_database: Database,
) -> None:
    database = clean_database.name
    with clean_database.owner() as connection:
        connection.execute("REVOKE SELECT (queue_id, sent_day, message_id) ON etl.ledger FROM etl_loader")
        connection.execute("REVOKE EXECUTE ON FUNCTION etl.ensure_ledger_partition FROM etl_loader, PUBLIC")
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM etl_loader, PUBLIC")
        try:
            problems = problems_of(clean_database.loader_dsn)
        finally:
            connection.execute("GRANT SELECT (queue_id, sent_day, message_id) ON etl.ledger TO etl_loader")
            connection.execute("GRANT EXECUTE ON FUNCTION etl.ensure_ledger_partition TO etl_loader")
            connection.execute(f"GRANT TEMPORARY ON DATABASE {database} TO etl_loader")
    assert problems == [
        f"role etl_loader may not SELECT queue_id on etl.ledger: {MIGRATE}",
        f"role etl_loader may not SELECT sent_day on etl.ledger: {MIGRATE}",
        f"role etl_loader may not SELECT message_id on etl.ledger: {MIGRATE}",
        f"role etl_loader may not EXECUTE on etl.ensure_ledger_partition: {MIGRATE}",
        f"role etl_loader may not CREATE TEMPORARY TABLE on database {database}: {MIGRATE}",
    ]


def test_a_role_without_any_rights_is_told_which_role_to_take(clean_database: Database) -> None:
    (problem,) = problems_of(clean_database.dsn("analyst"))
    assert problem == "role analyst may not use schema etl: connect as etl_loader"


def test_a_contract_without_its_table_or_columns_is_said(clean_database: Database) -> None:
    with clean_database.owner() as connection:
        connection.execute("ALTER TABLE user_logins RENAME COLUMN locale TO language")
        missing_column = problems_of(clean_database.loader_dsn)
        connection.execute("ALTER TABLE user_logins RENAME COLUMN language TO locale")
        connection.execute("ALTER TABLE user_logins RENAME TO logins")
        missing_table = problems_of(clean_database.loader_dsn)
        connection.execute("ALTER TABLE logins RENAME TO user_logins")
    assert missing_column == ["table public.user_logins has no column locale"]
    assert missing_table == ["there is no table public.user_logins: its migration is missing"]


def test_a_table_that_takes_less_than_its_contract_accepts_is_said(clean_database: Database) -> None:
    with clean_database.owner() as connection, connection.transaction(force_rollback=True):
        for change in (
            "ALTER TABLE user_logins ALTER device_type TYPE varchar(8), ALTER locale SET NOT NULL",
            "ALTER TABLE user_logins ALTER app_version TYPE smallint",
            "ALTER TABLE user_logins ADD CHECK (device_type IN ('ios', 'web'))",  # may be meant
            "ALTER TABLE user_logins ALTER masked_ip TYPE text",  # takes more
        ):
            connection.execute(change)
        found = checks.room_problems(connection, CONTRACT)
    assert [line.split(": ")[1] for line in found] == [
        "column device_type is varchar(8), and becomes varchar(32)",
        "column locale may be NULL",
        "column app_version is smallint, and becomes integer",
    ]
    assert found[0] == (
        "table public.user_logins takes less than the contract accepts: column device_type is varchar(8), "
        "and becomes varchar(32): `contract migration user_logins` writes the revision, and `migrate` runs it"
    )


def test_a_table_with_fewer_choices_than_its_contract_is_said(clean_database: Database) -> None:
    orders = load_contract("orders")
    with clean_database.owner() as connection, connection.transaction(force_rollback=True):
        assert checks.room_problems(connection, orders) == []
        connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_currency_check")
        connection.execute("ALTER TABLE orders ADD CHECK (currency IN ('EUR', 'USD'))")
        (problem,) = checks.room_problems(connection, orders)
    assert "column currency may also be GBP: `contract migration orders`" in problem


def test_a_run_does_not_start_where_its_table_takes_too_little(clean_database: Database) -> None:
    with clean_database.owner() as connection:
        connection.execute("ALTER TABLE user_logins ALTER device_type TYPE varchar(8)")
        try:
            (problem,) = problems_of(clean_database.loader_dsn)
        finally:
            connection.execute("ALTER TABLE user_logins ALTER device_type TYPE varchar(32)")
    assert problem.startswith("table public.user_logins takes less than the contract accepts")
    assert problems_of(clean_database.loader_dsn) == []


def test_every_failure_is_one_of_ours(clean_database: Database, unused_port: int) -> None:
    for change in (
        {"port": unused_port},
        {"password": SECRET},
        {"dbname": "nowhere"},
        {"sslmode": "require"},
    ):
        with pytest.raises(QueueEtlError) as caught:
            postgres.Database(make_conninfo(clean_database.loader_dsn, **change)).execute("SELECT 1")
        assert clean_database.password not in chain(caught.value)
        assert caught.value.__context__ is None
