"""Airflow's JSON lines have the engine's fields: as its task runner logs, in a process of its own."""

import json
from pathlib import Path

from tests.support.python_process import run_code

PROJECT = Path(__file__).resolve().parents[2]
LOG = """
import logging, sys
from airflow.sdk.log import configure_logging
configure_logging(json_output=True, output=sys.stdout, sending_to_supervisor=False)
from queue_etl_connections import _log_fields
from include.queue_etl.log_fields import bound
log = logging.getLogger("include.queue_etl.steps")
with _log_fields("orders", "run__1"):
    with bound(batch="0001"):
        log.warning("batch %s: loaded", "0001")
    log.warning("run")
log.warning("after")
"""


def test_lines_of_tasks_have_contract_run_and_batch_as_fields() -> None:
    environment = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}", "AIRFLOW_HOME": str(PROJECT)}
    done = run_code(LOG, environment)
    assert done.returncode == 0, done.stderr
    given = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ours = {line["event"]: line for line in given}
    names = ("contract", "run", "batch")
    assert [ours["batch 0001: loaded"].get(name) for name in names] == ["orders", "run__1", "0001"]
    assert [ours["run"].get(name) for name in names] == ["orders", "run__1", None]
    assert [ours["after"].get(name) for name in names] == [None, None, None]
