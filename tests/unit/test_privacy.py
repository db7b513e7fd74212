"""Schemes of masking, wrapped keysets, keys of a keyset, the guard of production: all without a server."""

import base64
import hashlib
import json
import logging
from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
import tink
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tink import aead, daead, secret_key_access

from include.contracts.user_logins import CONTRACT
from include.queue_etl import production
from include.queue_etl.contract import Contract, MaskedField, Normalization, Personal, Scheme
from include.queue_etl.errors import KeysetError, PreflightError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import DEVELOPMENT, KeysetDocument, is_development
from include.queue_etl.keys.keyset_file import KeysetFile
from include.queue_etl.keys.token_format import TOKEN_PREFIX_CHARS, is_token, token_prefixes
from include.queue_etl.resources import Aws, Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings
from include.queue_etl.transform.masking import Masker
from tests.support.contracts import redeclared

DOCUMENT = KeysetDocument.new()
TEXT = DOCUMENT.text
KEYSET = Keyset.from_json(TEXT)
DEVICE = CONTRACT.personal[1]
ONE_WAY = structs.replace(DEVICE, mark=structs.replace(DEVICE.mark, scheme=Scheme.ONE_WAY))


def weak(scheme: Scheme) -> MaskedField:
    return MaskedField("masked_ip", "ip", Personal(Normalization.IP, scheme=scheme, allow_weak=True))


def remarked(field: str, mark: Personal) -> Contract:
    """`user_logins` with another mark on a field."""
    return redeclared(CONTRACT, **{field: Annotated[str | None, mark]})


def token(masked: MaskedField, value: str | None, keyset: Keyset = KEYSET) -> str:
    return Masker(CONTRACT, keyset).mask(masked, [value], "nothing")[0]


def master() -> aead.Aead:
    aead.register()
    return tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)


# Schemes ----------------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.text(max_size=40))
def test_one_way_tokens_are_equal_for_equal_values_and_only_for_these(one, other):
    same = token(DEVICE, one) == token(DEVICE, other)
    assert (token(ONE_WAY, one) == token(ONE_WAY, other)) == same


def test_a_one_way_token_depends_on_key_field_and_value_and_names_its_key():
    mine = token(ONE_WAY, "d")
    assert mine == token(ONE_WAY, " d ", Keyset.from_json(TEXT))
    others = {
        token(ONE_WAY, "e"),
        token(ONE_WAY, "d", Keyset.from_json(KeysetDocument.new().text)),
        token(structs.replace(ONE_WAY, field="ip"), "d"),
        token(DEVICE, "d"),
    }
    assert mine not in others
    assert len(others) == 4
    assert len(mine) == 50
    assert mine[:TOKEN_PREFIX_CHARS] in token_prefixes(KEYSET.primary_key_id)


def test_nothing_opens_or_moves_a_one_way_token():
    for attempt in (Masker(CONTRACT, KEYSET).unmask, Masker(CONTRACT, KEYSET).reencrypt):
        with pytest.raises(KeysetError, match="masked one-way"):
            attempt(ONE_WAY, token(ONE_WAY, "d"))


@pytest.mark.parametrize(("scheme", "digest"), [(Scheme.SHA256, hashlib.sha256), (Scheme.MD5, hashlib.md5)])
@pytest.mark.parametrize("value", ["10.0.0.1", "::ffff:10.0.0.1", " 10.0.0.1"])
def test_an_unkeyed_digest_is_of_the_value_as_it_came(scheme, digest, value):
    assert token(weak(scheme), value) == digest(value.encode()).hexdigest()


@pytest.mark.parametrize("personal", [ONE_WAY, weak(Scheme.SHA256), weak(Scheme.MD5)])
def test_without_a_value_there_is_no_token(personal):
    assert [token(personal, value) for value in (None, "", "  ")] == ["nothing"] * 3


@pytest.mark.parametrize("scheme", [Scheme.SHA256, Scheme.MD5])
def test_a_scheme_without_a_key_must_be_asked_for(scheme):
    with pytest.raises(ValueError, match="allow_weak=True"):
        Personal(scheme=scheme)


def test_a_column_must_hold_the_digest():
    with pytest.raises(ValueError, match="one_way takes 50 characters"):
        Personal(token_chars=49, scheme=Scheme.ONE_WAY)
    assert Personal(token_chars=50, scheme=Scheme.ONE_WAY).max_bytes == float("inf")


