"""A contract with a key: a row is replaced by one that was sent later, in whatever order they come."""

import json
import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from threading import Timer
from typing import Annotated, Any
from uuid import uuid4

import msgspec
import psycopg
import pytest

from include.queue_etl.contract import Contract, Derived, Personal, Rejected, SentAt
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.postgres import checks, copying, tables, upsert
from include.queue_etl.postgres.connection import Database as Warehouse
from include.queue_etl.postgres.loading import BatchCounts
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from tests.integration.scratch import Database
from tests.support.contracts import redeclared
from tests.support.resources import open_run, open_store

TABLE = """
    CREATE TABLE public.carts (
        cart_id text NOT NULL UNIQUE,
        status  text,
        items   jsonb NOT NULL,
        email   text,
        sent_at timestamptz NOT NULL
    );
    SELECT etl.grant_contract('public.carts', '{email}', is_upsert => true);
"""
PARTITIONED = """
    CREATE TABLE public.carts (
        cart_id text NOT NULL UNIQUE, status text, items jsonb NOT NULL, email text,
        sent_at timestamptz NOT NULL
    ) PARTITION BY HASH (cart_id);
    CREATE TABLE public.carts_0 PARTITION OF public.carts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE public.carts_1 PARTITION OF public.carts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    SELECT etl.grant_contract('public.carts', '{email}', is_upsert => true);
"""
MANY = """
    INSERT INTO public.carts
    SELECT 'cart' || number, 'new', '[]', NULL, '2026-01-01' FROM generate_series(0, 19999) AS number
"""
SCANS = "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'public.carts'::regclass"
PLANNING = ("lock_timeout", "enable_hashjoin", "enable_mergejoin")
PAGES = "SELECT cart_id, (ctid::text::point)[0] FROM public.carts"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
NOW_MS = 1_769_903_999_000
KEYSET = KeysetDocument.new()
SETTINGS = Settings(staging="/nowhere")
Sent = tuple[str, int, str]  # cart, milliseconds after NOW_MS, status


def known(status: str | None) -> str | Rejected | None:
    """Any text but "lost"."""
    return Rejected("bad_status") if status == "lost" else status


class CartEvent(msgspec.Struct):
    """A cart, as it is after a change. `status` is a name that the load's own statements use too."""

    cart_id: str
    status: Annotated[str | None, Derived(known, str)]
    items: list[str]
    email: Annotated[str | None, Personal()] = None


CARTS = Contract(
    name="carts",
    queue="carts",
    table="public.carts",
    event=CartEvent,
    message=(SentAt("sent_at"),),
    key="cart_id",
)


@pytest.fixture
def carts(clean_database: Database) -> Iterator[Database]:
    with clean_database.owner() as connection:
        connection.execute(TABLE)
        yield clean_database
        connection.execute("DROP TABLE public.carts")


def body(cart: str, status: str) -> bytes:
    return json.dumps(
        {"cart_id": cart, "status": status, "items": [status], "email": "ann@example.org"}
    ).encode()


def load(
    database: Database, sent: list[Sent], ids: list[str] | None = None, contract: Contract = CARTS
) -> BatchCounts:
    """A batch of these messages, as one run of its own."""
    ids = ids or [str(uuid4()) for _ in sent]
    order = sorted(range(len(sent)), key=lambda index: ids[index])
    run_id = uuid4()
    with open_store(database.dsn("etl_loader")) as store:
        run = store.open_run(run_id, contract, f"run {run_id}", {})
        raw = RawBatch(
            run.queue_id,
            [ids[index] for index in order],
            [NOW_MS + sent[index][1] for index in order],
            [1] * len(sent),
            [body(sent[index][0], sent[index][2]) for index in order],
        )
        masked, rejected = mask_batch(raw, contract, KEYSET.open(), SETTINGS, run_id)
        return store.load(run_id, contract, "0000", masked, rejected)


