"""What loading costs by how many partitions the table has. Prints CPU seconds for a million rows.

    QUEUE_ETL_OWNER_DSN=... python -m tests.bench.partitions [--rounds 5] [--partitions 1,24,400]

One process loads ten batches of 10,000 rows over one connection, as the step does it for a run. With
--connections each batch has one of its own, as in an Airflow task of its own: a session's first use of a
partitioned table reads the bounds of all partitions, which is where their number shows.
"""

import argparse
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Month
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.transform import copy_binary, partitions
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch, ids_digest
from tests.bench.scratch import Server

ROWS, BATCH = 100_000, 10_000
DROP = """
    DO $$
    DECLARE part regclass;
    BEGIN
        FOR part IN SELECT partition_table FROM etl.partition_ranges('public.user_logins') LOOP
            EXECUTE format('DROP TABLE %s', part);
        END LOOP;
    END $$
"""
MAKE = "SELECT etl.ensure_partition('public.user_logins', (current_date - make_interval(months => %s))::date)"


def main() -> int:
    """Runs it; 0, or 1 where a row is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.partitions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="everybody runs so often, in turn")
    parser.add_argument("--partitions", default="1,24,400")
    parser.add_argument("--connections", action="store_true", help="one for each batch")
    options = parser.parse_args()
    counts = [int(count) for count in options.partitions.split(",")]
    server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for number in range(options.rounds):
        for count in counts if number % 2 else reversed(counts):
            found[count].append(measure(server, count, options.connections))
            print(".", end="", file=sys.stderr, flush=True)
    print("\npartitions  client  Postgres  (medians; CPU seconds for a million rows)")
    for count in counts:
        client, postgres = (statistics.median(used) * 1e6 / ROWS for used in zip(*found[count], strict=True))
        print(f"{count:10}  {client:6.2f}  {postgres:8.2f}")
    return 0


def measure(server: Server, count: int, connections: bool) -> tuple[float, float]:
    """Loads ROWS rows into a table with so many partitions; CPU seconds of this process and of the server."""
    with server.database() as database:
        with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
            connection.execute(DROP)
            for months_ago in range(count):
                connection.execute(MAKE, [months_ago])
        run_id = uuid4()
        batches = [batch(run_id) for _ in range(ROWS // BATCH)]
        with Connected(database.loader_dsn) as connected:
            RunStore(connected).open_run(run_id, CONTRACT, "bench", {})
        server.checkpoint()
        postgres, client = server.cpu_seconds(), time.process_time()
        with Connected(database.loader_dsn) as connected:
            for number, masked in enumerate(batches):
                RunStore(connected).load(run_id, CONTRACT, f"{number:04}", masked, RejectedBatch(b""))
                if connections:
                    connected.close()  # it connects again
        client, postgres = time.process_time() - client, server.cpu_seconds() - postgres
        if database.rows("SELECT count(*) FROM public.user_logins") != [(ROWS,)]:
            sys.exit("bench: rows are missing")
        return client, postgres


def batch(run_id: UUID) -> MaskedBatch:
    """A masked batch as of login events that were sent today."""
    today = str(datetime.now(UTC).date())
    ids = sorted(str(uuid4()) for _ in range(BATCH))
    line = "{}\tios\t" + "x" * 52 + "\t" + "y" * 52 + f"\tDE\t2\t{today}\n"
    return MaskedBatch(
        ids_digest=ids_digest(ids),
        entries=copy_binary.entries(1, run_id, [today] * BATCH, ids, ["L"] * BATCH),
        rows="".join(line.format(one) for one in ids).encode(),
        accepted=BATCH,
        rejected={},
        anomalies={},
        sent_days=[today],
        key_id=7,
        partitions=partitions.first_days(Month("create_date"), [today]),
    )


if __name__ == "__main__":
    sys.exit(main())
