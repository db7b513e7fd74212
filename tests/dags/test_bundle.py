"""The whole repository as a DAG bundle of an Airflow that knows nothing else of it, and older Airflows."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqs_queue_depth import SqsQueueDepthTrigger

PROJECT = Path(__file__).resolve().parents[2]
BUNDLE = {
    "name": "queue-etl",
    "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
    "kwargs": {"path": str(PROJECT)},
}
# What the DAG processor does, and each task with its own file: BundleDagBag puts the bundle on sys.path.
PARSE = """
import json
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
bundle = DagBundlesManager().get_bundle("queue-etl")
bag = BundleDagBag(str(bundle.path), bundle_path=bundle.path, bundle_name=bundle.name)
policies = [task.retry_policy is not None for dag in bag.dags.values() for task in dag.tasks]
retries = sorted({task.retries for dag in bag.dags.values() for task in dag.tasks})
print(json.dumps([sorted(bag.dags), bag.import_errors, any(policies), retries]))
"""
# Before 3.3 the name is not there.
WITHOUT_RETRY_POLICY = """
import airflow.sdk
newest = airflow.sdk.__getattr__
def older(name):
    if name == "ExceptionRetryPolicy":
        raise AttributeError(name)
    return newest(name)
airflow.sdk.__getattr__ = older
"""
LOAD_TRIGGER = """
import importlib, json, sys
import airflow
module, _, name = {classpath!r}.rpartition(".")
trigger = getattr(importlib.import_module(module), name)
ours = [name for name in sys.modules if name.split(".")[0] in ("include", "dags", "plugins")]
print(json.dumps([trigger.__name__, ours, importlib.util.find_spec("include") is None]))
"""


@pytest.fixture
def airflow_elsewhere(tmp_path: Path) -> Any:
    """Run Python code as a process of an Airflow whose home is another folder; return what it prints."""

    def run(code: str) -> Any:
        # No PYTHONPATH, and another folder to start in: only what docs/deployment.md asks for.
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.remove('')\n{code}"],
            cwd=tmp_path,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/unused.db",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
                "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([BUNDLE]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_the_whole_repository_is_a_bundle_of_our_dags_only(
    airflow_elsewhere: Any, dags: Mapping[str, Any]
) -> None:
    found, errors, has_policy, _ = airflow_elsewhere(PARSE)
    assert errors == {}
    assert found == sorted(dags)
    assert has_policy


def test_an_airflow_without_retry_policies_has_the_same_dags(
    airflow_elsewhere: Any, dags: Mapping[str, Any]
) -> None:
    found, errors, has_policy, retries = airflow_elsewhere(WITHOUT_RETRY_POLICY + PARSE)
    assert (found, errors, has_policy) == (sorted(dags), {}, False)
    assert 4 in retries


def test_a_triggerer_loads_the_trigger_without_the_bundle(airflow_elsewhere: Any) -> None:
    trigger = SqsQueueDepthTrigger(
        poke_interval=1,
        deadline=0,
        queue="q",
        aws_conn_id=None,
        region_name=None,
        min_messages=1,
        max_age_seconds=None,
    )
    loaded = airflow_elsewhere(LOAD_TRIGGER.format(classpath=trigger.serialize()[0]))
    assert loaded == ["SqsQueueDepthTrigger", [], True]
