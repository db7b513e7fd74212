"""`drain` on the command line: one run, or as many as a backlog takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.queue_etl.cli import app as cli
from include.queue_etl.contract import Contract
from tests.integration.project import KEYSET, Project, login, project

__all__ = ["project"]
Drain = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def drain(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Drain:
    """The command, on the project's queue, staging and database; what it prints of each run."""
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", project.database.dsn("etl_loader"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")

    def of_project(name: str) -> Contract:
        return project.contract

    monkeypatch.setattr("include.queue_etl.cli.wiring.load_contract", of_project)

    def run(*arguments: str) -> list[dict[str, Any]]:
        assert cli.main(["drain", "--json", *arguments]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_run_takes_its_most_and_leaves_the_rest(drain: Drain, project: Project) -> None:
    project.send(*map(login, "abc"))
    (run,) = drain("--max", "2")
    assert (run["received"], run["deleted"], len(project.users())) == (2, 2, 2)


def test_until_empty_runs_follow_each_other_as_long_as_one_is_full(drain: Drain, project: Project) -> None:
    project.send(*map(login, "abcde"))
    runs = drain("--max", "2", "--until-empty")
    assert [run["received"] for run in runs] == [2, 2, 1]
    assert len({run["run_id"] for run in runs}) == 3
    assert sorted(project.users()) == list("abcde")


def test_until_empty_an_empty_queue_ends_it_after_full_runs(drain: Drain, project: Project) -> None:
    project.send(*map(login, "abcd"))
    assert [run["received"] for run in drain("--max", "2", "--until-empty")] == [2, 2, 0]
