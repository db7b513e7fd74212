"""Normalized bytes: for addresses and texts those of before; e-mails and phone numbers, odd and hostile."""

import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import cast

import idna
import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import MaskedField, Normalization, Personal, Scheme
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.normalization import (
    EMAIL,
    OPAQUE,
    PHONE,
    TEXT,
    Normalizer,
    email,
    folded_email,
    form_of,
    phone,
    readable,
)
from tests.support.marks import ABROAD, ADDRESS, CALL, FOLDED, MAIL, PLAIN

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [ADDRESS, PLAIN, MAIL, FOLDED, CALL, ABROAD]


def normalized(field: Personal, value: str) -> tuple[bytes, dict[str, int]]:
    """The bytes, and what was counted."""
    normalizer = Normalizer()
    plain = normalizer.of(field)(value)
    return plain, {kind: count for kind, count in normalizer.anomalies.items() if count}


def kind_and_form(field: Personal, value: str) -> tuple[bytes, str]:
    plain, _ = normalized(field, value)
    return plain[:1], readable(plain)


# Addresses and texts: tokens of before have to match --------------------------------------------------------

GOLDEN = [  # made by the code of before there were other kinds
    ("192.0.2.7", b"\x04\xc0\x00\x02\x07" + b"\0" * 12, b"\x01192.0.2.7\x80" + b"\0" * 6),
    (" 192.0.2.7\t", b"\x04\xc0\x00\x02\x07" + b"\0" * 12, b"\x01192.0.2.7\x80" + b"\0" * 6),
    ("::ffff:192.0.2.7", b"\x04\xc0\x00\x02\x07" + b"\0" * 12, b"\x01::ffff:192.0.2.7\x80" + b"\0" * 15),
    ("::FFFF:C000:0207", b"\x04\xc0\x00\x02\x07" + b"\0" * 12, b"\x01::FFFF:C000:0207\x80" + b"\0" * 15),
    (
        "2001:DB8::1",
        b"\x06 \x01\r\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x012001:DB8::1\x80" + b"\0" * 4,
    ),
    ("::", b"\x06" + b"\0" * 16, b"\x01::\x80" + b"\0" * 13),
    ("255.255.255.255", b"\x04\xff\xff\xff\xff" + b"\0" * 12, b"\x01255.255.255.255\x80"),
    ("fe80::1%eth0", b"\x00fe80::1%eth0\x80\x00\x00\x00", b"\x01fe80::1%eth0\x80\x00\x00\x00"),
    ("010.0.0.1", b"\x00010.0.0.1\x80" + b"\0" * 6, b"\x01010.0.0.1\x80" + b"\0" * 6),
    (" e\u0301 ", b"\x00\xc3\xa9\x80" + b"\0" * 13, b"\x01\xc3\xa9\x80" + b"\0" * 13),
    ("x" * 15, b"\x00xxxxxxxxxxxxxxx\x80", b"\x01xxxxxxxxxxxxxxx\x80"),
    ("x" * 16, b"\x00xxxxxxxxxxxxxxxx\x80" + b"\0" * 15, b"\x01xxxxxxxxxxxxxxxx\x80" + b"\0" * 15),
    ("\xc0", b"\x00\xc3\x80\x80" + b"\0" * 13, b"\x01\xc3\x80\x80" + b"\0" * 13),
    ("a\x00", b"\x00a\x00\x80" + b"\0" * 13, b"\x01a\x00\x80" + b"\0" * 13),
    ("\u1100\u1161", b"\x00\xea\xb0\x80\x80" + b"\0" * 12, b"\x01\xea\xb0\x80\x80" + b"\0" * 12),
    ("\u2003", b"", b""),
    (" Ann@X.org ", b"\x00Ann@X.org\x80" + b"\0" * 6, b"\x01Ann@X.org\x80" + b"\0" * 6),
]


@pytest.mark.parametrize(("value", "address", "text"), GOLDEN)
def test_addresses_and_texts_have_the_bytes_that_they_always_had(value, address, text):
    assert normalized(ADDRESS, value)[0] == address
    assert normalized(PLAIN, value)[0] == text


