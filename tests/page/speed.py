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
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from include.contracts import load_contracts
from include.queue_etl.page.depths import Depths, QueueFigures
from include.queue_etl.page.rendering import Place, Renderer
from include.queue_etl.page.store import PageStore
from include.queue_etl.page.views import RANGES, Viewer, Views
from include.queue_etl.postgres.connection import Database
from include.queue_etl.settings import Settings
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


def measured(page: Views) -> dict[str, list[float]]:
    """Seconds of each view, by its name."""
    renderer, everyone = Renderer(), Viewer(lambda _: True, may_redrive=True)
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
    found = {}
    for name, (view, read) in reads.items():
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            document = renderer.document(view, Place("", "/queue-etl"), read)
            times.append(time.perf_counter() - started)
            assert document.status == 200
        found[name] = times
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("runs", 100_000), ("entries", 10_000_000), ("quarantined", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="queue-etl-page-") as state, running(Path(state, "s")) as servers:
        with servers.owner() as owner:
            fill(owner, sizes)
        with Database(servers.environment["QUEUE_ETL_OPS_DSN"]) as database:
            store = PageStore(database)
            depths = Depths(lambda _: QueueFigures(5, 1, 0, 30, 345_600), kept_seconds=3_600)
            found = measured(Views(load_contracts, lambda _: store, depths, lambda: Settings(staging="/")))
    for name, times in found.items():
        median, most = statistics.median(times) * 1000, max(times) * 1000
        print(f"{name:<14}{median:8.1f} ms median{most:8.1f} ms at most")
    return int(any(statistics.median(times) > LIMIT_SECONDS for times in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
