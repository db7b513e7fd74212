"""`./dev status` tells the truth: what runs, waits and failed, and exit 1 when it needs a person."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devstack import airflow_database, dag_history, orchestrator, postgres, queues, stack
from devstack.console import Console
from devstack.postgres import AIRFLOW
from devstack.processes import Part
from devstack.settings import ROOT, Settings
from devstack.tables import table
from include.contracts import DEFAULT_CONTRACT, load_contract
from tests.platform.dev_command import Launcher, kill, sqs

CONTRACT = load_contract(DEFAULT_CONTRACT)
QUIET = "Nothing needs a person."

RUN = """
insert into dag_run (dag_id, run_id, run_type, state, triggered_by, run_after, start_date, end_date)
values (:'dag', :'run', 'manual', :'state', 'CLI', now(), now(), now() + interval '2.5 s')
"""
FAILED_TASK = """
insert into task_instance (id, dag_id, run_id, task_id, state, try_number, pool, pool_slots, start_date)
values (gen_random_uuid(), :'dag', :'run', 'extract', 'failed', 2, 'default_pool', 1, clock_timestamp())
"""
# As Airflow 3.3 writes it, but for the frames.
LOG = [
    {"level": "info", "event": "Task started"},
    {
        "level": "error",
        "event": "Task failed with exception",
        "error_detail": [
            {
                "exc_type": "PreflightError",
                "exc_value": "not started:\n  - role x may not INSERT",
                "frames": [],
            },
            {"exc_type": "OSError", "exc_value": "the cause", "is_cause": True, "frames": []},
        ],
    },
    {"level": "error", "event": "a later error"},
]
TRACE = """Traceback (most recent call last):
  File "{root}/include/contracts/orders.py", line 5, in <module>
    CONTRACT = replace(C, nonsense=1)
               ^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/dataclasses.py", line 1501, in replace
    return obj.__class__(**changes)
include.queue_etl.errors.ContractError: contract orders: no such event field: email
  - declare it
"""


@pytest.fixture(scope="module")
def history(launcher: Launcher) -> Launcher:
    """A stack with Airflow's database, as it is after a first demo; Airflow does not run."""
    assert launcher.run("run", "depth").returncode == 0
    orchestrator.migrate(launcher.settings, Console(io.StringIO()))
    return launcher


@pytest.fixture
def clean(history: Launcher) -> Iterator[Launcher]:
    yield history
    ask(
        history.settings,
        "delete from task_instance; delete from dag_run; delete from dag; delete from import_error",
    )


def ask(settings: Settings, sql: str, **variables: str) -> str:
    return postgres.query(settings, sql, database=AIRFLOW, variables=variables)


def status(launcher: Launcher, root: Path = ROOT, **changed: str) -> tuple[int, str]:
    """Exit code and words of `./dev status`, however it wraps its lines."""
    done = launcher.run("status", cwd=root, root=root, **changed)
    assert done.stderr == ""
    return done.returncode, " ".join(done.stdout.split())


def failed_run(launcher: Launcher, dag: str, run: str) -> None:
    """A run whose task failed at its second attempt, with a log."""
    ask(launcher.settings, RUN, dag=dag, run=run, state="failed")
    ask(launcher.settings, FAILED_TASK, dag=dag, run=run)
    folder = launcher.settings.logs / f"dag_id={dag}" / f"run_id={run}" / "task_id=extract"
    folder.mkdir(parents=True)
    (folder / "attempt=2.log").write_text("\n".join(map(json.dumps, LOG)))


def test_the_copy_of_airflows_database_is_all_that_airflow_made(history: Launcher) -> None:
    settings = history.settings
    for statement in ("drop database airflow with (force)", "create database airflow owner airflow"):
        postgres.query(settings, statement, database="postgres")
    assert airflow_database.is_empty(settings)
    airflow_database.restore(settings)
    assert not airflow_database.is_empty(settings)
    dumps = [airflow_database.dump(settings), airflow_database.copy(settings).read_text()]
    # Not psql's own commands, which hold a random key.
    copied, made = ([line for line in text.splitlines() if not line.startswith("\\")] for text in dumps)
    assert copied == made
    assert len([line for line in made if line.startswith("CREATE TABLE")]) > 40


def test_a_stack_that_is_well_is_exit_0(clean: Launcher) -> None:
    code, said = status(clean)
    assert code == 0, said
    assert QUIET in said
    assert f"{CONTRACT.queue} {DEFAULT_CONTRACT} 0 0 0" in said
    assert f"{CONTRACT.dead_letter_queue} {DEFAULT_CONTRACT}, dead letters 0 0 0" in said


