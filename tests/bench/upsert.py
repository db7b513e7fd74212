"""What an upsert costs beside an append. Prints CPU seconds of Postgres for a million rows, and the ratio.

    QUEUE_ETL_OWNER_DSN=... python -m tests.bench.upsert [--rounds 5] [--present 1000000] [--rows 100000]

Both tables hold the same rows before, and get the same rows in batches of 10,000: half of them have a key
that is there already. The table of the append has no index, as user_logins has none.
"""

import argparse
import os
import statistics
import sys
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import psycopg

from include.queue_etl.contract import Contract, SentAt
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch, ids_digest
from tests.bench.scratch import Server

BATCH = 10_000
TABLE = """
    CREATE TABLE public.states (key varchar(40) NOT NULL, a text, b text, c text, number integer,
                                sent_at timestamptz NOT NULL);
    INSERT INTO public.states
    SELECT 'key-' || number, 'ios', repeat('x', 52), repeat('y', 52), 2, '2026-01-01'
    FROM generate_series(1, %(present)s) AS number;
    SELECT etl.grant_contract('public.states', '{}', is_upsert => true);
    VACUUM ANALYZE public.states
"""
UNIQUE = "CREATE UNIQUE INDEX ON public.states (key)"


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
    parser.add_argument("--rounds", type=int, default=5, help="both run so often, in turn")
    parser.add_argument("--present", type=int, default=1_000_000, help="rows in the table before")
    parser.add_argument("--rows", type=int, default=100_000, help="rows to load")
    options = parser.parse_args()
    server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
    found: dict[str, list[float]] = {"append": [], "upsert": []}
    for number in range(options.rounds):
        pair = [("append", APPEND), ("upsert", UPSERT)]
        for name, contract in pair if number % 2 else reversed(pair):
            found[name].append(measure(server, contract, options.present, options.rows))
            print(".", end="", file=sys.stderr, flush=True)
    append, upsert = (statistics.median(used) * 1e6 / options.rows for used in found.values())
    print("\n        Postgres  (medians; CPU seconds for a million rows)")
    print(f"append  {append:8.2f}\nupsert  {upsert:8.2f}\nratio   {upsert / append:8.2f}")
    return 0


def measure(server: Server, contract: Contract, present: int, rows: int) -> float:
    """Loads the rows; CPU seconds of the server."""
    with server.database() as database:
        with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
            for statement in TABLE.split(";"):
                connection.execute(statement, {"present": present} if "%(" in statement else None)
            if contract.key:
                connection.execute(UNIQUE)
        run_id = uuid4()
        batches = [batch(run_id, present, first, rows) for first in range(0, rows, BATCH)]
        with Connected(database.loader_dsn) as connected:
            RunStore(connected).open_run(run_id, contract, "bench", {})
        server.checkpoint()
        used = server.cpu_seconds()
        with Connected(database.loader_dsn) as connected:
            for number, masked in enumerate(batches):
                RunStore(connected).load(run_id, contract, f"{number:04}", masked, RejectedBatch(b""))
        used = server.cpu_seconds() - used
        expected = present + (rows // 2 if contract.key else rows)
        if database.rows("SELECT count(*) FROM public.states") != [(expected,)]:
            sys.exit("bench: rows are missing")
        return used


def batch(run_id: UUID, present: int, first: int, rows: int) -> MaskedBatch:
    """A masked batch, sent now; every second row has a key that is in the table, spread over all of it."""
    now = datetime.now(UTC)
    today = str(now.date())
    ids = sorted(str(uuid4()) for _ in range(BATCH))
    step = max(1, 2 * present // rows)
    numbers = [
        1 + number // 2 * step % present if number % 2 else present + 1 + number
        for number in range(first, first + BATCH)
    ]
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
