"""One run of the DAG, from start to end."""

import functools
import re
import subprocess
import time
from pathlib import Path

from devstack import environment, orchestrator, postgres, processes
from devstack.console import Console
from devstack.errors import StackError
from devstack.postgres import AIRFLOW
from devstack.settings import Settings

TASK_STARTS = re.compile(r"\[DAG TEST\] starting task_id=(\w+) map_index=(-?\d+)")
PARSE_SECONDS = 60
RUN_SECONDS = 600


def run(settings: Settings, console: Console, log: Path, dag: str) -> int:
    """Run a DAG once, its tasks on the console and its output in `log`; 0 when it went well.

    With `airflow dags test`, or through the scheduler where that runs: both at once work on the same run
    and end in deadlocks of the metadata database (seen with 3.3.2).
    """
    if any(part.name == "scheduler" and part.pid() for part in orchestrator.parts(settings)):
        return _trigger(settings, console, log, dag)
    return _run_here(settings, console, log, dag)


def _run_here(settings: Settings, console: Console, log: Path, dag: str) -> int:
    with log.open("w") as file, _dags_test(settings, dag) as run:
        assert run.stdout is not None
        for line in run.stdout:
            file.write(line)
            if started := TASK_STARTS.search(line):
                task, index = started.groups()
                console.note(f"    task {task}" + (f", batch {index}" if index != "-1" else ""))
    return run.returncode


def _trigger(settings: Settings, console: Console, log: Path, dag: str) -> int:
    _wait_until_parsed(settings, dag)
    run_id = f"manual__{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
    command = orchestrator.airflow_command(settings, "dags", "trigger", dag, "--run-id", run_id)
    env = environment.for_child(settings)
    with log.open("w") as file:
        sent = subprocess.run(command, cwd=settings.root, env=env, stdout=file, stderr=file, check=False)
    if sent.returncode:
        return sent.returncode
    console.note(f"    triggered as {run_id}; the scheduler is running, so it does the work")
    state = functools.partial(
        _ask, settings, dag, "select state from dag_run where dag_id = :'dag' and run_id = :'run'", run=run_id
    )
    processes.wait_until(lambda: state() in ("success", "failed"), RUN_SECONDS, every=0.5)
    return 0 if state() == "success" else 1


def _wait_until_parsed(settings: Settings, dag: str) -> None:
    def parsed() -> bool:
        return bool(_ask(settings, dag, "select 1 from serialized_dag where dag_id = :'dag'"))

    if not processes.wait_until(parsed, PARSE_SECONDS, every=0.5):
        log = settings.logs / "dag-processor.log"
        raise StackError(f"Airflow has not parsed {dag} in {PARSE_SECONDS} s; see {log}")


def _ask(settings: Settings, dag: str, sql: str, **variables: str) -> str:
    return postgres.query(settings, sql, database=AIRFLOW, variables={"dag": dag, **variables})


def _dags_test(settings: Settings, dag: str) -> "subprocess.Popen[str]":
    # A wide terminal: the log would otherwise be wrapped in the middle of what is searched for.
    return subprocess.Popen(
        orchestrator.airflow_command(settings, "dags", "test", dag),
        cwd=settings.root,
        env={**environment.for_child(settings), "COLUMNS": "300", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