def test_only_recoverable_columns_are_offered_to_unmask():
    one_way = remarked("device_id", Personal(scheme=Scheme.ONE_WAY))
    assert [masked.field for masked in one_way.recoverable] == ["ip"]


# Keys -------------------------------------------------------------------------------------------------------


def test_every_token_of_a_key_has_its_prefix_and_no_other_key_does():
    document, _ = DOCUMENT.add_key()
    for key_id in document.key_ids:
        tokens = Masker(CONTRACT, document.only_key(key_id)).mask(DEVICE, [f"d{n}" for n in range(200)], "")
        assert {token[:TOKEN_PREFIX_CHARS] for token in tokens} == set(token_prefixes(key_id))


def test_every_token_passes_for_one_and_other_text_does_not():
    assert all(is_token(token(DEVICE, str(number))) for number in range(100))
    assert not any(is_token(text) for text in ("192.0.2.7", "A", "APxx", "Agxx", "", "aQxx"))


def test_token_prefixes_of_neighbouring_key_ids_differ():
    assert set(token_prefixes(7)).isdisjoint(token_prefixes(8))


def test_a_token_is_reencrypted_with_the_new_primary_key():
    document, new = DOCUMENT.add_key()
    after = document.promote_key(new).open()
    reencrypted = Masker(CONTRACT, after).reencrypt(DEVICE, token(DEVICE, "d"))
    assert reencrypted == token(DEVICE, "d", document.only_key(new))


def test_an_added_key_opens_but_does_not_mask():
    document, new = DOCUMENT.add_key()
    assert document.key_ids == [KEYSET.primary_key_id, new]
    assert token(DEVICE, "d", document.open()) == token(DEVICE, "d")


def test_an_added_key_has_an_id_that_no_other_key_has(monkeypatch):
    made = iter([DOCUMENT, KeysetDocument.new()])
    monkeypatch.setattr(KeysetDocument, "new", lambda *given: next(made))
    document, new = DOCUMENT.add_key()
    assert len({*document.key_ids}) == 2
    assert new != KEYSET.primary_key_id


def test_what_was_masked_with_a_removed_key_does_not_open():
    document, new = DOCUMENT.add_key()
    rest = document.promote_key(new).remove_key(KEYSET.primary_key_id).open()
    with pytest.raises(KeysetError, match="cannot be opened"):
        Masker(CONTRACT, rest).unmask(DEVICE, token(DEVICE, "d"))


def test_what_cannot_be_done_to_a_keyset_is_an_error():
    with pytest.raises(KeysetError, match="promote another one first"):
        DOCUMENT.remove_key(KEYSET.primary_key_id)
    for change in (DOCUMENT.promote_key, DOCUMENT.remove_key, DOCUMENT.only_key):
        with pytest.raises(KeysetError, match="has no key 1; it has"):
            change(1)
    with pytest.raises(KeysetError, match="cannot be read"):
        KeysetDocument("{}").add_key()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = KeysetFile(tmp_path / "keyset.json", None)
    file.create(DOCUMENT)
    with pytest.raises(FileExistsError):
        file.create(DOCUMENT)
    with pytest.raises(KeysetError, match="KMS refused"):
        KeysetFile(tmp_path / "keyset.json", refusing).replace(DOCUMENT.add_key()[0])
    assert file.read().text == TEXT
    assert [path.name for path in tmp_path.iterdir()] == ["keyset.json"]


def refusing() -> aead.Aead:
    raise KeysetError("KMS refused")


# Wrapped ----------------------------------------------------------------------------------------------------


def test_a_wrapped_keyset_opens_with_its_master_key_alone():
    key = master()
    wrapped = DOCUMENT.wrap(lambda: key)
    assert wrapped.unwrap(lambda: key).open().opens(KEYSET.check_value())
    assert json.loads(TEXT)["key"][0]["keyData"]["value"] not in wrapped.text
    assert wrapped.key_ids == DOCUMENT.key_ids
    with pytest.raises(KeysetError, match="does not unwrap"):
        wrapped.unwrap(master)
    with pytest.raises(KeysetError, match="set QUEUE_ETL_KMS_KEY_URI"):
        wrapped.unwrap(None)
    with pytest.raises(KeysetError, match="cannot be read"):
        wrapped.open()


