"""A run is in the warehouse from its first message on: one without messages leaves nothing there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import wiring
from include.queue_etl.errors import RunFailed, WarehouseUnavailable
from include.queue_etl.postgres.runs import RunStore
from tests.integration.project import KEYSET, Killed, Project, killed_at, login, project

__all__ = ["project"]


def extracted(project: Project, name: str = "run") -> list[str]:
    with project.open_run(name) as context:
        return [batch["batch"] for batch in steps.extract(context)]


def states(project: Project) -> list[str]:
    return [state for (state,) in project.database.rows("SELECT state FROM etl.runs")]


def staged(project: Project) -> list[Path]:
    return list(Path(project.settings.staging).rglob("*.*"))


def test_a_run_without_a_message_leaves_no_row_and_no_file(project: Project) -> None:
    assert extracted(project) == []
    assert states(project) == []
    assert project.database.rows("SELECT count(*) FROM etl.keys") == [(0,)]
    assert staged(project) == []
    with project.open_run("run") as context, pytest.raises(RunFailed, match="the run never started"):
        steps.finish(context)


def test_a_run_is_open_before_its_first_batch_is_sealed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.send(login("u"))
    killed_at(steps, "_seal", monkeypatch)
    with pytest.raises(Killed):
        extracted(project)
    assert states(project) == ["running"]
    assert project.waiting() == (1, 0)


def test_an_open_run_to_which_no_more_came_is_closed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        test_a_run_is_open_before_its_first_batch_is_sealed(project, patch)
    assert project.drain("other")["loaded"] == 1
    assert extracted(project) == []
    assert states(project) == ["succeeded", "succeeded"]


@pytest.mark.parametrize("method", ["open_run", "register_columns", "add_key_check"])
def test_messages_of_a_run_that_cannot_be_opened_are_released(
    project: Project, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def down(*_: object) -> None:
        raise WarehouseUnavailable("no answer")

    project.send(*(login(f"u{number}") for number in range(25)))
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, method, down)
        with pytest.raises(WarehouseUnavailable):
            extracted(project)
    assert project.waiting() == (25, 0)
    assert staged(project) == []
    assert project.drain("run")["loaded"] == 25


def test_a_closed_run_receives_nothing(project: Project) -> None:
    project.send(login("u"))
    assert project.drain("run")["loaded"] == 1
    project.send(login("late"))
    assert extracted(project) == []
    assert project.waiting() == (1, 0)


def test_adopted_batches_open_a_run_that_the_warehouse_forgot(project: Project) -> None:
    project.send(login("u"))
    batches = extracted(project)
    with project.database.owner() as connection:
        connection.execute("TRUNCATE etl.runs, etl.batches")
    assert extracted(project) == batches
    assert states(project) == ["running"]
    assert project.drain("run")["loaded"] == 1


# drain on the command line


@pytest.fixture
def drain(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on the project's queue, staging and database; its exit code."""
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setattr(wiring, "load_contract", lambda name: project.contract)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", project.database.dsn("etl_loader"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")
    return lambda *options: cli.main(["drain", "--run-id", "run", *options])


def test_drain_of_an_empty_queue_says_so_and_records_nothing(
    drain: Callable[..., int], project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drain() == 0
    assert capsys.readouterr().out == f"queue {project.contract.queue} gave no message: nothing to do\n"
    assert drain("--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "contract": "user_logins", "airflow_run_id": "run",
        "received": 0, "loaded": 0, "quarantined": 0, "duplicates": 0, "deleted": 0,
    }  # fmt: skip
    assert states(project) == []


def test_drain_of_a_closed_run_shows_what_it_did(
    drain: Callable[..., int], project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.send(login("u"))
    assert (drain("--json"), drain("--json")) == (0, 0)
    first, again = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == again
    assert first["loaded"] == 1
