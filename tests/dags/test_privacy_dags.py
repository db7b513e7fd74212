"""The DAGs `pii_unmask` and `queue_etl_remask`: two people, no value anywhere but in the file."""

import csv
import stat
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import AirflowSkipException, ParamValidationError

from include.contracts import contract_names
from include.queue_etl.errors import PermanentError, SettingsError
from tests.dags.privacy import ADDRESS, ask, context_of, form, loaded, officer

__all__ = ["loaded", "officer"]
PROJECT = Path(__file__).resolve().parents[2]
TASKS = {"pii_unmask": {"unmask"}, "queue_etl_remask": {"remask"}}
ADA = {"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "ada"}}


# What they promise


@pytest.mark.parametrize(("dag_id", "tasks"), TASKS.items())
def test_doc_md_says_for_each_task_what_to_do_when_it_fails(
    dags: Mapping[str, Any], dag_id: str, tasks: set[str]
) -> None:
    lines = [line for line in dags[dag_id].doc_md.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["if this task fails", "what you see", "where your data is", "what to do"]
    rows = {row[0].strip("`"): row[1:] for row in cells[2:]}
    assert set(rows) == tasks == {task.task_id for task in dags[dag_id].tasks}
    assert all(all(row) and len(row) == 3 for row in rows.values())


def test_people_start_them_and_unmask_is_paused_until_it_is_wanted(dags: Mapping[str, Any]) -> None:
    assert [dags[dag_id].schedule for dag_id in TASKS] == [None, None]
    assert dags["pii_unmask"].is_paused_upon_creation is True
    assert dags["queue_etl_remask"].is_paused_upon_creation is False
    assert {task.retries for task in dags["pii_unmask"].tasks} == {0}


def test_only_people_start_unmask_and_no_other_dag(dags: Mapping[str, Any]) -> None:
    """A run that another DAG starts has the name of who started that one."""
    assert {str(kind.value) for kind in dags["pii_unmask"].allowed_run_types} == {"manual"}


def test_nothing_is_unmasked_without_an_approval_within_a_day(dags: Mapping[str, Any]) -> None:
    task = dags["pii_unmask"].get_task("unmask")
    assert task.options == ["Approve", "Reject"]
    assert task.response_timeout == timedelta(days=1)
    assert not task.defaults  # silence is not consent


def test_a_request_that_waits_does_not_hold_up_others(dags: Mapping[str, Any]) -> None:
    assert dags["pii_unmask"].max_active_runs > 1


def test_the_form_asks_for_tokens_reason_and_ticket(dags: Mapping[str, Any]) -> None:
    params = dags["pii_unmask"].params
    assert set(params) == {"contract", "field", "tokens", "reason", "ticket"}
    assert params.get_param("contract").schema["enum"] == contract_names()


@pytest.mark.parametrize("dag_id", TASKS)
@pytest.mark.parametrize("name", ["reason", "ticket"])
def test_the_form_refuses_a_blank_reason_or_ticket(dags: Mapping[str, Any], dag_id: str, name: str) -> None:
    param = dags[dag_id].params.get_param(name)
    assert param.resolve("DPO-18, as the law says") == "DPO-18, as the law says"
    for blank in ("", "  "):
        with pytest.raises(ParamValidationError):
            param.resolve(blank)


def test_the_dag_files_are_short() -> None:
    for dag_id in TASKS:
        assert len((PROJECT / "dags" / f"{dag_id}.py").read_text().splitlines()) <= 100


# Two people


@pytest.mark.parametrize(
    ("asked", "answer", "why"),
    [
        ("ada", ADA, "ada asked for this and approved it"),
        ("7", ADA, "7 asked for this and approved it"),
        ("", ADA, "who asked"),
        ("bob", {**ADA, "responded_by_user": None}, "who approved"),
        ("bob", {**ADA, "responded_by_user": {"id": "", "name": None}}, "who approved"),
        ("bob", {**ADA, "timedout": True}, "nobody answered in time"),
        ("bob", {"error": "too late", "error_type": "timeout"}, "nobody answered in time"),
        ("bob", {**ADA, "chosen_options": ["Reject"]}, "ada rejected it"),
        ("ada", {**ADA, "chosen_options": []}, "ada rejected it"),
        ("bob", {}, "who approved"),
    ],
)
def test_one_person_alone_or_unknown_or_against_it_is_not_enough(
    asked: str, answer: dict[str, Any], why: str
) -> None:
    from queue_etl_privacy import NotApproved, refusal

    assert why in str(refusal(asked, answer))
    assert issubclass(NotApproved, PermanentError)


def test_two_people_are_enough() -> None:
    from queue_etl_privacy import refusal

    assert refusal("bob", ADA) is None


def test_nobody_is_asked_for_what_could_not_be_done(
    dags: Mapping[str, Any], officer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dags["pii_unmask"].get_task("unmask")
    with pytest.raises(ValueError, match="no recoverable field 'user_id'"):
        task.execute(context_of(dags, "bob", form(["A"], field="user_id")))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SettingsError, match="must name a folder that the worker can write"):
        task.execute(context_of(dags, "bob", form(["A"])))
    monkeypatch.delenv("QUEUE_ETL_UNMASKED_FOLDER")
    with pytest.raises(SettingsError, match="QUEUE_ETL_UNMASKED_FOLDER must name a folder"):
        task.execute(context_of(dags, "bob", form(["A"])))


# What they do


def test_unmask_writes_the_values_to_a_private_file_and_nowhere_else(
    dags: Mapping[str, Any],
    officer: Path,
    loaded: str,
    warehouse: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task, context = dags["pii_unmask"].get_task("unmask"), context_of(dags, "bob", form([loaded]))
    ask(task, context)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context)
    result = task.execute_complete(context, ADA)
    path = Path(result.pop("file"))
    assert path.parent == officer
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"field": "ip", "token": loaded, "value": ADDRESS}]
    entry = warehouse.execute("SELECT id, hash, details FROM pii.audit ORDER BY id DESC LIMIT 1").fetchone()
    assert entry is not None
    assert result == {"values": 1, "audit_entry": f"{entry[0]}:{entry[1].hex()}"}
    assert (entry[2]["requested_by"], entry[2]["approved_by"]) == ("bob", "ada")
    assert ADDRESS not in f"{result}{entry}{caplog.text}"


