"""DAGs under the real scheduler, LocalExecutor and triggerer: what `airflow dags test` cannot show.

One Airflow serves all tests of this module: its start takes longer than any of them.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.sdk.exceptions import AirflowException
from airflow.utils.types import DagRunTriggeredByType

from tests.dags.conftest import empty, state_of, visible
from tests.dags.runs import run_dag
from tests.dags.scheduled import START_SECONDS, Airflow, pause, running, states
from tests.support.traffic import traffic
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def airflow(sqs: Any, dags: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """Airflow; a run before it starts makes `user_logins` known to it, or it could not start paused."""
    empty(sqs, sqs.get_queue_url(QueueName="login-queue")["QueueUrl"])
    run_dag(dags["user_logins"], {})
    with running(tmp_path_factory.mktemp("airflow")) as airflow:
        yield airflow


@pytest.fixture
def unpaused(airflow: Airflow) -> Iterator[None]:
    """The schedule of `user_logins` runs, and is paused again after the test."""
    pause(False)
    yield
    pause(True)


def trigger_when_known(run_id: str) -> bool:
    """Start a run as the UI does; False as long as Airflow has not parsed the DAG."""
    try:
        trigger_dag(
            "user_logins",
            triggered_by=DagRunTriggeredByType.TEST,
            run_id=run_id,
            conf={"wait_seconds": 120},
        )
    except AirflowException:
        return False
    return True


@pytest.mark.usefixtures("unpaused")
def test_a_run_waits_in_the_triggerer_and_goes_on_when_messages_come(
    airflow: Airflow, login_queue: str, sqs: Any, warehouse: psycopg.Connection[Any]
) -> None:
    run_id = f"scheduled-test-{secrets.token_hex(4)}"
    user = f"user-{run_id}"
    wait_until(lambda: trigger_when_known(run_id), START_SECONDS)
    wait_until(lambda: states().get((run_id, "sense")) == "deferred", START_SECONDS)
    body = f'{{"user_id": "{user}", "app_version": "1.0", "device_type": "ios", "ip": "198.51.100.7", '
    body += '"locale": "en", "device_id": "d-1"}'
    for _ in range(20):
        sqs.send_message(QueueUrl=login_queue, MessageBody=body)
    sent = time.monotonic()
    ended = {"success", "failed", "upstream_failed"}
    wait_until(lambda: states().get((run_id, "finish")) in ended, START_SECONDS)
    print(f"20 messages, from sending to the end of the run: {time.monotonic() - sent:.1f} s")
    of_run = {task: state for (run, task), state in states().items() if run == run_id}
    tasks = ("sense", "extract", "mask", "load", "finish")
    assert of_run == dict.fromkeys(tasks, "success"), airflow.errors(run_id)
    with airflow.log_in() as api:
        run = f"/dags/user_logins/dagRuns/{run_id}"
        wait_until(lambda: api.get(run).json()["state"] == "success", START_SECONDS)
        assert api.get(run).json()["note"].startswith("succeeded: received 20: loaded 20")
    count = "SELECT count(*) FROM public.user_logins WHERE user_id = %s"
    assert warehouse.execute(count, [user]).fetchone() == (20,)


@pytest.mark.usefixtures("unpaused")
def test_a_run_marked_failed_releases_its_messages_within_minutes(
    airflow: Airflow, login_queue: str, sqs: Any, warehouse: psycopg.Connection[Any]
) -> None:
    run_id = f"scheduled-test-{secrets.token_hex(4)}"
    wait_until(lambda: trigger_when_known(run_id), START_SECONDS)
    pause(True, "queue_etl_recovery")  # its schedule, every five minutes, might be due now
    with traffic(sqs, login_queue, run_id, rate=5) as sent:
        wait_until(lambda: airflow.said(run_id, "sealed"), START_SECONDS)
        pause(True)  # else the next scheduled run takes what this one releases
        with airflow.log_in() as api:
            api.patch(f"/dags/user_logins/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()
        wait_until(lambda: airflow.said(run_id, "released"), START_SECONDS)
    assert airflow.said(run_id, "sealed messages stay staged")
    assert state_of(warehouse, run_id) == "running"
    pause(False, "queue_etl_recovery")
    trigger_dag("queue_etl_recovery", triggered_by=DagRunTriggeredByType.TEST, run_id=f"{run_id}-recovery")
    wait_until(lambda: state_of(warehouse, run_id) == "failed", START_SECONDS)
    wait_until(lambda: visible(sqs, "login-queue") == sent.count)
