"""Fields that nobody declared are kept: all of them, and readable for the keyset alone."""

import json
from dataclasses import replace
from datetime import date
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from include.queue_etl.contract import Attribute, Contract, Jsonb, Normalization, Personal, Scheme, Subject
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.transform import kept
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch
from include.queue_etl.transform.kept import Document, KeptLine
from include.queue_etl.transform.quarantine import PayloadCipher
from tests.support.json_strategies import json_values
from tests.unit.copy_decoder import decoded

KEYSET = KeysetDocument.new().open()
RUN = UUID("00000000-0000-4000-8000-00000000000a")
IDS = [f"00000000-0000-4000-8000-{number:012}" for number in range(20)]
DAY_MS = 86_400_000


class Part(Struct):
    sku: str
    parts: "list[Part]" = []


class Order(Struct):
    who: Annotated[int | None, Subject()] = None
    email: Annotated[str | None, Personal(Normalization.EMAIL)] = None
    items: list[Part] = []
    by_name: dict[str, Part] = {}
    tree: Annotated[Part | None, Jsonb()] = None
    anything: Any = None
    pair: tuple[Part, Part] | None = None


ORDERS = Contract(name="orders", queue="q", table="public.o", event=Order, unknown_fields="keep")


def masked(*bodies: bytes, contract: Contract = ORDERS, ids: list[str] = IDS) -> MaskedBatch:
    count = len(bodies)
    raw = RawBatch(7, ids[:count], [DAY_MS * 31] * count, [1] * count, list(bodies))
    return mask_batch(raw, contract, KEYSET, Settings(staging="", body_limit_bytes=1_000_000), RUN)[0]


def kept_of(*bodies: bytes, contract: Contract = ORDERS) -> list[tuple[str, Any, Any]]:
    """Shape, subject and undeclared fields of each line."""
    found = kept.decode_lines(masked(*bodies, contract=contract).kept)
    cipher = kept.cipher(KEYSET, contract.name)
    packed = [cipher.decrypt(line.message_id, line.payload) for line in found]
    opened = [Document.unpack(one) for one in packed]
    return [
        (line.shape, json.loads(document.subject), json.loads(document.fields))
        for line, document in zip(found, opened, strict=True)
    ]


def test_each_field_is_kept_where_it_stands():
    part = {"sku": "x", "new": 1, "parts": [{"sku": "y"}, {"sku": "y", "deep": {"er": [None]}}, {"sku": "z"}]}
    stays = {"new": 1, "parts": [None, {"deep": {"er": [None]}}]}
    body = {
        "who": 17, "email": "a@x.org", "city": "Ulm", "none": None, "anything": part,
        "items": [{"sku": "z"}, part], "by_name": {"k": part, "l": {"sku": "m"}}, "tree": part,
    }  # fmt: skip
    ((_, subject, fields),) = kept_of(json.dumps(body).encode())
    assert subject == 17
    assert fields == {
        "city": "Ulm", "none": None, "items": [None, stays], "by_name": {"k": stays}, "tree": stays
    }  # fmt: skip


def test_beside_it_stand_names_and_types_and_no_value():
    ((shape, _, _),) = kept_of(b'{"city":"Ulm","ann@x.org":1,"items":[{"sku":"a"},{"sku":"b","gift":true}]}')
    assert (
        shape
        == "$: object, *: integer, city: string, items: array, items[*]: null|object, items[*].gift: boolean"
    )


def test_digits_stay_those_of_the_message():
    batch = masked(b'{"x": 1.10, "y": 12345678901234567890123, "z": "\\u00e9"}')
    (line,) = kept.decode_lines(batch.kept)
    packed = kept.cipher(KEYSET, "orders").decrypt(line.message_id, line.payload)
    assert packed == b'[null,{"x":1.10,"y":12345678901234567890123,"z":"\\u00e9"}]'
    assert Document.unpack(packed).named == b'{"subject":null,"fields":%b}' % packed[6:-1]


def test_messages_without_undeclared_fields_and_rejected_ones_have_no_line():
    found = masked(b'{"who": 1}', b'{"who": 2, "new": 1}', b'{"who": "x", "new": 1}', b"new")
    assert [line.message_id for line in kept.decode_lines(found.kept)] == [IDS[1]]
    assert found.unknown_fields == {"new": 1}


@pytest.mark.parametrize("unknown_fields", ["ignore", "reject"])
def test_a_contract_that_keeps_nothing_has_no_line(unknown_fields):
    assert masked(b'{"new": 1}', contract=_with(unknown_fields=unknown_fields)).kept == b""


def _with(**changes: Any) -> Contract:
    return Contract(**{"name": "orders", "queue": "q", "table": "public.o", "event": Order, **changes})


def test_of_copies_in_one_batch_the_first_alone_is_kept():
    copies = [IDS[0], IDS[0], IDS[1], IDS[1]]
    bodies = [b'{"new": 1}', b'{"new": 2}', b"bad", b'{"new": 3}']
    (line,) = kept.decode_lines(masked(*bodies, ids=copies).kept)
    packed = kept.cipher(KEYSET, "orders").decrypt(line.message_id, line.payload)
    assert (line.message_id, packed) == (IDS[0], b'[null,{"new":1}]')


