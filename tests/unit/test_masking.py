"""Tokens: deterministic, different for different values, bound to their field, and reversible."""

import base64
import binascii
import json
import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract, MaskedField, Personal
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.masking import Masker
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS

IP, DEVICE = CONTRACT.personal
KEYSET_JSON = (
    KeysetDocument.new().text
)  # module level: a fixture cannot be given to Hypothesis' examples for free
KEYSET = Keyset.from_json(KEYSET_JSON)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=160).filter(
    lambda text: len(unicodedata.normalize("NFC", text).encode()) <= DEVICE.mark.max_bytes
)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


def tokens(field: MaskedField, *values: str | None, contract: Contract = CONTRACT, keyset: Keyset = KEYSET):
    return Masker(contract, keyset).mask(field, values, r"\N")


def round_trip(field: MaskedField, value: str) -> str:
    masker = Masker(CONTRACT, KEYSET)
    return masker.unmask(field, masker.mask(field, [value], r"\N")[0])


def counted(masker: Masker) -> dict[str, int]:
    return {kind: count for kind, count in masker.anomalies.items() if count}


def normalized_text(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip())


def normalized_address(value: str) -> str:
    try:
        address = ip_address(value)
    except ValueError:
        return normalized_text(value)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


# Round trip, determinism, injectivity -----------------------------------------------------------------------


@given(texts)
def test_a_text_comes_back_in_its_normalized_form(value):
    expected = normalized_text(value)
    if not expected:
        assert tokens(DEVICE, value) == [r"\N"]
    else:
        assert round_trip(DEVICE, value) == expected


@given(st.one_of(addresses, texts))
def test_what_stands_in_an_address_field_comes_back_in_its_normalized_form(value):
    expected = normalized_address(value.strip()) if value.strip() else ""
    if not expected:
        assert tokens(IP, value) == [r"\N"]
    else:
        assert normalized_address(round_trip(IP, value)) == expected


@given(texts)
def test_masking_what_came_back_gives_the_same_token(value):
    (token,) = tokens(DEVICE, value)
    if token != r"\N":
        assert tokens(DEVICE, Masker(CONTRACT, KEYSET).unmask(DEVICE, token)) == [token]


@given(st.lists(st.one_of(st.none(), texts, addresses), max_size=8))
def test_tokens_are_equal_exactly_where_normalized_values_are(values):
    for field, normalized in ((DEVICE, normalized_text), (IP, lambda v: normalized_address(v.strip()))):
        found = tokens(field, *values)
        wanted = [None if value is None else normalized(value) or None for value in values]
        for token, value in zip(found, wanted, strict=True):
            for other_token, other in zip(found, wanted, strict=True):
                assert (token == other_token) == (value == other)


@given(texts)
def test_another_process_with_the_same_keyset_makes_the_same_token(value):
    assert tokens(DEVICE, value) == tokens(DEVICE, value, keyset=Keyset.from_json(KEYSET_JSON))


@given(texts.filter(str.strip))
def test_another_keyset_makes_another_token(value):
    assert tokens(DEVICE, value) != tokens(DEVICE, value, keyset=Keyset.from_json(KeysetDocument.new().text))


def test_the_tokens_stand_in_the_order_of_the_values():
    values = ["b", None, "a", "b", " ", "c"]
    found = tokens(DEVICE, *values)
    assert [token == r"\N" for token in found] == [False, True, False, False, True, False]
    masker = Masker(CONTRACT, KEYSET)
    assert [masker.unmask(DEVICE, found[at]) for at in (0, 2, 3, 5)] == ["b", "a", "b", "c"]


def test_no_values_make_no_tokens():
    assert tokens(DEVICE) == []


# What the token looks like ----------------------------------------------------------------------------------


@given(texts)
def test_a_token_is_base64url_that_needs_no_escape_in_copy_text(value):
    (token,) = tokens(DEVICE, value)
    assert token == r"\N" or (token.isascii() and set(token).isdisjoint("=+/\\\t\n"))
    assert len(token) <= (DEVICE.mark.token_chars or 0)


