"""`./dev status`: parts, queues, DAG runs and pipeline runs, and what of it needs a person.

Each section is read by itself: one that cannot be read says so and hides no other.
"""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from devstack import dag_history, emulator, postgres, queues, stack, warehouses
from devstack.console import Console
from devstack.dag_history import DagRun
from devstack.errors import StackError
from devstack.queues import Queue
from devstack.settings import Settings
from devstack.stack import PartStatus
from devstack.tables import Cell, table

WIDTH = 110
REASONS_SHOWN = 3  # of a run; a failing mask can have a hundred

NEEDS = """\
Exit code 1, with a line for each, when
  - Postgres or the SQS emulator is stopped, or any part died, does not answer or calls itself unhealthy
  - a queue is missing or cannot be asked (a missing one of the emulator is made again)
  - a dead-letter queue holds messages
  - a contract in include/contracts/ cannot be loaded
  - the last run of a DAG that ended has failed
  - Airflow cannot import a DAG file
  - one of these cannot be read
Exit code 0 otherwise: Airflow need not run."""

PIPELINE_RUNS = """
select coalesce(json_agg(run), '[]') from (
    select airflow_run_id, contract, state,
           to_char(started_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') as started,
           received, loaded, quarantined, duplicates, deleted, round(total_seconds::numeric, 2) as seconds
      from etl.run_summary order by started_at desc limit 5
) run
"""


@dataclass
class Report:
    """What is shown so far, and a sentence for each thing that needs a person."""

    console: Console
    troubles: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        """Begin a section."""
        self.console.note(f"\n{text}")

    def say(self, text: str, bad: bool = False) -> None:
        """Show a sentence, wrapped; in red where it is bad."""
        for line in textwrap.wrap(
            text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        ):
            self.console.note(self.console.red(line) if bad else line)

    def rows(self, headings: Sequence[str], rows: Sequence[tuple[bool, Sequence[Cell]]]) -> list[str]:
        """Return the lines of a table, each bad row in red."""
        head, *lines = table(headings, [cells for _, cells in rows])
        marked = zip(lines, rows, strict=True)
        return [f"  {head}", *(f"  {self.console.red(line) if bad else line}" for line, (bad, _) in marked)]


def show(settings: Settings, console: Console) -> int:
    """Show how everything is; 1 when something needs a person (NEEDS), else 0."""
    report = Report(console)
    parts = stack.status(settings)
    _show_parts(report, settings, parts)
    _section(report, "Queues", lambda: _show_queues(report, settings))
    if parts[0].is_healthy:
        _section(report, "DAG runs, the last three of each (UTC)", lambda: _show_dag_runs(report, settings))
        _section(report, "Pipeline runs, the last five (UTC)", lambda: _show_pipeline_runs(report, settings))
    else:
        report.title("DAG runs and pipeline runs")
        report.say("not shown: Postgres does not answer")
    _conclude(report)
    return 1 if report.troubles else 0


def _section(report: Report, title: str, show_it: Callable[[], None]) -> None:
    report.title(title)
    try:
        show_it()
    except StackError as error:
        report.say(str(error), bad=True)
        report.troubles.append(f"{title.partition(',')[0]} could not be read: {error}")


def _conclude(report: Report) -> None:
    if not report.troubles:
        report.console.note("\nNothing needs a person.")
        return
    report.title("Needs a person")
    for trouble in report.troubles:
        report.say(f"- {trouble}", bad=True)


def _show_parts(report: Report, settings: Settings, parts: list[PartStatus]) -> None:
    servers = parts[:2]
    bad = [part for part in parts if not part.is_healthy and (part in servers or part.health != "stopped")]
    rows = [(part in bad, (part.name, part.pid, part.port, part.health)) for part in parts]
    report.console.note("\n".join(report.rows(("part", "pid", "port", "health"), rows)))
    if any(part.name == "api-server" and part.is_healthy for part in parts):
        report.say(f"Airflow UI: {stack.ui_address(settings)}; ./dev up says user and password")
    for line in stack.misplaced(settings).values():
        report.say(line)
    report.troubles += [_trouble_of_part(part) for part in bad]


def _trouble_of_part(part: PartStatus) -> str:
    if part.name == "ministack" and part.health == "died":
        return f"{emulator.LOSS}; ./dev up starts it and makes its queues again"
    if part.health in ("died", "stopped"):
        return f"{part.name} {'died' if part.health == 'died' else 'is stopped'}: ./dev up starts it"
    return f"{part.name}: {part.health}; its log says why, and ./dev down && ./dev up starts it anew"


