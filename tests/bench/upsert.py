"""What an upsert costs beside an append. Prints CPU seconds of Postgres for a million rows, and the ratios.

    QUEUE_ETL_OWNER_DSN=... python -m tests.bench.upsert [--rounds 5] [--present 1000000] [--rows 100000]

Both tables hold the same rows before, and get the same rows in batches of 10,000: half of them have a key
that is there already, or one in as many as --one-in says. These are spread over the whole table, so that
nearly each is on a page of its own; with --recent they are the last that were inserted, as with orders that
change while they are new. The table of the append has no index, as user_logins has none. That of `indexed`
has one of the key, which is not unique: an append to a table in which people look rows up.

`least` is no upsert: it copies the new rows, and changes one column of each old row, which it finds by its
address, in the order of the table. It looks no key up, stages nothing, sorts nothing. What it costs, Postgres
needs for heap, index and log.

`conflict` is the upsert by ON CONFLICT, as it is where other loaders write the same rows. The last column is
the CPU of this process while it loads; that of `least` says nothing.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from unittest.mock import patch
from uuid import UUID, uuid4

import msgspec
import psycopg
from psycopg import sql

from include.queue_etl.contract import Contract, SentAt
from include.queue_etl.postgres import tables, upsert
from include.queue_etl.postgres.connection import Connection
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.loading import BatchCounts, Load, Written, load_batch
from include.queue_etl.postgres.runs import ENSURE_DAYS, RunStore
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch, ids_digest
from tests.bench.scratch import Database, Server

BATCH = 10_000
TABLE = """
    CREATE TABLE public.states (key varchar(40) NOT NULL, a text, b text, c text, number integer,
                                sent_at timestamptz NOT NULL);
    ALTER TABLE public.states SET (fillfactor = {fillfactor});
    INSERT INTO public.states
    SELECT 'key-' || number, 'ios', repeat('x', 52), repeat('y', 52), 2, '2026-01-01'
    FROM generate_series(1, %(present)s) AS number;
    SELECT etl.grant_contract('public.states', '{{}}', is_upsert => true);
    VACUUM ANALYZE public.states
