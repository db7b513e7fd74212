"""What a text looks like: an e-mail address, a card number, a name that is data. Pure; nothing raises."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

_EMAIL = re.compile(r"[^\s@<>,;:\"]{1,64}@[^\s@<>,;:\"]{1,190}\.[^\s@<>,;:\".]{2,63}")
# Tried once a run of characters, with the limits of RFC 5321: the time grows with the text, and no faster.
_EMAIL_INSIDE = re.compile(
    r"(?<![\w.+-])(?!git@)[\w.+-]{1,64}@(?![1-9]x\.)(?:[\w-]{1,63}\.){1,9}[A-Za-z]{2,63}(?![\w@])"
)
_PHONE = re.compile(r"\+[1-9][0-9 ().-]{6,20}")
_AMERICAN_PHONE = re.compile(r"\(?[2-9][0-9]{2}\)?[ .-]{1,2}[0-9]{3}[ .-][0-9]{4}")
_INTERNATIONAL_INSIDE = re.compile(
    r"(?<![\w+])(?:\+|00(?=[1-9][0-9]{0,2}[ /(-]))([1-9](?:[ ()./-]{0,2}[0-9]){6,14})(?!\w)"
)
_AMERICAN_INSIDE = re.compile(
    r"(?<![\w.+-])\(?[2-9][0-9]{2}(?:\) ?|[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![\w-])"
)
# Of a text; each costs 50 us. Nobody writes down so many before the first that is one.
_MOST_NUMBERS = 50
_CARD = re.compile(r"([3-6][0-9]|2[2-7])[0-9]{2}([ -]?[0-9]{2,6}){2,4}")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_SOCIAL_SECURITY = re.compile(r"[0-9]{3}-[0-9]{2}-[0-9]{4}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
_BROWSER = re.compile(r"Mozilla/[0-9.]+ \(.*")
_IAM = re.compile(r"arn:aws[a-z-]*:(iam|sts)::[0-9]*:(user|assumed-role|federated-user)/.+")
_PORT = re.compile(r":[0-9]{1,5}$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# A contract refuses double quotes, backticks, backslashes and most white space; the others occur in values.
_UNNAMEABLE = re.compile(r"[^\S ]|^ | $|  |: |[\"`<>\\{}\[\]*,;=|]")
_SELDOM_IN_NAMES = re.compile(r"[ /']")
_NUMBERED = re.compile(r"[A-Za-z][A-Za-z_.-]*[0-9]+")
_HEXADECIMAL = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{8}")
LONGEST_NAME = 63  # of a column in Postgres, in bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of personal value that shows in the value itself.

    Attributes:
        plural: what people call it
        normalization: name of the member of Normalization that fits it
        least_share: of the values; from here on the field is proposed as personal. Low where hardly anything
            else looks so, high where chance does
        matches: whether a text is one
    """

    plural: str
    normalization: str
    least_share: float
    matches: Callable[[str], bool]


def is_email(text: str) -> bool:
    """One e-mail address and nothing else."""
    return _EMAIL.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """One IP address, also with the port of IPv4 behind it."""
    bare = _PORT.sub("", text) if text.count(":") == 1 else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return True


def is_phone(text: str) -> bool:
    """A phone number with + and its country code."""
    return _PHONE.fullmatch(text) is not None and 8 <= sum(map(str.isdecimal, text)) <= 15


def is_card(text: str) -> bool:
    """A card number: 13 to 19 digits, the last of which is right by Luhn (ISO/IEC 7812-1)."""
    if not _CARD.fullmatch(text):
        return False
    digits = "".join(filter(str.isdecimal, text))
    return 13 <= len(digits) <= 19 and is_right_by_luhn(digits)


