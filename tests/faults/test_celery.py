"""The DAG under CeleryExecutor: two workers that share nothing but the staging bucket.

Redis is Debian's, SQS the stub, and S3 the emulator.
"""

import secrets
from collections.abc import Iterator

import pytest

from include.queue_etl.settings import PREFIX
from tests.faults import live_kills
from tests.faults.bodies import login
from tests.faults.live import DAG, Plan, Soak, soaking
from tests.support import celery_stack
from tests.support.airflow_settings import LEAN
from tests.support.wait import wait_until

pytestmark = pytest.mark.skipif(bool(celery_stack.missing()), reason=celery_stack.missing() or "-")

MESSAGES = 3_000
LONG_SECONDS = 300  # of a run, on a busy machine
SETTINGS = {
    # Several small batches, so that both workers have some. Messages stay hidden until tasks of the worker
    # that dies have been tried again, which takes half a minute: else they are back before they are deleted.
    f"{PREFIX}BATCH_MESSAGES": "500",
    f"{PREFIX}VISIBILITY_TIMEOUT_SECONDS": "180",
    f"{PREFIX}RECEIVE_SECONDS": "5",
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
}
STATE = "SELECT state FROM dag_run WHERE dag_id = %s AND run_id = %s"
HOSTS = (
    "SELECT DISTINCT hostname FROM task_instance WHERE run_id = %s AND task_id <> 'sense' AND hostname <> ''"
)
# Of a worker that has done a task of the run already.
AT_WORK = """
    SELECT hostname FROM task_instance
    WHERE run_id = %s AND state = 'running' AND task_id IN ('mask', 'load') AND hostname IN (
        SELECT hostname FROM task_instance WHERE run_id = %s AND state = 'success' AND task_id <> 'sense'
    )
"""
ROWS = "SELECT count(*), count(DISTINCT user_id) FROM public.user_logins WHERE user_id LIKE %s"


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    """A stack with two Celery workers, both ready."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SETTINGS | LEAN | live_kills.SOON).items():
            patch.setenv(name, value)
        plan = Plan(seconds=1, rate=1, sqs="stub", executor="celery")
        with soaking(plan, tmp_path_factory.mktemp("celery") / "s") as soak:
            assert soak.celery
            for name in celery_stack.WORKERS:
                soak.celery.wait_for(name)
            wait_until(lambda: not {"queued", "running"} & set(soak._states()), LONG_SECONDS)
            yield soak


def send(soak: Soak, tag: str, count: int) -> None:
    for first in range(0, count, 10):
        logins = [login(tag, number) for number in range(first, first + 10)]
        entries = [{"Id": one.user_id, "MessageBody": one.body.decode()} for one in logins]
        soak.sqs.send_message_batch(QueueUrl=soak.queue_url, Entries=entries)


def state(soak: Soak, run_id: str) -> str:
    return str(soak.airflow_rows(STATE, DAG, run_id)[0][0])


def test_two_celery_workers_share_a_run_that_survives_one_of_them(soak: Soak) -> None:
    assert soak.celery
    tag, run_id = f"c{secrets.token_hex(4)}", f"celery-{secrets.token_hex(4)}"
    send(soak, tag, MESSAGES)
    assert soak.trigger(dag_run_id=run_id)
    working: list[str] = []

    def at_work() -> bool:
        working.extend(host for (host,) in soak.airflow_rows(AT_WORK, run_id, run_id))
        return bool(working)

    wait_until(at_work, LONG_SECONDS)
    soak.celery.kill(working[0])
    wait_until(lambda: state(soak, run_id) in ("success", "failed"), LONG_SECONDS)
    assert state(soak, run_id) == "success"
    assert soak.servers.rows(ROWS, f"{tag}-%") == [(MESSAGES, MESSAGES)]
    assert {host for (host,) in soak.airflow_rows(HOSTS, run_id)} == set(celery_stack.WORKERS)
    assert soak._depth() == 0
    assert soak._open_runs() == 0
    assert not list(soak.servers.staging.glob("*/*"))