"""
INDEX = "CREATE {kind} INDEX ON public.states (key)"
CONTENDERS = ("append", "indexed", "upsert", "conflict", "least")
ADDRESSES = "SELECT ctid::text FROM public.states WHERE key = ANY (%s) ORDER BY ctid"
COPY_LEDGER = sql.SQL("COPY etl.ledger ({}) FROM STDIN (FORMAT binary)").format(
    sql.SQL(", ").join(map(sql.Identifier, copy_binary.LEDGER))
)


class Used(NamedTuple):
    """CPU seconds."""

    postgres: float
    client: float


class State(msgspec.Struct):
    """One row of the table, all of whose fields are texts or a number."""

    key: str
    a: str
    b: str
    c: str
    number: int


APPEND = Contract("states", "states", "public.states", State, (SentAt("sent_at"),))
UPSERT = replace(APPEND, key="key")


def main() -> int:
    """Runs it; 0, or 1 where a row is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.upsert", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="all run so often, in turn")
    parser.add_argument("--present", type=int, default=1_000_000, help="rows in the table before")
    parser.add_argument("--rows", type=int, default=100_000, help="rows to load")
    parser.add_argument("--recent", action="store_true", help="replaced are the last rows of the table")
    parser.add_argument("--one-in", type=int, default=2, help="of so many rows one replaces a row; 0: none")
    options = parser.parse_args()
    server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
    found: dict[str, list[Used]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS if number % 2 else reversed(CONTENDERS):
            found[name].append(measure(server, name, options))
            print(".", end="", file=sys.stderr, flush=True)
    medians = {name: median(used, options.rows) for name, used in found.items()}
    print("\n         Postgres  / append / indexed  client  (medians; CPU seconds for a million rows)")
    for name, (postgres, client) in medians.items():
        ratios = [ratio(postgres, medians[other].postgres) for other in ("append", "indexed")]
        print(f"{name:<9}{postgres:8.2f}{ratios[0]:>10}{ratios[1]:>10}{client:8.2f}")
    print(f"load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return 0


def ratio(seconds: float, of_other: float) -> str:
    """`-` where the other took less than the clock shows: Postgres is timed in ticks of 10 ms."""
    return f"{seconds / of_other:.2f}" if of_other else "-"


def median(used: Sequence[Used], rows: int) -> Used:
    """Of all rounds, for a million rows."""
    return Used(*(statistics.median(seconds) * 1e6 / rows for seconds in zip(*used, strict=True)))


def measure(server: Server, name: str, options: argparse.Namespace) -> Used:
    """Loads the rows; CPU seconds of the server and of this process."""
    present, rows = options.present, options.rows
    contract = APPEND if name in ("append", "indexed") else UPSERT
    with server.database() as database:
        make_table(database, contract, present, has_index=name != "append")
        run_id = uuid4()
        replaced = replaced_numbers(present, rows // options.one_in if options.one_in else 0, options.recent)
        numbers = key_numbers(present, rows, options.one_in, replaced)
        batches = [batch(run_id, numbers[first : first + BATCH]) for first in range(0, rows, BATCH)]
        with Connected(database.loader_dsn) as connected:
            RunStore(connected).open_run(run_id, contract, "bench", {})
        parts = [part(database, masked, present) for masked in batches]
        server.checkpoint()
        postgres, client = server.cpu_seconds(), time.process_time()
        with Connected(database.loader_dsn) as connected:
            for number, (masked, (new, addresses)) in enumerate(zip(batches, parts, strict=True)):
                load = Load(run_id, contract, f"{number:04}", masked, RejectedBatch(b""))
                if name == "least":
                    load_least(connected, load, new, addresses)
                elif name == "conflict":
                    with patch.object(upsert, "put_newest", return_value=None):
                        RunStore(connected).load(run_id, contract, load.batch, masked, load.rejected)
                else:
                    RunStore(connected).load(run_id, contract, load.batch, masked, load.rejected)
        client = time.process_time() - client
        used = Used(server.cpu_seconds() - postgres, client)
        expected = present + rows - (len(replaced) if contract.key else 0)
        if database.rows("SELECT count(*) FROM public.states") != [(expected,)]:
            sys.exit("bench: rows are missing")
        return used


def make_table(database: Database, contract: Contract, present: int, has_index: bool) -> None:
    """With the room in its pages that `contract migration` gives it."""
    fillfactor = tables.of_contract(contract).fillfactor or 100
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        for statement in TABLE.format(fillfactor=fillfactor).split(";"):
            connection.execute(statement.encode(), {"present": present} if "%(" in statement else None)
        if has_index:
            connection.execute(INDEX.format(kind="UNIQUE" if contract.key else "").encode())


def part(database: Database, masked: MaskedBatch, present: int) -> tuple[bytes, list[str]]:
    """Lines of the rows that are new, in the order of their keys, and where the others are in the table."""
    lines = sorted(masked.rows.splitlines(keepends=True))
    numbers = [int(line.partition(b"\t")[0].removeprefix(b"key-")) for line in lines]
    new = b"".join(line for line, number in zip(lines, numbers, strict=True) if number > present)
    keys = [f"key-{number}" for number in numbers if number <= present]
    with psycopg.connect(database.owner_dsn) as connection:
        found = connection.execute(ADDRESSES, [keys]).fetchall()
    return new, [address for (address,) in found]


def load_least(connected: Connected, load: Load, new: bytes, addresses: list[str]) -> BatchCounts:
    """The same ledger and the same records as every load; rows as the first lines of this module say."""

    def write(connection: Connection, load: Load) -> Written:
        with connection.cursor() as cursor:
            with cursor.copy(COPY_LEDGER) as copy:
                copy.write(copy_binary.stream(load.masked.entries))
            with cursor.copy("COPY public.states (key, a, b, c, number, sent_at) FROM STDIN") as copy:
                copy.write(new)
            cursor.execute(
                "UPDATE public.states SET sent_at = now() WHERE ctid = ANY (%s::tid[])", [addresses]
            )
        return Written(load.masked.accepted, {})

    connected.execute(ENSURE_DAYS, days=load.masked.sent_days)
    return connected.transaction(lambda connection: load_batch(connection, load, write))


def replaced_numbers(present: int, count: int, recent: bool) -> Sequence[int]:
    """Numbers of the rows in the table that are replaced."""
    if recent or not count:
        return range(present - count + 1, present + 1)
    step = max(1, present // count)
    return [1 + number * step % present for number in range(count)]


def key_numbers(present: int, rows: int, one_in: int, replaced: Sequence[int]) -> list[int]:
    """Of the rows that come: those that replace a row are the last one in so many."""
    numbers = list(range(present + 1, present + rows + 1))
    if one_in:
        numbers[one_in - 1 :: one_in] = replaced
    return numbers


def batch(run_id: UUID, numbers: Sequence[int]) -> MaskedBatch:
    """A masked batch, sent now, with rows of these keys."""
    now = datetime.now(UTC)
    today = str(now.date())
    ids = sorted(str(uuid4()) for _ in range(BATCH))
    line = "key-{}\tios\t" + "x" * 52 + "\t" + "y" * 52 + f"\t2\t{now.isoformat()}\n"
    return MaskedBatch(
        ids_digest=ids_digest(ids),
        entries=copy_binary.entries(1, run_id, [today] * BATCH, ids, ["L"] * BATCH),
        rows="".join(map(line.format, numbers)).encode(),
        accepted=BATCH,
        rejected={},
        anomalies={},
        sent_days=[today],
        key_id=7,
    )


if __name__ == "__main__":
    sys.exit(main())
