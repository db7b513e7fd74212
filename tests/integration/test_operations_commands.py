"""redrive, reconcile, dead-letters and maintain on the command line: output, exit codes, one clear line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from include.queue_etl.cli import app as cli
from tests.integration.project import KEYSET
from tests.integration.scratch import Database

Command = Callable[..., int]


@pytest.fixture
def run(clean_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """One command as the maintainer of the scratch database; its exit code."""
    key_file = tmp_path / "keyset.json"
    key_file.write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_MAINTAINER_DSN", clean_database.dsn("etl_maintainer"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(key_file))
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path / "staging"))
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")
    return lambda *arguments: cli.main(arguments)


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("redrive",), {"dry_run", "messages", "verdicts"}),
        (
            ("redrive", "--apply"),
            {"dry_run", "messages", "verdicts", "loaded", "still_quarantined", "overtaken"},
        ),
        (("dead-letters",), {"dry_run", "messages", "committed", "others", "deleted", "redriven"}),
        (
            ("reconcile",),
            {"runs", "missing_runs", "batches", "loaded", "quarantined", "duplicates", "damaged"},
        ),
        (("maintain",), {"ledger_days_made", "quarantine_expired", "orphans", "unsettled", "unknown"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_command_prints_one_json_object(
    run: Command, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], keys: set[str]
) -> None:
    assert run(*command, "--json") == 0
    assert keys <= set(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("command", ["redrive", "reconcile", "dead-letters", "maintain"])
def test_each_command_has_help(run: Command, capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(command, "--help")
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["redrive", "reconcile", "dead-letters", "maintain"])
def test_without_its_connection_string_each_command_names_the_variable(
    run: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("QUEUE_ETL_MAINTAINER_DSN")
    assert run(command) == 1
    assert "QUEUE_ETL_MAINTAINER_DSN is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (("--since", "yesterday"), "'yesterday' is no time"),
        (
            ("--since", "2026-11-21", "--until", "2026-11-20"),
            "nothing lies between since 2026-11-21 and until 2026-11-20",
        ),
        (
            ("--since", "2026-11-21T01:00+01:00", "--until", "2026-11-21"),
            "nothing lies between since 2026-11-21T01:00+01:00 and until 2026-11-21",
        ),
    ],
)
def test_a_time_that_is_none_and_a_span_that_holds_nothing_are_wrong_usage(
    run: Command, capsys: pytest.CaptureFixture[str], times: tuple[str, ...], told: str
) -> None:
    assert run("redrive", *times) == 2
    assert f"redrive: error: {told}" in capsys.readouterr().err


def test_a_reason_that_nothing_was_rejected_for_is_an_error(
    run: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("redrive", "--reason", "nosuch") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no message of login-queue was ever rejected for 'nosuch'" in shown.err


def test_a_damaged_file_makes_reconcile_fail_after_its_counts(
    run: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "staging" / "00000000-0000-0000-0000-000000000001"
    folder.mkdir(parents=True)
    (folder / "0000-aaaaaa.masked").write_bytes(b"nonsense")
    assert run("reconcile", "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["damaged"] == 1
    assert "1 batches could not be read" in told.err
