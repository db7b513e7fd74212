"""Made-up events of the shape of a sample, and the test that its contract accepts them. Pure.

No made-up value is one of the sample. Those of personal fields are from ranges kept for documentation.
"""

from collections.abc import Callable
from datetime import date, timedelta
from itertools import count
from typing import Any

from include.queue_etl.onboarding.draft import Draft
from include.queue_etl.onboarding.survey import Field, Survey

_TEST = '''"""The contract `{name}` accepts the made-up events of tests/events/{name}.jsonl."""

from pathlib import Path

import pytest

from include.contracts.{name} import CONTRACT
from include.queue_etl.contract import Rejected
from include.queue_etl.transform.parsing import Parser

EVENTS = Path(__file__).parents[1] / "events" / "{name}.jsonl"


@pytest.mark.parametrize("body", EVENTS.read_bytes().splitlines())
def test_a_made_up_event_is_accepted(body: bytes) -> None:
    assert not isinstance(Parser(CONTRACT, body_limit_bytes=1_048_576).parse(body), Rejected)
'''


def test_source(name: str) -> str:
    """The text of `tests/unit/test_contract_NAME.py`."""
    return _TEST.format(name=name)


def events(survey: Survey, draft: Draft) -> list[dict[str, Any]]:
    """Three events: two with everything the sample had, and one with as little as it may have."""
    making = _Making(survey, draft)
    return [making.object(survey.event), making.object(survey.event), making.object(survey.event, least=True)]


class _Making:
    def __init__(self, survey: Survey, draft: Draft) -> None:
        self._seen = survey.values
        self._personal = draft.personal
        self._choices = {
            member.found.path: member.choices for member in draft.event.columns() if member.choices
        }
        self._numbers = count(1)

    def object(self, found: Field, least: bool = False) -> dict[str, Any]:
        """An object with a value for each field.

        Args:
            found: its fields
            least: what was missing is missing, and what was null is null
        """
        fields = [part for part in found.fields if not (least and part.missing)]
        made = {part.key: self._value(part, least) for part in fields}
        return made | (
            {f"name_{next(self._numbers)}": self._value(found.values, least)} if found.values else {}
        )

    def _value(self, found: Field, least: bool) -> Any:
        if not found.kinds or (least and found.nulls):
            return None
        kind = min(found.kinds)
        if kind == "object":
            return self.object(found, least)
        if kind == "array":
            return [self._value(found.items, least)] if found.items else []
        if found.path in self._choices:
            return self._choices[found.path][0]
        return (
            True if kind == "boolean" else self._unseen(_candidates(found, kind, self._normalization(found)))
        )

    def _normalization(self, found: Field) -> str:
        proposal = self._personal.get(found.path)
        return proposal.normalization if proposal else ""

    def _unseen(self, candidate: Callable[[int], Any]) -> Any:
        """The next candidate that is no value of the sample."""
        numbers = (number for number in self._numbers if str(number) not in self._seen)
        return next(made for number in numbers if str(made := candidate(number)) not in self._seen)


def _candidates(found: Field, kind: str, normalization: str) -> Callable[[int], Any]:
    """Number -> a value of this kind."""
    if kind == "integer":
        return lambda number: number
    if kind == "decimal":
        return lambda number: number + 0.5
    form = found.texts.form if found.texts else ""
    return _PERSONAL.get(normalization) or _FORMS.get(form) or (lambda number: f"made up {number}")


def _address(number: int) -> str:
    # RFC 5737 and, for more of them, RFC 3849.
    return f"192.0.2.{number}" if number < 255 else f"2001:db8::{number:x}"


def _phone(number: int) -> str:
    # 555-0100 to 555-0199 of every area are for fiction.
    return f"+1{202 + number // 100 % 700}55501{number % 100:02}"


def _day(number: int) -> str:
    return str(date(2001, 1, 1) + timedelta(days=number))


_PERSONAL: dict[str, Callable[[int], str]] = {
    "EMAIL": lambda number: f"person{number}@example.org",
    "IP": _address,
    "PHONE": _phone,
    "TEXT": lambda number: f"made up {number}",
}
_FORMS: dict[str, Callable[[int], str]] = {
    "datetime": lambda number: f"{_day(number)}T12:00:00Z",
    "local datetime": lambda number: f"{_day(number)}T12:00:00",
    "date": _day,
    "uuid": lambda number: f"00000000-0000-4000-8000-{number:012}",
}
