"""The soak, in short: a living queue under Airflow's scheduler, with a kill."""

import json
import os
import subprocess
import sys

from devstack.settings import ROOT

# What the killed process had not sealed is then back within a minute.
SOON = {"QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "60"}


def test_a_living_queue_under_the_scheduler_loses_nothing_to_a_kill() -> None:
    command = [sys.executable, "-m", "tests.faults.live", "--live=30", "--rate=10", "--back-to-back"]
    command += ["--kills=1", "--json"]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **SOON}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    result = json.loads(run.stdout)
    assert result["kills"] == 1
    assert result["sent"] >= 290
    assert 0 < result["p50_seconds"] <= result["p95_seconds"] <= result["max_seconds"]
    with_kill = f"p50 {result['p50_seconds']}, p95 {result['p95_seconds']}, max {result['max_seconds']} s"
    print(f"\nfrom sending to row, one extract killed: {with_kill}")
