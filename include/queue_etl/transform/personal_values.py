"""Personal values anywhere in a text: IP addresses, e-mail addresses, phone numbers, card numbers.

Pure; no text raises, and the time grows with its length. It is for texts that should hold none, so it prefers
to miss one to taking an order number for one:

    ip      an address, but no version, network or loopback address
    email   as `contract new` has it
    phone   as `contract new` has it: with + or 00 and the country, or as Americans write it; and given out
    card    by issuer, length and check digit, so that a tenth of the other numbers that begin like one passes
"""

import ipaddress
import re

from include.queue_etl.recognition import has_email, has_phone, is_right_by_luhn, words

IP, EMAIL, PHONE, CARD = "ip", "email", "phone", "card"
KINDS = {IP: "an IP address", EMAIL: "an e-mail address", PHONE: "a phone number", CARD: "a card number"}

# Not in a longer number, a version (v1.2.3.4, Chrome/1.2.3.4) or a network (10.0.0.0/8).
_IPV4 = re.compile(
    r"(?<![\w.-])(?<![A-Za-z]/)(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9]|-[A-Za-z]|/[0-9])",
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4})?(?![\w:]|/[0-9])"
)
_VERSION_WORDS = frozenset({"version", "versions", "build", "release", "firmware", "os"})
_ADDRESS_WORDS = frozenset({"ip", "ips", "addr", "address", "addresses", "host"})
_PARTS_OF_VERSIONS = 32  # all four parts of a version are smaller; of addresses one in 4,096 is such
# Unicast: global, unique local, link local. https://www.iana.org/assignments/ipv6-address-space
_UNICAST = tuple(map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "fe80::/10")))

# What every phone number and card number has; nearly every text ends here.
_MANY_DIGITS = re.compile(r"[0-9](?:[ ()./-]{0,2}[0-9]){6}")

# In one piece, or in groups of 4-4-4-4 or 4-6-5; not in a longer number, such as an IBAN.
_CARD = re.compile(
    r"(?<![\w+-])(?<![0-9][., /])"
    r"(?:[0-9]{14,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w-]|[.,][0-9])"
)
# First digits and lengths. Visa's old numbers of 13 digits are left out: of the EAN codes of goods that begin
# with 4, a tenth looks like one. https://en.wikipedia.org/wiki/Payment_card_number
_ISSUERS = (
    (re.compile("4"), (16, 19)),  # Visa
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile("3[47]"), (15,)),  # American Express
    (re.compile("6011|64[4-9]|65|352[89]|35[3-8]|62"), (16,)),  # Discover, JCB, UnionPay
    (re.compile("30[0-5]|3[689]"), (14,)),  # Diners Club
)


def kinds_in(text: str, name: str = "") -> list[str]:
    """The kinds of personal values that are in a text, in the order of KINDS.

    Args:
        text: to look at
        name: of its field: `version` holds versions, `ip` none, however much they look like each other
    """
    if text.isalpha():
        return []
    found = [IP] if _has_address(text, name) else []
    if has_email(text):
        found.append(EMAIL)
    if not _MANY_DIGITS.search(text):
        return found
    if has_phone(text):
        found.append(PHONE)
    if any(_is_card(match[0]) for match in _CARD.finditer(text)):
        found.append(CARD)
    return found


def _has_address(text: str, name: str) -> bool:
    if text.count(".") < 3 and text.count(":") < 2:
        return False
    named = set(words(name))
    if named & _VERSION_WORDS:
        return False
    is_address_field = bool(named & _ADDRESS_WORDS)
    return any(_is_ipv4(match[0], is_address_field) for match in _IPV4.finditer(text)) or any(
        _is_ipv6(match[0], is_address_field) for match in _IPV6.finditer(text)
    )


def _is_ipv4(text: str, is_address_field: bool) -> bool:
    try:
        parts = ipaddress.IPv4Address(text).packed
    except ValueError:
        return False
    # 0 is no host, 127 the own one, from 224 on are groups, masks and what is reserved.
    is_host = 0 < parts[0] < 224 and parts[0] != 127
    return is_host and (is_address_field or max(parts) >= _PARTS_OF_VERSIONS)


def _is_ipv6(text: str, is_address_field: bool) -> bool:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    if address.ipv4_mapped:
        return _is_ipv4(str(address.ipv4_mapped), is_address_field)
    return any(address in network for network in _UNICAST)


def _is_card(text: str) -> bool:
    digits = text.replace(" ", "").replace("-", "")
    is_issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _ISSUERS)
    return is_issued and is_right_by_luhn(digits)