@pytest.fixture
def fallbacks(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Why rows were put by ON CONFLICT, one reason each time."""
    caplog.set_level(logging.INFO, upsert.__name__)
    return lambda: [
        record.getMessage().partition("ON CONFLICT: ")[2]
        for record in caplog.records
        if record.name == upsert.__name__
    ]


def meanwhile(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Once, between a load's look at the table and its first change there, something else happens."""
    actions = [action]

    def act_and_copy(*arguments: Any) -> int:
        if actions:
            actions.pop()()
        return copying.copy(*arguments)

    monkeypatch.setattr(upsert, "copy", act_and_copy)


def statuses(database: Database) -> dict[str, str]:
    return dict(database.rows("SELECT cart_id, status FROM public.carts"))


def test_a_later_message_replaces_the_row_and_an_earlier_one_does_not(carts: Database):
    assert load(carts, [("a", 10, "new"), ("b", 10, "new")]) == BatchCounts(2, 0, 0)
    assert load(carts, [("a", 20, "paid"), ("b", 5, "older")]) == BatchCounts(2, 0, 0)
    assert statuses(carts) == {"a": "paid", "b": "new"}
    ((items, moment),) = carts.rows("SELECT items, sent_at FROM public.carts WHERE cart_id = 'a'")
    assert (items, moment.timestamp()) == (["paid"], (NOW_MS + 20) / 1000)


def test_within_a_batch_the_newest_wins_too(carts: Database):
    sent = [("a", number, f"s{number}") for number in (3, 9, 1, 7)]
    assert load(carts, sent) == BatchCounts(4, 0, 0)
    assert statuses(carts) == {"a": "s9"}


def test_a_message_that_comes_again_replaces_nothing(carts: Database):
    ids = [str(uuid4()) for _ in range(2)]
    load(carts, [("a", 10, "new"), ("b", 10, "new")], ids)
    load(carts, [("a", 30, "paid")])
    again = load(carts, [("a", 10, "new"), ("b", 10, "new"), ("c", 1, "new")], [*ids, str(uuid4())])
    assert again == BatchCounts(1, 0, 2)
    assert statuses(carts) == {"a": "paid", "b": "new", "c": "new"}


def test_a_batch_half_of_which_is_known_keeps_the_newest_of_the_rest(carts: Database):
    first = str(uuid4())
    load(carts, [("a", 50, "known")], [first])
    sent = [("a", 50, "known"), ("a", 70, "newest"), ("a", 60, "newer"), ("b", 1, "only")]
    assert load(carts, sent, [first, *(str(uuid4()) for _ in range(3))]) == BatchCounts(3, 0, 1)
    assert statuses(carts) == {"a": "newest", "b": "only"}


def test_loaders_that_change_the_same_rows_leave_the_newest_of_each(carts: Database):
    chance = random.Random(7)
    batches = [
        [(f"cart{chance.randrange(20)}", number * 8 + chance.randrange(8), "") for number in range(50)]
        for _ in range(12)
    ]
    marked = [[(cart, at, f"{at}") for cart, at, _ in batch] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda batch: load(carts, batch), marked))
    assert sum(count.loaded for count in counts) == 600
    newest: dict[str, int] = {}
    for cart, at, _ in (one for batch in marked for one in batch):
        newest[cart] = max(at, newest.get(cart, 0))
    assert statuses(carts) == {cart: str(at) for cart, at in newest.items()}


def test_of_two_messages_of_one_millisecond_the_one_loaded_first_stays(carts: Database):
    load(carts, [("a", 10, "first"), ("b", 10, "first"), ("b", 9, "older")])
    assert load(carts, [("a", 10, "second"), ("b", 10, "second")]) == BatchCounts(2, 0, 0)
    assert statuses(carts) == {"a": "first", "b": "first"}


def test_loaders_that_insert_and_replace_the_same_rows_do_not_deadlock(carts: Database):
    before = carts.rows(DEADLOCKS)
    batches = [
        [(f"cart{number}", at, str(at)) for number in range(at % 3, 1000, 2 + at % 2)] for at in range(16)
    ]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda batch: load(carts, batch), batches))
    assert sum(count.loaded for count in counts) == sum(map(len, batches))
    newest = {cart: str(at) for batch in batches for cart, at, _ in batch}
    assert statuses(carts) == newest
    assert carts.rows(DEADLOCKS) == before