@pytest.mark.parametrize("field", [IP, DEVICE, SIGNUPS.personal[0]])
@pytest.mark.parametrize("character", ["x", "é", "字", "😀"])
def test_the_longest_allowed_value_just_fits_its_column(field, character):
    longest = character * (field.mark.max_bytes // len(character.encode()))
    (token,) = tokens(field, longest)
    assert len(token) <= field.mark.token_chars
    # 16 bytes more would no longer fit: the limit is not smaller than it has to be.
    (longer,) = tokens(field, longest + "x" * 16)
    assert len(longer) > field.mark.token_chars


@given(st.lists(addresses, min_size=2, max_size=2))
def test_the_length_of_a_token_does_not_tell_which_address_it_is(pair):
    first, second = tokens(IP, *pair)
    assert len(first) == len(second)


def test_the_length_of_a_token_tells_only_the_number_of_16_byte_blocks():
    assert {len(token) for token in tokens(DEVICE, *("x" * size for size in range(1, 16)))} == {51}
    assert len(tokens(DEVICE, "x" * 16)[0]) > 51


def test_the_value_cannot_be_seen_in_the_token():
    value = "canary-device-4711"
    (token,) = tokens(DEVICE, value)
    assert value.encode() not in binascii.a2b_base64(token.translate(str.maketrans("-_", "+/")) + "==")


# The format never changes: rows of many years ago have to open and to match ---------------------------------

FIXED_KEY = bytes(range(64))
FIXED_KEYSET = json.dumps(
    {
        "primaryKeyId": 1,
        "key": [
            {
                "keyData": {
                    "typeUrl": "type.googleapis.com/google.crypto.tink.AesSivKey",
                    # Protocol buffer: field 2, 64 bytes
                    "value": base64.b64encode(b"\x12\x40" + FIXED_KEY).decode(),
                    "keyMaterialType": "SYMMETRIC",
                },
                "status": "ENABLED",
                "keyId": 1,
                "outputPrefixType": "TINK",
            }
        ],
    }
)
KNOWN = [
    (IP, "192.0.2.7", "AQAAAAHnUvFKi5QK1eWuI9hMrFdpjXtaDMSfu4okzmVp2IFWO0Q"),
    (IP, "2001:db8::1", "AQAAAAEKKKPh0MCN8le5fOJdlAbPuVtU8c_DdaqKtg5zcLl9RPY"),
    (IP, "nowhere", "AQAAAAGONoaXgCwozIVuQiJEm7QFbhMvrDpmdqhi_7aztGEK7NY"),
    (DEVICE, "123-45-6789", "AQAAAAHaskp9ZGyefctQ7JPCqdzLdziTGDAQ6eUvOaX_vEpMHHM"),
    (DEVICE, "zo\u00eb", "AQAAAAHbfNdhPTLGgwJjB7k4xstTF_G5Z1_jsHFX6a0z93aSGp0"),
]


@pytest.mark.parametrize(("field", "value", "token"), KNOWN)
def test_the_token_of_a_value_under_a_key_never_changes(field, value, token):
    keyset = Keyset.from_json(FIXED_KEYSET)
    assert tokens(field, value, keyset=keyset) == [token]
    assert Masker(CONTRACT, keyset).unmask(field, token) == value


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        (IP, "192.0.2.7", b"\x04\xc0\x00\x02\x07" + b"\0" * 12),
        (IP, "2001:db8::1", b"\x06\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1"),
        (IP, "nowhere", b"\0nowhere\x80" + b"\0" * 8),
        (DEVICE, "123-45-6789", b"\x01123-45-6789\x80" + b"\0" * 4),
        (DEVICE, "zo\u00eb", b"\x01zo\xc3\xab\x80" + b"\0" * 11),
        (DEVICE, "x" * 16, b"\x01" + b"x" * 16 + b"\x80" + b"\0" * 15),
    ],
)
def test_a_token_is_what_another_library_makes_of_the_documented_form(field, value, plain):
    context = f"queue_etl/user_logins/{field.field}".encode()
    sealed = b"\x01\x00\x00\x00\x01" + AESSIV(FIXED_KEY).encrypt(plain, [context])
    expected = base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
    assert tokens(field, value, keyset=Keyset.from_json(FIXED_KEYSET)) == [expected]


@pytest.mark.parametrize("value", ["\u00c0", "\u0100", "a\u0100\u00c0", "\u4000", "\U0001f000"])
def test_a_text_whose_last_byte_is_that_of_the_end_mark_comes_back(value):
    assert value.encode().endswith(b"\x80")
    assert round_trip(DEVICE, value) == value


# Addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1"),
        ("10.0.0.1", "::FFFF:0a00:0001"),
        ("10.0.0.1", "  10.0.0.1\t"),
        ("2001:db8::1", "2001:0DB8:0:0:0:0:0:1"),
        ("::1", " 0:0:0:0:0:0:0:1 "),
    ],
)
def test_two_spellings_of_one_address_get_one_token(one, other):
    assert len(set(tokens(IP, one, other))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.1", "010.000.000.001"),  # octal for some programs: not the same address for sure
        ("10.0.0.1", "10.0.0.1:443"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.1", "10.0.0.01"),
        ("10.0.0.1", "167772161"),
        ("0.0.0.4", "4::"),
        ("10.0.0.1", "::10.0.0.1"),
        ("fe80::1", "fe80::1%eth0"),
    ],
)
def test_two_different_things_get_two_tokens(one, other):
    assert len(set(tokens(IP, one, other))) == 2


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_comes_back_as_it_is_usually_written(address):
    assert round_trip(IP, f"::ffff:{address}") == str(address) == round_trip(IP, str(address))


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_comes_back_as_an_equal_address(address):
    expected = address.ipv4_mapped or address
    assert ip_address(round_trip(IP, address.exploded)) == expected
    assert isinstance(expected, IPv4Address | IPv6Address)


@pytest.mark.parametrize("value", ["not an address", "10.0.0.1:443", "10.0.0.0/8", "\uff110.0.0.1"])
def test_what_is_no_address_is_masked_as_text_and_counted(value):
    masker = Masker(CONTRACT, KEYSET)
    (token,) = masker.mask(IP, [value], r"\N")
    assert counted(masker) == {"not_an_address": 1}
    assert masker.unmask(IP, token) == normalized_text(value)


@pytest.mark.parametrize("field", [IP, DEVICE])
@pytest.mark.parametrize("value", ["", " ", "\t\n", "\u00a0\u2003"])
def test_blank_text_becomes_null_and_is_counted(field, value):
    masker = Masker(CONTRACT, KEYSET)
    assert masker.mask(field, [value], r"\N") == [r"\N"]
    assert counted(masker) == {"blank": 1}


def test_null_stays_null_and_is_not_counted():
    masker = Masker(CONTRACT, KEYSET)
    assert masker.mask(IP, [None, None], r"\N") == [r"\N", r"\N"]
    assert counted(masker) == {}


@pytest.mark.parametrize(
    ("one", "other"), [("e\u0301", "\u00e9"), (" id ", "id"), ("\u1100\u1161", "\uac00"), ("Å", "A\u030a")]
)
def test_two_spellings_of_one_text_get_one_token(one, other):
    assert len(set(tokens(DEVICE, one, other))) == 1


def test_case_matters():
    assert len(set(tokens(DEVICE, "Device", "device"))) == 2


# Tokens out of place ----------------------------------------------------------------------------------------


@given(texts.filter(str.strip))
def test_the_same_text_in_two_fields_cannot_be_joined(value):
    assert tokens(IP, value) != tokens(DEVICE, value)


@given(texts.filter(str.strip))
def test_a_token_does_not_open_in_another_field(value):
    masker = Masker(CONTRACT, KEYSET)
    (token,) = masker.mask(DEVICE, [value], r"\N")
    with pytest.raises(KeysetError):
        masker.unmask(IP, token)


def test_a_token_does_not_open_in_another_contract():
    email = SIGNUPS.personal[0]
    same_field = MaskedField("other", DEVICE.field, Personal())
    (token,) = tokens(DEVICE, "value")
    for contract, field in ((SIGNUPS, email), (SIGNUPS, same_field)):
        with pytest.raises(KeysetError):
            Masker(contract, KEYSET).unmask(field, token)


def test_a_token_opens_after_its_column_was_renamed():
    renamed = MaskedField("another_column", DEVICE.field, Personal())
    (token,) = tokens(DEVICE, "value")
    assert Masker(CONTRACT, KEYSET).unmask(renamed, token) == "value"


@given(
    st.one_of(st.text(max_size=80), st.binary(max_size=60).map(lambda raw: binascii.b2a_base64(raw).decode()))
)
def test_what_is_no_token_is_a_keyset_error_that_does_not_repeat_it(text):
    canary = f"canary{text}"
    with pytest.raises(KeysetError) as caught:
        Masker(CONTRACT, KEYSET).unmask(DEVICE, canary)
    assert "canary" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


@given(st.data())
def test_a_changed_token_does_not_open(data):
    (token,) = tokens(DEVICE, "value")
    at = data.draw(st.integers(0, len(token) - 2))  # the last character has bits that mean nothing
    other = data.draw(st.sampled_from([c for c in "AQgw-_09az" if c != token[at]]))
    with pytest.raises(KeysetError):
        Masker(CONTRACT, KEYSET).unmask(DEVICE, token[:at] + other + token[at + 1 :])
