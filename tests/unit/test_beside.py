"""Columns of what stands beside the body of a message: attributes, group, sequence number."""

import json
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field, msgpack

from include.queue_etl.contract import (
    Attribute,
    Contract,
    MaskedField,
    Personal,
    Scheme,
    SentAt,
    comments,
    export,
)
from include.queue_etl.contract.comments import Masking, masking_in
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.postgres import table_plan, tables
from include.queue_etl.postgres.table_plan import Found
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch, RejectedBatch
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import Original, PayloadCipher, decode_lines
from tests.contracts.clicks import CONTRACT, ClickEvent
from tests.unit.copy_decoder import decoded

KEYSET = KeysetDocument.new().open()
SETTINGS = Settings(staging="/staging")
RUN = UUID("00000000-0000-4000-8000-00000000000a")
IDS = tuple(f"00000000-0000-4000-8000-{number:012}" for number in range(20))
BODY = b'{"page": "/"}'
TRACE, EMAIL, SUBJECT = "attribute:trace-id", "attribute:customer-email", "attribute:User.Id"
SENT_MS = 1_769_900_000_000


def contract(*message, event=ClickEvent, **options) -> Contract:
    return Contract("c", "c", "public.c", event, (SentAt("sent_at"), *message), **options)


def raw(*facts: dict, bodies=None) -> RawBatch:
    """A batch of one message for each of these."""
    count = len(facts)
    names = dict.fromkeys(name for one in facts for name in one)
    columns = {name: [one.get(name) for one in facts] for name in names}
    given = bodies or [BODY] * count
    return RawBatch(1, list(IDS[:count]), [SENT_MS] * count, [1] * count, given, columns)


def masked(batch: RawBatch, by: Contract = CONTRACT) -> tuple[MaskedBatch, RejectedBatch]:
    return mask_batch(batch, by, KEYSET, SETTINGS, RUN)


def rows(batch: RawBatch, by: Contract = CONTRACT) -> list[dict[str, str | None]]:
    found, _ = masked(batch, by)
    return [dict(zip(by.column_names, row, strict=True)) for row in decoded(found.rows)]


# What a contract may say ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a,b", "é", "a..b", ".a", "a.", "AWS.trace", "aWs.x", "Amazon.x", "a*", "x" * 257, "a\n"],
)
def test_a_name_that_sqs_does_not_have_is_refused(name):
    with pytest.raises(ValueError, match="SQS has no such name"):
        Attribute(name)


@pytest.mark.parametrize("name", ["a", "trace-id", "X_1.y", "awsome.x", "AWSTrace", "dedup-id", "x" * 256])
def test_a_name_that_sqs_has_is_taken(name):
    assert Attribute(name).path == f"attribute:{name}"


def test_the_columns_are_nullable_texts_and_tokens():
    found = {column.name: (column.field, column.sql_type, column.nullable) for column in CONTRACT.asked_for}
    assert found == {
        "trace_id": (TRACE, "varchar(40)", True),
        "customer_email": (EMAIL, "text", True),
        "visitor": (SUBJECT, "text", True),
        "dedup_id": ("attribute:dedup-id", "text", True),
        "tenant": ("MessageGroupId", "varchar(128)", True),
        "sequence_number": ("SequenceNumber", "numeric(39,0)", True),
    }
    assert CONTRACT.subject.name == "visitor"
    assert [masked.field for masked in CONTRACT.personal] == [EMAIL]


def test_the_column_may_have_another_name():
    found = contract(Attribute("a.b"), Attribute("c", "d"), Attribute("e", personal=Personal(column="f")))
    assert found.column_names == ("page", "sent_at", "a_b", "d", "f")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ((Attribute("a"), Attribute("a", "b")), "2 columns hold the attribute a: leave one of them"),
        ((Attribute("1st"),), "'1st' is no name of a column"),
        ((Attribute("page"),), "2 columns have the name page"),
        ((Attribute("a", subject=True), Attribute("b", subject=True)), "several fields say whose row it is"),
        (
            (Attribute("a", personal=Personal(token_chars=160)),),
            "give attribute:a a max_length of at most 95, so that its token fits a",
        ),
    ],
)
def test_a_contract_that_cannot_be_is_refused_with_what_to_do(message, problem):
    with pytest.raises(ValueError, match=problem):
        contract(*message)


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="give a max_length of at least 1"):
        Attribute("a", max_length=0)