def test_a_replaced_row_stays_in_its_page(clean_database: Database):
    numbers = range(300)
    with clean_database.owner() as connection:
        connection.execute("\n".join(tables.create(CARTS)))
    try:
        load(clean_database, [(f"cart{number}", 1, "new") for number in numbers])
        before = dict(clean_database.rows(PAGES))
        assert len(set(before.values())) > 3
        load(clean_database, [(f"cart{number}", 2, "paid") for number in numbers if not number % 25])
        assert set(statuses(clean_database).values()) == {"new", "paid"}
        assert dict(clean_database.rows(PAGES)) == before
    finally:
        with clean_database.owner() as connection:
            connection.execute("DROP TABLE public.carts")


def test_a_redrive_replaces_only_what_was_sent_before(carts: Database):
    assert load(carts, [("a", 10, "lost"), ("b", 30, "lost"), ("c", 1, "lost")]) == BatchCounts(0, 3, 0)
    load(carts, [("a", 20, "paid"), ("b", 20, "paid")])
    lenient = redeclared(CARTS, status=str | None)
    dsn = carts.dsn("etl_maintainer")
    with open_run(lenient, "redrive", SETTINGS, dsn, KEYSET.text) as context:
        assert redrive(context, Selection("carts"), dry_run=False)["loaded"] == 3
    assert statuses(carts) == {"a": "paid", "b": "lost", "c": "lost"}


CHANGED = "another transaction changed some meanwhile"
OTHER_PLACE = "a key is in a partition, or is written in another way there"
ESCAPES = "a key has quotes or escapes"
INSERTED = """
    INSERT INTO public.carts VALUES ('new', 'by other', '[]', NULL, to_timestamp({seconds}))
"""
REPLACED = (
    "UPDATE public.carts SET status = 'by other', sent_at = to_timestamp({seconds}) WHERE cart_id = 'old'"
)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_in_whatever_order_the_newest_stays(carts: Database, fallbacks, seed: int):
    chance = random.Random(seed)
    newest: dict[str, tuple[int, str]] = {}
    for number in range(12):
        sent = [
            (
                f"{chance.choice('éa ,')}{chance.randrange(300)}",
                chance.randrange(-3000, 3000),
                f"{number}.{line}",
            )
            for line in range(chance.randrange(1, 400))
        ]
        ids = sorted(str(uuid4()) for _ in sent)
        assert load(carts, sent, ids) == BatchCounts(len(sent), 0, 0)
        for cart, at, status in sent:
            if cart not in newest or newest[cart][0] < at:
                newest[cart] = (at, status)
    assert statuses(carts) == {cart: status for cart, (_, status) in newest.items()}
    assert fallbacks() == []


def test_rows_that_nobody_else_changes_are_put_by_their_addresses(carts: Database, fallbacks):
    load(carts, [("a", 10, "new"), ("b", 10, "new")])
    sent = [("a", 20, "paid"), ("b", 5, "older"), ("b", 10, "same"), ("c", 7, "new"), ("c", 7, "second")]
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(len(sent))]
    assert load(carts, sent, ids) == BatchCounts(5, 0, 0)
    assert statuses(carts) == {"a": "paid", "b": "new", "c": "new"}
    assert fallbacks() == []


@pytest.mark.parametrize(
    ("statement", "seconds", "expected", "reason"),
    [
        (INSERTED, NOW_MS / 1000 + 1, {"old": "paid", "new": "by other"}, "UniqueViolation"),
        (INSERTED, NOW_MS / 1000 - 1, {"old": "paid", "new": "new"}, "UniqueViolation"),
        (REPLACED, NOW_MS / 1000 + 1, {"old": "by other", "new": "new"}, CHANGED),
        (REPLACED, NOW_MS / 1000 - 1, {"old": "paid", "new": "new"}, CHANGED),
        ("DELETE FROM public.carts", 0, {"old": "paid", "new": "new"}, CHANGED),
        ("UPDATE public.carts SET cart_id = 'x'", 0, {"x": "new", "old": "paid", "new": "new"}, CHANGED),
    ],
)
def test_what_changes_after_the_look_up_is_not_overwritten_or_lost(
    carts: Database, fallbacks, monkeypatch, statement: str, seconds: float, expected: dict, reason: str
):
    load(carts, [("old", -5000, "new")])
    with carts.owner() as connection:
        meanwhile(monkeypatch, lambda: connection.execute(statement.format(seconds=seconds).encode()))
        assert load(carts, [("old", 20, "paid"), ("new", 20, "new")]) == BatchCounts(2, 0, 0)
    assert statuses(carts) == expected
    assert fallbacks() == [reason]


