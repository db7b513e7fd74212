"""Rows of staged files, changed: what was asked for, and every other value stays what it was."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.erase import _row_eraser
from include.queue_etl.privacy.retained_files import with_changes
from include.queue_etl.privacy.rotation import moving
from include.queue_etl.privacy.subjects import Search
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from include.queue_etl.transform.copy_text import escaped, unescaped
from tests.contracts.deliveries import CONTRACT
from tests.unit.copy_decoder import decoded

encode = msgspec.json.Encoder(decimal_format="number").encode
ID = "00000000-0000-4000-8000-00000000000a"
HIT = "AShdSvF3hECv7pSx"
awkward = st.text(st.sampled_from(list('\\\t\n\r.N"\b\f\u2028é😀x ')), max_size=8)
texts = st.one_of(st.just(HIT), awkward, st.just(f"{HIT}x"))
numbers = st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=3))
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "[", "*"]), inner, max_size=3)
    ),
    max_leaves=12,
)
steps = st.lists(st.sampled_from(["[*]", "a", "b"]), min_size=1, max_size=3)


def path_of(given_steps: list[str]) -> str:
    return "".join(step if step == "[*]" else f".{step}" for step in given_steps)


def expected(value: Any, given_steps: list[str], change: Callable[[Any], Any]) -> Any:
    """The value with what is at the steps changed; in another way than the code under test."""
    if not given_steps:
        return change(value)
    step, *rest = given_steps
    if isinstance(value, list) and step == "[*]":
        return [expected(item, rest, change) for item in value]
    if isinstance(value, dict):
        return {
            name: expected(item, rest, change) if step in ("[*]", name) else item
            for name, item in value.items()
        }
    return value


def read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def without_hit(value: object) -> object:
    return None if value == HIT else value


@given(
    st.one_of(
        st.none(),
        awkward,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    )
)
def test_copy_text_is_read_back_as_it_was_written(text):
    assert unescaped(escaped(text)) == text
    assert decoded(f"{escaped(text)}\n".encode()) == [[text]]


@pytest.mark.parametrize("change", [without_hit, lambda value: None])
@given(documents, steps)
@example("abc", ["[*]"])
@example(7, ["[*]"])
@example({"a": "a"}, ["a", "a"])
@example(["a", ["a"], {"a": HIT}], ["[*]", "a"])
def test_a_change_at_a_path_keeps_every_other_value(change, document, given_steps):
    before = encode(document).decode()
    after = with_changes(escaped(before), path_of(given_steps), change)
    ((text,),) = decoded(f"{after}\n".encode())
    assert text is not None
    assert repr(read(text)) == repr(expected(read(before), given_steps, change))
    if read(text) == read(before):
        assert after == escaped(before)


def test_null_stays_null_and_a_whole_column_becomes_it():
    assert with_changes(r"\N", "[*].a", without_hit) == r"\N"
    assert with_changes(HIT, "", without_hit) == r"\N"
    assert with_changes(r"a\\b", "", without_hit) == r"a\\b"


# Whole rows of a contract -----------------------------------------------------------------------------------

names = st.one_of(st.none(), st.sampled_from(["anna", "bert"]), awkward)
contacts = st.fixed_dictionaries({"role": awkward, "phone": names, "ip": names, "member": names})
notes = st.one_of(documents.map(lambda inner: {"else": inner}), st.fixed_dictionaries(
    {"by": st.dictionaries(awkward, st.fixed_dictionaries({"who": names, "n": numbers}), max_size=2)}
))  # fmt: skip
events = st.fixed_dictionaries({
    "parcel": awkward, "customer": st.sampled_from(["anna", "bert"]), "sender_ip": names,
    "contacts": st.lists(contacts, max_size=3), "notes": notes,
})  # fmt: skip
DOCUMENT = KeysetDocument.new()


def masked_row(event: dict[str, Any], document: KeysetDocument = DOCUMENT) -> list[str]:
    body = encode(event)
    raw = RawBatch(1, [ID], [0], [1], [body])
    masked, _ = mask_batch(raw, CONTRACT, document.open(), Settings(staging="/"), UUID(ID))
    assert masked.rejected == {}
    return masked.rows.decode().removesuffix("\n").split("\t")


def personal(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Everything personal in an event: field, what holds it, and its name there."""
    yield "sender_ip", event, "sender_ip"
    for contact in event["contacts"]:
        yield from ((f"contacts[*].{name}", contact, name) for name in ("phone", "ip", "member"))
    for one in event["notes"].get("by", {}).values():
        yield "notes.by[*].who", one, "who"


def cleared(event: dict[str, Any], field: str) -> dict[str, Any]:
    """The event as if anna had never been in this field; where she is the customer, without all personal."""
    event = deepcopy(event)
    is_hers = field == "customer" and event["customer"] == "anna"
    for found, holder, name in personal(event):
        if is_hers or (found == field and (holder[name] or "").strip() == "anna"):
            holder[name] = None
    return event


FIELDS = ["customer", "sender_ip", "contacts[*].phone", "contacts[*].member", "notes.by[*].who"]


@pytest.mark.parametrize("field", FIELDS)
@given(events)
def test_an_erased_row_is_that_of_an_event_without_the_value(field, event):
    places = Search.of_field(CONTRACT, field, "anna").places(DOCUMENT)
    wanted = masked_row(cleared(event, field))
    if field == "customer" and event["customer"] == "anna":
        wanted[CONTRACT.column_names.index("customer")] = r"\N"
    assert _row_eraser(CONTRACT, places)(masked_row(event)) == wanted


@given(events)
def test_a_moved_row_is_that_of_the_new_key(event):
    document, key_id = DOCUMENT.add_key()
    promoted = document.promote_key(key_id)
    without_one_way = {**event, "contacts": [{**one, "member": None} for one in event["contacts"]]}
    moved = moving(CONTRACT, promoted.open()).row(masked_row(without_one_way))
    assert moved == masked_row(without_one_way, promoted)
