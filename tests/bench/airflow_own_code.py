"""What one task costs above bare Airflow: the parse of its DAG file, and its own code with what that imports.

    python -m tests.bench.airflow_own_code extract RUN_ID '{"depth": {...}}'    # one line of JSON

A process of its own for each task, as Airflow has it. Airflow itself is imported before the clock starts: a
task of the LocalExecutor is forked from a process that has it. Reads the connections of the stack's
environment and really does the task, without a scheduler.
"""

import builtins
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tests.bench.airflow_runs import DAG
from tests.bench.contenders import ROOT

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
    """Does one task and says what it took."""
    task_id, run_id, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    import_airflow()
    parse_seconds, dag = measured(parsed_dag)
    clock = ImportClock()
    with clock.running():
        cpu_seconds, result = measured(lambda: done(dag.get_task(task_id), run_id, given))
    found = {"parse": parse_seconds, "imports": clock.seconds, "cpu": cpu_seconds}
    print(json.dumps({**{name: round(seconds * 1000) for name, seconds in found.items()}, "result": result}))
    return 0


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


def done(task: Any, run_id: str, given: dict[str, Any]) -> Any:
    """Does the task with the arguments `given`; its result."""
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.execution_time.context import set_current_context

    ti = SimpleNamespace(
        dag_id=DAG, run_id=run_id, try_number=1, max_tries=4, get_ti_count=lambda *_, **__: 0
    )
    context = Context(run_id=run_id, params=task.dag.params.dump(), ti=ti, dag=task.dag)
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
