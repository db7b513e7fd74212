"""What the processes that fork those of tasks import beforehand."""

import os
from pathlib import Path

import pytest

from tests.support.python_process import run_code

PROJECT = Path(__file__).resolve().parents[2]
PLUGIN = PROJECT / "plugins" / "queue_etl_preload.py"
# What a task imports on top of that, by the names of packages; the standard library's are not told.
TASK = """
import sys
sys.argv = ["airflow", "scheduler"]
exec(open({plugin!r}).read())
before = set(sys.modules)
print("project", [name for name in before if name.split(".")[0] in ("include", "dags")])
from include.contracts import load_contract
import include.queue_etl.steps, include.queue_etl.resources, include.queue_etl.keys.keyset
import include.queue_etl.postgres.loading, include.queue_etl.postgres.runs
import airflow.providers.amazon.aws.hooks.base_aws, botocore.config, botocore.exceptions
import include.queue_etl.sqs.client, include.queue_etl.sqs.transport, include.queue_etl.staging.area
load_contract("user_logins"), load_contract("orders")
packages = {{name.split(".")[0] for name in set(sys.modules) - before}}
print("packages", sorted(packages - set(sys.stdlib_module_names)))
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["airflow", "scheduler", "--skip-serve-logs"], True),
        (["/opt/airflow/__main__.py", "celery", "worker", "-q", "default"], True),
        (["airflow", "celery", "flower"], False),
        (["airflow", "triggerer"], False),
        (["airflow", "dag-processor"], False),
        (["airflow", "dags", "test", "user_logins"], False),
        (["pytest"], False),
        ([], False),
    ],
)
def test_only_processes_that_fork_tasks_import_beforehand(command: list[str], expected: bool) -> None:
    content: dict[str, object] = {}
    exec(PLUGIN.read_text(), content)
    assert content["forks_tasks"](command) is expected  # type: ignore[operator]


def test_a_task_imports_only_the_projects_own_modules_after_it() -> None:
    """And none of these is imported beforehand: a parent would go on with old code."""
    code = TASK.format(plugin=str(PLUGIN))
    result = run_code(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["project []", "packages ['include']"]


LINEAGE = """
import sys
sys.argv = ["airflow", "scheduler"]
exec(open({plugin!r}).read())
before = set(sys.modules)
print("before", "openlineage.client" in before)
import airflow.providers.openlineage.api.emission_policy, airflow.providers.openlineage.extractors
import openlineage.client.event_v2, openlineage.client.facet_v2
print("later", sorted(name for name in set(sys.modules) - before if "openlineage" in name))
"""


@pytest.mark.parametrize("transport", ["", '{"type": "console"}'])
def test_what_tells_lineage_is_imported_where_it_has_a_receiver(transport: str) -> None:
    environment = {**os.environ, "AIRFLOW__OPENLINEAGE__TRANSPORT": transport}
    result = run_code(LINEAGE.format(plugin=str(PLUGIN)), environment)
    before, later = result.stdout.splitlines()[-2:]
    assert before == f"before {bool(transport)}", result.stderr
    assert (later == "later []") == bool(transport)
