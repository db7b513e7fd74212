"""Attributes, group and sequence number of messages, from the queue to the table and everywhere beyond."""

import io
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.contracts import LoadedContracts
from include.queue_etl import steps
from include.queue_etl.cli import arguments, operations, pipeline, wiring
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.contract import Attribute, Contract, Month
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.operations.dead_letters import redrive_dead_letters
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.postgres import partitions, tables
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.wire import EVERYTHING, Message
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from include.queue_etl.transform.masking import Masker
from tests.contracts.clicks import CONTRACT
from tests.integration.privacy import WHY, PrivacyProject, project
from tests.integration.project import Project
from tests.support.resources import open_store

__all__ = ["project"]
EMAIL = "canary.ann@example.org"
TRACE, FIELD, SUBJECT = "attribute:trace-id", "attribute:customer-email", "attribute:User.Id"
SENT_MS = 1_769_903_999_000


def text(value: str, kind: str = "String") -> Any:
    return {"DataType": kind, "StringValue": value}


def binary(value: bytes) -> Any:
    return {"DataType": "Binary", "BinaryValue": value}


@pytest.fixture
def clicks(project: PrivacyProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivacyProject]:
    """The project of the contract, with its table as the revision makes it; the commands know it alone."""
    own = replace(CONTRACT, queue=f"clicks-{secrets.token_hex(4)}")
    for module in (wiring, privacy_commands, operations, pipeline):
        monkeypatch.setattr(module, "load_contract", lambda name: own)
    loaded = LoadedContracts({own.name: own}, {})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    monkeypatch.setattr(arguments, "contract_names", lambda: [own.name])
    client = boto3.client("sqs")
    urls = [client.create_queue(QueueName=name)["QueueUrl"] for name in (own.queue, own.dead_letter_queue)]
    with made(project, own):
        yield replace(project, contract=own)
    for url in urls:
        client.delete_queue(QueueUrl=url)


@contextmanager
def made(project: Project, contract: Contract) -> Iterator[None]:
    """The contract's table, as its revision makes it; gone at the end."""
    with project.database.owner() as connection:
        for statement in tables.create(contract):
            connection.execute(statement)
        partitions.register(connection, contract)
        try:
            yield
        finally:
            connection.execute("DROP TABLE public.clicks")
            connection.execute("DELETE FROM etl.masked_columns WHERE contract = 'clicks'")
            connection.execute("DELETE FROM etl.tables WHERE table_name = 'public.clicks'")


def send(project: Project, page: str, group: str = "", *, dead: bool = False, **attributes: Any) -> None:
    """Put a message on the queue; `trace_id` stands for `trace-id`. One that is "broken" has no page."""
    client = boto3.client("sqs")
    name = project.contract.dead_letter_queue if dead else project.contract.queue
    client.send_message(
        QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"],
        MessageBody=json.dumps({"page": page} if page != "broken" else {}),
        MessageAttributes={name.replace("_", "-"): value for name, value in attributes.items()},
        **({"MessageGroupId": group} if group else {}),
    )


def rows(project: Project, columns: str) -> list[tuple]:
    return project.database.rows(f"SELECT {columns} FROM public.clicks ORDER BY page")  # noqa: S608


def opened(project: PrivacyProject) -> list[str | None]:
    """The e-mail addresses of all rows, opened with the keyset of now."""
    masker = Masker(project.contract, Keyset.from_json(project.key_file.read_text()))
    (email,) = project.contract.personal
    return [token and masker.unmask(email, token) for (token,) in rows(project, "customer_email")]


def received(project: Project) -> list[Message]:
    """What is on the queue, with everything beside its body; released at once."""
    with project.open_run() as context:
        messages = [one for some in context.queue.receive(100, 60, EVERYTHING) for one in some]
        context.queue.release([message.receipt_handle for message in messages])
    return messages


def erase(project: PrivacyProject, monkeypatch, capsys, by: str, value: str) -> dict[str, int]:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{value}\n"))
    assert project.command("erase", "--by", by, "--apply", "--json", *WHY) == 0
    shown = capsys.readouterr()
    assert value not in shown.out + shown.err
    return json.loads(shown.out)


