"""Hostile bodies end in one place each, and the check of it sees each kind of mistake."""

import logging
from typing import Any

import pytest

from include.queue_etl.transform import copy_text
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.parsing import BAD_JSON, Parser
from tests.faults import hostile
from tests.faults.hostile import WRONG

NONE_WRONG = dict.fromkeys(WRONG, 0)
PARSE, MASK = Parser.parse, Masker.mask


def test_hostile_bodies_end_in_one_place_each_and_nothing_is_said_of_them() -> None:
    result = hostile.run(20_000, seed=2)

    assert {name: getattr(result, name) for name in WRONG} == NONE_WRONG, result.examples
    assert result.accepted + result.reasons.total() == result.bodies == 20_000
    assert result.accepted > 5_000
    assert len(result.reasons) >= 9, "the bodies are less varied than they were"


def raises(parser: Parser, body: bytes) -> Any:
    if b"ios" in body:
        raise ValueError(f"cannot parse {body!r}")
    return PARSE(parser, body)


def rejects(parser: Parser, body: bytes) -> Any:
    return BAD_JSON if b"ios" in body else PARSE(parser, body)


def turned_round(masker: Masker, personal: Any, values: Any, nothing: str) -> list[str]:
    return MASK(masker, personal, values, nothing)[::-1]


def logs(parser: Parser, body: bytes) -> Any:
    logging.getLogger("include").info("parsing %s", body)
    return PARSE(parser, body)


@pytest.mark.parametrize(
    ("owner", "name", "mistake", "seen_as"),
    [
        (Parser, "parse", raises, {"exceptions", "leaks"}),
        (Parser, "parse", rejects, {"misplaced"}),
        (Masker, "mask", turned_round, {"wrong_rows"}),
        (copy_text, "NULL", "NULL", {"wrong_rows"}),
        (Parser, "parse", logs, {"leaks"}),
    ],
    ids=["raises and quotes", "rejects good ones", "exchanges rows", "does not write NULL", "logs"],
)
def test_a_mistake_is_seen(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, mistake: Any, seen_as: set[str]
) -> None:
    monkeypatch.setattr(owner, name, mistake)

    result = hostile.run(2_000, seed=3)

    assert seen_as <= {name for name in WRONG if getattr(result, name)}
