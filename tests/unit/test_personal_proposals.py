"""Which fields are proposed as personal, and why."""

import pytest

from include.queue_etl.onboarding.personal import UnknownPath, percent, proposals
from tests.unit.onboarding_events import ORDER, order, surveyed


def proposed(*events, **decided):
    """Path -> normalization and reason."""
    found = proposals(surveyed(*events).event, **decided)
    return {path: f"{one.normalization}: {one.reason}" for path, one in found.items()}


def nested(path, value):
    """An event with one value at a path of names."""
    *above, last = path.split(".")
    made = {last: value}
    for name in reversed(above):
        made = {name: made}
    return made


def test_the_personal_fields_of_an_order_are_found_with_their_reasons():
    assert proposed(ORDER) == {
        "customer.email": "EMAIL: name: email; shape: 100% e-mail addresses",
        "customer.name": "TEXT: name: name of a person",
        "customer.address.line1": "TEXT: name: address",
        "customer.address.city": "TEXT: name: address",
        "customer.address.geo.lat": "TEXT: name: location",
        "customer.address.geo.lon": "TEXT: name: location",
        "items[*].gift.phone": "PHONE: name: phone; shape: 100% phone numbers",
        "scores": "TEXT: shape: its names are e-mail addresses",
    }


@pytest.mark.parametrize(
    ("path", "normalization", "what"),
    [
        ("email", "EMAIL", "email"),
        ("EmailAddress", "EMAIL", "email"),
        ("e-mail", "EMAIL", "email"),
        ("contact.emailaddress", "EMAIL", "email"),
        ("ip", "IP", "IP address"),
        ("ip_address", "IP", "IP address"),
        ("sourceIPAddress", "IP", "IP address"),
        ("context.ip", "IP", "IP address"),
        ("ClientIPv4", "IP", "IP address"),
        ("x-forwarded-for", "IP", "IP address"),
        ("phoneNumber", "PHONE", "phone"),
        ("mobile", "PHONE", "phone"),
        ("msisdn", "PHONE", "phone"),
        ("device_id", "TEXT", "device"),
        ("deviceId", "TEXT", "device"),
        ("context.device.id", "TEXT", "device"),
        ("context.device.advertisingId", "TEXT", "device"),
        ("imei", "TEXT", "device"),
        ("userAgent", "TEXT", "user agent"),
        ("anonymousId", "TEXT", "online identifier"),
        ("password", "TEXT", "credential"),
        ("userIdentity.accessKeyId", "TEXT", "credential"),
        ("api-key", "TEXT", "credential"),
        ("ssn", "TEXT", "national number"),
        ("passport_number", "TEXT", "national number"),
        ("IBAN", "TEXT", "bank account"),
        ("card_number", "TEXT", "card"),
        ("card.last4", "TEXT", "card"),
        ("dateOfBirth", "TEXT", "birth"),
        ("birth_date", "TEXT", "birth"),
        ("dob", "TEXT", "birth"),
        ("firstName", "TEXT", "name of a person"),
        ("LastName", "TEXT", "name of a person"),
        ("billing_details.name", "TEXT", "name of a person"),
        ("sender.login", "TEXT", "name of a person"),
        ("userIdentity.userName", "TEXT", "name of a person"),
        ("address", "TEXT", "address"),
        ("shippingAddress.line2", "TEXT", "address"),
        ("shipping_address.postalCode", "TEXT", "address"),
        ("latitude", "TEXT", "location"),
        ("geo.long", "TEXT", "location"),
        ("gender", "TEXT", "special category"),
        ("avatar_url", "TEXT", "picture"),
        ("user_profile.image_72", "TEXT", "picture"),
        ("userIdentity.principalId", "TEXT", "account of a person"),
        ("useridentity.principalid", "TEXT", "account of a person"),
        ("useridentity.accesskeyid", "TEXT", "credential"),
        ("token", "TEXT", "credential"),
        ("query._csrf", "TEXT", "credential"),
        ("session_id", "TEXT", "online identifier"),
        ("externalSessionId", "TEXT", "online identifier"),
        ("oktaUserAgentExtended", "TEXT", "user agent"),
        ("previous_ua", "TEXT", "user agent"),
        ("profile.real_name", "TEXT", "name of a person"),
        ("real_name_normalized", "TEXT", "name of a person"),
        ("actorName", "TEXT", "name of a person"),
        ("login_hint", "TEXT", "name of a person"),
        ("requestParameters.roleSessionName", "TEXT", "name of a person"),
        ("assignee.name", "TEXT", "name of a person"),
        ("actor.name", "TEXT", "name of a person"),
        ("geographicalContext.city", "TEXT", "address"),
        ("sender.html_url", "TEXT", "page of a person"),
        ("issue.user.url", "TEXT", "page of a person"),
        ("author_link", "TEXT", "page of a person"),
        ("phoneHome", "PHONE", "phone"),
        ("push_token", "TEXT", "device"),
        ("ssn_last4", "TEXT", "national number"),
        ("vat_number", "TEXT", "national number"),
        ("bankAccount", "TEXT", "bank account"),
        ("accountHolder", "TEXT", "name of a person"),
        ("cardholder.name", "TEXT", "name of a person"),
        ("customer.name.last", "TEXT", "name of a person"),
        ("billing_address.name", "TEXT", "name of a person"),
        ("customer.defaultAddress.name", "TEXT", "name of a person"),
        ("patient.name.text", "TEXT", "name of a person"),
        ("assignees.summary", "TEXT", "name of a person"),
        ("address_city", "TEXT", "address"),
        ("race", "TEXT", "special category"),
        ("user.picture", "TEXT", "picture"),
        ("patient.text.div", "TEXT", "narrative of a record"),
        ("twitterHandle", "TEXT", "account of a person"),
    ],
)
def test_a_field_is_proposed_by_its_name(path, normalization, what):
    assert proposed(nested(path, None)) == {path: f"{normalization}: name: {what}"}
    assert proposed(nested(path, "x")) == {path: f"TEXT: name: {what}"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "x"),
        ("name", "x"),
        ("product.name", "x"),
        ("event_name", "x"),
        ("shipping", "x"),
        ("headline", "x"),
        ("description", "x"),
        ("repository.html_url", "x"),
        ("bot.image_72", "x"),
        ("shipping.tracking_url", "x"),
        ("nextToken", "x"),
        ("trafficMirrorSessionId", "x"),
        ("httpProtocolIpv4", "x"),
        ("email_verified", True),
        ("email", True),
        ("email_count", 3),
        ("phone_verified_at", "2026-01-31T10:00:00Z"),
        ("card.last", "2026-01-31"),
        ("city", "x"),
        ("country", "x"),
        ("zip_file_count", 3),
        ("ship", "x"),
        ("tips", 3),
        ("long_text", "x"),
        ("macro", "x"),
        ("created", 1_769_903_999_999),
        ("total", 12.5),
        ("service.summary", "x"),
        ("product.picture", "x"),
        ("mac_vendor", "x"),
        ("pagination_token", "x"),
        ("host.name", "x"),
    ],
)
def test_an_ordinary_field_is_not_proposed(path, value):
    assert proposed(nested(path, value)) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["ann@example.org"] * 97 + ["-"] * 3, "EMAIL: shape: 97% e-mail addresses"),
        (["ann@example.org"] * 3 + ["-"] * 97, "TEXT: shape: 3% e-mail addresses"),
        (["192.0.2.1"] * 2, "IP: shape: 100% IP addresses"),
        (["call +49301234567"] * 2, "TEXT: shape: 100% texts with a phone number in them"),
        (["call 555 of +1 or 00"] * 2, None),
        (["+49301234567"] * 2, "PHONE: shape: 100% phone numbers"),
        (["(202) 555-0123"] * 2, "TEXT: shape: 100% phone numbers without country"),
        ([4111111111111111, 5555555555554444], "TEXT: shape: 100% card numbers"),
        (["4111111111111111", "4111111111111112", "4111111111111113"], None),  # by chance
        (["git@example.org:ann/code.git"], None),
        (["see ann@example.org"], "TEXT: shape: 100% texts with an e-mail address in them"),
    ],
)
def test_a_field_is_proposed_by_the_shape_of_its_values(values, expected):
    found = proposed(*({"x": value} for value in values))
    assert found == ({"x": expected} if expected else {})


