"""Whether a message mentions a personal value, in any of its forms, well-formed or not. Pure.

When in doubt it does, for the message is then deleted on somebody's request. A part of a longer word is no
mention: 10.0.0.1 is not in 10.0.0.12.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from include.queue_etl.contract import Normalization, Personal

_WORDS = re.compile(r"[\s\"'{}\[\],=&<>()/\\]+")


class Mentions:
    """Looks for one value.

    Attributes:
        form: the value normalized, as `unmask` would give it back
    """

    def __init__(self, personal: Personal, value: str) -> None:
        self._personal = personal
        self.form = self._form(value)

    def are_in(self, body: bytes) -> bool:
        """Whether the value stands anywhere in a body."""
        return any(map(self._is_in, _texts(body.decode("utf-8", "replace"))))

    def _is_in(self, text: str) -> bool:
        if self._form(text) == self.form or any(self._form(word) == self.form for word in _WORDS.split(text)):
            return True
        # As part of a longer text, but not of a longer word: 10.0.0.1 is not in 10.0.0.12.
        part = rf"(?<![\w.:-]){re.escape(self.form)}(?![\w:-]|\.\w)"
        return re.search(part, self._form(text)) is not None

    def _form(self, text: str) -> str:
        form = unicodedata.normalize("NFC", text.strip())
        if self._personal.normalization is Normalization.IP:
            try:
                address = ip_address(form)
            except ValueError:
                return form
            return str(getattr(address, "ipv4_mapped", None) or address)
        return form


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