def is_right_by_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    numbers = list(map(int, digits))
    doubled = [sum(divmod(2 * digit, 10)) for digit in numbers[-2::-2]]
    return (sum(numbers[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """An account number whose remainder by 97 is 1 (ISO 13616-1)."""
    bare = text.replace(" ", "").upper()
    if not _IBAN.fullmatch(bare):
        return False
    return int("".join(str(int(one, 36)) for one in bare[4:] + bare[:4])) % 97 == 1


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_list_of_addresses(text: str) -> bool:
    return "," in text and all(is_address(part.strip()) for part in text.split(","))


def has_email(text: str) -> bool:
    """An e-mail address anywhere in the text; `git@` and `image@2x.png` are none."""
    return "@" in text and _EMAIL_INSIDE.search(text) is not None


def has_phone(text: str) -> bool:
    """A phone number anywhere in the text, with + or 00 and the country, or as Americans write it.

    It is one that the country gives out, by libphonenumber.
    """
    return any(_is_given_out(number, region) for number, region in islice(_numbers_in(text), _MOST_NUMBERS))


def _numbers_in(text: str) -> Iterator[tuple[str, str | None]]:
    """What may be phone numbers, each with its country where that is not in it."""
    if "+" in text or "00" in text:
        for match in _INTERNATIONAL_INSIDE.finditer(text):
            number = f"+{match[1]}"
            while number:  # another number may follow: +1 202 555 0123 12:30
                yield number, None
                number = number.rpartition(" ")[0]
    for match in _AMERICAN_INSIDE.finditer(text):
        yield match[0], "US"


def _is_given_out(number: str, region: str | None) -> bool:
    import phonenumbers  # 25 ms of CPU, for the first text with a candidate

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


# The first that matches a text counts.
SHAPES = (
    Shape("e-mail addresses", "EMAIL", 0.02, is_email),
    Shape("IP addresses", "IP", 0.02, is_address),
    Shape("lists of IP addresses", "TEXT", 0.02, _is_list_of_addresses),
    Shape("card numbers", "TEXT", 0.5, is_card),
    Shape("IBANs", "TEXT", 0.02, is_iban),
    Shape("social security numbers", "TEXT", 0.02, _matches(_SOCIAL_SECURITY)),
    Shape("phone numbers", "PHONE", 0.1, is_phone),
    Shape("phone numbers without country", "TEXT", 0.1, _matches(_AMERICAN_PHONE)),
    Shape("MAC addresses", "TEXT", 0.02, _matches(_MAC)),
    Shape("browsers' user agents", "TEXT", 0.02, _matches(_BROWSER)),
    Shape("names of AWS users", "TEXT", 0.02, _matches(_IAM)),
    Shape("texts with an e-mail address in them", "TEXT", 0.02, has_email),
    Shape("texts with a phone number in them", "TEXT", 0.02, has_phone),
)
INSPECTED_CHARS = 2_000  # of a text; what makes a field personal does not begin later


def shapes_of(texts: Iterable[str]) -> Mapping[str, int]:
    """How many texts have each shape, by its plural; shapes that none has are left out."""
    found: dict[str, int] = {}
    for text, times in Counter(texts).items():
        start = text[:INSPECTED_CHARS].strip()
        shape = next((shape for shape in SHAPES if shape.matches(start)), None)
        if shape:
            found[shape.plural] = found.get(shape.plural, 0) + times
    return found


def words(name: str) -> list[str]:
    """The words of a name in lower case: `sourceIPAddress` -> source, ip, address; digits are left out."""
    plain = re.sub(r"IP[Vv]([46])", r"Ip\1", name)
    plain = re.sub(r"IPs\b", "Ips", plain)
    # A capital that begins a word ends the run of capitals before it: IPAddress, HTMLUrl.
    parted = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", plain)
    return [word.lower() for word in _WORD.findall(parted)]


def looks_like_data(name: str, is_common: bool = False) -> bool:
    """Whether the name of a field is rather a value, such as an id, a date, an address or a sentence.

    Such a name is never written or shown: it may be personal.

    Args:
        name: as it stands in the JSON
        is_common: many events have it, so it is not of one of them: forms ask for a `First Name`, and what
            users add is numbered, as in `customfield_10045`
    """
    if not _can_be_shown(name) or is_address(name) or "@" in name[1:]:
        return True
    if is_common:
        is_numbered = _NUMBERED.fullmatch(name) and not _HEXADECIMAL.search(name)
        return bool(shapes_of([name])) or (_is_identifier_of_a_thing(name) and not is_numbered)
    return _SELDOM_IN_NAMES.search(name) is not None or _is_identifier_of_a_thing(name)


def _can_be_shown(name: str) -> bool:
    return (
        0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and not _UNNAMEABLE.search(name)
        and any(map(str.isalpha, name))
    )


def _is_identifier_of_a_thing(name: str) -> bool:
    # Standards have numbers of four digits and are parts of good names: `iso8601`.
    plain = re.sub(r"(?i)(iso|rfc)[0-9]{4}", "", name)
    if re.search(r"[0-9]{4}", plain) or _HEXADECIMAL.search(plain):
        return True
    return any(_is_random(token) for token in re.findall(r"[A-Za-z0-9]{10,}", plain))


def _is_random(token: str) -> bool:
    """Letters and digits in turn, or capitals all over: `cus_NffrFeUfNV2Hib`, `01ARZ3NDEKTSV4RRFF`."""
    parts = words(token)
    if not re.search(r"[0-9]", token) or not parts:
        return False
    return len(re.findall(r"[0-9]+", token)) >= 3 or sum(map(len, parts)) / len(parts) < 3
