"""Log lines as JSON: every line of a run tells contract and run, and its batch; none tells a value."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.queue_etl.cli import app as cli
from include.queue_etl.cli import pipeline, wiring
from include.queue_etl.log_fields import JsonLines
from tests.integration.project import KEYSET, Project, login, project
from tests.support.wait import wait_until

__all__ = ["project"]
CANARY = "canary-4711"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the engine logs, at its loudest."""
    ours, text = logging.getLogger("include.queue_etl"), io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield text
    ours.removeHandler(handler)
    ours.setLevel(level)


def test_each_line_of_a_run_has_its_contract_its_run_and_its_batch(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: io.StringIO
) -> None:
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", project.database.loader_dsn)
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", project.settings.staging)
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")
    monkeypatch.setenv("QUEUE_ETL_PERSONAL_DATA_SAMPLE", "1")
    for module in (wiring, pipeline):
        monkeypatch.setattr(module, "load_contract", lambda _: project.contract)
    project.send(
        login(CANARY, ip="198.51.100.77", locale="jane.canary@example.org", device_id=CANARY),
        json.dumps({"user_id": CANARY, CANARY: CANARY}).encode(),
        f"no JSON {CANARY}".encode(),
    )
    wait_until(lambda: project.waiting()[0] == 3)
    assert cli.main(["drain", "--run-id", "run__1"]) == 0
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert len(lines) >= 8
    assert {(line["contract"], line["run"]) for line in lines} == {("user_logins", "run__1")}
    of_a_batch = [line for line in lines if line["event"].lower().startswith("batch ")]
    assert len(of_a_batch) >= 4
    assert all(line["batch"] in line["event"] for line in of_a_batch)
    for value in (CANARY, "198.51.100.77", "jane"):
        assert value not in logged.getvalue()
