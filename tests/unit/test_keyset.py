"""Opening a keyset, and what happens with one that is not ours."""

import json

import pytest
import tink
from hypothesis import given
from hypothesis import strategies as st
from tink import aead, daead, secret_key_access

from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import CHECK_CONTEXT, Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.keys.token_format import key_id


def with_second_key(text: str) -> tuple[str, str]:
    """The keyset with a second key: (first is primary, second is primary)."""
    first, second = json.loads(text), json.loads(KeysetDocument.new().text)
    keys = first["key"] + second["key"]
    return tuple(  # type: ignore[return-value]
        json.dumps({"primaryKeyId": primary, "key": keys})
        for primary in (first["primaryKeyId"], second["primaryKeyId"])
    )


def keyset_without_secret(error: BaseException, secret: str) -> None:
    """Neither the error nor anything chained to it shows the secret."""
    seen: BaseException | None = error
    while seen is not None:
        assert secret not in f"{seen}{seen!r}{seen.args}"
        seen = seen.__cause__ or seen.__context__


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_is_sealed_opens_again(plain, context):
    keyset = KEYSET
    assert keyset.decrypt(keyset.encrypt(plain, context), context) == plain


@given(st.binary(max_size=60), st.binary(max_size=20), st.binary(max_size=20))
def test_it_does_not_open_in_another_context(plain, context, other):
    if context != other:
        with pytest.raises(KeysetError, match="wrong context"):
            KEYSET.decrypt(KEYSET.encrypt(plain, context), other)


@given(st.binary(max_size=80))
def test_foreign_bytes_do_not_open(sealed):
    with pytest.raises(KeysetError, match="cannot be opened"):
        KEYSET.decrypt(sealed, b"context")


def test_a_new_keyset_is_another_one_each_time():
    assert KeysetDocument.new().text != KeysetDocument.new().text


def test_what_is_sealed_begins_with_the_id_of_its_key(keyset):
    assert key_id(keyset.encrypt(b"plain", b"")) == keyset.primary_key_id > 0


def test_the_old_key_still_opens_after_a_new_one_became_primary(keyset_json):
    before, after = map(Keyset.from_json, with_second_key(keyset_json))
    sealed = before.encrypt(b"plain", b"context")
    assert after.decrypt(sealed, b"context") == b"plain"
    assert key_id(after.encrypt(b"plain", b"context")) == after.primary_key_id != key_id(sealed)


def test_the_check_value_opens_with_the_key_that_made_it_and_no_other(keyset, keyset_json):
    check = keyset.check_value()
    assert keyset.opens(check)
    assert Keyset.from_json(with_second_key(keyset_json)[1]).opens(check)
    assert not Keyset.from_json(KeysetDocument.new().text).opens(check)


def test_a_check_value_is_the_same_each_time(keyset, keyset_json):
    assert keyset.check_value() == Keyset.from_json(keyset_json).check_value()


@pytest.mark.parametrize("text", ["", "00", "no hex", "0"])
def test_what_is_no_check_value_does_not_open(keyset, text):
    assert not keyset.opens(text)


def test_another_text_under_the_check_context_is_no_check_value(keyset):
    assert not keyset.opens(keyset.encrypt(b"something else", CHECK_CONTEXT).hex())


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "1", "secret", "\ud800", "[" * 5_000])
def test_what_is_no_keyset_is_one_clear_error(text):
    with pytest.raises(KeysetError, match="expected a Tink JSON keyset of type AES256_SIV"):
        Keyset.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"primaryKeyId": "canary"}',
        '{"canary": 1}',
        '{"primaryKeyId": 1, "key": [{"keyData": {"typeUrl": "canary", "value": "AA==",'
        ' "keyMaterialType": "SYMMETRIC"}, "status": "ENABLED", "keyId": 1, "outputPrefixType": "TINK"}]}',
        "canary",
    ],
)
def test_the_error_never_shows_what_was_given_as_keyset(text):
    with pytest.raises(KeysetError) as caught:
        Keyset.from_json(text)
    keyset_without_secret(caught.value, "canary")


def test_a_keyset_of_another_type_is_refused():
    aead.register()
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    text = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    with pytest.raises(KeysetError, match="AES256_SIV"):
        Keyset.from_json(text)


def test_a_keyset_whose_tokens_would_not_name_their_key_is_refused():
    raw = KeysetDocument.new().text.replace('"TINK"', '"RAW"')
    with pytest.raises(KeysetError, match="output prefix TINK"):
        Keyset.from_json(raw)


def test_the_key_is_one_that_tink_itself_makes_and_reads():
    daead.register()
    handle = tink.json_proto_keyset_format.parse(KeysetDocument.new().text, secret_key_access.TOKEN)
    assert [key.type_url.rpartition(".")[2] for key in handle.keyset_info().key_info] == ["AesSivKey"]


def test_the_reprs_of_keyset_and_contents_show_no_key(keyset, keyset_json):
    value = json.loads(keyset_json)["key"][0]["keyData"]["value"]
    assert value not in f"{keyset!r}{keyset}{vars(keyset)}"


KEYSET = Keyset.from_json(KeysetDocument.new().text)
