"""The trickle of `./dev up --sample-traffic`: what is sent, and that Ctrl-C ends it."""

import io
from pathlib import Path
from typing import Any

import pytest

from devstack import engine, sample_traffic
from devstack.console import Console
from devstack.demo import DEMOS
from include.contracts import load_contract
from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract.marks import Rejected
from include.queue_etl.transform.parsing import Parser


def test_lines_of_each_sample_are_sent_until_somebody_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, list[str]]] = []

    def output(_settings: Any, command: str, _option: str, contract: str, file: str) -> str:
        assert command == "send"
        sent.append((contract, Path(file).read_text().splitlines()))
        return ""

    def pause(_seconds: float) -> None:
        if len(sent) >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "output", output)
    said = io.StringIO()
    settings: Any = None
    sample_traffic.run(settings, Console(said), pause)
    assert [contract for contract, _ in sent] == [*DEMOS, *DEMOS]
    for contract, lines in sent:
        least, most = sample_traffic.MESSAGES
        assert least <= len(lines) <= most
        assert set(lines) <= set(DEMOS[contract].sample.read_text().splitlines())
    assert "no more messages" in said.getvalue()
    assert "`orders` wait until you start its DAG" in said.getvalue()


def test_it_says_which_samples_wait_for_somebody() -> None:
    """People who look at the page would else see a queue grow for no reason."""
    assert [name for name in DEMOS if load_contract(name).schedule is None] == ["orders"]


def test_the_sample_has_messages_that_are_rejected() -> None:
    parser = Parser(CONTRACT, 1_048_576)
    bodies = DEMOS["user_logins"].sample.read_bytes().splitlines()
    verdicts = [parser.parse(body) for body in bodies]
    assert 2 <= sum(isinstance(verdict, Rejected) for verdict in verdicts) <= 10
