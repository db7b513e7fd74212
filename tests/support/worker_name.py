"""The name by which Airflow knows a process, where several workers are on one machine."""

import os
import socket

WORKER_NAME = "QUEUE_ETL_TEST_WORKER"


def worker_name() -> str:
    """For `[core] hostname_callable`: that of the worker; without one the machine's."""
    return os.environ.get(WORKER_NAME) or socket.gethostname()
