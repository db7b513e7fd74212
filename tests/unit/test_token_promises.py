"""The check of a million tokens (docs/privacy/tokens.py), in small; and that it sees what it looks for."""

import json

import pytest

from docs.privacy import tokens
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.masking import Masker


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(tokens, "BATCH", 1_500)


def test_twenty_four_thousand_tokens_keep_every_promise(capsys):
    assert tokens.main(["--count", "4000", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [kind["tokens"] for kind in told["kinds"]] == [4_000] * 6
    assert {broken for kind in told["kinds"] for broken in kind["broken"].values()} == {0}
    assert all(cost > 0 for kind in told["kinds"] for cost in kind["microseconds_a_token"].values())


def test_the_table_has_a_line_for_each_kind(capsys):
    assert tokens.main(["--count", "10"]) == 0
    heading, _, *lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert all(promise in heading for promise in tokens.PROMISES)
    assert len(lines) == len(tokens.KINDS)
    assert all(line.count(" holds ") == len(tokens.PROMISES) for line in lines)


class Salted(Masker):
    """Equal values get different tokens."""

    def mask(self, personal, values, nothing):
        return [f"{token}{id(self)}{at}" for at, token in enumerate(super().mask(personal, values, nothing))]


class Spelling(Masker):
    """Spellings get tokens of their own."""

    def mask(self, personal, values, nothing):
        return [
            token + value
            for token, value in zip(super().mask(personal, values, nothing), values, strict=True)
        ]


class Coarse(Masker):
    """Neighbours share a token."""

    def mask(self, personal, values, nothing):
        return super().mask(personal, [value.strip()[:7] for value in values], nothing)


class Joinable(Masker):
    """Tokens of all fields and contracts are equal."""

    def _context(self, personal):
        return b"queue_etl"


class Forgetful(Masker):
    """Nothing opens."""

    def unmask(self, personal, token):
        raise KeysetError("no")


@pytest.mark.parametrize(
    ("masker", "promise"),
    list(zip((Salted, Spelling, Coarse, Joinable, Forgetful), tokens.PROMISES, strict=True)),
)
def test_a_broken_promise_is_seen(masker, promise, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "Masker", masker)
    result = tokens.Check(KeysetDocument.new().text).run(tokens.KINDS[3], 2_000)
    assert result.broken[promise] > 0
    assert tokens.main(["--count", "20"]) == 1
    assert "break it" in capsys.readouterr().out


def test_a_one_way_value_that_comes_back_is_a_broken_promise(monkeypatch):
    monkeypatch.setattr(Masker, "unmask", lambda self, personal, token: "found")
    assert tokens.Check(KeysetDocument.new().text).run(tokens.KINDS[-1], 5).broken["round trip"] == 5
