"""Another queue, other fields, another table: the engine is told by one contract file and one migration."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.errors import PreflightError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import PayloadCipher
from tests.contracts.newsletter_signups import CONTRACT
from tests.integration import queues
from tests.integration.scratch import TODAY, Database
from tests.support.resources import open_run

TABLE = Path(__file__).parent.parent / "contracts" / "newsletter_signups.sql"
EMAILS = ["ann@example.org", "Bob@Example.org", "ann@example.org ", "zoë@example.org"]


@pytest.fixture
def contract() -> Iterator[Contract]:
    with queues.own_queue(CONTRACT) as own:
        yield own


@pytest.fixture
def signups(clean_database: Database) -> Iterator[Database]:
    """The scratch database with the second contract's table."""
    with clean_database.owner() as connection:
        connection.execute(TABLE.read_text(encoding="utf-8"))
    yield clean_database
    with clean_database.owner() as connection:
        connection.execute("DROP TABLE public.newsletter_signups")


def notification(**event: str) -> bytes:
    return json.dumps({"Type": "Notification", "Message": json.dumps(event)}).encode()


def signup(email: str) -> bytes:
    return notification(email=email, newsletter="weekly\tnews", doubleOptIn="yes")


def run(contract: Contract, database: Database, keyset_json: str, staging: Path, run_id: str) -> dict:
    chosen = queues.settings(staging, batch_messages=10, retain_days=0)
    with open_run(contract, run_id, chosen, database.loader_dsn, keyset_json) as context:
        for batch in steps.extract(context, asdict(context.queue.depth())):
            steps.load(context, steps.mask(context, batch["batch"])["batch"])
        return steps.finish(context)


def test_a_second_pipeline_moves_its_messages_from_queue_to_table(contract, signups, tmp_path):
    keyset_json = KeysetDocument.new().text
    bad = [b"no json", notification(email="x@example.org", newsletter="weekly", doubleOptIn="maybe")]
    queues.send(contract, [*map(signup, EMAILS), *bad])

    summary = run(contract, signups, keyset_json, tmp_path, "first")

    assert summary["state"] == "succeeded"
    assert (summary["contract"], summary["received"], summary["loaded"]) == ("newsletter_signups", 6, 4)
    assert summary["quarantined_by_reason"] == {"bad_json": 1, "bad_answer doubleOptIn": 1}
    assert (summary["deleted"], summary["duplicates"], queues.depth(contract).total) == (6, 0, 0)
    rows = signups.rows("SELECT * FROM public.newsletter_signups")
    assert {row[1:] for row in rows} == {("weekly\tnews", True, None, TODAY)}
    masker, personal = Masker(contract, Keyset.from_json(keyset_json)), contract.personal[0]
    assert sorted(masker.unmask(personal, row[0]) for row in rows) == sorted(
        email.strip() for email in EMAILS
    )
    assert len({row[0] for row in rows}) == 3  # one person signed up twice
    assert list(tmp_path.rglob("*.*")) == []


def test_its_quarantine_opens_with_its_own_name_only(contract, signups, tmp_path):
    keyset_json = KeysetDocument.new().text
    queues.send(contract, [b"canary-4711"])
    run(contract, signups, keyset_json, tmp_path, "first")
    ((message_id, payload),) = signups.rows("SELECT message_id, payload FROM etl.quarantine")
    assert b"canary" not in payload
    cipher = PayloadCipher(Keyset.from_json(keyset_json), contract.name)
    assert cipher.decrypt(str(message_id), payload).body == b"canary-4711"


def test_its_runs_do_not_touch_those_of_the_first(contract, signups, tmp_path):
    queues.send(contract, [signup("ann@example.org")])
    run(contract, signups, KeysetDocument.new().text, tmp_path, "manual__1")
    assert signups.counts() == (0, 1, 0)  # no row in user_logins
    assert signups.rows("SELECT name FROM etl.queues") == [(contract.queue,)]


def test_without_its_migration_it_does_not_start(contract, clean_database, tmp_path):
    queues.send(contract, [signup("ann@example.org")])
    with pytest.raises(PreflightError) as caught:
        run(contract, clean_database, KeysetDocument.new().text, tmp_path, "first")
    assert caught.value.problems == ("there is no table public.newsletter_signups: its migration is missing",)
    assert queues.depth(contract).visible == 1
