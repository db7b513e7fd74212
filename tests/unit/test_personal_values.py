"""Personal values in texts that should hold none: what is found, and what only looks like it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.transform.personal_values import KINDS, kinds_in

FOUND = {
    "ip": [
        "203.0.113.7",
        "from 203.0.113.7:8080, port and all",
        "http://203.0.113.7/x",
        "10.0.0.77",
        "2001:db8::7",
        "[2001:db8::1]:443",
        "fe80::1%eth0",
        "fd12:3456:789a::1",
        "::ffff:203.0.113.7",
        "::ffff:cb00:7107",  # the same
        "2001:0db8:0000:0000:0000:0000:0000:0001",
        "first 1.2.3.4, then 198.51.100.20.",
    ],
    "email": [
        "ann@example.org",
        "Ann <ann@example.org>",
        "mailto:ann@example.org?subject=x",
        "ann+news@sub.example.co.uk.",
        "x" * 3_000 + " ann@example.org",
        "änn@bücher.example",
    ],
    "phone": [
        "+49 30 12345678",
        "+493012345678",
        "+49 (0)30 12345678",
        "tel:+44-20-7946-0958",
        "call +1 (202) 555-0123 now",
        "+1 202 555 0123 12:30",
        "0049 30 12345678",
        "(202) 555-0123",
        "202-555-0123",
        "202.555.0123",
    ],
    "card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111, 12/27",
        "4111 1111 1111 1111 12/27",
        "card: 5555555555554444.",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "2223003122003222",
    ],
}
NONE = [
    "",
    "@",
    "a@b",
    "user@host",
    "git@github.com:a/b",
    "image@2x.png",
    "lodash@4.17.21",
    "1.2.3",
    "1.2.3.4",  # a version, as its parts are all small
    "10.4.2.1",
    "v120.0.99.71",
    "Chrome/120.0.99.71",
    "Chrome/120.0.6099.71",
    "1.3.6.1.4.1.311",
    "300.1.1.1",
    "010.001.001.077",
    "10.0.0.0/8",
    "127.0.0.1",
    "0.0.0.77",
    "255.255.255.0",
    "::",
    "::1",
    "a::b",
    "std::string",
    "12:30:45",
    "00:1b:63:84:45:e6",
    "2026-01-31T10:11:12.123+02:00",
    "2026-01-31 10:11:12.123456",
    "20260131101112",
    "1769903999999",
    "1769903999999123",
    "1.0.0+20130313144700",
    "7f1b6d0e-63f4-4a57-9c3f-5a5c4f6a1b20",
    "41111111-1111-4111-9111-111111111111",
    "4006381333931",  # EAN
    "9780306406157",
    "978-3-16-148410-0",
    "GB82 WEST 1234 5698 7654 32",
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "FR14 2004 1010 0505 0001 3M02 606",
    "4111 1111 1111 1112",  # wrong by Luhn
    "4111111111116",  # right by Luhn, but of 13 digits
    "9111111111111111",
    "411111111111111111",  # a length that Visa does not have
    "order-4111111111111111",
    "ORD4111111111111111",
    "0.4111111111111111",
    "1Z999AA10123456784",
    "490154203237518",  # a phone's own number, IMEI
    "123-45-6789",
    "12345678",
    "0301234567",
    "0012345678",
    "001-234-5678",
    "2024-555-0123",
    "100-200-3000",
    "200-123-4567",  # no such area
    "+1",
    "+0100",
    "+999 12 345 678",
    "+1234567 -234",
    "C++ 12 345 678",
    "12.03.2024 10:00",
    "$1,234,567.8901",
]
# Wherever a repetition starts, a slow expression would begin anew.
REPEATED = (
    "a.",
    "a@",
    "a@b.",
    "1.1.1.",
    ":",
    "1:",
    "fe80::",
    "+1 ",
    "+1234567 ",
    "4111 ",
    "1",
    "1 ",
    "00 1 ",
)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_a_personal_value_is_found_wherever_it_stands_in_a_text(kind, text):
    assert kinds_in(text) == [kind]
    assert kinds_in(f"it was\n{text}\tas far as I know") == [kind]


@pytest.mark.parametrize("text", NONE)
def test_what_only_looks_like_a_personal_value_is_none(text):
    assert kinds_in(text) == []


def test_several_kinds_of_one_text_are_all_found():
    text = "ann@example.org, +49 30 12345678, 4111 1111 1111 1111, 203.0.113.7"
    assert kinds_in(text) == list(KINDS)


@pytest.mark.parametrize("name", ["app_version", "osVersion", "firmware", "build"])
def test_a_field_of_versions_holds_no_addresses(name):
    assert kinds_in("203.0.113.7", name) == []
    assert kinds_in("ann@example.org", name) == ["email"]


@pytest.mark.parametrize("name", ["ip", "clientIp", "remote_addr"])
def test_a_field_of_addresses_holds_no_versions(name):
    assert kinds_in("10.0.0.7", name) == ["ip"]
    assert kinds_in("::ffff:10.0.0.7", name) == ["ip"]


@given(st.text(st.sampled_from(list("0123456789abf.:@+-() /%éx\x00\n")), max_size=60))
def test_no_text_raises(text):
    assert set(kinds_in(text)) <= set(KINDS)


@pytest.mark.parametrize("repeated", REPEATED)
def test_the_time_grows_no_faster_than_the_text(repeated):
    def seconds(chars: int) -> float:
        text = repeated * (chars // len(repeated))
        started = time.process_time()
        kinds_in(text)
        return time.process_time() - started

    # Quadratic would be 100 times and more; ten times is what the text has grown.
    assert seconds(400_000) < 40 * max(min(seconds(40_000) for _ in range(3)), 0.005)
