"""The personal data check in real runs: figures, quarantine, redrive, and no value anywhere."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from include.queue_etl import steps
from include.queue_etl.cli import output
from include.queue_etl.contract import Contract, NotPersonal
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from tests.faults import canaries
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK
from tests.integration.project import Project, login, project
from tests.support.contracts import redeclared

__all__ = ["project"]
EMAIL = "canary@example.org"
FIGURES = ("loaded", "personal_data_checked", "personal_data_found")


@pytest.fixture
def checking(project: Project) -> Project:
    """A project whose check looks at every message."""
    return project.with_settings(personal_data_sample=1)


def guarded(project: Project, **options: Any) -> Project:
    return replace(project, contract=replace(project.contract, personal_data_check="quarantine", **options))


def deciding(contract: Contract) -> Contract:
    """The contract when somebody has decided that user ids are none."""
    return redeclared(contract, user_id=Annotated[str, Meta(min_length=1, max_length=128), NotPersonal()])


def figures(summary: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(summary[name] for name in FIGURES)


def test_what_looks_personal_is_counted_over_the_batches_of_its_run(checking: Project) -> None:
    checking.send(*(login(f"u{number}", new={"mail": EMAIL}) for number in range(12)))
    checking.send(login("203.0.113.7", new={"mail": f"{EMAIL}, 203.0.113.7"}), login("v"))
    found = {"new.mail": {"email": 13, "ip": 1}, "user_id": {"ip": 1}}
    assert figures(checking.drain()) == (14, 14, found)
    rows = "SELECT count(*), sum(personal_data_checked) FROM etl.batches WHERE personal_data_found <> '{}'"
    assert checking.database.rows(rows)[0][1] == 14
    stored = checking.database.rows("SELECT personal_data_checked, personal_data_found FROM etl.runs")
    assert stored == [(14, found)]


def test_a_run_without_findings_says_so(checking: Project, capsys: pytest.CaptureFixture[str]) -> None:
    checking.send(login("v"))
    summary = checking.drain()
    assert figures(summary) == (1, 1, {})
    output.show_run(summary, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown if line.startswith("personal")] == [
        ["personal_data_checked", "1"],
        ["personal_data_found", "none"],
    ]


def test_a_warning_says_what_looks_personal_and_what_to_do(
    checking: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "include")
    checking.send(login("u", note=EMAIL))
    checking.drain()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "1 of 1 checked messages have what looks like an e-mail address in note: declare it" in warning
    assert "of 1 checked messages, those with what looks personal: email in note 1" in caplog.text


def test_a_guarded_contract_quarantines_every_such_message(project: Project) -> None:
    project = guarded(project.with_settings(personal_data_sample=0))
    project.send(login("u", note=EMAIL), login("203.0.113.7"), login("v", note="x"))
    summary = project.drain()
    assert summary["quarantined_by_reason"] == {"personal_data note": 1, "personal_data user_id": 1}
    assert figures(summary) == (1, 3, {"note": {"email": 1}, "user_id": {"ip": 1}})
    assert project.users() == ["v"]


def test_what_somebody_decides_to_be_harmless_is_loaded_by_a_redrive(project: Project) -> None:
    project = guarded(project)
    project.send(login("203.0.113.7"), login("198.51.100.9", note=EMAIL))
    project.drain()
    assert project.quarantined() == ["personal_data user_id"] * 2
    selected = Selection(project.contract.queue, "personal_data")
    with project.open_redrive() as context:
        assert redrive(context, selected, dry_run=False)["still_quarantined"] == 2
    project = replace(project, contract=deciding(project.contract))
    with project.open_redrive() as context:
        assert redrive(context, selected, dry_run=False)["loaded"] == 1
    assert project.quarantined() == ["personal_data note"]
    project = replace(project, contract=replace(project.contract, personal_data_check="off"))
    with project.open_redrive() as context:
        assert redrive(context, selected, dry_run=False)["loaded"] == 1
    assert project.users() == ["198.51.100.9", "203.0.113.7"]


@pytest.mark.parametrize("mode", ["count", "quarantine"])
def test_what_was_found_stands_in_no_log_no_result_and_no_table(
    mode: Any, checking: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    project = replace(checking, contract=replace(checking.contract, personal_data_check=mode))
    mail, address = f"{DEVICE_MARK}@example.org", f"{ADDRESS_MARK}::7"
    project.send(login("u", note=mail, deep=[{mail: address}]), login("v", address=address))
    results: list[Any] = []
    with project.open_run() as context:
        for batch in steps.extract(context):
            results += [steps.mask(context, batch["batch"]), steps.load(context, batch["batch"])]
        results.append(steps.finish(context))
    said = capfd.readouterr()
    assert results[-1]["personal_data_found"] == {
        "note": {"email": 1},
        "deep[*].*": {"email": 1, "ip": 1},
        "address": {"ip": 1},
    }
    assert canaries.hits(f"{caplog.text} {results} {said.out} {said.err}".encode()) == 0
    assert canaries.in_tables(project.database) == {}
    staged = [path for path in Path(project.settings.staging).rglob("*") if path.is_file()]
    assert staged
    assert canaries.in_files(staged) == {}