# To the table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_what_stands_beside_the_body_becomes_columns(clicks: PrivacyProject, client: str):
    send(clicks, "a", trace_id=text("t 1"), customer_email=text(EMAIL, "String.email"))
    send(clicks, "b", "tenant 7", trace_id=text("17", "Number"), other=text("left out"))
    send(clicks, "c", dedup_id=text("order 7"), **{"User.Id": text("zoë \U0001f600\t\\")})
    send(clicks, "d")
    assert clicks.with_settings(sqs_client=client).drain()["loaded"] == 4
    assert rows(clicks, "page, trace_id, visitor, dedup_id, tenant, sequence_number") == [
        ("a", "t 1", None, None, None, None),
        ("b", "17", None, None, "tenant 7", None),
        ("c", None, "zoë \U0001f600\t\\", "order 7", None, None),
        ("d", None, None, None, None, None),
    ]
    assert opened(clicks) == [EMAIL, None, None, None]


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_what_no_column_can_hold_is_quarantined(clicks: PrivacyProject, client: str):
    send(clicks, "a", trace_id=binary(b"\xff\x00"))
    send(clicks, "b", trace_id=text("x" * 41))
    assert clicks.with_settings(sqs_client=client).drain()["quarantined_by_reason"] == {
        f"bad_type {TRACE}": 1,
        f"too_long {TRACE}": 1,
    }


def test_two_messages_of_one_dedup_id_load_once(clicks: PrivacyProject):
    for page in ("a", "b"):
        send(clicks, page, dedup_id=text("order 7"), trace_id=text(page), customer_email=text(EMAIL))
        summary = clicks.drain()
    assert (summary["loaded"], summary["duplicates"]) == (0, 1)
    assert rows(clicks, "page, trace_id, dedup_id") == [("a", "a", "order 7")]


@pytest.mark.parametrize("options", [{"key": "page"}, {"partition_by": Month("sent_at")}], ids=str)
def test_a_table_with_a_key_or_partitions_has_them_too(project: PrivacyProject, options: dict[str, Any]):
    contract = replace(CONTRACT, queue=project.contract.queue, **options)
    own = replace(project, contract=contract)
    with made(project, contract):
        send(own, "a", "g1", dedup_id=text("1"), customer_email=text("old@example.org"))
        assert own.drain()["loaded"] == 1
        send(own, "a", "g2", customer_email=text(EMAIL))
        send(own, "a", "g1", dedup_id=text("1"), customer_email=text("old@example.org"))
        summary = own.drain()
        assert (summary["loaded"], summary["duplicates"]) == (1, 1)
        expected = [EMAIL] if "key" in options else ["old@example.org", EMAIL]
        assert sorted(map(str, opened(own))) == sorted(expected)


letters = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
given_facts = st.fixed_dictionaries(
    {
        TRACE: st.none() | st.text(letters, max_size=40),
        FIELD: st.none() | st.emails() | st.text(letters, max_size=20),
        SUBJECT: st.none() | st.sampled_from(["\\N", "\\.", "a\tb\nc\r", "'", "\u2028", ""]),
        "MessageGroupId": st.none() | st.text(st.characters(codec="ascii", min_codepoint=33), max_size=128),
        "SequenceNumber": st.none() | st.integers(0, 2**128 - 1).map(str),
    }
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(given_facts, min_size=1, max_size=20))
def test_postgres_returns_what_was_sent(clicks: PrivacyProject, sent: list[dict[str, Any]]):
    run_id, keyset = uuid4(), Keyset.from_json(clicks.key_file.read_text())
    ids = sorted(str(uuid4()) for _ in sent)
    facts = {name: [one[name] for one in sent] for name in sent[0]}
    bodies = [json.dumps({"page": key}).encode() for key in ids]
    with open_store(clicks.database.dsn("etl_loader")) as store:
        queue_id = store.open_run(run_id, clicks.contract, f"run {run_id}", {}).queue_id
        raw = RawBatch(queue_id, ids, [SENT_MS] * len(ids), [1] * len(ids), bodies, facts)
        masked, rejected = mask_batch(raw, clicks.contract, keyset, Settings(staging="/nowhere"), run_id)
        assert store.load(run_id, clicks.contract, "0000", masked, rejected).loaded == len(ids)
    tokens = Masker(clicks.contract, keyset).mask(clicks.contract.personal[0], facts[FIELD], "")
    found = {
        page: others
        for page, *others in rows(
            clicks, "page, trace_id, customer_email, visitor, tenant, sequence_number::text"
        )
    }
    for key, one, token in zip(ids, sent, tokens, strict=True):
        others = (one[name] for name in (SUBJECT, "MessageGroupId", "SequenceNumber"))
        assert found[key] == [one[TRACE], token or None, *others]


