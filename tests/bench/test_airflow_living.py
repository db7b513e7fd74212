"""Freshness and backlog are measured on runs that the scheduler makes. No time is asserted."""

import json
import os
import subprocess
import tempfile

from tests.bench import airflow_living
from tests.bench.contenders import ROOT
from tests.support.airflow_settings import LEAN

RATE = 5.0


def test_a_backlog_and_senders_are_measured_while_nobody_starts_a_run():
    command = [
        str(ROOT / "dev"),
        "bench",
        "--backlog=300",
        "--freshness",
        "--rates=5",
        "--seconds=3",
        "--json",
    ]
    with tempfile.TemporaryDirectory(prefix="queue-etl-") as state:
        env = {**os.environ, **LEAN, "DEV_STATE": state, "QUEUE_ETL_FRESHNESS_SECONDS": "0"}
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["ours"]
    backlog = found["backlog"]
    assert backlog["outcome"] == {"lost": 0, "doubled": 0, "left": 0}
    assert backlog["messages"] >= 300
    assert backlog["sent"] > 0  # by the sender beside it
    assert backlog["dag_runs"] >= 1
    assert backlog["messages_per_s"] > 0
    assert [one["rate"] for one in found["freshness"]] == [RATE]
    for one in found["freshness"]:
        assert (one["lost"], one["doubled"]) == (0, 0)
        assert one["sent"] >= 2.9 * one["rate"]
        assert 0 < one["p50"] <= one["p95"] <= one["most"]
        assert one["requests"]["DeleteMessageBatch"] >= one["sent"] / 10
    said = airflow_living.table({"ours": found})
    assert f"backlog of {backlog['messages']:,}: " in said
    assert "\n5 messages/s: p50 " in said


def test_requests_of_the_benchmark_itself_are_not_counted():
    before = {"ReceiveMessage": 5, "SendMessageBatch": 1}
    after = {"ReceiveMessage": 9, "SendMessageBatch": 7, "DeleteMessageBatch": 2, "Statistics": 3}
    assert airflow_living.requests(before, after) == {"ReceiveMessage": 4, "DeleteMessageBatch": 2}