def test_what_is_too_deep_to_be_looked_into_is_proposed():
    path = ".".join("a" * 24)
    assert proposed(nested(f"{path}.a", "ann@example.org")) == {path: "TEXT: too deep to be looked into"}


def test_the_number_of_an_account_is_personal_as_a_number_too():
    assert proposed({"telegram_id": 123456789}) == {"telegram_id": "TEXT: name: account of a person"}


@pytest.mark.parametrize("path", ["ip_address.name", "mac_address.name", "email_address.name"])
def test_the_name_of_a_machines_address_is_no_persons(path):
    assert proposed(nested(path, "x")) == {}


def test_a_date_is_personal_where_it_is_that_of_a_birth():
    assert proposed({"birthday": "1990-01-31"}) == {"birthday": "TEXT: name: birth"}


def test_what_a_list_holds_is_called_like_the_list():
    assert proposed({"emails": ["-"]}) == {"emails[*]": "TEXT: name: email"}
    assert proposed({"reviewers": [{"name": "x"}]}) == {"reviewers[*].name": "TEXT: name: name of a person"}


def test_a_number_is_a_phone_but_no_name():
    assert proposed({"phone": 493012345678, "first_name": 1}) == {"phone": "TEXT: name: phone"}


def test_a_field_that_is_always_null_is_proposed_by_its_name():
    assert proposed({"email": None}) == {"email": "EMAIL: name: email"}


def test_a_version_is_no_address():
    assert proposed({"engineVersion": "8.0.3.2"}) == {}


def test_the_name_above_counts_for_a_whole_name_alone():
    assert set(proposed({"customer": {"name": "x", "branch_name": "x"}})) == {"customer.name"}


def test_the_person_decides():
    found = proposed(
        order(note="x"), personal=["note", "customer.address"], not_personal=["customer.name", "scores"]
    )
    assert found["note"] == "TEXT: you say so"
    assert found["customer.address"] == "TEXT: you say so"
    assert not {"customer.name", "scores"} & set(found)


def test_what_the_person_calls_personal_is_normalized_by_its_shape():
    assert proposed({"x": "192.0.2.1"}, personal=["x"]) == {"x": "IP: you say so"}


@pytest.mark.parametrize("option", ["personal", "not_personal"])
def test_a_path_that_is_not_there_is_named(option):
    with pytest.raises(UnknownPath) as error:
        proposed(ORDER, **{option: ["customer.mail"]})
    assert error.value.path == "customer.mail"


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0%"), (0.001, "<1%"), (0.01, "1%"), (0.999, "100%"), (1, "100%")]
)
def test_a_share_is_never_nothing_where_there_is_something(share, shown):
    assert percent(share) == shown