def test_an_event_within_an_sns_notification_is_kept_without_it():
    contract = _with(unknown_fields="keep", sns_envelope=True)
    event = json.dumps({"who": 3, "Type": "Notification", "Message": "{}"})
    body = json.dumps({"Type": "Notification", "Message": event, "MessageId": "x"}).encode()
    ((shape, subject, fields),) = kept_of(body, contract=contract)
    assert (subject, fields) == (3, {"Type": "Notification", "Message": "{}"})
    assert shape == "$: object, Message: string, Type: string"


@pytest.mark.parametrize(
    "body",
    [
        b'{"pair": [{"sku": "a", "new": 1}, {"sku": "b"}]}',
        b'{"x":1,"tree":%b}' % (b'{"sku":"a","parts":[' * 240 + b'{"sku":"a","new":1}' + b"]}" * 240),
    ],
    ids=["a tuple", "too deep"],
)
def test_what_cannot_be_taken_apart_is_kept_whole(body):
    ((_, _, fields),) = kept_of(body)
    assert fields == json.loads(body)


def test_one_line_is_bound_to_its_message_contract_and_kind():
    (line,) = kept.decode_lines(masked(b'{"new": 1}').kept)
    for name, message_id in (("orders", IDS[1]), ("other", IDS[0])):
        with pytest.raises(KeysetError):
            kept.cipher(KEYSET, name).decrypt(message_id, line.payload)
    assert PayloadCipher(KEYSET, "orders").decrypt_or_none(IDS[0], line.payload) is None


lines = st.builds(
    KeptLine,
    st.integers(1, 32_767),
    st.dates(date(2006, 1, 1)).map(str),
    st.uuids().map(str),
    st.uuids(),
    st.sampled_from(["not JSON", "$: object, ip: null|string, ..."]),
    st.binary(max_size=50),
)


@given(st.lists(lines, max_size=5))
def test_lines_come_back_as_they_were_and_copy_reads_them(given_lines):
    written = kept.encode_lines(given_lines)
    assert kept.decode_lines(written) == given_lines
    assert decoded(written) == [
        [str(queue_id), day, message_id, str(run_id), shape, "\\x" + payload.hex()]
        for queue_id, day, message_id, run_id, shape, payload in given_lines
    ]


nested = json_values(text=5, key=5, width=3, leaves=10)


@given(st.dictionaries(st.text(max_size=8).map(lambda name: f"x{name}"), nested, min_size=1, max_size=4))
def test_whatever_is_undeclared_is_kept_and_nothing_raises(extra):
    body = {"who": 1, **extra, "items": [{"sku": "s"}, {"sku": "s", **extra}]}
    ((shape, _, fields),) = kept_of(json.dumps(body).encode())
    assert fields == {**extra, "items": [None, extra]}
    assert "\t" not in shape
    assert "\n" not in shape


@given(st.binary(max_size=30), st.binary(max_size=6))
def test_a_message_of_any_bytes_raises_nothing(content, name):
    body = b'{"who":1,"%b":"\\u0000%b","a":"\\ud800","b":"\\q"}' % (name, content)
    batch = masked(body)
    assert batch.accepted + sum(batch.rejected.values()) == 1
    for line in kept.decode_lines(batch.kept):
        packed = kept.cipher(KEYSET, "orders").decrypt(line.message_id, line.payload)
        assert Document.unpack(packed).subject == b"1"


def test_files_of_versions_before_keep_nothing():
    older = msgspec.msgpack.decode(msgspec.msgpack.encode(masked(b'{"who": 1}')))
    del older["kept"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=MaskedBatch).kept == b""


class OneWay(Struct):
    member: Annotated[str, Personal(scheme=Scheme.ONE_WAY), Subject()]


def test_a_contract_whose_person_is_one_way_cannot_keep():
    with pytest.raises(ValueError, match="reads a one-way member: mark another field with Subject"):
        _with(event=OneWay, unknown_fields="keep")
    assert _with(event=OneWay, unknown_fields="ignore").subject


class Reading(Struct):
    value: int


READINGS = Contract(name="readings", queue="q", table="public.r", event=Reading, unknown_fields="keep")


def test_without_a_subject_the_fields_are_kept_alone():
    assert kept_of(b'{"value": 1, "unit": "C"}', contract=READINGS)[0][1:] == (None, {"unit": "C"})


def test_a_subject_that_is_an_attribute_is_kept_too():
    contract = replace(READINGS, message=(Attribute("owner", subject=True),))
    raw = RawBatch(7, IDS[:1], [DAY_MS], [1], [b'{"value": 1, "unit": "C"}'], {"attribute:owner": ["anna"]})
    masked_batch = mask_batch(raw, contract, KEYSET, Settings(staging=""), RUN)[0]
    (line,) = kept.decode_lines(masked_batch.kept)
    opened = Document.unpack(kept.cipher(KEYSET, contract.name).decrypt(line.message_id, line.payload))
    assert opened == (b'"anna"', b'{"unit":"C"}')