def test_whatever_is_refused_is_on_record(
    dags: Mapping[str, Any], recorded: list[tuple[str, dict[str, Any]]]
) -> None:
    """A rejection skips the task and everything else fails it, each with an entry of the audit first."""
    from queue_etl_privacy import NotApproved

    task = dags["pii_unmask"].get_task("unmask")
    unknown, rejected = context_of(dags, None, form(["A", "B"])), context_of(dags, "bob", form(["A"]))
    ask(task, unknown)
    with pytest.raises(NotApproved):
        task.execute_complete(unknown, ADA)
    ask(task, rejected)
    with pytest.raises(AirflowSkipException):
        task.execute_complete(rejected, {**ADA, "chosen_options": ["Reject"]})
    assert [action for action, _ in recorded] == ["unmask asked", "unmask refused"] * 2
    assert recorded[1][1]["tokens"] == 2


def test_a_run_asks_once_and_is_answered_once(
    dags: Mapping[str, Any], recorded: list[tuple[str, dict[str, Any]]]
) -> None:
    """Whatever Airflow was made to do with the run: the audit knows it."""
    from queue_etl_privacy import NotApproved

    task, context = dags["pii_unmask"].get_task("unmask"), context_of(dags, "bob", form(["A"]))
    with pytest.raises(NotApproved, match="trigger the DAG again"):
        task.execute_complete(context, ADA)
    for again in (task.execute, lambda context: task.execute_complete(context, ADA)):
        context = context_of(dags, "bob", form(["A"]))
        ask(task, context)
        with pytest.raises(AirflowSkipException):
            task.execute_complete(context, {**ADA, "chosen_options": ["Reject"]})
        with pytest.raises(NotApproved, match="cleared: a run asks once and is answered once"):
            again(context)
    assert [action for action, _ in recorded].count("unmask asked") == 2
    assert recorded[-1][0] == "unmask refused"
    assert recorded[-1][1]["why"].startswith("cleared")


@pytest.fixture
def recorded(
    dags: Mapping[str, Any], officer: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, Any]]]:
    """What an audit in memory gets: each action with its details."""
    entries: list[tuple[str, dict[str, Any]]] = []
    audit = SimpleNamespace(
        record=lambda action, purpose, details: entries.append((action, details)),
        actions_of_run=lambda run: [action for action, details in entries if details["run"] == run],
    )
    monkeypatch.setattr("include.queue_etl.privacy.audit.AuditLog", lambda database: audit)
    resources = nullcontext(SimpleNamespace(database=None, require_schema=lambda: None))
    monkeypatch.setattr(dags["pii_unmask"].get_task("unmask"), "open_officer", lambda: resources)
    return entries


def test_remask_runs_as_a_dag(dags: Mapping[str, Any], loaded: str) -> None:
    assert dags["queue_etl_remask"].test(run_conf={"ticket": "DPO-2"}).state.value == "success"