@pytest.mark.parametrize("statement", [INSERTED, REPLACED])
def test_a_loader_gives_way_to_one_that_has_not_committed_yet(
    carts: Database, fallbacks, monkeypatch, statement: str
):
    load(carts, [("old", 0, "new")])
    with carts.owner() as connection:
        connection.autocommit = False
        connection.execute(statement.format(seconds=NOW_MS / 1000 + 1).encode())
        commit = Timer(0.6, connection.commit)
        meanwhile(monkeypatch, commit.start)
        load(carts, [("old", 20, "paid"), ("new", 20, "new")])
        commit.join()
    assert "by other" in statuses(carts).values()
    assert set(statuses(carts)) == {"old", "new"}
    assert fallbacks() == ["LockNotAvailable"]


@pytest.mark.parametrize(("later", "expected"), [(1, "by other"), (-1, "paid")])
@pytest.mark.parametrize("statement", [INSERTED, REPLACED])
def test_after_waiting_for_another_load_the_newer_row_stays(
    carts: Database, monkeypatch, statement: str, later: int, expected: str
):
    load(carts, [("old", -5000, "new")])
    with carts.owner() as connection:
        connection.autocommit = False
        connection.execute(statement.format(seconds=NOW_MS / 1000 + later).encode())
        commit = Timer(0.05, connection.commit)
        meanwhile(monkeypatch, commit.start)
        load(carts, [("old", 20, "paid"), ("new", 20, "paid")])
        commit.join()
    cart = "new" if statement == INSERTED else "old"
    assert statuses(carts) == {"old": "paid", "new": "paid", cart: expected}


@pytest.mark.parametrize("moment", ["2025-01-01", "2027-01-01"])
def test_a_row_at_an_address_that_was_another_ones_stays(carts: Database, monkeypatch, moment: str):
    load(carts, [("old", 0, "new")])
    with carts.owner() as owner, psycopg.connect(carts.dsn("etl_loader")) as connection:

        def take_its_place() -> None:
            owner.execute("DELETE FROM public.carts")
            owner.execute("VACUUM (TRUNCATE false, INDEX_CLEANUP on) public.carts")
            owner.execute("INSERT INTO public.carts VALUES ('x', 'by other', '[]', NULL, %s)", [moment])
            assert owner.execute("SELECT ctid::text FROM public.carts").fetchone() == ("(0,1)",)

        meanwhile(monkeypatch, take_its_place)
        row = b"old\tpaid\t[]\t\\N\t2026-06-01T00:00:00+00:00\n"
        assert upsert.put_newest(connection, CARTS, row) is None
    assert statuses(carts) == {"x": "by other"}


def test_two_loaders_with_the_same_new_keys_leave_the_newest(carts: Database):
    batches = [[(f"cart{number}", at, str(at)) for number in range(2000)] for at in range(4)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda batch: load(carts, batch), batches))
    assert counts == [BatchCounts(2000, 0, 0)] * 4
    assert statuses(carts) == {f"cart{number}": "3" for number in range(2000)}


@pytest.mark.parametrize(
    ("key", "reasons"),
    [
        ("Zoë\u2028 🛒", []),
        ("{a,b} NULL 'x'", []),
        (" ", []),
        ("", []),
        ("a\tb", [ESCAPES] * 2),
        ("a\nb", [ESCAPES] * 2),
        ("a\\b", [ESCAPES] * 2),
        ('a"b', [ESCAPES] * 2),
    ],
)
def test_a_key_may_hold_any_character(carts: Database, fallbacks, key: str, reasons: list[str]):
    load(carts, [(key, 10, "new"), ("other", 10, "new")])
    load(carts, [(key, 20, "paid"), ("third", 10, "new")])
    assert statuses(carts) == {key: "paid", "other": "new", "third": "new"}
    assert fallbacks() == reasons


