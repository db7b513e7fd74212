"""How long the server takes for each view of a large warehouse: `python -m tests.page.speed`.

100,000 runs of thirty days, 10,000,000 ledger entries and 100,000 quarantined messages, written by SQL into
a stack of its own. Measured is what the page does in the api-server: read, and write the document; beside it
are only Airflow's login and the network. The queues are taken as answered.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from include.contracts import load_contracts
from include.queue_etl.page.depths import Depths, QueueFigures
from include.queue_etl.page.rendering import Place, Renderer
from include.queue_etl.page.staged import Staged
from include.queue_etl.page.store import PageStore
from include.queue_etl.page.views import RANGES, Viewer, Views
from include.queue_etl.postgres.connection import Database
from include.queue_etl.settings import Settings
from include.queue_etl.staging.stores import LocalFolder
from tests.faults.servers import running

LIMIT_SECONDS = 0.15
REPEATS = 15
LEDGER = """
    INSERT INTO etl.ledger
    SELECT 1, current_date - n %% 14, gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'L'
    FROM generate_series(1, %(entries)s) AS n
"""
RUNS = """
    INSERT INTO etl.runs (run_id, contract, table_name, queue_id, airflow_run_id, state, started_at,
                          finished_at, received, loaded, quarantined, duplicates, deleted, delete_failed,
                          released,
                          quarantined_by_reason, unknown_fields, staged_bytes, oldest_age_seconds,
                          extract_seconds, mask_seconds, load_seconds, finish_seconds, personal_data_checked,
                          personal_data_found)
    SELECT gen_random_uuid(), 'user_logins', 'public.user_logins', 1, 'scheduled__' || n,
           CASE WHEN n %% 1000 = 7 THEN 'failed' ELSE 'succeeded' END, began, began + interval '9 seconds',
           n %% 900, n %% 900, 0, 0, n %% 900, 0, 0, '{"bad_json": 1}', '{}', 300, 30, 1.5, 0.4, 0.6, 0.3, 9,
           '{}'
    FROM (SELECT n, now() - n * interval '26 seconds' AS began FROM generate_series(1, %(runs)s) AS n) AS runs
"""
BATCHES = """
    INSERT INTO etl.batches (run_id, batch, ids_digest, loaded, staged_bytes, mask_seconds)
    SELECT run_id, '0000', '', loaded, 300, 0.4 FROM etl.runs
"""
QUARANTINE = """
    INSERT INTO etl.quarantine
    SELECT 1, current_date - n %% 14, gen_random_uuid(), '00000000-0000-0000-0000-000000000001',
           'bad_type field_' || n %% 20, decode(repeat('ab', 300), 'hex'), 300, 1,
           now() - n * interval '20 seconds', CASE WHEN n %% 4 = 0 THEN now() END, NULL,
           '$: object, field_' || n %% 40 || ': string, other: integer, and_more: null|string'
    FROM generate_series(1, %(quarantined)s) AS n
"""


def fill(owner: psycopg.Connection, sizes: dict[str, int]) -> None:
    owner.execute("INSERT INTO etl.queues (name) VALUES ('login-queue')")
    owner.execute(
        "SELECT etl.ensure_ledger_partition(day::date)"
        " FROM generate_series(current_date - 14, current_date, interval '1 day') AS day"
    )
    for statement in (RUNS, BATCHES, QUARANTINE, LEDGER):
        owner.execute(statement.encode(), sizes)
    owner.execute("VACUUM ANALYZE")


@dataclass(frozen=True)
class Cost:
    """Of one view: the median of what passed on the clock, and the mean of what was computed, in seconds."""

    clock: float
    page: float
    postgres: float

    @property
    def computed(self) -> float:
        """What the server takes where nobody else computes: all is in memory, and nothing is waited for."""
        return self.page + self.postgres


def measured(page: Views, database: Database) -> dict[str, Cost]:
    """What each view costs, by its name."""
    everyone = Viewer(lambda _: True, may_redrive=True)
    reads: dict[str, tuple[str, Callable[[], Any]]] = {
        "overview": ("overview", lambda: page.overview(everyone)),
        **{
            f"contract {name}": ("contract", partial(page.contract, everyone, "user_logins", name))
            for name in RANGES
        },
        "quarantine": ("quarantine", lambda: page.quarantine(everyone, "user_logins")),
        "keys": ("keys", lambda: page.keys(everyone)),
        "storage": ("storage", lambda: page.storage(everyone)),
        "run": ("run", lambda: page.run(everyone, "user_logins", "scheduled__1")),
    }
    backend = psutil.Process(database.execute("SELECT pg_backend_pid()")[0][0])
    return {name: _cost(backend, *read) for name, read in reads.items()}


def _cost(backend: psutil.Process, view: str, read: Callable[[], Any]) -> Cost:
    renderer, times = Renderer(), []
    for repeat in range(REPEATS + 1):
        if repeat == 1:  # the first one compiles templates and fills caches
            own, theirs = time.process_time(), sum(backend.cpu_times()[:2])
        started = time.perf_counter()
        assert renderer.document(view, Place("", "/queue-etl"), read).status == 200
        times.append(time.perf_counter() - started)
    own, theirs = time.process_time() - own, sum(backend.cpu_times()[:2]) - theirs
    return Cost(statistics.median(times[1:]), own / REPEATS, theirs / REPEATS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("runs", 100_000), ("entries", 10_000_000), ("quarantined", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="queue-etl-page-") as state, running(Path(state, "s")) as servers:
        with servers.owner() as owner:
            fill(owner, sizes)
        return report(servers.environment["QUEUE_ETL_OPS_DSN"])


def report(dsn: str) -> int:
    """Print what each view costs in this warehouse; 1 where one computes for longer than the limit."""
    with Database(dsn) as database:
        store = PageStore(database)
        depths = Depths(lambda _: QueueFigures(5, 1, 0, 30, 345_600), kept_seconds=3_600)
        staged = Staged(lambda _: LocalFolder(Path("/nowhere")))
        page = Views(load_contracts, lambda _: store, depths, lambda: Settings(staging="/"), staged)
        costs = measured(page, database)
    print(f"{'milliseconds':<14}{'computed':>10}{'page':>8}{'Postgres':>10}{'on the clock':>14}")
    for name, cost in costs.items():
        told = (1000 * value for value in (cost.computed, cost.page, cost.postgres, cost.clock))
        print("{:<14}{:>10.0f}{:>8.0f}{:>10.0f}{:>14.0f}".format(name, *told))
    return int(any(cost.computed > LIMIT_SECONDS for cost in costs.values()))


if __name__ == "__main__":
    raise SystemExit(main())
