"""A value is found in a message in each of its forms, and nothing else is taken for it."""

import json
from collections import Counter
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.privacy.mentions import Mentions
from include.queue_etl.privacy.subjects import Subject
from tests.support.marks import ABROAD, ADDRESS, CALL, FOLDED, MAIL, PLAIN


def bodies(text: str) -> list[bytes]:
    """A text as messages may have it; the last two are forms, in which a + may be a blank."""
    event = {"empty": None, "user": {"any": ["x", text]}}
    return [
        json.dumps(event).encode(),
        json.dumps(event, ensure_ascii=False).encode(),
        json.dumps({"Type": "Notification", "Message": json.dumps(event)}).encode(),
        json.dumps({text: 1}).encode(),
        json.dumps({"note": f"Hello {text}, how are you?"}).encode(),
        json.dumps(event).encode()[:-3],
        json.dumps(event).replace("/", "\\/").encode()[:-3],  # as PHP writes it
        f"any={text}&x=1".encode(),
        urlencode({"any": text, "x": 1}).encode(),
    ]


FOUND = [
    (ADDRESS, "192.0.2.7", "192.0.2.7"),
    (ADDRESS, "::ffff:192.0.2.7", "192.0.2.7"),
    (ADDRESS, "192.0.2.7", "::FFFF:c000:207"),
    (PLAIN, "d\u00e9vice-7", "de\u0301vice-7"),
    (MAIL, "ann@example.org", "ann@EXAMPLE.org"),
    (MAIL, "ann@example.org", "Ann Lee <ann@Example.org>"),
    (MAIL, "Ann Lee <ann@Example.org>", "ann@example.org"),
    (MAIL, "ann@example.org", "mailto:ann@example.org"),
    (MAIL, "ann@example.org", "ann@example.org."),
    (MAIL, "ann@example.org", "or ann@example.org..."),
    (MAIL, "zo\u00eb@example.org", "zoe\u0308@example.org"),
    (MAIL, "ann@example.org", "(ann@example.org; bob@example.org)"),
    (MAIL, "bob@example.org", "ann@example.org,bob@example.org"),
    (MAIL, "ann@b\u00fccher.example", "ann@xn--bcher-kva.example"),
    (MAIL, "ann@xn--bcher-kva.example", "ann@BU\u0308CHER.example"),
    (MAIL, "ann@example.org", "\u8fde\u7edcann@example.org\u3002\u8c22\u8c22"),
    (MAIL, '"ann@home"@example.org', '"ann@home"@example.org'),
    (FOLDED, "ann@example.org", "ANN@Example.org"),
    (FOLDED, "STRASSE@b\u00fccher.example", "stra\u00dfe@B\u00dcCHER.example"),
    (FOLDED, "ann@stra\u00dfe.example", "Ann@stra\u00dfe.example"),
    (CALL, "+49 30 1234567", "030 1234567"),
    (CALL, "030 1234567", "+49 (0)30 123 45 67"),
    (CALL, "030 1234567", "+49301234567"),
    (CALL, "030 1234567", "0049-30-1234567"),
    (CALL, "030 1234567", "tel:+49-30-1234567"),
    (CALL, "030 1234567", "030/1234567 or 030/7654321"),
    (CALL, "030 7654321", "030/1234567 or 030/7654321"),
    (CALL, "030 1234567", "Ann (030) 12 34 56 7"),
    (CALL, "030 1234567", "call me:030 1234567 (Ann)"),
    (CALL, "030 1234567", "\u0660\u0663\u0660 \u0661\u0662\u0663\u0664\u0665\u0666\u0667"),
    (CALL, "030 111111", "030 11 11 11"),
    (CALL, "030 1234567", "030 1234567 ext. 7"),
    (CALL, "030 1234567x7", "+49 30 1234567 ext. 7"),
    (
        CALL,
        "030 1234567",
        "+43 30 1234567",
    ),  # in doubt: it could be two numbers, the second one without its 0
    (ABROAD, "+49 30 1234567", "+49 30 1234567"),
    (ABROAD, "+49 30 1234567", "49301234567"),
]


@pytest.mark.parametrize(("field", "value", "text"), FOUND)
def test_a_value_is_found_in_each_of_its_forms(field, value, text):
    mentions = Mentions(field, value)
    assert [body for body in bodies(text) if not mentions.are_in(body)] == []


def test_a_phone_number_without_its_plus_is_found_as_a_json_number_too():
    assert Mentions(ABROAD, "+49 30 1234567").are_in(b'{"phone": 49301234567}')


