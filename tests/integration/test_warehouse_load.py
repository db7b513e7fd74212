"""One transaction a batch: all of it or nothing, each message once, whatever else happens."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest

from include.contracts.user_logins import CONTRACT, LoginEvent
from include.queue_etl.contract import Contract, SentDay
from include.queue_etl.errors import WarehouseRefused, WarehouseUnavailable
from include.queue_etl.operations.store import MaintenanceStore
from include.queue_etl.postgres import connection as postgres
from include.queue_etl.postgres.loading import BatchCounts
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.transform import copy_text
from include.queue_etl.transform.batches import RejectedBatch, ids_digest
from tests.integration.scratch import (
    TODAY,
    Database,
    Message,
    close,
    load,
    masked_batch,
    new_messages,
    open_run,
)
from tests.support.resources import open_store

YESTERDAY = TODAY - timedelta(days=1)


@contextmanager
def another_loader_holding(database: Database, message: Message) -> Iterator[psycopg.Connection]:
    """A transaction that entered `message` and did not end yet: who loads the message waits for it."""
    with database.owner() as connection:
        connection.execute("SELECT etl.ensure_ledger_partition(%s)", (message[0],))
        connection.autocommit = False
        enter(connection, message)
        yield connection


def enter(connection: psycopg.Connection, message: Message) -> None:
    statement = "INSERT INTO etl.ledger VALUES (1, %s, %s, gen_random_uuid(), 'L')"
    connection.execute(statement, message[:2])


# Counting


def test_new_messages_load_and_bad_ones_are_quarantined(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    messages = [
        *new_messages(30),
        *new_messages(9, YESTERDAY),
        *new_messages(2, user="bad_json"),
        *new_messages(1, user="bad_type"),
    ]
    assert load(warehouse, run_id, messages) == BatchCounts(39, 3, 0)
    assert clean_database.counts() == (39, 42, 3)
    assert warehouse.committed_batches(run_id) == {"0000": ids_digest(id for _, id, _ in messages)}
    assert warehouse.run_summary(run_id)["quarantined_by_reason"] == {"bad_json": 2, "bad_type": 1}


def test_the_ledger_says_which_message_was_loaded_and_which_quarantined(
    warehouse: RunStore, clean_database: Database
) -> None:
    good, bad = new_messages(1)[0], new_messages(1, user="bad_json")[0]
    run_id = open_run(warehouse)
    load(warehouse, run_id, [good, bad])
    entries = clean_database.rows(
        "SELECT queue_id, sent_day, message_id::text, run_id, status FROM etl.ledger"
    )
    assert set(entries) == {(1, TODAY, good[1], run_id, "L"), (1, TODAY, bad[1], run_id, "Q")}
    quarantined = clean_database.rows("SELECT message_id::text, run_id, payload, reason FROM etl.quarantine")
    assert quarantined == [(bad[1], run_id, b"\x00\xff", "bad_json")]


def test_a_committed_batch_is_adopted_with_its_counts(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    messages = [*new_messages(10), *new_messages(1, user="bad_json")]
    assert load(warehouse, run_id, messages) == BatchCounts(10, 1, 0)
    assert load(warehouse, run_id, messages) == BatchCounts(10, 1, 0)
    assert clean_database.counts() == (10, 11, 1)


def test_messages_seen_before_count_as_duplicates(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    seen = [*new_messages(10), *new_messages(2, user="bad_a")]
    new = [*new_messages(5), *new_messages(3, user="bad_b")]
    load(warehouse, run_id, seen, "0000")
    assert load(warehouse, run_id, seen + new, "0001") == BatchCounts(5, 3, 12)
    assert clean_database.counts() == (15, 20, 5)
    assert warehouse.run_summary(run_id)["quarantined_by_reason"] == {"bad_a": 2, "bad_b": 3}
    assert warehouse.run_summary(run_id)["duplicates"] == 12


def test_the_row_that_loads_is_the_row_of_its_message(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    seen = [*new_messages(20), *new_messages(20, user="bad_a")]
    new = [(day, id, f"user of {id}") for day, id, _ in [*new_messages(20), *new_messages(20, YESTERDAY)]]
    load(warehouse, run_id, seen, "0000")
    load(warehouse, run_id, seen + new, "0001")
    rows = clean_database.rows(
        "SELECT user_id, masked_ip, create_date FROM user_logins WHERE user_id LIKE 'user of%'"
    )
    assert sorted(rows) == sorted((user, id, day) for day, id, user in new)


def test_an_id_that_repeats_within_a_batch_loads_once(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    day, message_id, _ = new_messages(1)[0]
    messages = [(day, message_id, "first"), (day, message_id, "second"), *new_messages(2)]
    assert load(warehouse, run_id, messages) == BatchCounts(3, 0, 1)
    assert clean_database.counts() == (3, 3, 0)


def test_an_id_accepted_and_rejected_in_one_batch_counts_as_its_first_line(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    day, message_id, _ = new_messages(1)[0]
    assert load(warehouse, run_id, [(day, message_id, "bad_a"), (day, message_id, "user")]) == BatchCounts(
        0, 1, 1
    )
    assert clean_database.counts() == (0, 1, 1)


def test_one_id_on_two_queues_is_two_messages(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    messages = new_messages(3)
    load(warehouse, run_id, messages, "0000")
    of_queue_2 = masked_batch(run_id, sorted(messages), queue_id=2)
    assert warehouse.load(run_id, CONTRACT, "0001", *of_queue_2) == BatchCounts(3, 0, 0)


def test_a_batch_of_rejected_messages_only_loads(warehouse: RunStore, clean_database: Database) -> None:
    assert load(warehouse, open_run(warehouse), new_messages(4, user="bad_json")) == BatchCounts(0, 4, 0)
    assert clean_database.counts() == (0, 4, 4)


def test_a_quarantined_message_whose_ledger_day_is_gone_stops_no_batch(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    messages = [*new_messages(1, user="bad_a"), *new_messages(2)]
    load(warehouse, run_id, messages, "0000")
    with clean_database.owner() as connection:
        connection.execute("TRUNCATE etl.ledger")
    load(warehouse, run_id, messages, "0001")
    assert clean_database.counts() == (4, 3, 1)


# What may not load


def test_a_closed_run_loads_nothing(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    close(warehouse, run_id)
    assert load(warehouse, run_id, new_messages(3)) == BatchCounts(0, 0, 0)
    assert clean_database.counts() == (0, 0, 0)
    assert warehouse.committed_batches(run_id) == {}


def test_a_committed_batch_of_a_closed_run_keeps_its_counts(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id, messages = open_run(warehouse), new_messages(3)
    load(warehouse, run_id, messages)
    close(warehouse, run_id)
    assert load(warehouse, run_id, messages) == BatchCounts(3, 0, 0)


def test_a_run_that_was_never_opened_loads_nothing(warehouse: RunStore, clean_database: Database) -> None:
    with pytest.raises(WarehouseRefused, match="was never opened"):
        load(warehouse, uuid4(), new_messages(3))
    assert clean_database.counts() == (0, 0, 0)


def test_a_batch_committed_with_other_messages_is_not_adopted(
    warehouse: RunStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    load(warehouse, run_id, new_messages(3))
    with pytest.raises(WarehouseRefused, match="committed with other messages"):
        load(warehouse, run_id, new_messages(3))
    assert clean_database.counts() == (3, 3, 0)


@pytest.mark.parametrize("part", ["entries", "rows", "quarantine"])
@pytest.mark.parametrize("seen_before", [False, True])
def test_a_batch_with_a_part_missing_does_not_load(
    warehouse: RunStore, clean_database: Database, part: str, seen_before: bool
) -> None:
    run_id, seen = open_run(warehouse), new_messages(1)
    load(warehouse, run_id, seen)
    messages = sorted([*new_messages(4), *new_messages(2, user="bad_a"), *(seen if seen_before else [])])
    masked, rejected = masked_batch(run_id, messages)
    if part == "quarantine":
        rejected = RejectedBatch(b"".join(rejected.lines.splitlines(keepends=True)[1:]))
    elif part == "rows":
        masked.rows = b"".join(masked.rows.splitlines(keepends=True)[:-1])
    else:
        masked.entries = masked_batch(run_id, messages[:-1])[0].entries
    with pytest.raises(WarehouseRefused, match="expected"):
        warehouse.load(run_id, CONTRACT, "0001", masked, rejected)
    assert clean_database.counts() == (1, 1, 0)
    assert list(warehouse.committed_batches(run_id)) == ["0000"]


# Others at the same time


def test_two_overlapping_loaders_never_deadlock_and_load_each_message_once(
    clean_database: Database,
) -> None:
    deadlocks = clean_database.deadlocks()
    dice = random.Random(7)
    with open_store(clean_database.loader_dsn) as one, open_store(clean_database.loader_dsn) as other:
        runs = [open_run(one), open_run(other)]
        everything: set[Message] = set()
        for number in range(50):
            pool = [*new_messages(150), *new_messages(150, YESTERDAY), *new_messages(30, user="bad_a")]
            shares = [dice.sample(pool, 220), dice.sample(pool, 220)]
            everything.update(*shares)
            start = threading.Barrier(2)

            def attempt(
                warehouse: RunStore,
                run_id: UUID,
                share: list[Message],
                number: int = number,
                start: threading.Barrier = start,
            ) -> BatchCounts:
                start.wait()
                return load(warehouse, run_id, share, f"{number:04}")

            with ThreadPoolExecutor(2) as threads:
                counts = list(threads.map(attempt, (one, other), runs, shares))
            assert sum(c.loaded + c.quarantined for c in counts) == len(set(shares[0]) | set(shares[1]))
            assert all(c.loaded + c.quarantined + c.duplicates == 220 for c in counts)
    bad = sum(user == "bad_a" for _, _, user in everything)
    assert clean_database.counts() == (len(everything) - bad, len(everything), bad)
    assert clean_database.rows("SELECT count(DISTINCT masked_ip) FROM user_logins") == [
        (len(everything) - bad,)
    ]
    assert clean_database.deadlocks() == deadlocks


@pytest.mark.parametrize("seen_before", [False, True])
def test_both_paths_enter_messages_in_ascending_order(
    warehouse: RunStore, clean_database: Database, seen_before: bool
) -> None:
    """A loader that waits for an id holds none that comes after it: so no two wait for each other."""
    run_id, seen = open_run(warehouse), (YESTERDAY, str(UUID(int=0)), "user")
    load(warehouse, run_id, [seen], "0000")
    new = sorted([*new_messages(20, YESTERDAY), *new_messages(20)])
    first, last_of_the_day, last = new[0], new[19], new[39]
    deadlocks = clean_database.deadlocks()
    with ThreadPoolExecutor(1) as threads, another_loader_holding(clean_database, first) as holder:
        attempt = threads.submit(load, warehouse, run_id, [*new, *([seen] if seen_before else [])], "0001")
        clean_database.wait_for_blocked()
        enter(holder, last_of_the_day)
        enter(holder, last)
        holder.rollback()
        assert attempt.result() == BatchCounts(40, 0, int(seen_before))
    assert clean_database.deadlocks() == deadlocks


def test_two_attempts_at_one_batch_load_it_once_and_count_the_same(clean_database: Database) -> None:
    with open_store(clean_database.loader_dsn) as one, open_store(clean_database.loader_dsn) as other:
        run_id, messages = open_run(one), new_messages(50)
        with (
            ThreadPoolExecutor(2) as threads,
            another_loader_holding(clean_database, messages[0]) as holder,
        ):
            attempts = [threads.submit(load, each, run_id, messages) for each in (one, other)]
            clean_database.wait_for_blocked(2)
            holder.rollback()
            assert [attempt.result() for attempt in attempts] == [BatchCounts(50, 0, 0)] * 2
    assert clean_database.counts() == (50, 50, 0)


def test_a_deadlock_is_tried_again(warehouse: RunStore, clean_database: Database) -> None:
    run_id = open_run(warehouse)
    first, *_, last = messages = sorted(new_messages(50))
    deadlocks = clean_database.deadlocks()
    with ThreadPoolExecutor(2) as threads, another_loader_holding(clean_database, last) as holder:
        holder.execute("SET LOCAL deadlock_timeout = '1min'")  # so that ours is the one that is ended
        attempt = threads.submit(load, warehouse, run_id, messages)
        clean_database.wait_for_blocked()
        enter(holder, first)
        holder.commit()
        assert attempt.result() == BatchCounts(48, 0, 2)
    assert clean_database.deadlocks() == deadlocks + 1
    assert clean_database.counts() == (48, 50, 0)


def test_closing_a_run_waits_for_its_loads_and_counts_them(clean_database: Database) -> None:
    with open_store(clean_database.loader_dsn) as one, open_store(clean_database.loader_dsn) as other:
        run_id, messages = open_run(one), new_messages(50)
        with (
            ThreadPoolExecutor(2) as threads,
            another_loader_holding(clean_database, messages[0]) as holder,
        ):
            loading = threads.submit(load, one, run_id, messages)
            clean_database.wait_for_blocked(1)
            closing = threads.submit(close, other, run_id)
            clean_database.wait_for_blocked(2)
            holder.rollback()
            assert loading.result() == BatchCounts(50, 0, 0)
            closing.result()
        summary = one.run_summary(run_id)
    assert (summary["state"], summary["loaded"]) == ("succeeded", 50)


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_connection_killed_in_mid_load_leaves_nothing_and_a_retry_loads(
    warehouse: RunStore, clean_database: Database, seen_before: bool
) -> None:
    run_id, seen = open_run(warehouse), new_messages(1)
    load(warehouse, run_id, seen, "0000")
    messages = sorted([*new_messages(3_000), *(seen if seen_before else [])])
    with (
        ThreadPoolExecutor(1) as threads,
        another_loader_holding(
            clean_database, next(m for m in reversed(messages) if m not in seen)
        ) as holder,
    ):
        attempt = threads.submit(load, warehouse, run_id, messages, "0001")
        clean_database.wait_for_blocked()
        clean_database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with pytest.raises(WarehouseUnavailable):
            attempt.result()
        holder.rollback()
    assert clean_database.counts() == (1, 1, 0)
    assert list(warehouse.committed_batches(run_id)) == ["0000"]
    assert load(warehouse, run_id, messages, "0001") == BatchCounts(3_000, 0, int(seen_before))


def test_a_session_that_commits_asynchronously_does_not_do_so_for_a_batch(
    clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = psycopg.conninfo.make_conninfo(
        clean_database.loader_dsn, options="-c role=etl_loader -c synchronous_commit=off"
    )
    seen = []
    original = psycopg.Connection.execute

    def spy(self: psycopg.Connection, *arguments: Any) -> object:
        if "UPDATE etl.batches" in str(arguments[0]):
            seen.append(original(self, "SHOW synchronous_commit").fetchone()[0])
        return original(self, *arguments)

    with open_store(dsn) as warehouse:
        run_id = open_run(warehouse)
        monkeypatch.setattr(psycopg.Connection, "execute", spy)
        load(warehouse, run_id, new_messages(2))
    assert seen == ["on"]


# What a row may hold

NASTY = [
    "tab\there",
    "line\nbreak",
    "carriage\rreturn",
    "back\\slash",
    "\\N",
    "\\.",
    "quote'\"",
    "'); DROP TABLE user_logins; --",
    "%s {} $1",
    " blank ",
    "ünïcödé \U0001f600 ٣",
    "\x01\x7f\u2028\u0085",
    "x" * 128,
]


@pytest.mark.parametrize("seen_before", [False, True])
def test_any_text_loads_as_it_is(warehouse: RunStore, clean_database: Database, seen_before: bool) -> None:
    run_id, seen = open_run(warehouse), new_messages(1)
    load(warehouse, run_id, seen, "0000")
    messages = sorted([(TODAY, str(uuid4()), text) for text in NASTY])
    events = [LoginEvent(user, None, None, None, None, "1.2") for _, _, user in messages]
    rows = copy_text.row_lines(
        CONTRACT,
        events,
        copy_text.Facts([], [TODAY.isoformat()] * len(events), [], []),
        lambda _, values, nothing: [nothing] * len(values),
    )
    if seen_before:
        messages = messages + seen
        rows += f"user\t\\N\t\\N\t\\N\t\\N\t1\t{TODAY}\n".encode()
    masked, rejected = masked_batch(run_id, messages)
    masked.rows = rows
    assert warehouse.load(run_id, CONTRACT, "0001", masked, rejected).loaded == len(NASTY)
    assert {user for (user,) in clean_database.rows("SELECT user_id FROM user_logins")} == {"user", *NASTY}


@pytest.fixture
def orders(clean_database: Database) -> Iterator[Contract]:
    """A second contract: other columns, in another order than the table's, and names that need quotes."""
    with clean_database.owner() as connection:
        connection.execute('CREATE TABLE public."order" (placed date, "select" varchar(9), note text)')
        connection.execute('GRANT INSERT ON public."order" TO etl_loader')
        event = msgspec.defstruct("Order", [("note", str | None), ("select", str | None)])
        yield Contract("orders", "order-queue", "public.order", event, (SentDay("placed"),))
        connection.execute('DROP TABLE public."order"')