def test_numbers_that_are_written_differently_are_one_key(carts: Database, fallbacks):
    with carts.owner() as connection:
        connection.execute("ALTER TABLE public.carts ALTER cart_id TYPE numeric USING cart_id::numeric")
    contract = redeclared(CARTS, cart_id=Decimal)
    load(carts, [("1.0", 10, "new"), ("2", 10, "new")], contract=contract)
    load(carts, [("2", 20, "paid")], contract=contract)
    assert fallbacks() == []
    load(
        carts,
        [("1.00", 30, "paid"), ("1", 20, "older"), ("3.0", 5, "new"), ("3", 6, "newer")],
        contract=contract,
    )
    assert statuses(carts) == {Decimal(1): "paid", Decimal(2): "paid", Decimal(3): "newer"}
    assert fallbacks() == [OTHER_PLACE]


def test_a_table_somebody_partitioned_keeps_the_newest_too(carts: Database, fallbacks):
    with carts.owner() as connection:
        connection.execute("DROP TABLE public.carts")
        connection.execute(PARTITIONED)
    load(carts, [(f"cart{number}", 10, "new") for number in range(9)])
    load(carts, [(f"cart{number}", number * 3, "paid") for number in range(12)])
    assert statuses(carts) == {f"cart{number}": "new" if number < 4 else "paid" for number in range(12)}
    assert fallbacks() == [OTHER_PLACE]


def test_a_table_with_row_level_security_is_loaded_too(carts: Database, fallbacks):
    with carts.owner() as connection:
        connection.execute("ALTER TABLE public.carts ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE POLICY loaders ON public.carts TO etl_loader USING (true)")
    load(carts, [("a", 10, "new")])
    load(carts, [("a", 20, "paid"), ("b", 10, "new")])
    assert statuses(carts) == {"a": "paid", "b": "new"}
    assert fallbacks() == ["FeatureNotSupported"] * 2


@pytest.mark.parametrize("name", ["address", "found", "present", "staged_known"])
def test_the_key_may_have_a_name_that_the_statements_use(carts: Database, name: str):
    with carts.owner() as connection:
        connection.execute(f"ALTER TABLE public.carts RENAME cart_id TO {name}".encode())
    event = msgspec.defstruct("Named", [(name, str), ("items", list[str])])
    contract = replace(CARTS, event=event, key=name)
    with psycopg.connect(carts.dsn("etl_loader")) as connection:
        for moment in ("2026-01-01", "2026-01-02"):
            rows = f"a\t[]\t{moment}T00:00:00+00:00\n".encode()
            assert upsert.put_newest(connection, contract, rows) == 1
    ((day,),) = carts.rows("SELECT sent_at::date::text FROM public.carts")
    assert day == "2026-01-02"


def test_a_large_table_is_not_read_whole(carts: Database, fallbacks):
    with carts.owner() as connection:
        connection.execute(MANY)
        connection.execute("VACUUM ANALYZE public.carts")
        ((before,),) = connection.execute(SCANS).fetchall()
    load(carts, [(f"cart{number}", 0, "paid") for number in range(0, 20_000, 20)])
    ((after,),) = carts.rows(SCANS)
    assert list(statuses(carts).values()).count("paid") == 1000
    assert (after, fallbacks()) == (before, [])


def test_what_follows_in_the_transaction_waits_as_before(carts: Database):
    with psycopg.connect(carts.dsn("etl_loader")) as connection:
        before = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in PLANNING]
        assert upsert.put_newest(connection, CARTS, b"a\tnew\t[]\t\\N\t2026-01-01T00:00:00+00:00\n") == 1
        assert [connection.execute(f"SHOW {name}".encode()).fetchone() for name in PLANNING] == before


def test_a_table_that_is_not_unique_by_the_key_is_told_before_any_message(carts: Database):
    by_status = replace(CARTS, event=redeclared(CARTS, status=str).event, key="status")
    with Warehouse(carts.dsn("etl_loader")) as database:
        assert checks.loading_problems(database, CARTS) == []
        (problem,) = checks.loading_problems(database, by_status)
    assert problem.startswith("table public.carts is not unique by status, the contract's key: CREATE UNIQUE")


def test_a_loader_that_may_not_replace_rows_is_told_before_any_message(carts: Database):
    with carts.owner() as connection:
        connection.execute("SELECT etl.grant_contract('public.carts', '{email}')")
    with Warehouse(carts.dsn("etl_loader")) as database:
        problems = checks.loading_problems(database, CARTS)
    assert [problem.partition(":")[0] for problem in problems] == [
        "role etl_loader may not SELECT on public.carts",
        "role etl_loader may not UPDATE on public.carts",
    ]