# The quarantine ------------------------------------------------------------------------------------


def test_a_redrive_makes_the_row_that_the_first_attempt_would_have(clicks: PrivacyProject):
    send(clicks, "a", "tenant 7", trace_id=text("x" * 41), customer_email=text(EMAIL))
    clicks.drain()
    sent_at, message_id, _, *others = clicks.contract.message
    wider = replace(clicks.contract, message=(sent_at, message_id, Attribute("trace-id"), *others))
    with clicks.database.owner() as connection:
        connection.execute("ALTER TABLE public.clicks ALTER trace_id TYPE text")
    own = replace(clicks, contract=wider)
    with own.open_redrive() as context:
        assert redrive(context, Selection(wider.queue), dry_run=False)["loaded"] == 1
    assert rows(own, "trace_id, tenant") == [("x" * 41, "tenant 7")]
    assert opened(own) == [EMAIL]


def test_show_has_the_attributes_and_the_shape_only_their_length(clicks: PrivacyProject, capsys):
    send(clicks, "broken", trace_id=text("\ttrace"), customer_email=text(EMAIL))
    clicks.drain()
    ((message_id,),) = clicks.database.rows("SELECT message_id::text FROM etl.quarantine")
    assert clicks.command("show", message_id, *WHY) == 0
    facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert (facts[TRACE], facts[FIELD]) == ("\\ttrace", EMAIL)
    assert clicks.command("show", message_id, "--shape", *WHY) == 0
    shown = capsys.readouterr().out
    assert f"{FIELD}  {len(EMAIL)} long" in " ".join(shown.split(" ")).replace("   ", "  ")
    assert "canary" not in shown


# The officer ---------------------------------------------------------------------------------------


def test_an_attribute_is_unmasked_and_looked_for_by_its_path(clicks: PrivacyProject, capsys, monkeypatch):
    send(clicks, "a", customer_email=text(EMAIL))
    clicks.drain()
    ((token,),) = rows(clicks, "customer_email")
    assert clicks.command("unmask", "--field", FIELD, "--stdout", *WHY, token) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{FIELD},{token},{EMAIL}"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{EMAIL}\n"))
    assert clicks.command("mask", "--field", FIELD, "--count", "--json", *WHY) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["token"], found["rows"]) == (token, 1)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{EMAIL}\n"))
    assert clicks.command("unmask", "--by", FIELD, "--stdout", *WHY) == 0
    assert EMAIL in capsys.readouterr().out


def test_remask_moves_the_tokens_of_attributes(clicks: PrivacyProject, capsys):
    send(clicks, "a", customer_email=text(EMAIL))
    send(clicks, "broken", customer_email=text(EMAIL))
    clicks.drain()
    ((before,),) = rows(clicks, "customer_email")
    clicks.promote_new_key()
    assert clicks.command("remask", "--json", *WHY) == 0
    assert json.loads(capsys.readouterr().out)["left"] == 0
    ((after,),) = rows(clicks, "customer_email")
    assert after != before
    assert opened(clicks) == [EMAIL]


def test_a_value_is_erased_from_rows_quarantine_and_files(clicks: PrivacyProject, capsys, monkeypatch):
    send(clicks, "a", trace_id=text("kept"), customer_email=text(EMAIL))
    send(clicks, "b", customer_email=text("bert@example.org"))
    send(clicks, "broken", customer_email=text(f"Ann <{EMAIL}>"))
    send(clicks, "broken", trace_id=text(f"mail={EMAIL}"))
    send(clicks, "broken", trace_id=binary(EMAIL.encode()))
    send(clicks, "broken", customer_email=text(f"jo{EMAIL}"))
    clicks.drain()
    counts = erase(clicks, monkeypatch, capsys, FIELD, EMAIL)
    found = {name: counts[name] for name in ("rows", "quarantined", "file_rows", "file_messages")}
    assert found == {"rows": 1, "quarantined": 3, "file_rows": 1, "file_messages": 3}
    assert rows(clicks, "page, trace_id") == [("a", "kept"), ("b", None)]
    assert opened(clicks) == [None, "bert@example.org"]
    assert len(clicks.quarantined()) == 1
    again = erase(clicks, monkeypatch, capsys, FIELD, EMAIL)
    assert not any(again[name] for name in found)


