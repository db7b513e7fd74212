"""`step mask` and `step load` on the command line: unknown runs are errors, closed ones are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from tests.integration.project import KEYSET, Project, login, project

__all__ = ["project"]
Command = Callable[..., int]
NEVER_STARTED = "step: the run never started: etl.run_summary has no airflow_run_id '{}' of user_logins\n"


@pytest.fixture
def step(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """One step as a command, on the project's staging and database; its exit code."""
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", project.database.dsn("etl_loader"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    return lambda name, run_id: cli.main(["step", name, "--run-id", run_id])


@pytest.fixture
def batch(project: Project) -> str:
    """The one batch of the open run `first`."""
    project.send(login("u"))
    with project.open_run("first") as context:
        (sealed,) = steps.extract(context)
    return str(sealed["batch"])


@pytest.mark.parametrize("name", ["mask", "load"])
@pytest.mark.usefixtures("batch")
def test_a_step_of_a_run_that_never_started_fails_and_names_it(
    step: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert step(name, "frist") == 1
    assert capsys.readouterr() == ("", NEVER_STARTED.format("frist"))


@pytest.mark.usefixtures("batch")
def test_steps_do_their_work_and_of_the_closed_run_nothing_and_succeed(
    step: Command, capsys: pytest.CaptureFixture[str], project: Project
) -> None:
    assert (step("mask", "first"), step("load", "first")) == (0, 0)
    with project.open_run("first") as context:
        assert steps.finish(context)["loaded"] == 1
    for path in Path(project.settings.staging).rglob("*.*"):
        path.unlink()
    capsys.readouterr()
    assert (step("mask", "first"), step("load", "first")) == (0, 0)
    masked, loaded = map(json.loads, capsys.readouterr().out.splitlines())
    assert (masked, loaded) == ([], [])
    assert project.users() == ["u"]
