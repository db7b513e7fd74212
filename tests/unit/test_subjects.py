"""What is looked for where: a value in one field, or in every field of a kind."""

from dataclasses import replace
from datetime import date
from typing import Annotated

import pytest
from msgspec import Struct

from include.contracts.user_logins import CONTRACT as LOGINS
from include.queue_etl.contract import KINDS, Contract, Normalization, Personal, Scheme, SentDay, Subject
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy import subjects
from include.queue_etl.privacy.subjects import Place, Search
from include.queue_etl.transform.masking import Masker
from tests.contracts.deliveries import CONTRACT as DELIVERIES

DOCUMENT = KeysetDocument.new()
WEAK = Personal(column="second", scheme=Scheme.MD5, allow_weak=True)


class Nothing(Struct):
    """Without anything personal."""

    a: str


class Owned(Struct):
    """Whose row it is, is personal itself."""

    owner: Annotated[str | None, Personal(), Subject()]
    name: Annotated[str | None, Personal()]
    other: Annotated[str | None, WEAK]


class Born(Struct):
    """A personal value that is no text."""

    born: Annotated[date | None, Personal()]


def contract(event: type[Struct]) -> Contract:
    return Contract(name="c", queue="q", table="public.c", event=event, message=(SentDay("day"),))


def test_every_normalization_is_of_a_kind():
    assert KINDS[0] == "user_id"
    assert {normalization.kind for normalization in Normalization} == set(KINDS[1:])
    assert {"ip", "text"} <= set(KINDS)


@pytest.mark.parametrize(("of", "kind", "fields"), [
    (LOGINS, "user_id", ["user_id"]), (LOGINS, "ip", ["ip"]), (LOGINS, "text", ["device_id"]),
    (DELIVERIES, "user_id", ["customer"]), (DELIVERIES, "ip", ["sender_ip", "contacts[*].ip"]),
    (DELIVERIES, "text", ["contacts[*].phone", "contacts[*].member", "notes.by[*].who"]),
    (contract(Nothing), "user_id", []), (contract(Nothing), "ip", []),
    (contract(Owned), "user_id", ["owner"]), (contract(Owned), "text", ["owner", "name", "other"]),
])  # fmt: skip
def test_a_kind_is_looked_for_in_every_field_of_it(of, kind, fields):
    search = Search.of_kind(of, kind, "value")
    assert search.fields == fields == subjects.fields_of_kind(of, kind)
    assert len(search.places(DOCUMENT)) == len(fields)


@pytest.mark.parametrize("kind", ["email@", "device_id", "", "IP"])
def test_a_kind_that_is_none_is_named_with_those_there_are(kind):
    with pytest.raises(ValueError, match=f"no kind of value '{kind}': one of user_id, ip, text"):
        Search.of_kind(LOGINS, kind, "value")


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_value_is_refused(blank):
    for search in (Search.of_kind, Search.of_field):
        with pytest.raises(ValueError, match="the value is blank"):
            search(LOGINS, "ip" if search == Search.of_field else "text", blank)


def test_a_date_that_was_masked_with_its_quotes_is_found_too():
    born = contract(Born)
    masker = Masker(born, DOCUMENT.only_key(DOCUMENT.key_ids[0]))
    tokens = masker.mask(born.personal[0], ["1990-01-31", '"1990-01-31"'], "")
    assert sorted(tokens) == subjects.Subject(born, "born", "1990-01-31").stored(DOCUMENT)


def test_a_message_is_searched_also_where_no_field_is_of_the_kind():
    nothing = Search.of_kind(contract(Nothing), "ip", "10.0.0.1")
    assert nothing.is_in(b'{"x": ["::ffff:10.0.0.1"]}')
    assert not nothing.is_in(b'{"x": ["10.0.0.12"]}')
    assert Search.of_kind(contract(Nothing), "user_id", "anna").is_in(b'{"x": "anna"')


def test_a_message_is_searched_for_every_way_to_write_the_value():
    forms = [Personal(Normalization.IP), Personal(Normalization.TEXT)]
    search = replace(Search.of_kind(LOGINS, "ip", "10.0.0.1"), marks=tuple(forms))
    assert search.is_in(b'{"a": "::ffff:10.0.0.1"}')
    assert Search.of_field(LOGINS, "device_id", "::ffff:10.0.0.1").is_in(b'{"a": "::ffff:10.0.0.1"}')
    assert not Search.of_field(LOGINS, "device_id", "10.0.0.1").is_in(b'{"a": "::ffff:10.0.0.1"}')


def test_of_a_user_id_in_the_clear_the_place_is_its_column():
    assert Search.of_field(LOGINS, "user_id", "anna").places(DOCUMENT) == [
        Place("user_id", "", ["anna"], is_subject=True)
    ]


def test_a_value_inside_jsonb_is_looked_for_at_its_path_under_every_key():
    document, _ = DOCUMENT.add_key()
    field = next(masked for masked in DELIVERIES.personal if masked.field == "contacts[*].ip")
    tokens = [Masker(DELIVERIES, document.only_key(key)).mask(field, ["10.0.0.1"], "")[0]
              for key in document.key_ids]  # fmt: skip
    (place,) = Search.of_field(DELIVERIES, "contacts[*].ip", " ::ffff:10.0.0.1").places(document)
    assert place == Place("contacts", "[*].ip", sorted(tokens), is_subject=False)
    assert len(set(tokens)) == 2


def test_a_personal_user_id_comes_first_and_clears_the_row():
    places = Search.of_kind(contract(Owned), "text", "anna").places(DOCUMENT)
    assert [(place.column, place.is_subject) for place in places] == [
        ("owner", True), ("name", False), ("second", False),
    ]  # fmt: skip
    assert all("anna" not in place.values for place in places)


def test_without_a_field_that_says_whose_row_it_is_there_is_no_subject():
    assert subjects.require_subject(LOGINS).name == "user_id"
    assert subjects.require_subject(DELIVERIES).name == "customer"
    with pytest.raises(ValueError, match="no field of c says whose row it is"):
        subjects.require_subject(contract(Nothing))
