r"""Personal values in one form, so that equal things become equal bytes, and back. Pure; no text raises.

Normalized values (one kind byte, then the value, padded because the ciphertext shows the length):

    b"\4" + 4 bytes   + 12 zero bytes       an IPv4 address, also when written ::ffff:a.b.c.d
    b"\6" + 16 bytes                        an IPv6 address
    b"\1" + UTF-8 + b"\x80" + zero bytes    text, to a multiple of 16 bytes after the kind byte
    b"\2" + UTF-8 + b"\x80" + zero bytes    an e-mail address, local part and domain, padded as text is
    b"\3" + digits + b"\x80" + zero bytes   a phone number: E.164 without its plus sign, padded as text is, so
                                            that all have one length; behind it ";ext=7" for an extension
    b"\0" + UTF-8 + b"\x80" + zero bytes    text found where one of these was expected: kept, and counted

A kind never gets another meaning, nor a value another form: tokens of many years ago have to match. The forms
of e-mail and phone also depend on the tables of `idna` and `phonenumbers` (docs/privacy.md).
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache, partial
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import assert_never
from urllib.parse import unquote

from include.queue_etl.contract import Normalization, Personal

IPV4, IPV6, TEXT, EMAIL, PHONE, OPAQUE = b"\x04", b"\x06", b"\x01", b"\x02", b"\x03", b"\x00"
_V4_IN_V6 = b"\x00" * 10 + b"\xff" * 2
_PAD_V4 = b"\x00" * 12

# `Ann <ann@x.org>` and `<ann@x.org>`. A name with an @ has to be quoted: else it may be a second address.
_DISPLAYED = re.compile(r'(?:"[^"]*"\s*|[^<>@"]*)<([^<>]*)>')
# As RFC 5322 and 6531 have it, but for dots, which real addresses have anywhere: a..b@docomo.ne.jp.
_LOCAL = re.compile(
    r'[^\s\x00-\x1f\x7f"(),:;<>@\[\\\]\ud800-\udfff]+|"(?:[^"\\\x00-\x1f\x7f\ud800-\udfff]|\\[ -~])*"'
)
_ASCII_DOMAIN = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_DOMAIN_CHARS = 253  # RFC 1035, section 2.3.4, without the length bytes at both ends
# What people put between digits; invisible marks too, which come with numbers copied from a list of contacts.
_SEPARATORS = (
    r"\s()\[\]./~+\-\u00ad\u200b\u200e\u200f\u2010-\u2015\u202a-\u202e\u2060\u2066-\u2069\u2212\u30fc\ufeff"
    r"\uff08\uff09\uff0b\uff0d\uff0f"
)
# Nothing else, above all no letters. The library reads them as a keypad has them: a remark behind a number
# would become digits of it, and nothing could bring the number back.
_PHONE = re.compile(
    rf"(?:tel:)?[\d{_SEPARATORS}]*(?:;?(?:ext(?:ension|n)?|x|#)[ .:=]*(?P<extension>[0-9]+))?", re.IGNORECASE
)


class Normalizer:
    """Turns values into their normalized bytes.

    Attributes:
        anomalies: values, counted, that are unusual: `not_an_address`, `not_an_email` and `not_a_phone` are
            kept as text, and `blank` has no bytes
    """

    def __init__(self) -> None:
        self.anomalies = dict.fromkeys(("not_an_address", "not_an_email", "not_a_phone", "blank"), 0)

    def of(self, personal: Personal) -> Callable[[str], bytes]:
        """Value -> normalized bytes of a field, at most `personal.max_bytes` long; none for blank text."""
        match personal.normalization:
            case Normalization.IP:
                return self._address
            case Normalization.TEXT:
                return partial(self._padded, TEXT)
            case Normalization.EMAIL:
                return self._reading(email, EMAIL, "not_an_email", personal)
            case Normalization.EMAIL_FOLDED:
                return self._reading(folded_email, EMAIL, "not_an_email", personal)
            case Normalization.PHONE:
                return self._reading(partial(phone, region=personal.region), PHONE, "not_a_phone", personal)
            case other:
                assert_never(other)

    def _address(self, value: str) -> bytes:
        try:
            return IPV4 + inet_pton(AF_INET, value) + _PAD_V4
        except (OSError, ValueError):
            return self._rare_address(value.strip())

    def _rare_address(self, value: str) -> bytes:
        for family, kind in ((AF_INET, IPV4), (AF_INET6, IPV6)):
            try:
                packed = inet_pton(family, value)
            except (OSError, ValueError):
                continue
            if packed.startswith(_V4_IN_V6):
                kind, packed = IPV4, packed[12:]
            return (kind + packed).ljust(17, b"\x00")
        if value:
            self.anomalies["not_an_address"] += 1
        return self._padded(OPAQUE, value)

    def _reading(
        self, read: Callable[[str], str | None], kind: bytes, anomaly: str, personal: Personal
    ) -> Callable[[str], bytes]:
        most = personal.max_bytes

        def normalize(value: str) -> bytes:
            text = unicodedata.normalize("NFC", value.strip())
            found = read(text) if text else None
            # An A-label may be longer than the domain that came, and its token no longer fit.
            if found is not None and len(found.encode()) <= most:
                return self._padded(kind, found)
            if text:
                self.anomalies[anomaly] += 1
            return self._padded(OPAQUE, text)

        return normalize

    def _padded(self, kind: bytes, value: str) -> bytes:
        text = value.strip()
        if not text:
            self.anomalies["blank"] += 1
            return b""
        # An ASCII text is in NFC already, and the check costs a tenth of the call.
        form = text if text.isascii() else unicodedata.normalize("NFC", text)
        try:
            encoded = form.encode() + b"\x80"
        except UnicodeEncodeError:  # half of a surrogate pair: no event has one, but a broken message may
            encoded = form.encode("utf-8", "surrogatepass") + b"\x80"
        return kind + encoded.ljust(-(-len(encoded) // 16) * 16, b"\x00")


def readable(plain: bytes) -> str:
    """The value of normalized bytes: "::ffff:10.0.0.1" comes back as "10.0.0.1"."""
    kind, value = plain[:1], plain[1:]
    if kind == IPV4:
        return inet_ntop(AF_INET, value[:4])
    if kind == IPV6:
        return inet_ntop(AF_INET6, value)
    text = value[: value.rindex(b"\x80")].decode("utf-8", "surrogatepass")
    return f"+{text}" if kind == PHONE else text


def form_of(personal: Personal) -> Callable[[str], str]:
    """Text -> the form in which `unmask` would give it back; "" for blank text."""
    normalize = Normalizer().of(personal)
    return lambda text: readable(plain) if (plain := normalize(text)) else ""


def email(text: str) -> str | None:
    """The address `local@domain` in a text in NFC; None where there is not exactly one.

    It may come as `Ann <ann@x.org>`, whose name is dropped, or `mailto:ann@x.org?subject=hi`. The domain is
    folded to lower case and A-labels (UTS 46), and a dot at its end dropped. The local part stays as it is:
    what its capitals, dots and plus signs mean, only its mail server knows.
    """
    displayed = _DISPLAYED.fullmatch(text)
    bare = displayed[1].strip() if displayed else text
    try:
        local, _, domain = (_of_mailto(bare) if bare[:7].lower() == "mailto:" else bare).rpartition("@")
        return f"{local}@{_domain(domain)}" if _LOCAL.fullmatch(local) else None
    except ValueError:
        return None


def folded_email(text: str) -> str | None:
    """As `email`, with capitals of the local part folded too."""
    found = email(text)
    if found is None:
        return None
    local, _, domain = found.rpartition("@")
    return f"{unicodedata.normalize('NFC', local.casefold())}@{domain}"


def phone(text: str, region: str = "") -> str | None:
    """The number in a text: E.164 without its plus sign, with ";ext=7" for an extension; None where none is.

    It may come as people write it, with `(0)`, `00`, `tel:` or an extension such as `x7`, but with no other
    letters. A number without + is one of `region`; without a region it is none. A number must have a length
    that its country has: whether it is assigned is not asked, for that changes.
    """
    found = _phone(text, region)
    # Where the library reads a number differently when it sees it again, no form of it would be the last.
    return found if found and (text == f"+{found}" or _phone(f"+{found}", "") == found) else None


def _of_mailto(uri: str) -> str:
    """The address of a `mailto:` (RFC 6068). Raises ValueError where it is no UTF-8."""
    return unicodedata.normalize("NFC", unquote(uri[7:].partition("?")[0], errors="strict"))


@lru_cache(maxsize=4096)  # a few domains have most addresses
def _domain(text: str) -> str:
    """A domain in lower case and A-labels. Raises ValueError where it is none."""
    if not text or len(text) > _DOMAIN_CHARS + 1:
        raise ValueError("no domain")
    domain = text.lower().removesuffix(".")
    if not domain.isascii() or "xn--" in domain:
        import idna

        domain = idna.encode(text, uts46=True).decode("ascii").removesuffix(".")
    if len(domain) > _DOMAIN_CHARS or not _ASCII_DOMAIN.fullmatch(domain):
        raise ValueError("no domain")
    return domain


def _phone(text: str, region: str) -> str | None:
    import phonenumbers

    spelled = _PHONE.fullmatch(text)
    try:
        number = phonenumbers.parse(text, region or None) if spelled else None
    except phonenumbers.NumberParseException:
        return None
    if number is None or spelled is None or number.extension != spelled["extension"]:
        return None
    # A number that can only be dialled within its town has no E.164 form.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]
    return f"{digits};ext={number.extension}" if number.extension else digits