# E-mail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("ann@example.org", "ann@example.org"),
        (" ann@EXAMPLE.Org\r\n", "ann@example.org"),
        ("Ann.Lee+news@example.org", "Ann.Lee+news@example.org"),
        ("Ann Lee <ann@Example.org>", "ann@example.org"),
        ('"Lee, Ann (a@b)" <ann@example.org>', "ann@example.org"),
        ("<ann@example.org>", "ann@example.org"),
        ("< ann@example.org >", "ann@example.org"),
        ("mailto:ann@example.org", "ann@example.org"),
        ("MAILTO:ann%2Bnews@example.org?subject=a@b", "ann+news@example.org"),
        ("<mailto:ann@example.org>", "ann@example.org"),
        ("mailto:zoe%CC%88@example.org", "zo\u00eb@example.org"),
        ("zoe\u0308@example.org", "zo\u00eb@example.org"),
        ("ann@b\u00fccher.example", "ann@xn--bcher-kva.example"),
        ("ann@BU\u0308CHER.example", "ann@xn--bcher-kva.example"),
        ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
        ("ann@\uff45xample\u3002org", "ann@example.org"),  # as an input method for Japanese writes it
        ("ann@stra\u00dfe.example", "ann@xn--strae-oqa.example"),
        ("ann@example.org.", "ann@example.org"),
        ("ann@b\u00fccher.example.", "ann@xn--bcher-kva.example"),
        ("root@localhost", "root@localhost"),
        ("a..b.@mail_1.example", "a..b.@mail_1.example"),
        ('"ann@home"@example.org', '"ann@home"@example.org'),
        ("x" * 100 + "@example.org", "x" * 100 + "@example.org"),
    ],
)
def test_an_email_has_one_form(value, form):
    assert kind_and_form(MAIL, value) == (EMAIL, form)
    assert normalized(MAIL, value)[1] == {}


@pytest.mark.parametrize(
    "value",
    [
        "ann",
        "@",
        "ann@",
        "@example.org",
        "ann@@example.org",
        "ann lee@example.org",
        "ann@example..org",
        "ann@.org",
        "ann@exa mple.org",
        "ann@example.org, bob@example.org",
        "Ann <ann@example.org>, Bob <bob@example.org>",
        "ann@a.example <bob@b.example>",
        "ann@example.org (Ann)",
        "Ann <ann>",
        "ann@[192.0.2.7]",
        "ann@example.org/x",
        "mailto:%FF@example.org",
        "mailto:mailto:ann@example.org",
        "ann@" + "x" * 64 + ".org",
        "ann@" + "x." * 127 + "org",
        "ann@xn--a.example",
        "ann@i\u2764.example",  # IDNA 2008 has no emoji
        "ann@a\u200bb..example",
        "ann\uff20example.org",
        "ann\ud800@example.org",
        "ann@\ud800.org",
        "ann\0@example.org",
        "ann@exam\0ple.org",
        "=cmd|'/c calc'!A1@example.org\nann@example.org",
    ],
)
@pytest.mark.parametrize("field", [MAIL, FOLDED])
def test_what_is_no_email_is_kept_as_text_and_counted(field, value):
    assert kind_and_form(field, value) == (OPAQUE, value)
    assert normalized(field, value)[1] == {"not_an_email": 1}


def test_a_domain_has_at_most_253_characters():
    longest = ("x" * 49 + ".") * 5 + "xxx"
    assert len(longest) == 253
    assert email(f"a@{longest}.") == f"a@{longest}"
    assert email(f"a@{longest}x") is None


def test_capitals_of_the_local_part_matter_unless_they_are_folded():
    assert form_of(MAIL)("Ann@x.org") != form_of(MAIL)("ann@x.org")
    assert form_of(FOLDED)("ANN@x.org") == form_of(FOLDED)("ann@X.ORG") == "ann@x.org"
    assert folded_email("\u01f0@x.org") == "\u01f0@x.org"  # folded it is in two parts
    assert form_of(FOLDED)("STRASSE@x.org") == form_of(FOLDED)("stra\u00dfe@x.org")


