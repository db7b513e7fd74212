"""Imports what tasks need once, in the processes that fork those of tasks.

A task's process is forked by LocalExecutor or by a Celery worker, and what its parent has imported costs it
nothing. Without this each task imports the same libraries: 0.25 to 0.29 s of CPU a task in place of 0.15.
Modules of the project are not among them: a parent that has them would go on with old code after a change.

Airflow's plugin loader executes this file; there is nothing to register.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

# Airflow's commands whose processes fork those of tasks.
PARENTS = (["scheduler"], ["celery", "worker"])
LIBRARIES = (
    "airflow.dag_processing.bundles.local",
    "airflow.plugins_manager",
    "airflow.providers.amazon.aws.hooks.base_aws",  # with boto3, as every look at a queue needs it
    "airflow.providers.standard.decorators.python",
    "airflow.sdk.bases.sensor",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.retry_policy",  # Airflow 3.3
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.timeout",
    "airflow.timetables.simple",
    "cryptography.hazmat.primitives.ciphers.aead",
    "jinja2.ext",
    "msgspec",
    "phonenumbers",
    "psycopg",
    "pycurl",
    "tink.aead",
    "tink.daead",
    "tink.secret_key_access",
    "zstandard",
)
# What tells OpenLineage, where the provider is installed and has somewhere to send to: 0.4 s of CPU a task.
LINEAGE = (
    "airflow.providers.openlineage.api.emission_policy",
    "airflow.providers.openlineage.plugins.listener",
)


def forks_tasks(command: Sequence[str]) -> bool:
    """Whether this command line is that of a process which forks those of tasks."""
    return any(list(command[1 : 1 + len(parent)]) == parent for parent in PARENTS)


def preload() -> None:
    """Import the libraries; a task says itself which one is missing."""
    for name in (*LIBRARIES, *(LINEAGE if _tells_lineage() else ())):
        with suppress(ImportError):
            import_module(name)


def _tells_lineage() -> bool:
    try:
        conf = import_module("airflow.providers.openlineage.conf")
    except ModuleNotFoundError:
        return False
    return not conf.is_disabled()


if forks_tasks(sys.argv):
    preload()
