"""What SQS is asked for beside the body, what it answers, and messages that are sent once more with it."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.sqs import copies, transport, wire
from include.queue_etl.sqs.wire import (
    EVERYTHING,
    ORIGIN_ATTRIBUTE,
    SENT_ATTRIBUTE,
    USUAL,
    AttributeValue,
    Beside,
    Message,
)

ID = "6f1b0f2a-3c4d-4e5f-8a9b-0c1d2e3f4a5b"
SENT_MS = 1_700_000_000_000
GROUPED = USUAL.also(["trace-id"], ["MessageGroupId", "SequenceNumber"])


def answer(asked=GROUPED, attributes=None, **system) -> Message:
    """The message in an answer that says so much of it."""
    said = {"SentTimestamp": str(SENT_MS), "ApproximateReceiveCount": "1", **system}
    one = {"MessageId": ID, "ReceiptHandle": "r", "Body": "{}", "Attributes": said}
    one["MessageAttributes"] = attributes or {}
    (received,) = wire.received(json.dumps({"Messages": [one]}).encode(), asked)
    found = wire.message(received)
    assert found
    return found


def text(value: str, kind: str = "String") -> dict[str, str]:
    return {"DataType": kind, "StringValue": value}


def message(group=None, **attributes: AttributeValue) -> Message:
    return Message(ID, "r", b"{}", SENT_MS, 1, Beside(dict(attributes), {"MessageGroupId": group}))


def named(count: int, prefix: str = "own") -> dict[str, AttributeValue]:
    return {f"{prefix}{number}": AttributeValue("String", str(number)) for number in range(count)}


# What is asked for ---------------------------------------------------------------------------------


def test_a_contract_without_such_columns_asks_for_what_it_always_did():
    asked = json.loads(wire.encode(wire.ReceiveRequest("u", 10, 1, 2, USUAL.system, USUAL.attributes)))
    assert asked == {
        "QueueUrl": "u",
        "MaxNumberOfMessages": 10,
        "VisibilityTimeout": 1,
        "WaitTimeSeconds": 2,
        "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        "MessageAttributeNames": ["dedup-id", "x-origin-message-id", "x-origin-sent-timestamp"],
    }
    assert USUAL.also([], []) == USUAL


def test_what_is_asked_for_too_is_named_once():
    asked = USUAL.also(["trace-id", "dedup-id"], ["MessageGroupId"])
    assert asked.attributes == (*USUAL.attributes, "trace-id")
    assert asked.system == (*USUAL.system, "MessageGroupId")


# What is answered ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["String", "Number", "String.json", "Number.int"])
def test_attributes_of_text_are_read_whatever_their_label(kind):
    assert answer(attributes={"trace-id": text("17", kind)}).attribute("trace-id") == "17"


def test_a_binary_attribute_is_bytes_and_a_missing_one_nothing():
    binary = {"DataType": "Binary", "BinaryValue": base64.b64encode(b"\xff\x00").decode()}
    found = answer(attributes={"trace-id": binary})
    assert (found.attribute("trace-id"), found.attribute("other")) == (b"\xff\x00", None)


def test_a_lone_surrogate_is_bytes_and_breaks_nothing():
    found = answer(attributes={"trace-id": text("\ud800")}, MessageGroupId="\udfff")
    assert found.attribute("trace-id") == b"\xed\xa0\x80"
    assert found.system("MessageGroupId") == b"\xed\xbf\xbf"


def test_group_and_sequence_number_are_read_where_they_were_asked_for():
    said = {"MessageGroupId": "tenant 7", "SequenceNumber": "18849496460467696128"}
    found = answer(**said)
    assert {name: found.system(name) for name in said} == said
    assert answer(USUAL, **said).system("MessageGroupId") is None
    assert answer().system("SequenceNumber") is None


def test_a_message_without_anything_beside_its_body_has_nothing():
    plain = answer(USUAL)
    assert (plain.beside, plain.attributes, plain.group_id, plain.attribute("a")) == (None, {}, None, None)


@given(st.binary(max_size=50))
def test_bytes_travel_through_the_json_of_boto3_both_ways(value):
    given = {"MessageAttributes": {"a": {"DataType": "Binary", "BinaryValue": value}}}
    text = json.dumps(given, default=transport._base64)
    assert json.loads(text)["MessageAttributes"]["a"]["BinaryValue"] == base64.b64encode(value).decode()
    assert json.loads(text, object_hook=transport._with_bytes) == given


# What is sent once more ----------------------------------------------------------------------------


def test_a_copy_has_the_id_the_day_the_attributes_and_the_group():
    own = {"trace-id": AttributeValue("String.x", "t"), "blob": AttributeValue("Binary", None, b"\xff")}
    origin = {
        ORIGIN_ATTRIBUTE: AttributeValue("String", "of before"),
        SENT_ATTRIBUTE: AttributeValue("String", "7"),
    }
    assert copies.entry("3", message("tenant", **own, **origin), ()) == {
        "Id": "3",
        "MessageBody": "{}",
        "MessageAttributes": {
            ORIGIN_ATTRIBUTE: text(ID),
            SENT_ATTRIBUTE: text(str(SENT_MS)),
            "trace-id": text("t", "String.x"),
            "blob": {"DataType": "Binary", "BinaryValue": "/w=="},
        },
        "MessageGroupId": "tenant",
    }


def test_a_message_without_a_group_is_sent_without_one():
    assert "MessageGroupId" not in copies.entry("0", message(), ())


@pytest.mark.parametrize("count", range(11))
def test_of_ten_attributes_those_the_contract_reads_come_first(count):
    needed = named(min(count, 8), "needed")
    given = message(**named(10 - len(needed)), **needed)
    assert copies.has_room(given, needed)
    sent = copies.entry("0", given, needed)["MessageAttributes"]
    assert len(sent) == copies.MOST_ATTRIBUTES
    assert {ORIGIN_ATTRIBUTE, SENT_ATTRIBUTE, *needed} <= set(sent)


@pytest.mark.parametrize(("count", "has_room"), [(8, True), (9, False), (10, False)])
def test_more_than_eight_that_the_contract_reads_leave_no_room(count, has_room):
    needed = named(count)
    assert copies.has_room(message(**needed), needed) is has_room


def test_the_size_counts_attributes():
    own = {"ab": AttributeValue("Binary", None, b"123"), "c": AttributeValue("String", "4567")}
    assert copies.size(message(**own)) == len(b"{}") + len("abBinary123") + len("cString4567")


def test_everything_is_asked_for_where_messages_are_sent_once_more():
    assert EVERYTHING.attributes == ("All",)
    assert set(EVERYTHING.system) == {*USUAL.system, "MessageGroupId"}
