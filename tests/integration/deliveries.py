"""A second pipeline beside `user_logins` for the officer's commands: it has personal values in jsonb."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from include.contracts import LoadedContracts
from include.queue_etl.cli import arguments, operations, pipeline, wiring
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.token_format import TOKEN_PREFIX_CHARS, token_prefixes
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from include.queue_etl.transform.copy_text import unescaped
from include.queue_etl.transform.masking import Masker
from tests.contracts.deliveries import CONTRACT
from tests.integration.privacy import PrivacyProject

TABLE = Path(__file__).parent.parent / "contracts" / "deliveries.sql"


def delivery(parcel: str, customer: str = "c", **changes: object) -> bytes:
    """The body of a good message, or what `changes` make of it."""
    event = {"parcel": parcel, "customer": customer, "sender_ip": "192.0.2.9", "contacts": []}
    return json.dumps({**event, **changes}).encode()


@pytest.fixture
def deliveries(project: PrivacyProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyProject]:
    """The project of the second contract; the commands know both."""
    own = replace(CONTRACT, queue=f"deliveries-{secrets.token_hex(4)}")
    both = {own.name: own, project.contract.name: project.contract}
    for module in (wiring, privacy_commands, operations, pipeline):
        monkeypatch.setattr(module, "load_contract", both.__getitem__)
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: LoadedContracts(both, {}))
    monkeypatch.setattr(arguments, "contract_names", lambda: list(both))
    client = boto3.client("sqs")
    urls = [client.create_queue(QueueName=name)["QueueUrl"] for name in (own.queue, own.dead_letter_queue)]
    with project.database.owner() as connection:
        connection.execute(TABLE.read_text(encoding="utf-8"))
    yield replace(project, contract=own)
    with project.database.owner() as connection:
        connection.execute("DROP TABLE public.deliveries")
        connection.execute("DELETE FROM etl.masked_columns WHERE contract = 'deliveries'")
    for url in urls:
        client.delete_queue(QueueUrl=url)


def rows(project: PrivacyProject) -> list[tuple]:
    """All rows: parcel, customer, sender_ip, contacts, notes."""
    return project.database.rows(
        "SELECT parcel, customer, sender_ip, contacts, notes FROM public.deliveries ORDER BY 1"
    )


def originals(project: PrivacyProject) -> dict[str, tuple]:
    """Parcel -> customer, and everything with its tokens opened with the keyset of now, but one-way ones."""
    masker = Masker(project.contract, Keyset.from_json(project.key_file.read_text()))
    fields = {masked.field: masked for masked in project.contract.recoverable}

    def opened(field: str, token: str | None) -> str | None:
        return token and masker.unmask(fields[field], token)

    def contact(given: dict[str, Any]) -> dict[str, Any]:
        found = {name: opened(f"contacts[*].{name}", given[name]) for name in ("phone", "ip")}
        return {"role": given["role"], **found, "member": bool(given["member"])}

    def note(given: Any) -> Any:
        if isinstance(given, list):
            return list(map(note, given))
        if isinstance(given, dict) and "who" in given:
            return {**given, "who": opened("notes.by[*].who", given["who"])}
        return {name: note(one) for name, one in given.items()} if isinstance(given, dict) else given

    return {
        parcel: (customer, opened("sender_ip", ip), list(map(contact, contacts)), note(notes))
        for parcel, customer, ip, contacts, notes in rows(project)
    }


def tokens_of(project: PrivacyProject, key: int) -> int:
    """How many texts anywhere in the table begin as tokens of the key do."""
    prefixes = tuple(token_prefixes(key))
    return sum(text[:TOKEN_PREFIX_CHARS] in prefixes for row in rows(project) for text in texts(row))


def texts(value: Any) -> Iterator[str]:
    """Every text within."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def staged_rows(project: PrivacyProject, name: str) -> list[list[Any]]:
    """The rows of a run's masked file, jsonb columns as values."""
    with project.open_run(name) as context:
        (batch,) = context.staging.batches(Kind.MASKED)
        masked = context.staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
    lines = [line.split("\t") for line in masked.rows.decode().split("\n")[:-1]]
    return [[_value(text) for text in line] for line in sorted(lines)]


def staged_payloads(project: PrivacyProject, name: str) -> bytes:
    """The lines of a run's rejected file."""
    with project.open_run(name) as context:
        (batch,) = context.staging.batches(Kind.REJECTED)
        return context.staging.open(BatchFile(batch, Kind.REJECTED), RejectedBatch).lines


def _value(text: str) -> Any:
    value = unescaped(text)
    return json.loads(value) if value and value[0] in "[{" else value