def test_another_contract_loads_into_its_own_table(
    warehouse: RunStore, clean_database: Database, orders: Contract
) -> None:
    run_id = uuid4()
    run = warehouse.open_run(run_id, orders, "manual", {})
    messages = sorted(new_messages(4))
    masked, rejected = masked_batch(run_id, messages[:2], run.queue_id)
    masked.rows = f"a\tb\t{TODAY}\n\\N\td\t{TODAY}\n".encode()
    assert warehouse.load(run_id, orders, "0000", masked, rejected) == BatchCounts(2, 0, 0)
    masked, rejected = masked_batch(run_id, messages[1:], run.queue_id)
    masked.rows = f"-\t-\t{TODAY}\ne\tf\t{TODAY}\ng\th\t{TODAY}\n".encode()
    assert warehouse.load(run_id, orders, "0001", masked, rejected) == BatchCounts(2, 0, 1)
    rows = clean_database.rows('SELECT * FROM public."order"')
    assert sorted(rows, key=str) == sorted(
        [(TODAY, "b", "a"), (TODAY, "d", None), (TODAY, "f", "e"), (TODAY, "h", "g")], key=str
    )


# Days of the ledger


def test_a_day_that_many_ask_for_is_made_once_and_stops_no_load(
    warehouse: RunStore, clean_database: Database
) -> None:
    days = [date(2007, 1, 1) + timedelta(days=n) for n in range(4)]

    def ask(day: date) -> None:
        with psycopg.connect(clean_database.loader_dsn) as connection:
            connection.execute("SELECT etl.ensure_ledger_partition(%s)", (day,))

    with another_loader_holding(clean_database, new_messages(1)[0]), ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, days * 6, timeout=300))
    found = clean_database.rows(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
        " WHERE inhparent = 'etl.ledger'::regclass AND relname LIKE 'ledger_200701%'"
    )
    assert sorted(found) == [(f"ledger_2007010{n}",) for n in range(1, 5)]


