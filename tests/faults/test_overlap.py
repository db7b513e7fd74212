"""Runs that take each other's messages all the time."""

import json
from concurrent.futures import ThreadPoolExecutor

from psycopg.conninfo import make_conninfo

from tests.faults import proxy, worker
from tests.faults.accounts import Balance, balance
from tests.faults.bodies import some, texts
from tests.faults.ground import Lane
from tests.faults.loaders import DEADLOCKS

RUNS = 4
GOOD = Balance(lost=0, duplicate=0, wrong_kind=0, left_on_queue=0)


def one_run(lane: Lane, options: dict[str, str]) -> int:
    """How many of its messages another run had loaded already."""
    ended = worker.run(lane, "drain", "--max", "50", "--json", **options)
    assert ended.code == 0, ended.last_line
    return int(json.loads(ended.output)["duplicates"])


def test_four_runs_at_once_whose_messages_come_back_early_load_each_once(lane: Lane) -> None:
    deadlocks = lane.ground.rows(DEADLOCKS)
    sent = some(lane.tag, 100)
    lane.send(texts(sent))
    # Postgres is so far away that a message comes back long before its run has loaded it.
    with proxy.serving(lane.ground.settings.postgres_port, latency_seconds=0.04) as far:
        options = {
            "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "2",
            "QUEUE_ETL_WAREHOUSE_DSN": make_conninfo(lane.ground.warehouse_dsn, port=far.port),
        }
        with ThreadPoolExecutor(RUNS) as at_once:
            duplicates = sum(at_once.map(lambda _: one_run(lane, options), range(3 * RUNS)))
    assert duplicates > 20, "the runs did not take each other's messages"

    while lane.on_queue():
        worker.wait_until_visible(lane)
        assert worker.run(lane, "drain").code == 0
    assert balance(lane, sent) == GOOD
    assert lane.ground.rows(DEADLOCKS) == deadlocks
