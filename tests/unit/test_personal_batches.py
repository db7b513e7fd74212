"""The personal data check in a batch: counted in a sample, or sent to quarantine from all messages."""

import json
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct

from include.queue_etl.contract import Attribute, Contract, NotPersonal, Personal
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch, RejectedBatch
from include.queue_etl.transform.undeclared import MAX_PATHS
from tests.unit.copy_decoder import decoded

KEYSET = Keyset.from_json(KeysetDocument.new().text)
RUN = UUID("00000000-0000-4000-8000-00000000000a")
EMAIL = "canary@example.org"


class Note(Struct):
    id: int
    note: str = ""


class HarmlessNote(Struct):
    id: int
    note: Annotated[str, NotPersonal()] = ""


class PersonalNote(Struct):
    id: int
    note: Annotated[str, Personal()] = ""


COUNTING = Contract(name="notes", queue="notes", table="public.notes", event=Note)
GUARDED = replace(COUNTING, personal_data_check="quarantine")


def raw_batch(*bodies: bytes) -> RawBatch:
    ids = sorted(str(uuid4()) for _ in bodies)
    return RawBatch(7, ids, [1_769_900_000_000] * len(ids), [1] * len(ids), list(bodies))


def masked(contract: Contract, raw: RawBatch, one_in: int = 1) -> tuple[MaskedBatch, RejectedBatch]:
    settings = Settings(staging="/staging", personal_data_sample=one_in)
    return mask_batch(raw, contract, KEYSET, settings, RUN)


def note(number: int, **fields: Any) -> bytes:
    return json.dumps({"id": number, **fields}).encode()


MIXED = raw_batch(
    note(1, note=EMAIL), note(2, new={"a": "203.0.113.7"}), note(3, note="x"), b"no json", note(4, note=EMAIL)
)


def test_what_is_found_is_counted_and_loads_all_the_same():
    batch, _ = masked(COUNTING, MIXED)
    assert batch.personal_data_found == {"note": {"email": 2}, "new.a": {"ip": 1}}
    assert (batch.personal_data_checked, batch.accepted, batch.rejected) == (4, 4, {"bad_json": 1})


def test_only_the_sample_is_looked_at():
    raw = raw_batch(*(note(number, note=EMAIL) for number in range(1_000)))
    batch, _ = masked(COUNTING, raw, one_in=10)
    assert 0 < batch.personal_data_checked < 400
    assert batch.personal_data_found == {"note": {"email": batch.personal_data_checked}}


@pytest.mark.parametrize(
    ("contract", "one_in"), [(COUNTING, 0), (replace(COUNTING, personal_data_check="off"), 1)]
)
def test_the_check_can_be_turned_off(contract, one_in):
    batch, _ = masked(contract, MIXED, one_in)
    assert (batch.personal_data_checked, batch.personal_data_found) == (0, {})


@pytest.mark.parametrize("one_in", [0, 1, 1_000_000])
def test_quarantine_is_for_every_message_whatever_the_sample(one_in):
    batch, rejected = masked(GUARDED, MIXED, one_in)
    assert batch.rejected == {"personal_data note": 2, "personal_data new.a": 1, "bad_json": 1}
    assert [row[0] for row in decoded(batch.rows)] == ["3"]
    assert batch.personal_data_found == {"note": {"email": 2}, "new.a": {"ip": 1}}
    assert batch.personal_data_checked == 4
    assert b"canary" not in batch.rows + rejected.lines
    assert b"203.0.113.7" not in rejected.lines


@pytest.mark.parametrize("event", [HarmlessNote, PersonalNote])
def test_what_the_contract_decides_later_loads_in_a_redrive(event):
    raw = raw_batch(note(1, note=EMAIL))
    assert masked(GUARDED, raw)[0].rejected == {"personal_data note": 1}
    batch, _ = masked(replace(GUARDED, event=event), raw)
    assert (batch.accepted, batch.rejected, batch.personal_data_found) == (1, {}, {})


def test_invented_names_make_no_endless_list_of_reasons():
    names = [f"{one}{other}" for one in "klmnopqrstuv" for other in "klmnopqrstuv"]
    batch, _ = masked(GUARDED, raw_batch(*(note(1, **{name: EMAIL}) for name in names)))
    assert len(batch.rejected) == MAX_PATHS + 1
    assert batch.rejected["personal_data ..."] == len(names) - MAX_PATHS


def test_an_event_in_an_sns_envelope_is_looked_at():
    body = json.dumps({"Type": "Notification", "Message": note(1, note=EMAIL).decode()}).encode()
    batch, _ = masked(replace(COUNTING, sns_envelope=True), raw_batch(body, note(2, note=EMAIL)))
    assert batch.personal_data_found == {"note": {"email": 2}}


def test_a_masked_batch_of_a_version_without_the_check_still_opens():
    batch, _ = masked(COUNTING, raw_batch(note(1)))
    fields = msgspec.to_builtins(batch, builtin_types=(bytes,))
    earlier = {name: value for name, value in fields.items() if not name.startswith("personal_data")}
    opened = msgspec.msgpack.decode(msgspec.msgpack.encode(earlier), type=MaskedBatch)
    assert (opened.rows, opened.personal_data_checked, opened.personal_data_found) == (batch.rows, 0, {})


# Attributes of the message ------------------------------------------------------------------------

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("reply-to"),
    Attribute("owner", personal=Personal()),
    Attribute("via", not_personal=True),
)


@pytest.mark.parametrize("mode", ["count", "quarantine"])
def test_attributes_that_nobody_calls_personal_are_looked_at(mode):
    contract = replace(COUNTING, message=ATTRIBUTES, personal_data_check=mode)
    raw = raw_batch(note(1), note(2))
    raw.facts = {one.path: [EMAIL, None] for one in ATTRIBUTES}
    batch, _ = masked(contract, raw)
    assert batch.personal_data_found == {"attribute:reply-to": {"email": 1}}
    rejected = {"personal_data attribute:reply-to": 1} if mode == "quarantine" else {}
    assert batch.rejected == rejected