@pytest.mark.parametrize("day", [date(2005, 12, 31), TODAY + timedelta(days=4), date.max])
def test_a_day_on_which_no_message_can_have_been_sent_is_refused(warehouse: RunStore, day: date) -> None:
    run_id = open_run(warehouse)
    with pytest.raises(WarehouseRefused, match="SQLSTATE 22008"):
        load(warehouse, run_id, new_messages(1, day))


@pytest.fixture
def maintenance(clean_database: Database) -> Iterator[MaintenanceStore]:
    with postgres.Database(clean_database.dsn("etl_maintainer")) as database:
        yield MaintenanceStore(database)


def test_old_days_are_dropped_and_young_ones_kept(
    warehouse: RunStore, maintenance: MaintenanceStore, clean_database: Database
) -> None:
    run_id = open_run(warehouse)
    old, young = TODAY - timedelta(days=21), TODAY - timedelta(days=19)
    load(warehouse, run_id, [*new_messages(1, old), *new_messages(1, young), *new_messages(1)])
    maintenance.drop_ledger_days(20)
    assert clean_database.rows("SELECT sent_day FROM etl.ledger ORDER BY 1") == [(young,), (TODAY,)]
    assert maintenance.drop_ledger_days(20) == 0


def test_a_dropped_day_is_made_again_when_an_old_message_is_loaded(
    warehouse: RunStore, maintenance: MaintenanceStore
) -> None:
    run_id = open_run(warehouse)
    old = TODAY - timedelta(days=21)
    load(warehouse, run_id, new_messages(1, old), "0000")
    maintenance.drop_ledger_days(20)
    assert load(warehouse, run_id, new_messages(2, old), "0001") == BatchCounts(2, 0, 0)


def test_days_that_sqs_may_still_deliver_are_not_dropped(maintenance: MaintenanceStore) -> None:
    with pytest.raises(WarehouseRefused, match="SQLSTATE 22023"):
        maintenance.drop_ledger_days(14)
