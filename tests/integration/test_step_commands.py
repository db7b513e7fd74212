"""`step mask` and `step load` on the command line: unknown names are errors, closed runs are not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from tests.integration.project import KEYSET, Project, login, project

__all__ = ["project"]
Command = Callable[..., int]
OTHER = "0007-abcdef"
NEVER_STARTED = "step: the run never started: etl.run_summary has no airflow_run_id '{}' of user_logins\n"


@pytest.fixture
def step(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """One step as a command, on the project's staging and database; its exit code."""
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", project.database.dsn("etl_loader"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    return lambda name, run_id, *options: cli.main(["step", name, "--run-id", run_id, *options])


@pytest.fixture
def batch(project: Project) -> str:
    """The one batch of the open run `first`."""
    project.send(login("u"))
    with project.open_run("first") as context:
        (sealed,) = steps.extract(context)
    return str(sealed["batch"])


@pytest.mark.parametrize("name", ["mask", "load"])
@pytest.mark.parametrize("options", [(), ("--batch", OTHER)], ids=["all", "one"])
@pytest.mark.usefixtures("batch")
def test_a_step_of_a_run_that_never_started_fails_and_names_it(
    step: Command, capsys: pytest.CaptureFixture[str], name: str, options: tuple[str, ...]
) -> None:
    assert step(name, "frist", *options) == 1
    assert capsys.readouterr() == ("", NEVER_STARTED.format("frist"))


@pytest.mark.parametrize("name", ["mask", "load"])
def test_a_step_of_an_unknown_batch_fails_and_names_the_batches_of_the_run(
    step: Command, batch: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert step(name, "first", "--batch", OTHER) == 1
    assert capsys.readouterr() == ("", f"step: the run has no batch '{OTHER}'; its batches: {batch}\n")


def test_a_batch_whose_masked_file_is_not_there_yet_is_no_unknown_one(
    step: Command, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step("load", "first", "--batch", batch) == 1
    assert f"step: staged file {batch}.masked of run " in capsys.readouterr().err


@pytest.mark.parametrize("one", [True, False])
def test_steps_do_their_work_and_of_the_closed_run_nothing_and_succeed(
    step: Command, batch: str, capsys: pytest.CaptureFixture[str], project: Project, one: bool
) -> None:
    options = ("--batch", batch) if one else ()
    assert (step("mask", "first", *options), step("load", "first", *options)) == (0, 0)
    with project.open_run("first") as context:
        assert steps.finish(context)["loaded"] == 1
    for path in Path(project.settings.staging).rglob("*.*"):
        path.unlink()
    capsys.readouterr()
    assert (step("mask", "first", *options), step("load", "first", *options)) == (0, 0)
    masked, loaded = map(json.loads, capsys.readouterr().out.splitlines())
    assert (masked["accepted"], loaded["loaded"]) == (0, 0) if one else (masked, loaded) == ([], [])
    assert project.users() == ["u"]
