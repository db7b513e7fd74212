"""Personal values in every part of a message, and a search of all that is kept of it."""

import json
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import boto3
import pytest
from msgspec import Struct

from include.queue_etl.contract import Attribute, Contract, Jsonb, Normalization, Personal, Subject
from include.queue_etl.postgres import tables
from include.queue_etl.staging.area import Kind
from tests.faults import canaries
from tests.faults.bodies import DEVICE_MARK
from tests.integration.project import Project, project

__all__ = ["project"]
MESSAGES = 40


class Customer(Struct):
    """Nested."""

    id: Annotated[str, Subject()]
    email: Annotated[str, Personal(Normalization.EMAIL)]


class Item(Struct):
    """Inside jsonb."""

    sku: str
    gift_for: Annotated[str | None, Personal()] = None


class Visit(Struct):
    """A message."""

    customer: Customer
    items: list[Item]
    extra: Annotated[Any, Jsonb({"seen[*].by": Personal()})] = None


CONTRACT = Contract(
    name="canaries",
    queue="canaries",
    table="public.canaries",
    event=Visit,
    message=(Attribute("reply-to", personal=Personal(Normalization.EMAIL)),),
    unknown_fields="keep",
)


@pytest.fixture
def visits(project: Project) -> Iterator[Project]:
    """A project that keeps all there is to keep: undeclared fields, the archive, the quarantine."""
    own = replace(CONTRACT, queue=f"canaries-{secrets.token_hex(4)}")
    client = boto3.client("sqs")
    url = client.create_queue(QueueName=own.queue)["QueueUrl"]
    with project.database.owner() as connection:
        for statement in tables.create(own):
            connection.execute(statement)
    kept = replace(project, contract=own).with_settings(archive_days=3, personal_data_sample=1)
    yield kept
    client.delete_queue(QueueUrl=url)
    with project.database.owner() as connection:
        connection.execute("DROP TABLE public.canaries")
        connection.execute("DELETE FROM etl.masked_columns WHERE contract = 'canaries'")


def send(project: Project, number: int, body: str) -> None:
    client = boto3.client("sqs")
    client.send_message(
        QueueUrl=client.get_queue_url(QueueName=project.contract.queue)["QueueUrl"],
        MessageBody=body,
        MessageAttributes={"reply-to": {"DataType": "String", "StringValue": canary(number, "reply")}},
    )


def canary(number: int, place: str) -> str:
    return f"{DEVICE_MARK}-{place}-{number}@example.org"


def visit(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "customer": {"id": f"c{number}", "email": canary(number, "mail"), "nick": canary(number, "nick")},
        "items": [{"sku": "A", "gift_for": canary(number, "gift"), "wish": canary(number, "wish")}],
        "extra": {"seen": [{"by": canary(number, "seen")}]},
        "new": {canary(number, "key"): [canary(number, "new")]},
        **changes,
    }


def test_nothing_that_is_kept_of_a_message_shows_a_personal_value(
    visits: Project, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MESSAGES):
        bad = {"items": canary(number, "bad")} if number % 4 == 3 else {}
        text = json.dumps(visit(number, **bad))
        send(visits, number, text[:-1] if number % 8 == 7 else text)
    caplog.set_level(logging.DEBUG)  # now: at this level boto3 logs what the test sends
    summary = visits.drain()
    assert (summary["loaded"], summary["quarantined"]) == (MESSAGES * 3 // 4, MESSAGES // 4)

    rows = visits.database.rows
    assert rows("SELECT count(*) FROM etl.kept_fields") == [(MESSAGES * 3 // 4,)]
    masked = "SELECT count(reply_to), count(customer_email), count(items -> 0 ->> 'gift_for') FROM canaries"
    assert rows(masked) == [(MESSAGES * 3 // 4,) * 3]
    with visits.resources() as resources:
        assert any(files.batches(Kind.RAW) for files in resources.staging.runs().values())

    staged = [path for path in Path(visits.settings.staging).rglob("*") if path.is_file()]
    assert canaries.in_files(staged) == {}
    assert canaries.in_tables(visits.database) == {}
    assert "what looks like an e-mail address" in caplog.text
    assert canaries.hits(f"{caplog.text} {summary}".encode()) == 0