def test_a_person_named_by_an_attribute_is_erased_whole(clicks: PrivacyProject, capsys, monkeypatch):
    for user in ("anna", "bert"):
        send(clicks, user, customer_email=text(EMAIL), **{"User.Id": text(user)})
        send(clicks, "broken", **{"User.Id": text(user)})
    clicks.drain()
    counts = erase(clicks, monkeypatch, capsys, SUBJECT, "anna")
    assert (counts["rows"], counts["quarantined"]) == (1, 1)
    assert rows(clicks, "page, visitor") == [("anna", None), ("bert", "bert")]
    assert opened(clicks) == [None, EMAIL]


def test_nothing_personal_of_an_attribute_stands_anywhere(clicks: PrivacyProject, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    send(clicks, "a", customer_email=text(EMAIL))
    send(clicks, "broken", customer_email=text(EMAIL))
    with clicks.open_run() as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
            staged = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
            steps.load(context, batch["batch"])
        steps.finish(context)
    stored = str(rows(clicks, "*")) + str(clicks.database.rows("SELECT * FROM etl.quarantine"))
    assert staged
    assert b"canary" not in staged
    assert "canary" not in stored + caplog.text


# Dead letters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_dead_letters_keep_their_attributes_and_their_group(clicks: PrivacyProject, client: str):
    own = clicks.with_settings(sqs_client=client)
    send(
        own,
        "a",
        "tenant 7",
        dead=True,
        trace_id=text("t"),
        other=binary(b"\xff\x00"),
        n=text("7", "Number.i"),
    )
    send(own, "b", dead=True, dedup_id=text("order 7"))
    with own.resources() as resources:
        assert redrive_dead_letters(resources, own.contract, dry_run=False)["redriven"] == 2
    (found,) = (message for message in received(own) if b'"a"' in message.body)
    said = {name: (value.data_type, value.content) for name, value in found.attributes.items()}
    assert {name: said[name] for name in ("trace-id", "other", "n")} == {
        "trace-id": ("String", "t"),
        "other": ("Binary", b"\xff\x00"),
        "n": ("Number.i", "7"),
    }
    assert found.group_id == "tenant 7"
    assert own.drain()["loaded"] == 2
    assert rows(own, "page, trace_id, dedup_id, tenant") == [
        ("a", "t", None, "tenant 7"),
        ("b", None, "order 7", None),
    ]


def test_of_ten_attributes_those_without_a_column_are_left_out(clicks: PrivacyProject):
    others = {f"other{number}": text("x") for number in range(9)}
    send(clicks, "a", dead=True, **others, trace_id=text("t"))
    with clicks.resources() as resources:
        redrive_dead_letters(resources, clicks.contract, dry_run=False)
    (found,) = received(clicks)
    assert len(found.attributes) == 10
    clicks.drain()
    assert rows(clicks, "trace_id") == [("t",)]


def test_a_message_without_room_for_its_origin_stays_where_it_is(clicks: PrivacyProject, caplog):
    names = [f"own{number}" for number in range(9)]
    message = (*clicks.contract.message, *map(Attribute, names))
    own = replace(clicks, contract=replace(clicks.contract, message=message))
    send(own, "a", dead=True, **{name: text("x") for name in names})
    send(own, "b", dead=True, trace_id=text("t"))
    with own.resources() as resources:
        counts = redrive_dead_letters(resources, own.contract, dry_run=False)
        depth = resources.queue(own.contract.dead_letter_queue).depth()
    assert (counts["others"], counts["redriven"]) == (2, 1)
    assert (depth.visible, depth.in_flight) == (1, 0)
    assert "1 messages could not be sent: SQS allows 10 attributes a message" in caplog.text
