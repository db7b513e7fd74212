"""A project of the tests' own: its queues, its database, its staging folder; the pipelines on them."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import boto3
import pytest

from include.contracts.user_logins import CONTRACT
from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.resources import Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings
from tests.integration.scratch import Database
from tests.support.resources import make_resources, open_run

KEYSET = KeysetDocument.new().text
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

    def open_run(self, name: str = "", role: str = "etl_loader") -> AbstractContextManager[RunContext]:
        """A run of this name, as a role."""
        name = name or f"test__{secrets.token_hex(4)}"
        return open_run(self.contract, name, self.settings, self.database.dsn(role), self.keyset_json())

    def open_redrive(self, name: str = "") -> AbstractContextManager[RunContext]:
        """A run of this name, as role etl_maintainer."""
        return self.open_run(name, "etl_maintainer")

    def resources(self, role: str = "etl_maintainer") -> Resources:
        """What a job works with that is no run."""
        return make_resources(self.settings, self.database.dsn(role), self.keyset_json())

    def keyset_json(self) -> str:
        return KEYSET

    def send(self, *bodies: bytes) -> None:
        with self.open_run() as context:
            context.queue.send(bodies)

    def drain(self, name: str = "") -> dict[str, Any]:
        """A whole run; its line of etl.run_summary."""
        with self.open_run(name) as context:
            for batch in steps.extract(context):
                steps.mask(context, batch["batch"])
                steps.load(context, batch["batch"])
            return steps.finish(context)

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
        with self.open_run() as context:
            depth = context.queue.depth()
        return depth.visible, depth.in_flight

    def with_settings(self, **changes: Any) -> Self:
        return replace(self, settings=replace(self.settings, **changes))


@pytest.fixture
def project(clean_database: Database, tmp_path: Path) -> Iterator[Project]:
    contract = replace(CONTRACT, queue=f"project-{secrets.token_hex(4)}")
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