def test_an_attribute_is_no_key_as_a_message_may_lack_it():
    with pytest.raises(ValueError, match="key: trace_id may be NULL: give another"):
        contract(Attribute("trace-id"), key="trace_id")


def test_no_field_of_an_event_is_called_as_an_attribute_is():
    class Event(Struct):
        a: str = field(name="attribute:a")

    with pytest.raises(ValueError, match="names in the JSON may not begin with attribute:"):
        contract(event=Event)


# What others are told ------------------------------------------------------------------------------


def test_a_comment_says_where_it_comes_from_and_is_read_again():
    said = {column.name: comments.of_column(column) for column in CONTRACT.asked_for}
    assert said["trace_id"] == "Of the request that was clicked. From the message's attribute `trace-id`."
    assert said["tenant"] == "From the message's MessageGroupId."
    assert masking_in(said["trace_id"]) == masking_in(said["tenant"]) == frozenset()
    assert masking_in(said["customer_email"]) == frozenset({Masking(EMAIL, Scheme.RECOVERABLE, "email")})


def test_the_plan_sees_when_an_attribute_becomes_personal():
    found = Found(tables.of_contract(CONTRACT))
    assert table_plan.changes(CONTRACT, found) == []
    sent_at, message_id, _, *others = CONTRACT.message
    personal = Attribute("trace-id", max_length=40, personal=Personal())
    message = (sent_at, message_id, personal, *others)
    changes = table_plan.changes(replace(CONTRACT, message=message), found)
    breaking = [change.what for change in changes if change.is_breaking]
    assert breaking == ["column trace_id becomes personal: attribute:trace-id"]


def test_a_new_attribute_is_a_change_that_costs_nothing():
    before = replace(CONTRACT, message=CONTRACT.message[:2])
    changes = table_plan.changes(CONTRACT, Found(tables.of_contract(before)))
    assert not any(change.is_breaking for change in changes)
    assert {change.cost for change in changes} == {table_plan.AT_ONCE}


def test_exports_say_what_is_read_beside_the_body():
    schema = export.json_schema(CONTRACT)
    assert schema["x-message-attributes"] == {
        "trace-id": {"column": "trace_id", "maxLength": 40},
        "customer-email": {
            "column": "customer_email",
            "x-personal": {"scheme": "recoverable", "normalization": "email"},
        },
        "User.Id": {"column": "visitor"},
        "dedup-id": {"column": "dedup_id"},
    }
    (table,) = export.odcs(CONTRACT, "1")["schema"]
    (email,) = (one for one in table["properties"] if one["name"] == "customer_email")
    assert email["customProperties"][0]["value"]["field"] == EMAIL
    assert (
        "| `customer_email` | `text` | yes | the message's attribute `customer-email` |"
        " Masked: recoverable token, normalized as email |" in export.markdown(CONTRACT)
    )
    assert "x-message-attributes" not in export.json_schema(contract())


# What becomes of them ------------------------------------------------------------------------------

texts = st.none() | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.tuples(texts, texts, texts), max_size=5))
def test_what_was_sent_is_what_the_row_has(given_texts):
    batch = raw(*({TRACE: a, EMAIL: b, SUBJECT: c} for a, b, c in given_texts))
    masker = Masker(CONTRACT, KEYSET)
    found = rows(batch)
    assert [(row["trace_id"], row["visitor"]) for row in found] == [(a, c) for a, _, c in given_texts]
    tokens = masker.mask(CONTRACT.personal[0], [email for _, email, _ in given_texts], "")
    assert [row["customer_email"] or "" for row in found] == tokens


