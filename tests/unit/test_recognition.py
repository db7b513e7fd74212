"""What a text looks like, and which names of fields are data."""

import pytest

from include.queue_etl.recognition import looks_like_data, shapes_of, words


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("ann@example.org", "e-mail addresses"),
        ("Ann Example <ann@example.org>", "texts with an e-mail address in them"),
        ("mail ann@example.org now", "texts with an e-mail address in them"),
        ("192.0.2.7", "IP addresses"),
        ("192.0.2.7:8080", "IP addresses"),
        ("2001:db8::7", "IP addresses"),
        ("192.0.2.7, 198.51.100.2", "lists of IP addresses"),
        ("4111 1111 1111 1111", "card numbers"),
        ("5555555555554444", "card numbers"),
        ("GB82 WEST 1234 5698 7654 32", "IBANs"),
        ("123-45-6789", "social security numbers"),
        ("+1 (202) 555-0123", "phone numbers"),
        ("+493012345678", "phone numbers"),
        ("(202) 555-0123", "phone numbers without country"),
        ("00:1b:63:84:45:e6", "MAC addresses"),
        ("Mozilla/5.0 (X11; Linux x86_64) Gecko", "browsers' user agents"),
        ("arn:aws:iam::123456789012:user/ann", "names of AWS users"),
    ],
)
def test_a_personal_value_is_recognized(text, shape):
    assert shapes_of([text]) == {shape: 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a@b",
        "1.2.3",
        "300.1.1.1",
        "4111 1111 1111 1112",  # wrong by Luhn
        "20260131101112",  # a moment
        "1769903999999",  # milliseconds
        "GB82 WEST 1234 5698 7654 33",  # wrong by 97
        "+1",
        "+12",
        "2026-01-31",
        "arn:aws:s3:::bucket",
    ],
)
def test_an_ordinary_value_is_none_of_them(text):
    assert shapes_of([text]) == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sourceIPAddress", ["source", "ip", "address"]),
        ("SourceIp", ["source", "ip"]),
        ("e-mail_2", ["e", "mail"]),
        ("clientIPv4", ["client", "ip"]),
        ("userID", ["user", "id"]),
        ("HTMLUrl", ["html", "url"]),
        ("", []),
    ],
)
def test_a_name_is_read_by_its_words(name, expected):
    assert words(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "42",
        "ann@example.org",
        "192.0.2.7",
        "2026-01-31",
        "+493012345678",
        "7f1b6d0e-63f4-4a57-9c3f-5a5c4f6a1b20",
        "cus_NffrFeUfNV2Hib",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "deadbeef01",
        "ord-77123",
        "Ann Example",
        'a"b',
        "a\nb",
        "/home/ann",
        "x" * 64,
        "a\u202eb",
        "a\x1b[2Jb",
    ],
)
def test_a_name_that_is_data_is_seen(name):
    assert looks_like_data(name)


@pytest.mark.parametrize(
    ("name", "is_data"),
    [
        ("First Name", False),
        ("AC/DC", False),
        ("customfield_10045", False),
        ("Driver's licence", False),
        ("ann@example.org", True),
        ("192.0.2.7", True),
        ("+493012345678", True),
        ("Zoe 202-555-0123", True),
        ("GB82WEST12345698765432", True),
        ("arn:aws:iam::123456789012:user/zoe", True),
        ("550e8400-e29b-41d4-a716-446655440000", True),
        ("deadbeef01", True),
        ("cus_NffrFeUfNV2Hib", True),
        ("2026-01-01T10:00", True),
        (" x", True),
        ("x  y", True),
        ("x, y", True),
        ("x: y", True),
        ("x" * 64, True),
    ],
)
def test_a_name_that_many_events_have_is_data_only_where_it_must_be(name, is_data):
    assert looks_like_data(name)
    assert looks_like_data(name, is_common=True) is is_data


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "sourceIPAddress",
        "address2",
        "sha256",
        "iso8601",
        "s3ObjectKey",
        "oauth2Token",
        "md5OfBody",
        "@type",
        "$schema",
        "detail-type",
        "aws:region",
        "class",
        "straße",
        "名前",
        "x509Certificate",
        "a.b",
    ],
)
def test_a_name_of_a_field_is_no_data(name):
    assert not looks_like_data(name)