OTHERS = [
    (ADDRESS, "192.0.2.7", "192.0.2.70"),
    (ADDRESS, "192.0.2.7", "1.192.0.2.7"),
    (PLAIN, "device", "devices"),
    (MAIL, "ann@example.org", "joann@example.org"),
    (MAIL, "ann@example.org", "jo.ann@example.org"),
    (MAIL, "ann@example.org", "x+ann@example.org"),
    (MAIL, "ann@example.org", "ann+x@example.org"),
    (MAIL, "ann@example.org", "Ann@example.org"),
    (MAIL, "ann@example.org", "ann@example.org.uk"),
    (MAIL, "ann@example.org", "ann@mail.example.org"),
    (MAIL, "ann@example.org", "ann at example.org"),
    (MAIL, "ann@example.org", "ann@"),
    (MAIL, "ann@b\u00fccher.example", "ann@bucher.example"),
    (FOLDED, "ann@strasse.example", "ann@stra\u00dfe.example"),
    (CALL, "030 1234567", "030 12345678"),
    (CALL, "030 1234567", "031 1234567"),
    (CALL, "030 1234567", "4567"),
    (CALL, "030 1234567x7", "030 1234567"),
    (CALL, "030 1234567x7", "030 1234567x77"),
    (ABROAD, "+49 30 1234567", "030 1234567"),
]


@pytest.mark.parametrize(("field", "value", "text"), OTHERS)
def test_another_value_is_not_taken_for_it(field, value, text):
    mentions = Mentions(field, value)
    assert [body for body in bodies(text)[:-2] if mentions.are_in(body)] == []


@pytest.mark.parametrize(
    ("field", "value"), [(MAIL, "ann at home"), (CALL, "1-800-FLOWERS"), (ADDRESS, "none")]
)
def test_what_is_none_of_its_kind_is_looked_for_as_text(field, value):
    mentions = Mentions(field, f" {value}")
    assert [body for body in bodies(value) if not mentions.are_in(body)] == []
    assert [body for body in bodies(f"{value}s") if mentions.are_in(body)] == []


@pytest.mark.parametrize("field", [ADDRESS, PLAIN, MAIL, FOLDED, CALL, ABROAD])
@given(
    value=st.text(max_size=20), body=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(json.dumps))
)
def test_no_body_and_no_value_raises(field, value, body):
    raw = body if isinstance(body, bytes) else body.encode()
    assert Mentions(field, value).are_in(raw) in (True, False)


def test_an_address_in_a_link_is_found():
    body = b'{"html": "<a href=\\"mailto:ann%2Bx@example.org?subject=hi\\">mail</a>"}'
    assert Mentions(MAIL, "ann+x@example.org").are_in(body)


def test_a_text_that_is_the_whole_value_is_found_however_written():
    assert Mentions(MAIL, "ann@example.org").are_in('{"x": "ann@exam\u00adple.org"}'.encode())


def test_json_within_json_within_json_is_looked_through():
    inner = json.dumps({"Message": json.dumps({"x": "zo\u00eb@example.org"})})
    assert Mentions(MAIL, "zo\u00eb@example.org").are_in(json.dumps({"Message": inner}).encode())


def test_half_of_a_surrogate_pair_is_no_hindrance():
    for body in (b'{"x": "\\ud83d ann@example.org"}', b'{"x": "\\ud83d\\u0020ann@example.org'):
        assert Mentions(MAIL, "ann@example.org").are_in(body)
    assert Mentions(PLAIN, "\U0001f600").are_in(b'{"x": "\\ud83d\\ude00')


def test_a_user_id_is_looked_for_as_a_text():
    subject = Subject(CONTRACT, "user_id", " zoe\u0308 ")
    assert subject.mentions.are_in('{"user_id": "zo\u00eb"}'.encode())
    assert not subject.mentions.are_in('{"user_id": "ZO\u00cb"}'.encode())


def test_a_long_body_of_numbers_is_looked_through_quickly():
    # 160,000 digits in which every fourth could be the end: counted, as no clock is steady.
    mentions, asked = Mentions(CALL, "030 1111111"), Counter[str]()
    real = mentions._normalize

    def counted(text: str) -> bytes:
        asked["texts"] += 1
        return real(text)

    mentions._normalize = counted
    assert not mentions.are_in(b"1111 " * 40_000)
    assert asked["texts"] < 100