def test_the_token_is_bound_to_the_attribute():
    (row,) = rows(raw({EMAIL: "ann@X.org"}))
    masker = Masker(CONTRACT, KEYSET)
    assert masker.unmask(CONTRACT.personal[0], row["customer_email"] or "") == "ann@x.org"
    of_an_event = MaskedField("customer_email", "customer-email", Personal())
    assert masker.mask(of_an_event, ["ann@X.org"], "") != [row["customer_email"]]


def test_where_nobody_asked_the_columns_are_null():
    (row,) = rows(RawBatch(1, [IDS[0]], [SENT_MS], [1], [BODY]))
    assert {row[column.name] for column in CONTRACT.asked_for} == {None}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({TRACE: "x" * 41}, "too_long attribute:trace-id"),
        ({TRACE: "a\x00"}, "nul_char attribute:trace-id"),
        ({EMAIL: "a\x00@x.org"}, "nul_char attribute:customer-email"),
        ({TRACE: b"binary"}, "bad_type attribute:trace-id"),
        ({"MessageGroupId": "x" * 129}, "too_long MessageGroupId"),
        ({"SequenceNumber": "12a"}, "bad_value SequenceNumber"),
        ({"SequenceNumber": "1" * 40}, "bad_value SequenceNumber"),
        ({TRACE: "x" * 41, EMAIL: "\x00"}, "too_long attribute:trace-id"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_path(facts, reason):
    found, rejected = masked(raw({TRACE: "good"}, facts, {}))
    assert found.rejected == {reason: 1}
    assert found.accepted == 2
    assert [row[2] for row in decoded(found.rows)] == [IDS[0], IDS[2]]
    assert [line.message_id for line in decode_lines(rejected.lines)] == [IDS[1]]


def test_a_token_that_does_not_fit_its_column_is_too_long():
    short = contract(Attribute("a", max_length=95, personal=Personal(token_chars=160)))
    found, _ = masked(raw({"attribute:a": "é" * 48}, {"attribute:a": "é" * 47}), short)
    assert found.rejected == {"too_long attribute:a": 1}


def test_what_is_wrong_with_the_body_is_said_first():
    found, _ = masked(raw({TRACE: b"x"}, bodies=[b"no json"]))
    assert found.rejected == {"bad_json": 1}


def test_a_sequence_number_keeps_its_digits():
    (row,) = rows(raw({"SequenceNumber": "18849496460467696128", "MessageGroupId": "a b"}))
    assert (row["sequence_number"], row["tenant"]) == ("18849496460467696128", "a b")


# The quarantine and staged files -------------------------------------------------------------------


def test_the_quarantine_keeps_what_was_said_and_nothing_else():
    _, rejected = masked(raw({TRACE: b"\xff", EMAIL: "a@x.org"}))
    (line,) = decode_lines(rejected.lines)
    cipher = PayloadCipher(KEYSET, CONTRACT.name)
    facts = {TRACE: b"\xff", EMAIL: "a@x.org"}
    assert cipher.decrypt(line.message_id, line.payload) == Original(BODY, SENT_MS, facts)
    assert b"x.org" not in rejected.lines


def test_payloads_and_raw_files_of_versions_before_open():
    old = msgpack.encode({"body": BODY, "sent_ms": 7})
    assert msgpack.decode(old, type=Original) == Original(BODY, 7, {})
    before = {"queue_id": 1, "ids": [], "sent_ms": [], "receive_counts": [], "bodies": []}
    assert msgpack.decode(msgpack.encode(before), type=RawBatch) == RawBatch(1, [], [], [], [], {})


def test_a_raw_file_keeps_texts_and_bytes_apart():
    batch = raw({TRACE: "a"}, {TRACE: b"a"}, {})
    assert msgpack.decode(msgpack.encode(batch), type=RawBatch) == batch


def test_facts_are_searched_as_bodies_are():
    found = Original(BODY, 1, {TRACE: "0123", EMAIL: b'"\xff'}).facts_as_json()
    assert [json.loads(one) for one in found] == ["0123", '"\ufffd']