def test_a_keyset_in_the_clear_asks_for_no_master_key():
    assert DOCUMENT.unwrap(refusing).text == TEXT


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "secret", "[" * 5_000, '{"encryptedKeyset": 1}'])
def test_the_keys_of_what_is_no_keyset_are_one_clear_error(text):
    with pytest.raises(KeysetError, match="it is no Tink JSON keyset"):
        _ = KeysetDocument(text).key_ids


def test_development_keys_have_their_mark_and_others_never(monkeypatch):
    made = Keyset.from_json(KeysetDocument.new(development=True).text)
    assert is_development(made.primary_key_id)
    assert made.decrypt(made.encrypt(b"x", b""), b"") == b"x"
    handle = tink.new_keyset_handle(daead.deterministic_aead_key_templates.AES256_SIV)
    found = json.loads(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
    found["primaryKeyId"] = found["key"][0]["keyId"] = DEVELOPMENT * 2**24 + 5
    monkeypatch.setattr(tink.json_proto_keyset_format, "serialize", lambda *given: json.dumps(found))
    assert not is_development(json.loads(KeysetDocument.new().text)["primaryKeyId"])


# Tink alone -------------------------------------------------------------------------------------------------

# RFC 5297, appendix A: key, associated data, plaintext, SIV with the ciphertext. Its keys have 32 bytes, and
# Tink takes 64 alone: so `cryptography` makes the vectors, and Tink has to agree with `cryptography`.
RFC_5297 = [
    (
        "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        ["101112131415161718191a1b1c1d1e1f2021222324252627"],
        "112233445566778899aabbccddee",
        "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c",
    ),
    (
        "7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f",
        [
            "00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100",
            "102030405060708090a0",
            "09f911029d74e35bd84156c5635688c0",  # the nonce, which comes last
        ],
        "7468697320697320736f6d6520706c61696e7465787420746f20656e6372797074207573696e67205349562d414553",
        "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829"
        "ea64ad544a272e9c485b62a3fd5c0d",
    ),
]


@pytest.mark.parametrize(("key", "data", "plain", "expected"), RFC_5297)
def test_the_vectors_of_rfc_5297_come_out(key, data, plain, expected):
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    parts = [bytes.fromhex(part) for part in data]
    assert AESSIV(bytes.fromhex(key)).encrypt(bytes.fromhex(plain), parts).hex() == expected


def test_tink_agrees_with_cryptography():
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    # The 64 bytes of Tink's key are the last of its proto: field 2 (0x12), length 64 (0x40).
    raw = base64.b64decode(json.loads(TEXT)["key"][0]["keyData"]["value"])
    assert raw[:2] == b"\x12\x40"
    for plain, context in ((b"", b""), (b"x", b"y"), (bytes(100), b"context")):
        assert KEYSET.encrypt(plain, context)[5:] == AESSIV(raw[2:]).encrypt(plain, [context])


def test_a_token_is_opened_by_tink_alone_and_the_other_way_round():
    handle = tink.json_proto_keyset_format.parse(TEXT, secret_key_access.TOKEN)
    primitive = handle.primitive(daead.DeterministicAead)
    made = token(DEVICE, "device 7")
    sealed = base64.urlsafe_b64decode(made + "=" * (-len(made) % 4))
    plain = b"\x01" + b"device 7\x80".ljust(16, b"\x00")
    assert primitive.decrypt_deterministically(sealed, b"queue_etl/user_logins/device_id") == plain
    theirs = primitive.encrypt_deterministically(plain, b"queue_etl/user_logins/device_id")
    text = base64.urlsafe_b64encode(theirs).decode().rstrip("=")
    assert Masker(CONTRACT, KEYSET).unmask(DEVICE, text) == "device 7"


# Production -------------------------------------------------------------------------------------------------

KEY = master()
SOUND = production.Setup(
    [CONTRACT],
    "host=warehouse dbname=d user=etl_loader password=long-and-random sslmode=verify-full",
    DOCUMENT.wrap(lambda: KEY),
    ["https://sqs.eu-west-1.amazonaws.com", "https://kms.eu-west-1.amazonaws.com"],
)
WEAK = remarked("ip", weak(Scheme.MD5).mark)
GENERATED = KeysetDocument.new(development=True)
BOTH = KeysetDocument(
    json.dumps({**json.loads(TEXT), "key": json.loads(TEXT)["key"] + json.loads(GENERATED.text)["key"]})
)
WRONG = {
    "a keyset in the clear": ({"keyset": DOCUMENT}, "the keyset is in the clear"),
    "a generated key": ({"keyset": GENERATED.wrap(lambda: KEY)}, "was generated for development"),
    "a generated key among others": (
        {"keyset": BOTH.wrap(lambda: KEY)},
        "was generated for development",
    ),
    "a weak scheme": ({"contracts": [WEAK]}, "user_logins masks ip with md5, which has no key"),
    "no sslmode": ({"warehouse_dsn": "host=h user=u password=long-and-random"}, "sslmode prefer"),
    **{
        f"sslmode {mode}": (
            {"warehouse_dsn": f"postgresql://u:long-and-random@h/d?sslmode={mode}"}, f"sslmode {mode}"
        )
        for mode in ("disable", "allow", "prefer", "require", "verify-ca")
    },
    **{
        f"password {password!r}": (
            {"warehouse_dsn": f"host=h user=etl_loader password='{password}' sslmode=verify-full"},
            "role etl_loader has no password of its own",
        )
        for password in ("", "postgres", "Password", "etl_loader", "airflow")
    },
    "http": ({"endpoints": ["https://a", "http://localhost:1"]}, "http://localhost:1 is reached without TLS"),
}  # fmt: skip


def test_a_sound_setup_has_no_problems():
    assert production.problems(SOUND) == []


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_thing_is_one_reason(wrong, monkeypatch):
    monkeypatch.delenv("PGSSLMODE", raising=False)
    change: Any = WRONG[wrong][0]
    told = WRONG[wrong][1]
    (problem,) = production.problems(replace(SOUND, **change))
    assert told in problem
    assert "long-and-random" not in problem


def test_libpqs_own_variable_counts(monkeypatch):
    dsn = "host=h user=u password=long-and-random"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert production.problems(replace(SOUND, warehouse_dsn=dsn)) == []
    monkeypatch.setenv("PGSSLMODE", "require")
    assert "sslmode require" in production.problems(replace(SOUND, warehouse_dsn=dsn))[0]


def test_what_cannot_be_read_is_no_reason_of_the_guard_but_never_a_pass():
    assert "in the clear" in production.problems(replace(SOUND, keyset=KeysetDocument("canary")))[0]
    assert len(production.problems(replace(SOUND, warehouse_dsn="no=dsn"))) == 2


def guarded(env: Literal["development", "production"]) -> RunContext:
    def session() -> object:
        import boto3

        return boto3.Session("test", "test", region_name="eu-west-1")

    resources = Resources(
        Settings(staging="/nowhere", env=env),
        Aws(session, {"sqs": "http://127.0.0.1:1"}),
        warehouse_dsn="host=127.0.0.1 port=1 user=etl_loader password=etl_loader",
        keyset_json=GENERATED.text,
    )
    return RunContext(resources, WEAK, "r")


def test_production_lists_every_reason_at_once_before_it_connects(monkeypatch):
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setattr(
        "include.queue_etl.sqs.client.SqsQueue.connect", lambda *given: pytest.fail("connected")
    )
    monkeypatch.setattr(
        "include.queue_etl.postgres.connection.connect", lambda *given: pytest.fail("connected")
    )
    context = guarded("production")
    with pytest.raises(PreflightError) as caught:
        context.preflight()
    assert len(caught.value.problems) == 6
    with pytest.raises(PreflightError) as caught:
        context.resources.require_loading(WEAK)
    assert len(caught.value.problems) == 6
    with pytest.raises(PreflightError) as caught:
        context.resources.require_schema()
    assert len(caught.value.problems) == 5  # the scheme is of no matter there
    assert guarded("development").resources.production_problems([WEAK]) == []


def test_a_weak_scheme_is_warned_of_with_figures(monkeypatch, caplog):
    context = guarded("development")
    monkeypatch.setattr(RunContext, "_queue_problems", lambda self: [])
    monkeypatch.setattr(RunContext, "_staging_problems", lambda self: [])
    monkeypatch.setattr(Resources, "loading_problems", lambda self, contract: [])
    with caplog.at_level(logging.WARNING):
        context.preflight()
    assert "user_logins masks ip with md5, which has no key" in caplog.text
    assert "tries every IPv4 address in two to six minutes" in caplog.text