def test_a_failed_run_is_shown_with_the_first_error_of_its_task(clean: Launcher) -> None:
    failed_run(clean, DEFAULT_CONTRACT, "first")
    code, said = status(clean)
    reason = "extract: PreflightError: not started: - role x may not INSERT"
    assert code == 1
    assert said.count(reason) == 2
    assert f"DAG {DEFAULT_CONTRACT}: its last run failed; {reason}" in said
    assert "a later error" not in said
    assert QUIET not in said


def test_a_failed_run_with_a_good_one_after_it_needs_nobody(clean: Launcher) -> None:
    failed_run(clean, DEFAULT_CONTRACT, "second")
    ask(clean.settings, RUN, dag=DEFAULT_CONTRACT, run="good", state="success")
    ask(clean.settings, RUN, dag=DEFAULT_CONTRACT, run="going on", state="running")
    code, said = status(clean)
    assert (code, QUIET in said) == (0, True)
    assert "extract: PreflightError: not started" in said


def test_the_last_run_that_ended_counts_behind_any_number_of_waiting_ones(clean: Launcher) -> None:
    failed_run(clean, "other_dag", "third")
    for number in range(5):
        ask(clean.settings, RUN, dag="other_dag", run=f"waiting {number}", state="queued")
    code, said = status(clean)
    assert (code, "DAG other_dag: its last run failed" in said) == (1, True)


def test_a_dag_that_is_gone_is_not_held_against_the_stack(clean: Launcher) -> None:
    failed_run(clean, "retired", "fourth")
    ask(
        clean.settings,
        "insert into dag_bundle (name) values ('gone') on conflict do nothing;"
        "insert into dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info,"
        " max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits)"
        " values ('retired', false, true, 'gone', '', '{}', 1, 0, false)",
    )
    code, said = status(clean)
    assert (code, "retired" in said) == (0, False)


def test_a_run_without_a_failed_task_says_that_it_was_ended(clean: Launcher) -> None:
    ask(clean.settings, RUN, dag="other_dag", run="timed out", state="failed")
    code, said = status(clean)
    assert code == 1
    assert "no task failed: the run took too long, or somebody ended it" in said


def test_a_dag_file_that_does_not_load_is_named_with_what_restores_it(clean: Launcher) -> None:
    ask(
        clean.settings,
        "insert into import_error (timestamp, filename, stacktrace)"
        " values ('2026-01-02 03:04Z', 'queue_etl.py', :'trace')",
        trace=TRACE.format(root=ROOT),
    )
    code, said = status(clean)
    assert code == 1
    assert (
        "Airflow cannot import dags/queue_etl.py (include/contracts/orders.py, line 5),"
        " seen 2026-01-02 03:04 UTC: ContractError: contract orders: no such event field: email - declare it"
        in said
    )


