"""CeleryExecutor on a stack of ./dev: the machine's redis-server, and workers that share nothing but S3."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

from devstack import environment, orchestrator, processes
from devstack.credentials import write_private
from devstack.processes import Part
from devstack.settings import Settings
from tests.support.ports import lasting_ports
from tests.support.wait import wait_until
from tests.support.worker_name import WORKER_NAME

WORKERS = ("worker1", "worker2")
SLOTS = 2  # of each worker
REDIS = "redis-server"
READY = " ready."  # a worker's log has it when the worker takes tasks
BUCKET = "celery-staging"
# Without a disk: what it forgets when it stops, Airflow queues again.
REDIS_CONF = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
save ""
appendonly no
"""


def missing() -> str:
    """Why there can be no Celery on this machine; empty where there can."""
    if shutil.which(REDIS) is None:
        return f"{REDIS} is not installed"
    if importlib.util.find_spec("celery") is None:
        return "the Celery provider is not installed"
    return ""


@dataclass(frozen=True)
class Celery:
    """Redis and the workers.

    Attributes:
        settings: of the stack, for all of Airflow's processes
    """

    settings: Settings

    @property
    def parts(self) -> list[Part]:
        """All that this has started, Redis last: workers say goodbye to it."""
        return [*map(self.worker, WORKERS), self._part("redis")]

    def worker(self, name: str) -> Part:
        """The worker of that name."""
        return self._part(name)

    def start_redis(self, port: int) -> None:
        """Start it, and wait until it listens."""
        config = self.settings.state / "redis.conf"
        command = [REDIS, str(config)]
        processes.start(self._part("redis"), command, environment.for_child(self.settings), port)
        wait_until(lambda: _listens(port))

    def start_worker(self, name: str) -> None:
        """Start it; `wait_for` tells when it takes tasks."""
        part = self.worker(name)
        part.log.unlink(missing_ok=True)
        own = ["--concurrency", str(SLOTS), "--celery-hostname", name, "--skip-serve-logs"]
        alone = ["--without-mingle", "--without-gossip", "--pid", str(self.settings.state / f"{name}.pid")]
        (self.settings.state / f"{name}.pid").unlink(missing_ok=True)
        command = orchestrator.airflow_command(self.settings, "celery", "worker", *own, *alone)
        processes.start(part, command, {**environment.for_child(self.settings), WORKER_NAME: name}, 0)

    def wait_for(self, name: str) -> None:
        """Wait until the worker takes tasks."""
        part = self.worker(name)

        def ready() -> bool:
            assert part.pid(), f"{name} ended at once:\n{part.log_tail()}"
            return READY in part.log.read_text(errors="replace")

        wait_until(ready)

    def kill(self, name: str) -> None:
        """End the worker and the tasks in it as a machine does whose power fails."""
        for pid in processes.members(self.worker(name)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _part(self, name: str) -> Part:
        return Part(name, self.settings.state, self.settings.logs / f"{name}.log", self.settings.root)


@contextlib.contextmanager
def running(settings: Settings, s3_endpoint: str) -> Iterator[Celery]:
    """Redis and two workers on a stack whose Airflow is not started yet; stopped at the end.

    Start Airflow with the settings of what this yields, and then wait for the workers.

    Args:
        settings: of the stack, with the queue's endpoint
        s3_endpoint: where the bucket for staged files is
    """
    port = lasting_ports(["redis"])["redis"]
    password = secrets.token_urlsafe(16)
    write_private(settings.state / "redis.conf", REDIS_CONF.format(port=port, password=password))
    variables = _variables(settings, f"redis://:{password}@127.0.0.1:{port}/0", s3_endpoint)
    celery = Celery(replace(settings, variables={**settings.variables, **variables}))
    try:
        celery.start_redis(port)
        for name in WORKERS:
            celery.start_worker(name)
        yield celery
    finally:
        # Celery would wait for tasks, and the scheduler for Celery.
        processes.stop([*orchestrator.parts(settings), *celery.parts], signal.SIGKILL)


def _variables(settings: Settings, broker: str, s3_endpoint: str) -> dict[str, str]:
    built = environment.build(settings)
    connection = json.loads(built["AIRFLOW_CONN_AWS_DEFAULT"])
    connection["extra"]["service_config"] = {"s3": {"endpoint_url": s3_endpoint}}
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "tests.support.worker_name.worker_name",
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{built['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN']}",
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "QUEUE_ETL_STAGING": f"s3://{BUCKET}/staging",
    }


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