def test_an_email_that_becomes_too_long_for_its_column_is_kept_as_text():
    short = Personal(Normalization.EMAIL, token_chars=51)
    assert short.max_bytes == 15
    assert kind_and_form(short, "ann@b\u00fc.example") == (OPAQUE, "ann@b\u00fc.example")
    assert kind_and_form(short, "ann@bu.example") == (EMAIL, "ann@bu.example")


# Phone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("+49 30 1234567", "+49301234567"),
        ("030 1234567", "+49301234567"),
        (" (030) 123-45 67\t", "+49301234567"),
        ("0049 30 1234567", "+49301234567"),
        ("+49 (0)30 1234567", "+49301234567"),
        ("+49\u00a030\u2013123.45/67", "+49301234567"),
        ("tel:+49-30-1234567", "+49301234567"),
        ("TEL:030-1234567", "+49301234567"),
        ("\uff0b\uff14\uff19 30 1234567", "+49301234567"),
        ("\u0660\u0663\u0660 1234567", "+49301234567"),  # Arabic-Indic digits
        ("030 1234567 ext. 7", "+49301234567;ext=7"),
        ("+49 30 1234567x7", "+49301234567;ext=7"),
        ("tel:+49-30-1234567;ext=7", "+49301234567;ext=7"),
        ("\u202a+49 30 1234567\u202c", "+49301234567"),  # as a list of contacts copies it
        ("+1 (212) 555-0123", "+12125550123"),
        ("+39 06 1234 5678", "+390612345678"),  # Italy keeps its zero
        ("+54 9 11 2345-6789", "+5491123456789"),
    ],
)
def test_a_phone_number_has_one_form(value, form):
    assert kind_and_form(CALL, value) == (PHONE, form)
    assert normalized(CALL, value)[1] == {}


@pytest.mark.parametrize(
    "value",
    [
        "none",
        "+",
        "0",
        "112",
        "030",
        "+49",
        "+999 30 1234567",
        "030 1234567 (Ann)",
        "030 1234567 Apt 7",
        "030 1234567 or 030 7654321",
        "030 1234567, 030 7654321",
        "Ann: 030 1234567",
        "1-800-FLOWERS",
        "0\u00b2 1234567",
        "030 1234567 #\u0667",
        "030 1234567 ext " + "7" * 30,
        "030 123x1234567890",  # too long for an extension: the library adds its digits to the number
        "tel:1234;phone-context=example.org",
        "\u260e 030 1234567",
        "+4900301234567",  # the library would read it differently when it sees it again
        "0" * 300,
        "+49 30 1234567\0",
        "\ud800 030 1234567",
    ],
)
def test_what_is_no_phone_number_is_kept_as_text_and_counted(value):
    assert kind_and_form(CALL, value) == (OPAQUE, value)
    assert normalized(CALL, value)[1] == {"not_a_phone": 1}


def test_without_a_region_only_numbers_with_a_plus_are_numbers():
    assert kind_and_form(ABROAD, "+49 30 1234567") == (PHONE, "+49301234567")
    assert kind_and_form(ABROAD, "030 1234567") == (OPAQUE, "030 1234567")


def test_a_number_of_a_town_alone_is_none_of_its_country():
    american = Personal(Normalization.PHONE, region="US")
    assert kind_and_form(american, "555-0123")[0] == OPAQUE
    assert kind_and_form(american, "212-555-0123") == (PHONE, "+12125550123")


def test_a_phone_number_too_long_for_its_column_is_kept_as_text():
    short = Personal(Normalization.PHONE, token_chars=51, region="DE")
    assert kind_and_form(short, "030 1234567x12") == (OPAQUE, "030 1234567x12")


def test_all_phone_numbers_have_one_length():
    examples = [phonenumbers.example_number_for_type(region, 1) for region in phonenumbers.SUPPORTED_REGIONS]
    texts = [phonenumbers.format_number(one, 0) for one in examples if one]
    assert len(texts) > 200
    assert {len(normalized(ABROAD, text)[0]) for text in texts} == {17}


