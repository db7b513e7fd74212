"""Each message of a batch ends in exactly one of rows and rejected; nothing personal is left in the clear."""

import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch, ids_digest
from include.queue_etl.transform.quarantine import PayloadCipher
from tests.unit.copy_decoder import decoded, decoded_entries

KEYSET = Keyset.from_json(KeysetDocument.new().text)
SETTINGS = Settings(staging="/staging", max_receives=3)
RUN = UUID("00000000-0000-4000-8000-00000000000a")
SENT_MS = 1_769_900_000_000
FIELDS = {
    "user_id": "u",
    "app_version": "2.0",
    "device_type": "ios",
    "ip": "192.0.2.7",
    "locale": None,
    "device_id": "canary-device",
}
GOOD = json.dumps(FIELDS).encode()
messages = st.lists(
    st.tuples(
        st.one_of(st.just(GOOD), st.binary(max_size=40), st.just(b'{"ip": "canary-ip"}')),
        st.integers(1, 5),
        st.integers(SENT_MS, SENT_MS + 200_000_000),
    ),
    max_size=8,
)


def raw_batch(*given_messages: tuple[bytes, int, int], ids: list[str] | None = None) -> RawBatch:
    bodies = [body for body, _, _ in given_messages]
    receives = [times for _, times, _ in given_messages]
    sent = [moment for _, _, moment in given_messages]
    return RawBatch(7, ids or [str(uuid4()) for _ in bodies], sent, receives, bodies)


def masked(raw: RawBatch, keyset: Keyset = KEYSET):
    return mask_batch(raw, CONTRACT, keyset, SETTINGS, RUN)


@given(messages)
def test_each_message_ends_in_exactly_one_of_rows_and_rejected(given_messages):
    raw = raw_batch(*given_messages)
    batch, rejected = masked(raw)
    ledger, rows, lines = decoded_entries(batch.entries), decoded(batch.rows), decoded(rejected.lines)
    assert [row[2] for row in ledger] == raw.ids
    assert [row[4] for row in ledger].count("L") == len(rows) == batch.accepted
    assert [row[2] for row in ledger if row[4] == "Q"] == [line[2] for line in lines]
    assert sum(batch.rejected.values()) == len(lines) == len(raw.ids) - batch.accepted


@given(messages)
def test_the_same_batch_gives_the_same_result(given_messages):
    raw = raw_batch(*given_messages)
    assert masked(raw) == masked(raw)


@given(messages)
def test_nothing_of_a_body_stands_in_the_results_in_the_clear(given_messages):
    batch, rejected = masked(raw_batch(*given_messages))
    for text in (batch.entries, batch.rows, rejected.lines):
        assert b"canary" not in text
        assert b"192.0.2.7" not in text


@given(messages)
def test_the_days_are_those_of_the_messages(given_messages):
    raw = raw_batch(*given_messages)
    batch, rejected = masked(raw)
    days = [row[1] for row in decoded_entries(batch.entries)]
    assert batch.sent_days == sorted(set(days))
    by_id = dict(zip(raw.ids, days, strict=True))
    assert all(line[1] == by_id[line[2]] for line in decoded(rejected.lines))
    loaded_days = [row[1] for row in decoded_entries(batch.entries) if row[4] == "L"]
    assert [row[6] for row in decoded(batch.rows)] == loaded_days


def test_rejected_payloads_open_again_each_as_that_of_its_own_message():
    raw = raw_batch((b"no json", 2, SENT_MS), (GOOD, 1, SENT_MS), (b"[]", 3, SENT_MS))
    _, rejected = masked(raw)
    lines = decoded(rejected.lines)
    assert [(line[4], line[6], line[7]) for line in lines] == [
        ("bad_json", "7", "2"),
        ("not_object", "2", "3"),
    ]
    sealed = [bytes.fromhex(line[5][2:]) for line in lines]
    cipher, ids = PayloadCipher(KEYSET, CONTRACT.name), (raw.ids[0], raw.ids[2])
    opened = [
        cipher.decrypt(message_id, payload).body for message_id, payload in zip(ids, sealed, strict=True)
    ]
    assert opened == [b"no json", b"[]"]
    with pytest.raises(KeysetError):
        cipher.decrypt(ids[1], sealed[0])


@pytest.mark.parametrize(("receives", "reason"), [(3, None), (4, "too_many_receives")])
def test_a_message_received_too_often_is_quarantined_unparsed(receives, reason):
    batch, rejected = masked(raw_batch((GOOD, receives, SENT_MS)))
    assert batch.rejected == ({reason: 1} if reason else {})
    assert [line[4] for line in decoded(rejected.lines)] == ([reason] if reason else [])


def test_a_batch_without_any_good_message_has_no_rows():
    batch, rejected = masked(raw_batch((b"x", 1, SENT_MS), (b"{}", 1, SENT_MS), (b"y", 1, SENT_MS)))
    assert (batch.accepted, batch.rows) == (0, b"")
    assert batch.rejected == {"bad_json": 2, "missing_field user_id": 1}
    assert len(decoded(rejected.lines)) == 3


def test_a_batch_without_messages_is_empty():
    batch, rejected = masked(raw_batch())
    assert (batch.entries, batch.rows, rejected.lines, batch.rejected, batch.sent_days) == (
        b"",
        b"",
        b"",
        {},
        [],
    )


def test_the_batch_says_which_messages_it_holds_and_which_key_masked_it():
    raw = raw_batch((GOOD, 1, SENT_MS), (b"x", 1, SENT_MS))
    batch, _ = masked(raw)
    assert batch.ids_digest == ids_digest(raw.ids)
    assert batch.key_id == KEYSET.primary_key_id


def test_the_ledger_names_queue_and_run():
    batch, rejected = masked(raw_batch((GOOD, 1, SENT_MS), (b"x", 1, SENT_MS)))
    written = decoded_entries(batch.entries) + decoded(rejected.lines)
    assert {(row[0], row[3]) for row in written} == {("7", str(RUN))}


def test_what_loads_although_it_is_unusual_is_counted():
    unusual = {**FIELDS, "ip": "nowhere", "device_id": " ", "city": "Ulm"}
    batch, _ = masked(raw_batch((json.dumps(unusual).encode(), 1, SENT_MS), (GOOD, 1, SENT_MS)))
    assert batch.anomalies == {"not_an_address": 1, "blank": 1, "unknown_fields": 1}
    assert masked(raw_batch((GOOD, 1, SENT_MS)))[0].anomalies == {}


def test_equal_values_get_equal_tokens_in_two_batches():
    rows = [decoded(masked(raw_batch((GOOD, 1, SENT_MS)))[0].rows)[0] for _ in range(2)]
    assert rows[0][2:4] == rows[1][2:4]


def test_bodies_and_ids_that_do_not_match_are_an_error():
    raw = raw_batch((GOOD, 1, SENT_MS), (GOOD, 1, SENT_MS))
    raw.receive_counts.pop()
    with pytest.raises(ValueError, match="zip"):
        masked(raw)
