"""A contract with a key: a row is replaced by one that was sent later, in whatever order they come."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Annotated
from uuid import uuid4

import msgspec
import pytest

from include.queue_etl.contract import Contract, Derived, Personal, Rejected, SentAt
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.postgres import checks, tables
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


def load(database: Database, sent: list[Sent], ids: list[str] | None = None) -> BatchCounts:
    """A batch of these messages, as one run of its own."""
    ids = ids or [str(uuid4()) for _ in sent]
    order = sorted(range(len(sent)), key=lambda index: ids[index])
    run_id = uuid4()
    with open_store(database.dsn("etl_loader")) as store:
        run = store.open_run(run_id, CARTS, f"run {run_id}", {})
        raw = RawBatch(
            run.queue_id,
            [ids[index] for index in order],
            [NOW_MS + sent[index][1] for index in order],
            [1] * len(sent),
            [body(sent[index][0], sent[index][2]) for index in order],
        )
        masked, rejected = mask_batch(raw, CARTS, KEYSET.open(), SETTINGS, run_id)
        return store.load(run_id, CARTS, "0000", masked, rejected)


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