def test_dead_letters_need_a_person_and_are_counted(history: Launcher) -> None:
    client = sqs(history.settings)
    url = client.get_queue_url(QueueName=CONTRACT.dead_letter_queue)["QueueUrl"]
    for _ in range(2):
        client.send_message(QueueUrl=url, MessageBody="{}")
    code, said = status(history)
    client.purge_queue(QueueUrl=url)
    assert code == 1
    assert f"{CONTRACT.dead_letter_queue} holds 2 dead letters: ./dev run dead-letters" in said


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("CONTRACT = 1 +", "line 1: invalid syntax: correct the Python there"),
        ("\nNAME", "line 2: NameError: name 'NAME'"),
    ],
)
def test_a_broken_contract_is_said_and_hides_nothing(
    history: Launcher, tmp_path: Path, source: str, complaint: str
) -> None:
    for folder in ("devstack", "include"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dev", tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "tools-venv").symlink_to(ROOT / ".dev" / "tools-venv")
    (tmp_path / "include" / "contracts" / "broken.py").write_text(source)
    code, said = status(history, root=tmp_path)
    assert code == 1
    assert f"contract broken cannot be loaded: include/contracts/broken.py, {complaint}" in said
    assert f"{CONTRACT.queue} {DEFAULT_CONTRACT} 0 0 0" in said
    assert "Pipeline runs" in said
    found = queues.listing(replace(history.settings, root=tmp_path))
    assert queues.create_missing(history.settings, found) == []


def test_without_the_emulator_all_else_is_shown(clean: Launcher) -> None:
    failed_run(clean, DEFAULT_CONTRACT, "fifth")
    kill(clean.part("ministack"))
    code, said = status(clean)
    assert clean.run("run", "depth").returncode == 0
    assert code == 1
    assert f"queue {CONTRACT.queue}: EndpointConnectionError: SQS does not answer" in said
    assert "extract: PreflightError" in said


def test_without_postgres_the_queues_are_shown(history: Launcher) -> None:
    kill(history.part("postgres"))
    code, said = status(history)
    assert history.run("run", "depth").returncode == 0
    assert code == 1
    assert "postgres died: ./dev up starts it" in said
    assert f"{CONTRACT.queue} {DEFAULT_CONTRACT} 0 0 0" in said
    assert "not shown: Postgres does not answer" in said


def test_only_the_parts_that_listen_have_a_port(history: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "pid", lambda _: 1)
    monkeypatch.setattr(Part, "record", lambda _: {"port": 7})
    monkeypatch.setattr(orchestrator, "health", lambda _: {})
    shown = {part.name for part in stack.status(history.settings) if part.port is not None}
    assert shown == {"postgres", "ministack", "api-server"}


def test_the_help_lists_what_needs_a_person(launcher: Launcher) -> None:
    said = launcher.run("status", "--help").stdout
    listed = {line.strip() for line in said.splitlines() if line.startswith("  - ")}
    page = (ROOT / "docs" / "operations.md").read_text()
    documented = page.partition("The exit code is 1 when\n\n")[2].partition("\n\n")[0]
    assert "- a dead-letter queue holds messages" in listed
    assert listed == set(documented.replace("`", "").splitlines())


# Without a stack


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "shown"),
    [
        (Terminal(), {}, "\033[31mtext\033[0m"),
        (Terminal(), {"NO_COLOR": "1"}, "text"),
        (Terminal(), {"TERM": "dumb"}, "text"),
        (io.StringIO(), {}, "text"),
    ],
)
def test_red_is_for_terminals_with_colours(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, variables: dict[str, str], shown: str
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Console(stream).red("text") == shown


def test_a_table_sets_numbers_to_the_right_and_ends_no_line_in_blanks() -> None:
    assert table(("name", "n", "note"), [("a", 5, ""), ("longer", None, "x"), ("b", 10.0, "")]) == [
        "name       n  note",
        "a          5",
        "longer     -  x",
        "b       10.0",
    ]


def test_a_log_without_an_error_and_no_log_are_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "attempt=1.log"
    assert dag_history.error_line(log) == f"its log is not there: {log}"
    log.write_text('plain text\n[1]\n{"level": "info", "event": "fine"}\n')
    assert dag_history.error_line(log) == f"its log holds no error: {log}"
    log.write_text('{"level": "critical", "event": "killed\\n by hand"}\n')
    assert dag_history.error_line(log) == "killed by hand"


def test_a_run_of_dags_test_has_its_error_in_what_the_demo_printed(launcher: Launcher) -> None:
    run = dag_history.DagRun(
        "dag", "the run", "failed", None, None, True, True, (dag_history.FailedTask("extract", -1, 1),)
    )
    assert dag_history.reasons(launcher.settings, run) == [
        "extract: `airflow dags test` showed the error on its terminal"
    ]
    launcher.settings.logs.mkdir(parents=True, exist_ok=True)
    log = launcher.settings.logs / "demo-20260102-030405.log"
    time = "2026-01-02T03:04:05.678901Z"
    printed = (
        f"{time} [info     ] the run\n{time} [error    ] Task failed  [task]\n{TRACE}{time} [info     ] end\n"
    )
    log.write_text(printed)
    said = dag_history.reasons(launcher.settings, run)
    log.unlink()
    assert said == ["extract: ContractError: contract orders: no such event field: email - declare it"]


def test_a_test_run_that_was_stopped_between_two_tasks_has_a_reason_too(launcher: Launcher) -> None:
    run = dag_history.DagRun("dag", "the run", "failed", None, None, True, True, ())
    (said,) = dag_history.reasons(launcher.settings, run)
    assert "somebody ended it" in said


def test_an_error_of_syntax_is_read_behind_its_frame() -> None:
    trace = '  File "a.py", line 2\n    x = 1 +\n           ^\nSyntaxError: bad\n'
    assert dag_history.exception_text(trace) == "SyntaxError: bad"