@pytest.mark.parametrize(
    ("region", "told"),
    [("XX", "no country 'XX'"), ("de", "no country 'de'"), ("UK", "GB for the United Kingdom")],
)
def test_a_country_that_there_is_not_is_refused(region, told):
    with pytest.raises(ValueError, match=told):
        Personal(Normalization.PHONE, region=region)


def test_a_region_of_what_is_no_phone_number_is_refused():
    with pytest.raises(ValueError, match="only a PHONE has a region; leave out region='DE'"):
        Personal(Normalization.EMAIL, region="DE")


# Whatever it is ---------------------------------------------------------------------------------------------

locals_ = st.one_of(st.from_regex(r"[A-Za-z0-9.+_'-]{1,12}", fullmatch=True), st.text(min_size=1, max_size=8))
labels = st.one_of(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True),
    st.text("äÖßéΣς字ア한אع-\u0301\u200d\u00ad\u0130\u017f", min_size=1, max_size=6),
    st.from_regex(r"[xX][nN]--[a-z0-9-]{1,10}", fullmatch=True),
    st.text(min_size=1, max_size=6),
)
domains = st.lists(labels, min_size=1, max_size=3).map(".".join)
displays = st.sampled_from(
    ["{}", " {} ", "Ann <{}>", "mailto:{}", "MAILTO:{}?subject=x", "<mailto:{}>", "{}."]
)
emails = st.builds(lambda form, local, domain: form.format(f"{local}@{domain}"), displays, locals_, domains)
numbers = st.builds(
    lambda form, start, digits: form.format(start + digits),
    st.sampled_from(["{}", "tel:{}", "({})", "{} ext 7", "{};ext=07", "{}#1", "{}x"]),
    st.sampled_from(
        ["", "+", "+49", "+49 0", "+4900", "0", "00", "0049", "+1", "+52 1", "+54 9", "+39 0", "\uff0b"]
    ),
    st.text("0123456789٣ -./()", min_size=1, max_size=18),
)
anything = st.one_of(
    emails,
    numbers,
    st.text(max_size=40),
    st.text(st.characters(categories=["Cs", "L", "N", "Z"]), max_size=9),
)


@pytest.mark.parametrize("field", FIELDS)
@given(value=anything)
def test_what_came_back_has_the_same_bytes_whatever_came(field, value):
    plain, counted = normalized(field, value)
    if not value.strip():
        assert (plain, counted) == (b"", {"blank": 1})
        return
    form = readable(plain)
    assert normalized(field, form) == (plain, counted)
    assert form == form_of(field)(value)
    assert (len(plain) - 1) % 16 == 0


@given(value=anything)
def test_bytes_tell_kind_and_value_so_that_no_two_values_share_them(value):
    text = unicodedata.normalize("NFC", value.strip())
    for field, kind, expected in (
        (PLAIN, TEXT, text),
        (MAIL, EMAIL, email(text)),
        (FOLDED, EMAIL, folded_email(text)),
        (CALL, PHONE, (number := phone(text, "DE")) and f"+{number}"),
        (ABROAD, PHONE, (number := phone(text)) and f"+{number}"),
    ):
        if text:
            assert kind_and_form(field, value) == ((kind, expected) if expected else (OPAQUE, text))


@given(local=locals_, domain=st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9äöüé]{1,9}){1,2}", fullmatch=True))
def test_capitals_of_a_domain_never_matter(local, domain):
    small, capital = f"{local}@{domain}", f"{local}@{domain.upper()}"
    assert normalized(MAIL, small)[0][:1] == normalized(MAIL, capital)[0][:1]
    if normalized(MAIL, small)[0][:1] == EMAIL:
        assert form_of(MAIL)(small) == form_of(MAIL)(capital)


