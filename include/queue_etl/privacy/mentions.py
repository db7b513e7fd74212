"""Whether a message mentions a personal value, in any of its forms, well-formed or not. Pure.

When in doubt it does, for the message is then deleted on somebody's request. A part of a longer value is no
mention: 10.0.0.1 is not in 10.0.0.12, nor ann@x.org in joann@x.org.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from urllib.parse import unquote_plus

from include.queue_etl.contract import Normalization, Personal
from include.queue_etl.transform.normalization import EMAIL, PHONE, Normalizer, readable

_WORDS = re.compile(r"[\s\"'{}\[\],=&<>()/\\]+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ASCII_DOMAIN = re.compile(r"[A-Za-z0-9._-]*")
_DOTS_AND_JOINERS = "-._\u3002\uff0e\uff61\u200c\u200d"
_DOMAIN_CHARS = 300  # that are looked at: 253, and some that mean nothing
# Where a phone number may begin: after the last digit of something else.
_PHONE_START = re.compile(r"(?<!\d)[\d+\uff0b(]")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_PHONE_CHARS = 40  # before the last digits: 15 digits and what stands between them


class Mentions:
    """Looks for one value.

    Attributes:
        form: the value normalized, as `unmask` would give it back
    """

    def __init__(self, personal: Personal, value: str) -> None:
        self._normalize = Normalizer().of(personal)
        self.form = self._form(value)
        self._candidates = self._finder(personal, value)

    def are_in(self, body: bytes) -> bool:
        """Whether the value stands anywhere in a body."""
        texts = _texts(body.decode("utf-8", "replace"))
        return any(self._is_in(reading) for text in texts for reading in _readings(text))

    def _is_in(self, text: str) -> bool:
        if self._form(text) == self.form:
            return True
        return any(self._form(candidate) == self.form for candidate in set(self._candidates(text)))

    def _form(self, text: str) -> str:
        plain = self._normalize(text)
        return readable(plain) if plain else ""

    def _finder(self, personal: Personal, value: str) -> Callable[[str], Iterator[str]]:
        """Text -> what in it may be the value; the normalizer then decides."""
        kind = self._normalize(value)[:1]
        if kind == EMAIL:
            return _email_finder(self.form, fold_local=personal.normalization is Normalization.EMAIL_FOLDED)
        return _phone_finder(self.form) if kind == PHONE else _word_finder(self.form)


def _word_finder(wanted: str) -> Callable[[str], Iterator[str]]:
    part = re.compile(rf"(?<![\w.:-]){re.escape(wanted)}(?![\w:-]|\.\w)")

    def words(text: str) -> Iterator[str]:
        yield from _WORDS.split(text)
        if part.search(unicodedata.normalize("NFC", text)):
            yield wanted

    return words


def _email_finder(wanted: str, *, fold_local: bool) -> Callable[[str], Iterator[str]]:
    local = wanted.rpartition("@")[0]
    end = re.compile(rf"(?<![A-Za-z0-9_.+-]){re.escape(local)}\Z")

    def emails(text: str) -> Iterator[str]:
        text = unicodedata.normalize("NFC", text)
        for at in re.finditer("@", text):
            before = text[max(0, at.start() - 3 * len(local) - 1) : at.start()]
            if fold_local:
                before = unicodedata.normalize("NFC", before.casefold())
            if end.search(before):
                yield from (f"{local}@{domain}" for domain in _domains(text, at.end()))

    return emails


def _domains(text: str, start: int) -> Iterator[str]:
    """What may be a domain from here on: a Japanese sentence may go on behind one without a blank."""
    run = text[start : start + _DOMAIN_CHARS]
    ascii_only = _ASCII_DOMAIN.match(run)
    for domain in (ascii_only[0] if ascii_only else "", "".join(takewhile(_is_of_a_domain, run))):
        yield domain.rstrip(".-")


def _is_of_a_domain(character: str) -> bool:
    return character in _DOTS_AND_JOINERS or unicodedata.category(character)[0] in "LMN"


def _phone_finder(wanted: str) -> Callable[[str], Iterator[str]]:
    digits, _, extension = wanted.partition(";ext=")
    last = r"[^\w+]{0,3}".join(digits[-4:]) + (rf"\D{{1,20}}{extension}" if extension else "")
    end = re.compile(rf"(?=({last})(?!\d))")

    def phones(text: str) -> Iterator[str]:
        text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.digit(digit[0])), text)
        for found in end.finditer(text):
            first = max(0, found.start() - _PHONE_CHARS)
            for start in _PHONE_START.finditer(text, first, found.end(1)):
                candidate = text[start.start() : found.end(1)]
                yield from (candidate, f"+{candidate}")  # as a JSON number it has no plus sign

    return phones


def _readings(text: str) -> Iterator[str]:
    """A text as it is, and as what it may be a part of: broken JSON, a form or a link."""
    yield text
    if "\\" in text:
        halves = _ESCAPE.sub(_unescaped, text)  # \ud83d\ude00 is one character, in two halves
        yield halves.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "%" in text or ("+" in text and "=" in text):
        yield unquote_plus(text)


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _CONTROLS.get(escape[2], escape[2])


def _texts(text: str) -> Iterator[str]:
    """Every text in a body: those of its JSON, of JSON inside these, or the body itself where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        yield text
        return
    waiting = [found]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Mapping):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list):
            waiting += thing
        elif isinstance(thing, str):
            yield thing
            if thing[:1] in ("{", "["):  # such as the Message of an SNS notification
                yield from _texts(thing)
        elif thing is not None:
            yield str(thing)
