"""What Airflow's metadata database tells of the last DAG runs and of DAG files that do not load.

The database is asked, not Airflow: it answers when Airflow is stopped, too.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack import postgres
from devstack.postgres import AIRFLOW
from devstack.settings import Settings

HAS_DATABASE = "select 1 from pg_database where datname = :'name'"
IS_MIGRATED = "select to_regclass('public.dag_run') is not null"

# A DAG that is no longer there is history, unless a file that does not load may have held it.
LAST_RUNS = """
with placed as (
    select run.*, coalesce(run.start_date, run.queued_at, run.run_after) as began,
           run.state in ('success', 'failed') as is_finished
      from dag_run run left join dag using (dag_id)
     where not coalesce(dag.is_stale, false) or exists (select from import_error)
), numbered as (
    select *, row_number() over (partition by dag_id order by began desc) as place,
           row_number() over (partition by dag_id, is_finished order by began desc) as place_among_finished
      from placed
)
select coalesce(json_agg(json_build_object(
           'dag', dag_id, 'run', run_id, 'state', state, 'is_test', triggered_by = 'TEST',
           'is_last', is_finished and place_among_finished = 1,
           'started', to_char(start_date at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
           'seconds', round(extract(epoch from end_date - start_date), 1),
           'tasks', (
               select coalesce(json_agg(json_build_object(
                          'name', task_id, 'map_index', map_index, 'attempt', try_number
                      ) order by start_date), '[]')
                 from task_instance task
                where task.dag_id = numbered.dag_id and task.run_id = numbered.run_id
                  and task.state in ('failed', 'up_for_retry')
           )) order by dag_id, began desc), '[]')
  from numbered where place <= 3 or (is_finished and place_among_finished = 1)
"""

IMPORT_ERRORS = """
select coalesce(json_agg(json_build_object(
           'file', filename, 'text', stacktrace,
           'seen', to_char(timestamp at time zone 'UTC', 'YYYY-MM-DD HH24:MI')) order by filename), '[]')
  from import_error
"""

# What `airflow dags test` prints: an error's line, then a traceback up to the next line with a time.
PRINTED_ERROR = re.compile(r"^\S+ \[error +\].*\n((?:(?!\d{4}-\d\d-\d\dT).*\n)+)", re.MULTILINE)
MODULE = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")  # before an exception's class
FRAME = re.compile(r'^ *File "(.+)", line (\d+)', re.MULTILINE)


@dataclass(frozen=True)
class FailedTask:
    """A task that failed, or that Airflow will try again; `map_index` is -1 where it is not mapped."""

    name: str
    map_index: int
    attempt: int


@dataclass(frozen=True)
class DagRun:
    """One run as Airflow saw it. `is_last`: no run of this DAG ended later."""

    dag: str
    run: str
    state: str
    started: str | None
    seconds: float | None
    is_last: bool
    is_test: bool
    tasks: tuple[FailedTask, ...]

    @property
    def failed(self) -> bool:
        """Whether Airflow calls it failed."""
        return self.state == "failed"


@dataclass(frozen=True)
class ImportFailure:
    """A DAG file that Airflow cannot load: where the error is, what it says, and when that was seen (UTC)."""

    file: str
    where: str
    text: str
    seen: str


def exists(settings: Settings) -> bool:
    """Whether Airflow has a database here: `./dev up` and `./dev demo` make it."""
    found = postgres.query(settings, HAS_DATABASE, database="postgres", variables={"name": AIRFLOW})
    return bool(found) and postgres.query(settings, IS_MIGRATED, database=AIRFLOW) == "t"


def last_runs(settings: Settings) -> list[DagRun]:
    """Return the last three runs of each DAG, newest first, and the last that ended if it is older."""
    return [_run(row) for row in json.loads(postgres.query(settings, LAST_RUNS, database=AIRFLOW))]


def import_failures(settings: Settings) -> list[ImportFailure]:
    """Return the DAG files that Airflow could not load when it last looked."""
    rows = json.loads(postgres.query(settings, IMPORT_ERRORS, database=AIRFLOW))
    return [
        ImportFailure(
            row["file"], _own_frame(row["text"], settings.root), exception_text(row["text"]), row["seen"]
        )
        for row in rows
    ]


def reasons(settings: Settings, run: DagRun) -> list[str]:
    """Return a line for each failed task of the run: its name, and the first error of its log."""
    if run.failed and not run.tasks:
        return ["no task failed: the run took too long, or somebody ended it"]
    if run.is_test:
        return [f"{task.name}: {_test_output(settings, run)}" for task in run.tasks[:1]]
    return [f"{_title(task)}: {error_line(_log(settings, run, task))}" for task in run.tasks]


def error_line(log: Path) -> str:
    """Return the first error of a task's log on one line, or a sentence that says why there is none."""
    try:
        with log.open(errors="replace") as lines:
            return _first_error(lines) or f"its log holds no error: {log}"
    except OSError:
        return f"its log is not there: {log}"


def exception_text(trace: str) -> str:
    """Return what a traceback says under its frames, on one line: the exception and its message."""
    lines = trace.rstrip().splitlines()
    # Behind the last frame: its source line and its marks are indented, the exception is not.
    frames = [number for number, line in enumerate(lines) if FRAME.match(line)]
    rest = lines[frames[-1] + 1 :] if frames else lines
    while len(rest) > 1 and rest[0].startswith(" "):
        rest = rest[1:]
    return one_line(MODULE.sub("", "\n".join(rest)))


def one_line(text: str) -> str:
    """Return the text without its line breaks and repeated blanks."""
    return " ".join(text.split())


def _run(row: dict[str, Any]) -> DagRun:
    tasks = tuple(FailedTask(**task) for task in row.pop("tasks"))
    return DagRun(**row, tasks=tasks)


def _title(task: FailedTask) -> str:
    return task.name if task.map_index < 0 else f"{task.name} [{task.map_index}]"


def _log(settings: Settings, run: DagRun, task: FailedTask) -> Path:
    """Airflow's [logging] log_filename_template, which ./dev leaves as it is."""
    folder = settings.logs / f"dag_id={run.dag}" / f"run_id={run.run}" / f"task_id={task.name}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    return folder / f"attempt={task.attempt}.log"


def _test_output(settings: Settings, run: DagRun) -> str:
    """`airflow dags test` keeps no log of a task; `./dev demo` keeps all that it prints."""
    for log in sorted(settings.logs.glob("demo-*.log"), reverse=True):
        printed = log.read_text(errors="replace")
        if run.run in printed:
            found = PRINTED_ERROR.search(printed)
            return exception_text(found[1]) if found else f"see {log}"
    return "`airflow dags test` showed the error on its terminal"


def _first_error(lines: Iterable[str]) -> str | None:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # what a task prints by itself is no record
        if isinstance(record, dict) and record.get("level") in ("error", "critical"):
            return _said(record)
    return None


def _said(record: dict[str, Any]) -> str:
    """The exception's class and message where there is one, else the event."""
    raised = (record.get("error_detail") or [{}])[0]
    if "exc_type" in raised:
        return one_line(f"{raised['exc_type']}: {raised.get('exc_value', '')}")
    return one_line(str(record.get("event", "")))


def _own_frame(trace: str, root: Path) -> str:
    """Return file and line of the last frame that lies in the project; empty where none does."""
    for path, line in reversed(FRAME.findall(trace)):
        if Path(path).is_relative_to(root) and not Path(path).is_relative_to(root / ".venv"):
            return f"{Path(path).relative_to(root)}, line {line}"
    return ""
