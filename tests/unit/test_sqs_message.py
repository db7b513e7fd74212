"""From the JSON of SQS to a Message."""

import hashlib
import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.settings import limits
from include.queue_etl.sqs import wire

ID = "6f1b0f2a-3c4d-4e5f-8a9b-0c1d2e3f4a5b"
OLD_MS = 21 * 86_400_000
SENT_MS = 1_700_000_000_000


def received(body="{}", **changes):
    md5 = hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    message = {
        "MessageId": ID,
        "ReceiptHandle": "receipt",
        "MD5OfBody": md5,
        "Body": body,
        "Attributes": {"SentTimestamp": str(SENT_MS), "ApproximateReceiveCount": "3"},
    }
    return wire.received(json.dumps({"Messages": [message | changes]}).encode())[0]


def with_attributes(**values):
    attributes = {name.replace("_", "-"): value for name, value in values.items()}
    return received(
        MessageAttributes={
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
    )


def test_a_message_holds_what_sqs_said():
    assert wire.message(received("hé")) == wire.Message(ID, "receipt", "hé".encode(), SENT_MS, 3)


def test_an_empty_answer_has_no_messages():
    assert wire.received(b"{}") == []


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b"[]", b'{"Messages": 1}', b'{"Messages": [{}]}', b"\xff"]
)
def test_what_is_no_answer_of_sqs_is_a_value_error(answer):
    with pytest.raises(ValueError, match=r"."):
        wire.received(answer)


@given(st.text())
def test_any_text_arrives_byte_by_byte(text):
    assert wire.message(received(text)).body == text.encode("utf-8", "surrogatepass")


@given(st.text(st.characters(categories=["Cs"]), min_size=1))
def test_lone_surrogates_arrive_and_do_not_raise(text):
    read = json.loads(json.dumps(text))  # Two surrogates side by side may be one character.
    assert wire.message(received(text, MD5OfBody="")).body == read.encode("utf-8", "surrogatepass")


def test_the_md5_of_a_lone_surrogate_is_not_looked_at():
    assert wire.message(received("\ud800", MD5OfBody="0" * 32)).body == b"\xed\xa0\x80"


def test_a_body_with_another_md5_is_no_message():
    assert wire.message(received("{}", MD5OfBody="0" * 32)) is None


def test_a_server_that_tells_no_md5_is_believed():
    assert wire.message(received("{}", MD5OfBody="")).body == b"{}"


def test_an_empty_attribute_is_passed_over():
    key = str(uuid4())
    assert wire.message(with_attributes(dedup_id="", x_origin_message_id=key)).message_id == key


def test_the_dedup_id_comes_before_the_origin_and_both_before_the_sqs_id():
    first, second = str(uuid4()), str(uuid4())
    assert wire.message(with_attributes(dedup_id=first, x_origin_message_id=second)).message_id == first
    assert wire.message(with_attributes(x_origin_message_id=second)).message_id == second
    assert wire.message(with_attributes(other=second)).message_id == ID


def test_an_attribute_without_a_text_is_passed_over():
    one = received(MessageAttributes={"dedup-id": {"DataType": "Binary", "BinaryValue": "AAAA"}})
    assert wire.message(one).message_id == ID


def test_an_upper_case_uuid_is_the_same_key():
    assert wire.message(with_attributes(dedup_id=ID.upper())).message_id == ID


def test_the_uuid_made_of_another_key_never_changes():
    # The literal is the promise: another one would load old messages again.
    expected = "80c8a3db-56c5-56cb-ad3c-e70c0799004e"
    assert wire.message(with_attributes(dedup_id="order-7")).message_id == expected


def test_a_key_that_is_no_utf8_is_a_key_all_the_same():
    assert UUID(wire.message(with_attributes(dedup_id="\ud800")).message_id)


def test_a_day_that_counts_is_still_in_the_ledger_after_the_longest_wait():
    longest_wait_days = 14
    assert wire.ORIGIN_REACH_MS // 86_400_000 + longest_wait_days < limits("ledger_days")[0]


@given(st.text(min_size=1))
def test_every_key_becomes_a_lower_case_uuid(key):
    made = wire.message(received(MessageId=key)).message_id
    assert made == str(UUID(made))


def test_a_message_brought_back_keeps_its_day():
    assert wire.message(with_attributes(x_origin_sent_timestamp="1699000000000")).sent_ms == 1_699_000_000_000


@pytest.mark.parametrize(
    "value",
    ["", "0", "-5", "1e9", "٣٣", "9" * 15, "9" * 40, str(SENT_MS + 1), str(SENT_MS - 21 * 86_400_000)],
)
def test_an_impossible_origin_time_is_ignored(value):
    assert wire.message(with_attributes(x_origin_sent_timestamp=value)).sent_ms == SENT_MS