@given(domain=domains)
@example(domain="b\u00fccher.example")
@example(domain="\u4f8b\u3048.\u30c6\u30b9\u30c8")
def test_a_domain_in_unicode_and_in_a_labels_is_one(domain):
    kind, form = kind_and_form(MAIL, f"ann@{domain}")
    if kind == EMAIL and "xn--" in form:
        unicode_form = f"ann@{idna.decode(form.removeprefix('ann@'))}"
        assert not unicode_form.isascii()
        assert kind_and_form(MAIL, unicode_form) == (EMAIL, form)
        assert kind_and_form(MAIL, unicodedata.normalize("NFD", unicode_form)) == (EMAIL, form)


@given(local=st.text(min_size=1, max_size=8))
def test_capitals_never_matter_where_they_are_folded(local):
    kind, form = kind_and_form(FOLDED, f"{local}@x.org")
    if kind == EMAIL:
        assert kind_and_form(FOLDED, f"{form.casefold()}") == (EMAIL, form)
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).casefold())
        assert form == f"{folded.strip()}@x.org"


EVERY_REGION = sorted(phonenumbers.SUPPORTED_REGIONS)
WAYS = [
    getattr(phonenumbers.PhoneNumberFormat, way) for way in ("NATIONAL", "INTERNATIONAL", "RFC3966", "E164")
]


@pytest.mark.parametrize("region", EVERY_REGION)
def test_a_number_as_its_country_and_as_the_world_writes_it_is_one(region):
    field = Personal(Normalization.PHONE, region=region)
    for kind in ("FIXED_LINE", "MOBILE"):
        number = phonenumbers.example_number_for_type(region, getattr(phonenumbers.PhoneNumberType, kind))
        if number is not None:
            forms = {kind_and_form(field, phonenumbers.format_number(number, way)) for way in WAYS}
            assert forms == {(PHONE, phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))}


def test_a_normalization_that_nobody_wrote_is_an_error():
    with pytest.raises(AssertionError):
        Normalizer().of(Personal(cast(Normalization, "other")))


# In the masker, and what it costs to start ------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [Scheme.RECOVERABLE, Scheme.ONE_WAY])
@pytest.mark.parametrize(
    ("normalization", "region", "one", "other", "none", "anomaly"),
    [
        (Normalization.EMAIL, "", "ann@X.org", "Ann <ann@x.org>", "ann", "not_an_email"),
        (Normalization.EMAIL_FOLDED, "", "Ann@x.org", "ann@x.org", "ann", "not_an_email"),
        (Normalization.PHONE, "DE", "030 1234567", "+49 30 1234567", "call me", "not_a_phone"),
    ],
)
def test_equal_things_have_one_token(normalization, region, one, other, none, anomaly, scheme):
    mark = Personal(normalization, scheme=scheme, region=region)
    field = MaskedField("c", "c", mark)
    masker = Masker(CONTRACT, Keyset.from_json(KeysetDocument.new().text))
    tokens = masker.mask(field, [one, other, none, none, None, " "], r"\N")
    assert tokens[0] == tokens[1] != tokens[2] == tokens[3] != r"\N"
    assert tokens[4:] == [r"\N", r"\N"]
    assert {kind: count for kind, count in masker.anomalies.items() if count} == {anomaly: 1, "blank": 1}
    if scheme is Scheme.RECOVERABLE:
        assert [masker.unmask(field, token) for token in tokens[1:3]] == [form_of(mark)(one), none]


@pytest.mark.parametrize(
    ("normalization", "value", "loaded"),
    [
        (Normalization.IP, "10.0.0.1", set()),
        (Normalization.TEXT, "zo\u00eb", set()),
        (Normalization.EMAIL, "ann@x.org", set()),
        (Normalization.EMAIL, "ann@b\u00fccher.example", {"idna"}),
        (Normalization.PHONE, "+49301234567", {"phonenumbers"}),
    ],
)
def test_a_library_is_loaded_only_where_a_value_needs_it(normalization, value, loaded):
    script = (
        "import sys; from include.queue_etl.contract import Normalization, Personal; "
        "from include.queue_etl.transform.normalization import Normalizer; "
        f"Normalizer().of(Personal(Normalization({str(normalization)!r})))({value!r}); "
        "print(*sorted({'idna', 'phonenumbers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(out.stdout.split()) == loaded
