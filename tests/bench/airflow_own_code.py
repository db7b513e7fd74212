"""What each task costs above bare Airflow: the parse of its DAG file, and its own code with its imports.

    python -m tests.bench.airflow_own_code    # one line of JSON: CPU milliseconds by task

As under the LocalExecutor, each task is a fork of a process that has Airflow. Takes the connections of a
stack's environment and really does the tasks, one batch of each, without a scheduler.
"""

import builtins
import contextlib
import gc
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Nothing of the project is imported up here, nor what it imports: a task pays for that.
ROOT = Path(__file__).parents[2]
DAG = "user_logins"
RUN = "own-code"
TASKS = ("sense", "extract", "mask", "load", "finish")


class ImportClock:
    """CPU time of import statements, nested ones counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._import, self._depth = builtins.__import__, 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts within the block."""
        builtins.__import__ = self._timed
        try:
            yield
        finally:
            builtins.__import__ = self._import

    def _timed(self, *arguments: Any, **named: Any) -> Any:
        if self._depth:
            return self._import(*arguments, **named)
        self._depth, started = 1, time.process_time()
        try:
            return self._import(*arguments, **named)
        finally:
            self._depth = 0
            self.seconds += time.process_time() - started


def main() -> int:
    """Does the tasks of a run and says what each took."""
    import_airflow()
    assert not {"include", "psycopg", "tink", "boto3"} & sys.modules.keys()
    found: dict[str, dict[str, int]] = {}
    group = None
    gc.freeze()  # as the LocalExecutor does: a collection would touch, and so copy, all that the fork shares
    with get_context("fork").Pool(1, maxtasksperchild=1) as forks:
        for task in TASKS:
            given = {"extract": {"depth": {}}, "mask": {"group": group}, "load": {"group": group}}.get(task)
            found[task], result = forks.apply(of_task, (task, given or {}))
            group = result[0] if task == "extract" else group
    print(json.dumps(found))
    return 0


def of_task(task_id: str, given: Mapping[str, Any]) -> tuple[dict[str, int], Any]:
    """CPU milliseconds of one task with the arguments `given`, and its result."""
    clock = ImportClock()
    parse, dag = measured(parsed_dag)
    with clock.running():
        cpu, result = measured(lambda: done(dag.get_task(task_id), given))
    seconds = {"parse": parse, "cpu": cpu, "imports": clock.seconds}
    return {name: round(value * 1000) for name, value in seconds.items()}, result


def import_airflow() -> None:
    """What a task's process has without our DAG file: Airflow, and what it imports for any DAG file."""
    import airflow.sdk.execution_time.supervisor
    import airflow.sdk.execution_time.task_runner  # noqa: F401
    from airflow.dag_processing.dagbag import DagBag

    DagBag(str(ROOT / "tests" / "bench" / "airflow_bare_dag.py"))
    logging.disable(logging.CRITICAL)


def parsed_dag() -> Any:
    """The DAG, by the file that a task of it reads."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags" / "queue_etl.py")).dags[DAG]


def measured(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of an action in this process, and its result."""
    started = time.process_time()
    result = action()
    return time.process_time() - started, result


def done(task: Any, given: Mapping[str, Any]) -> Any:
    """Does the task; its result."""
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.execution_time.context import set_current_context

    ti: Any = SimpleNamespace(
        dag_id=DAG,
        run_id=RUN,
        try_number=1,
        max_tries=4,
        get_ti_count=lambda *_, **__: 0,
        xcom_push=lambda *_: None,
    )
    dag_run: Any = SimpleNamespace(dag_id=DAG, run_type="manual")
    context = Context(
        run_id=RUN, params=task.dag.params.dump(), ti=ti, dag=task.dag, dag_run=dag_run, task=task
    )
    with set_current_context(context):
        if task.task_id == "sense":
            task.render_template_fields(context)
            return task.execute(context)
        result = task.python_callable(**given)
        return finished(result) if hasattr(result, "send") else result


def finished(steps: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


if __name__ == "__main__":
    sys.exit(main())
