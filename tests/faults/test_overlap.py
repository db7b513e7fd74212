"""Runs that take each other's messages all the time."""

import json
from concurrent.futures import ThreadPoolExecutor

from psycopg.conninfo import make_conninfo

from tests.faults import proxy, worker
from tests.faults.bodies import Sent, some, texts
from tests.faults.loaders import DEADLOCKS
from tests.faults.reconciliation import GOOD, balance
from tests.faults.servers import QueueUnderTest

RUNS = 4


def one_run(tested: QueueUnderTest, options: dict[str, str]) -> int:
    """How many of its messages another run had loaded already."""
    ended = worker.run(tested, "drain", "--max", "50", "--json", **options)
    assert ended.code == 0, ended.last_line
    return int(json.loads(ended.output)["duplicates"])


def overlapping_runs(tested: QueueUnderTest, latency_seconds: float) -> int:
    """Four at once, twelve in all, with Postgres so far away; how many messages they found loaded already."""
    with proxy.serving(tested.servers.settings.postgres_port, latency_seconds=latency_seconds) as far:
        options = {
            "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "2",
            "QUEUE_ETL_WAREHOUSE_DSN": make_conninfo(tested.servers.warehouse_dsn, port=far.port),
        }
        with ThreadPoolExecutor(RUNS) as at_once:
            return sum(at_once.map(lambda _: one_run(tested, options), range(3 * RUNS)))


def test_four_runs_at_once_whose_messages_come_back_early_load_each_once(tested: QueueUnderTest) -> None:
    deadlocks = tested.servers.rows(DEADLOCKS)
    sent: list[Sent] = []
    # Messages are to come back before their run has loaded them: how far that is depends on the machine.
    for latency_seconds in (0.04, 0.08, 0.16, 0.32):
        more = some(tested.tag, 100, first=len(sent))
        sent += more
        tested.send(texts(more))
        duplicates = overlapping_runs(tested, latency_seconds)
        if duplicates > 20:
            break
    assert duplicates > 20, "the runs did not take each other's messages"

    while tested.on_queue():
        worker.wait_until_visible(tested)
        assert worker.run(tested, "drain").code == 0
    assert balance(tested, sent) == GOOD
    assert tested.servers.rows(DEADLOCKS) == deadlocks
