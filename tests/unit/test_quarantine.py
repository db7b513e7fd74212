"""Lines of the quarantine and their payloads, there and back."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.quarantine import (
    Original,
    PayloadCipher,
    QuarantineLine,
    decode_lines,
    encode_lines,
)
from tests.unit.copy_decoder import decoded

RUN = UUID("00000000-0000-4000-8000-00000000000a")
ID = "11111111-2222-4333-8444-555555555555"
KEYSET = KeysetDocument.new().open()
CIPHER = PayloadCipher(KEYSET, "user_logins")
lines = st.builds(
    QuarantineLine,
    st.integers(1, 32_767),
    st.dates().map(str),
    st.uuids().map(str),
    st.uuids(),
    st.sampled_from(["bad_json", "no_ip"]),
    st.binary(max_size=50),
    st.integers(0, 2**31 - 1),
    st.integers(1, 1_000),
)


@given(st.binary(max_size=50))
def test_copy_reads_each_column_of_a_line(payload):
    line = QuarantineLine(7, "2026-01-31", ID, RUN, "bad_json", payload, 99, 3)
    (row,) = decoded(line.encode())
    assert row[:5] == ["7", "2026-01-31", ID, str(RUN), "bad_json"]
    assert row[5].startswith("\\x")
    assert bytes.fromhex(row[5][2:]) == payload
    assert row[6:] == ["99", "3"]


@given(st.lists(lines, max_size=5))
def test_lines_come_back_as_they_were(given_lines):
    assert decode_lines(encode_lines(given_lines)) == given_lines


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(0, 2**50)))
def test_a_payload_opens_as_that_of_its_own_message_alone(body, sent_ms):
    original = Original(body, sent_ms)
    payload = CIPHER.encrypt(ID, original)
    assert CIPHER.decrypt(ID, payload) == original
    assert CIPHER.decrypt_or_none(str(RUN), payload) is None
    with pytest.raises(KeysetError):
        PayloadCipher(KEYSET, "other").decrypt(ID, payload)


def test_a_payload_of_a_version_that_kept_the_body_alone_opens():
    payload = KEYSET.encrypt(b"body", f"queue_etl/user_logins/quarantine/{ID}".encode())
    assert CIPHER.decrypt(ID, payload) == Original(b"body", None)


def test_a_payload_is_reencrypted_with_the_primary_key():
    document, new = KeysetDocument.new().add_key()
    before, after = document.open(), document.promote_key(new).open()
    payload = PayloadCipher(before, "c").encrypt(ID, Original(b"body", 7))
    moved = PayloadCipher(after, "c").reencrypt(ID, payload)
    assert moved is not None
    assert PayloadCipher(document.only_key(new), "c").decrypt(ID, moved) == Original(b"body", 7)
    assert CIPHER.reencrypt(ID, payload) is None
