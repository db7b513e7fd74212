"""What a load costs by how many partitions the table has: `./dev bench --partitions 1,24,400`.

Each number has a database of its own, and all of them load a batch of 10,000 rows in turn (turns.py).
Measured is the CPU time of the session's process in the server, to the nanosecond: of all that the server
does, it alone sees the partitions. The first load of a session is told apart, for it reads their bounds.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Month
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.postgres.runs import RunStore
from include.queue_etl.transform import copy_binary, partitions
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch, ids_digest
from tests.bench.scratch import Database, Server
from tests.bench.turns import Turns

BATCH, LOADS = 10_000, 20  # rows of a load at most, loads of a session
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


def run(server: Server, counts: Sequence[int], rows: int, rounds: int, *, as_json: bool) -> int:
    """Measure loads of so many rows, a session a round, and print it; 0, or 1 where a row is missing."""
    rows = min(rows, BATCH)
    firsts: dict[str, list[float]] = {_name(count): [] for count in counts}
    others: dict[str, list[float]] = {_name(count): [] for count in counts}
    with ExitStack() as ends:
        databases = {_name(count): ends.enter_context(server.database()) for count in counts}
        for count, database in zip(counts, databases.values(), strict=True):
            _make_partitions(database, count)
        for _ in range(rounds):
            for name, seconds in _round(databases, rows).items():
                firsts[name].append(seconds[0])
                others[name] += seconds[1:]
        found = {
            database.rows("SELECT count(*) FROM public.user_logins")[0][0] for database in databases.values()
        }
    if found != {rows * LOADS * rounds}:
        print("bench: rows are missing", file=sys.stderr)
        return 1
    first = Turns("first of a session", "cpu_ms_a_load", 1e3, firsts)
    later = Turns("load", "cpu_s_a_million_rows", 1e6 / rows, others)
    if as_json:
        print(json.dumps({"load": later.as_json(), "first_of_a_session": first.as_json()}, indent=2))
    else:
        print(later.table(), first.table(), sep="\n\n")
    return 0


def _name(count: int) -> str:
    return f"{count} partitions"


def _make_partitions(database: Database, count: int) -> None:
    """The last one is of this month, and so many there are."""
    with psycopg.connect(database.owner_dsn, autocommit=True) as connection:
        connection.execute(DROP)
        for months_ago in range(count):
            connection.execute(MAKE, [months_ago])


def _round(databases: dict[str, Database], rows: int) -> dict[str, list[float]]:
    """CPU seconds of LOADS loads into each, of a session each."""
    seconds: dict[str, list[float]] = {name: [] for name in databases}
    with ExitStack() as ends:
        sessions = {name: _Session(ends, database) for name, database in databases.items()}
        for number in range(LOADS):
            for name in list(sessions) if number % 2 else reversed(sessions):
                seconds[name].append(sessions[name].load(number, rows))
    print(".", end="", file=sys.stderr, flush=True)
    return seconds


class _Session:
    """A run's loads, over one connection."""

    def __init__(self, ends: ExitStack, database: Database) -> None:
        connected = ends.enter_context(Connected(database.loader_dsn))
        ((pid,),) = connected.execute("SELECT pg_backend_pid()")
        self._used = Path(f"/proc/{pid}/schedstat")
        self._store, self._run_id = RunStore(connected), uuid4()
        self._store.open_run(self._run_id, CONTRACT, f"bench {self._run_id}", {})

    def load(self, number: int, rows: int) -> float:
        """Load a batch; CPU seconds of the session's process."""
        masked = batch(self._run_id, rows)
        before = self._nanoseconds()
        self._store.load(self._run_id, CONTRACT, f"{number:04}", masked, RejectedBatch(b""))
        return (self._nanoseconds() - before) / 1e9

    def _nanoseconds(self) -> int:
        """https://docs.kernel.org/scheduler/sched-stats.html: the first is the time on a CPU."""
        return int(self._used.read_text().split()[0])


def batch(run_id: UUID, rows: int) -> MaskedBatch:
    """A masked batch as of login events that were sent today."""
    today = str(datetime.now(UTC).date())
    ids = sorted(str(uuid4()) for _ in range(rows))
    line = "{}\tios\t" + "x" * 52 + "\t" + "y" * 52 + f"\tDE\t2\t{today}\n"
    return MaskedBatch(
        ids_digest=ids_digest(ids),
        entries=copy_binary.entries(1, run_id, [today] * rows, ids, ["L"] * rows),
        rows="".join(line.format(one) for one in ids).encode(),
        accepted=rows,
        rejected={},
        anomalies={},
        sent_days=[today],
        key_id=7,
        partitions=partitions.first_days(Month("create_date"), [today]),
    )
