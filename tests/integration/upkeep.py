"""A project of the tests' own: its queues, its database, its staging folder; the pipelines on them."""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from include.contracts.user_logins import CONTRACT
from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.keyset import Keyset
from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
from include.queue_etl.pipeline import Pipeline, Run
from include.queue_etl.settings import Settings
from tests.integration.scratch import Database

KEYSET = Keyset.new_json()
GOOD = {
    "user_id": "u",
    "app_version": "2.3.0",
    "device_type": "ios",
    "ip": "192.0.2.7",
    "locale": None,
    "device_id": "123-45-6789",
}


def login(user: str, **changes: object) -> bytes:
    """The body of a good message, or what `changes` make of it."""
    return json.dumps({**GOOD, "user_id": user, **changes}).encode()


@dataclass(frozen=True)
class Project:
    """What pipelines work on."""

    database: Database
    contract: Contract
    settings: Settings

    def pipeline(self, name: str = "") -> Pipeline:
        """A pipeline of a run of this name, as role etl_loader."""
        return Pipeline(*self._run(name), **self._parts("etl_loader"))

    def upkeep(self, name: str = "") -> UpkeepPipeline:
        """A pipeline of a run of this name, as role etl_maintainer."""
        return UpkeepPipeline(*self._run(name), **self._parts("etl_maintainer"))

    def send(self, *bodies: bytes) -> None:
        with self.pipeline() as pipeline:
            pipeline.queue.send(bodies)

    def drain(self, name: str = "") -> dict[str, Any]:
        """A whole run; its line of etl.run_summary."""
        with self.pipeline(name) as pipeline:
            for batch in steps.extract(pipeline):
                steps.mask(pipeline, batch["batch"])
                steps.load(pipeline, batch["batch"])
            return steps.finish(pipeline)

    def users(self) -> list[str]:
        """User ids of all rows, sorted, with repetitions."""
        return [user for (user,) in self.database.rows("SELECT user_id FROM user_logins ORDER BY 1")]

    def quarantined(self) -> list[str]:
        """Reasons of what waits in quarantine, sorted."""
        return [
            reason
            for (reason,) in self.database.rows(
                "SELECT reason FROM etl.quarantine WHERE redriven_at IS NULL ORDER BY 1"
            )
        ]

    def waiting(self) -> tuple[int, int]:
        """How many messages the queue holds: visible, in flight."""
        with self.pipeline() as pipeline:
            depth = pipeline.queue.depth()
        return depth.visible, depth.in_flight

    def with_settings(self, **changes: Any) -> "Project":
        return replace(self, settings=replace(self.settings, **changes))

    def _run(self, name: str) -> tuple[Contract, Run, Settings]:
        run = Run(self.contract.name, name or f"test__{secrets.token_hex(4)}")
        return self.contract, run, self.settings

    def _parts(self, role: str) -> dict[str, Any]:
        return {
            "session": boto3.Session,
            "endpoint_urls": {},
            "warehouse_dsn": self.database.dsn(role),
            "keyset_json": KEYSET,
        }


@pytest.fixture
def project(clean_database: Database, tmp_path: Path) -> Iterator[Project]:
    contract = replace(CONTRACT, queue=f"upkeep-{secrets.token_hex(4)}")
    settings = Settings(staging=str(tmp_path / "staging"), wait_seconds=0, batch_messages=10)
    client = boto3.client("sqs")
    urls = [
        client.create_queue(QueueName=name)["QueueUrl"]
        for name in (contract.queue, contract.dead_letter_queue)
    ]
    yield Project(clean_database, contract, settings)
    for url in urls:
        client.delete_queue(QueueUrl=url)


class Killed(BaseException):
    """The process ends here."""


def killed_at(part: object, method: str, monkeypatch: pytest.MonkeyPatch, *, after: bool = False) -> None:
    """From now on `part.method` ends the process, before it does anything or after."""
    original: Callable[..., Any] = getattr(part, method)

    def die(*arguments: Any, **named: Any) -> None:
        if after:
            original(*arguments, **named)
        raise Killed

    monkeypatch.setattr(part, method, die)


__all__ = ["GOOD", "KEYSET", "Killed", "Project", "killed_at", "login", "project"]
