"""A project of the tests' own with a keyset file that changes, and its officer's and remasker's commands."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from include.contracts import LoadedContracts
from include.contracts.user_logins import CONTRACT
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import arguments, operations, pipeline, wiring
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.audit import Purpose
from include.queue_etl.resources import Resources
from include.queue_etl.settings import Settings
from include.queue_etl.transform.masking import Masker
from tests.integration.project import Project, login
from tests.integration.scratch import Database

WHY = ("--reason", "request of the person", "--ticket", "DPO-17")
PURPOSE = Purpose("request of the person", "DPO-17")


@dataclass(frozen=True)
class PrivacyProject(Project):
    """A project whose keyset is what the file says at the moment."""

    key_file: Path = Path()

    def officer(self) -> Resources:
        return self.resources("pii_officer")

    def remasker(self) -> Resources:
        return self.resources("etl_remasker")

    def keyset_json(self) -> str:
        return self.key_file.read_text()

    def document(self) -> KeysetDocument:
        return KeysetDocument(self.keyset_json())

    def promote_new_key(self) -> int:
        """Put a new primary key into the keyset file; its id."""
        document, key_id = self.document().add_key()
        self.key_file.write_text(document.promote_key(key_id).text)
        return key_id

    def contracts(self) -> dict[str, Any]:
        return {self.contract.name: self.contract}

    def command(self, *arguments: str) -> int:
        return cli.main(list(arguments))

    def originals(self) -> set[tuple[str, str | None, str | None]]:
        """(user, ip, device id) of all rows, opened with the keyset of now."""
        masker = Masker(self.contract, Keyset.from_json(self.key_file.read_text()))
        ip, device = self.contract.personal
        rows = self.database.rows("SELECT user_id, masked_ip, masked_device_id FROM public.user_logins")
        return {(user, a and masker.unmask(ip, a), b and masker.unmask(device, b)) for user, a, b in rows}

    def audit(self) -> list[tuple]:
        return self.database.rows("SELECT action, details FROM pii.audit ORDER BY id")


@pytest.fixture
def project(
    clean_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrivacyProject]:
    contract = replace(CONTRACT, queue=f"privacy-{secrets.token_hex(4)}")
    settings = Settings(staging=str(tmp_path / "staging"), wait_seconds=0, batch_messages=100)
    key_file = tmp_path / "keyset.json"
    key_file.write_text(KeysetDocument.new().text)
    for module in (wiring, privacy_commands, operations, pipeline):
        monkeypatch.setattr(module, "load_contract", lambda name: contract)
    loaded = LoadedContracts({contract.name: contract}, {})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    monkeypatch.setattr(arguments, "contract_names", lambda: [contract.name])
    for name, value in {
        "QUEUE_ETL_KEYSET_FILE": str(key_file),
        "QUEUE_ETL_STAGING": settings.staging,
        "QUEUE_ETL_OFFICER_DSN": clean_database.dsn("pii_officer"),
        "QUEUE_ETL_REMASKER_DSN": clean_database.dsn("etl_remasker"),
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("sqs")
    urls = [
        client.create_queue(QueueName=name)["QueueUrl"]
        for name in (contract.queue, contract.dead_letter_queue)
    ]
    yield PrivacyProject(clean_database, contract, settings, key_file)
    for url in urls:
        client.delete_queue(QueueUrl=url)


def logins(prefix: str, count: int) -> dict[bytes, tuple[str, str, str]]:
    """Body -> (user, ip, device id) of that many good messages."""
    facts = [
        (f"{prefix}{n:04}", f"10.0.{n // 200}.{n % 200}", f"{prefix}-device-{n % 50}") for n in range(count)
    ]
    return {login(user, ip=ip, device_id=device): (user, ip, device) for user, ip, device in facts}


__all__ = ["PURPOSE", "WHY", "PrivacyProject", "login", "logins", "project"]