def _show_queues(report: Report, settings: Settings) -> None:
    if not settings.python.exists():
        report.say("not shown: nothing is installed yet; ./dev up does it")
        return
    found = queues.listing(settings)
    rows = [(_is_bad(queue), _cells(queue)) for queue in found.queues]
    for line in report.rows(("queue", "of", "visible", "in flight", "delayed"), rows):
        report.console.note(line)
    for name, error in found.broken.items():
        report.say(f"{name}: its contract cannot be loaded, so its queues are not known", bad=True)
        report.troubles.append(f"contract {name} cannot be loaded: {dag_history.one_line(error)}")
    if found.missing:
        report.troubles.append(_made_again(settings, report.console, found))
    report.troubles += [
        _trouble_of_queue(queue) for queue in found.queues if _is_bad(queue) and not queue.is_missing
    ]


def _made_again(settings: Settings, console: Console, found: queues.Listing) -> str:
    try:
        return stack.recreate_queues(settings, console, found)
    except StackError as error:
        return f"missing: {', '.join(queue.name for queue in found.missing)}; {error}"


def _is_bad(queue: Queue) -> bool:
    return queue.depth is None or (queue.holds_dead_letters and queue.messages > 0)


def _cells(queue: Queue) -> list[Cell]:
    owner = f"{queue.contract}, dead letters" if queue.holds_dead_letters else queue.contract
    if queue.depth is None:
        return [queue.name, owner, queue.error or "does not exist", None, None]
    return [queue.name, owner, *(queue.depth[kind] for kind in ("visible", "in_flight", "delayed"))]


def _trouble_of_queue(queue: Queue) -> str:
    if queue.error:
        return f"queue {queue.name}: {queue.error}"
    return (
        f"{queue.name} holds {queue.messages} dead letters:"
        f" ./dev run dead-letters --contract {queue.contract} says what they are, --apply brings them back"
    )


def _show_dag_runs(report: Report, settings: Settings) -> None:
    if not dag_history.exists(settings):
        report.say("none: Airflow has no database yet; ./dev up and ./dev demo make it")
        return
    _show_import_failures(report, settings)
    runs = dag_history.last_runs(settings)
    if not runs:
        report.say("none yet")
        return
    rows = [(run.failed, (run.dag, run.state, run.started, run.seconds, run.run)) for run in runs]
    head, *lines = report.rows(("DAG", "state", "started", "seconds", "run"), rows)
    report.console.note(head)
    for run, line in zip(runs, lines, strict=True):
        report.console.note(line)
        _explain(report, run, dag_history.reasons(settings, run))


def _explain(report: Report, run: DagRun, reasons: list[str]) -> None:
    for reason in reasons[:REASONS_SHOWN]:
        report.say(f"  {reason}", bad=run.failed)
    if len(reasons) > REASONS_SHOWN:
        report.say(f"  and {len(reasons) - REASONS_SHOWN} more tasks", bad=run.failed)
    if run.failed and run.is_last:
        report.troubles.append(f"DAG {run.dag}: its last run failed; {reasons[0]}")


def _show_import_failures(report: Report, settings: Settings) -> None:
    for failure in dag_history.import_failures(settings):
        where = f" ({failure.where})" if failure.where else ""
        text = f"Airflow cannot import dags/{failure.file}{where}, seen {failure.seen} UTC: {failure.text}"
        report.say(text, bad=True)
        report.troubles.append(text)


def _show_pipeline_runs(report: Report, settings: Settings) -> None:
    databases = [warehouses.database(name) for name in ("", *warehouses.names(settings))]
    found = [json.loads(postgres.query(settings, PIPELINE_RUNS, database)) for database in databases]
    runs = sorted(chain.from_iterable(found), key=lambda run: run["started"], reverse=True)[:5]
    counts = ("received", "loaded", "quarantined", "duplicates", "deleted", "seconds")
    headings = ("run", "contract", "state", "started", *counts)
    names = ("airflow_run_id", "contract", "state", "started", *counts)
    rows = [(run["state"] == "failed", [run[name] for name in names]) for run in runs]
    for line in report.rows(headings, rows) if runs else ["  none yet"]:
        report.console.note(line)
