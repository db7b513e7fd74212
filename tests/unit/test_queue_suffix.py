"""The suffix of an environment: every queue of every contract has it, and none is another environment's."""

import sys
from pathlib import Path

import pytest

import include.contracts
from devstack.programs import queue_listing
from include.contracts import contract_names, load_contract, load_contracts
from include.queue_etl.contract import Contract
from include.queue_etl.errors import ContractBroken
from tests.contracts import newsletter_signups

SUFFIX = "QUEUE_ETL_QUEUE_SUFFIX"
SOURCE = Path(newsletter_signups.__file__)
PLAIN = {name: load_contract(name) for name in contract_names()}


@pytest.fixture
def staging(monkeypatch):
    monkeypatch.setenv(SUFFIX, "-staging")


def test_without_a_suffix_a_contract_is_what_its_file_says(monkeypatch):
    monkeypatch.setenv(SUFFIX, "")
    assert load_contract("user_logins") is PLAIN["user_logins"]
    monkeypatch.delenv(SUFFIX)
    assert load_contract("user_logins").queue == "login-queue"


@pytest.mark.usefixtures("staging")
def test_both_queues_of_every_contract_have_the_suffix():
    loaded = load_contracts()
    assert loaded.broken == {}
    for name, contract in loaded.good.items():
        assert contract == load_contract(name)
        assert contract.queue == f"{PLAIN[name].queue}-staging"
        assert contract.dead_letter_queue == f"{PLAIN[name].queue}-staging-dlq"


@pytest.mark.usefixtures("staging")
def test_all_else_stays_what_it_is():
    one, plain = load_contract("user_logins"), PLAIN["user_logins"]
    assert (one.name, one.table, one.columns) == (plain.name, plain.table, plain.columns)


@pytest.mark.parametrize("suffix", ["-dlq", "-staging-dlq", ".fifo", " staging", "-ä", "-" + "x" * 80])
def test_a_suffix_that_no_queue_can_have_is_refused_by_name(monkeypatch, suffix):
    monkeypatch.setenv(SUFFIX, suffix)
    with pytest.raises(ContractBroken, match=SUFFIX):
        load_contract("user_logins")
    loaded = load_contracts()
    assert loaded.good == {}
    assert all(problem.startswith(f"{SUFFIX}=") for problem in loaded.broken.values())


def test_queue_and_suffix_together_have_at_most_76_characters(monkeypatch):
    room = 76 - len("login-queue")
    monkeypatch.setenv(SUFFIX, "x" * room)
    assert len(load_contract("user_logins").dead_letter_queue) == 80
    monkeypatch.setenv(SUFFIX, "x" * (room + 1))
    with pytest.raises(ContractBroken, match="at most 76 with QUEUE_ETL_QUEUE_SUFFIX"):
        load_contract("user_logins")


@pytest.mark.parametrize("other", ["login-queue-eu", "login-queue-e"], ids=["queue", "part of it"])
def test_no_queue_is_that_of_another_contract_without_the_suffix(monkeypatch, tmp_path, other):
    text = SOURCE.read_text()
    (tmp_path / "newsletter_signups.py").write_text(text.replace("newsletter-signups", other))
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, str(tmp_path)])
    monkeypatch.setenv(SUFFIX, "-eu")
    try:
        loaded = load_contracts()
    finally:
        sys.modules.pop("include.contracts.newsletter_signups", None)
    if other == "login-queue-eu":
        assert list(loaded.broken) == ["user_logins"]
        assert "is the queue of contract newsletter_signups without a suffix" in loaded.broken["user_logins"]
    else:
        assert loaded.broken == {}
    assert "newsletter_signups" in loaded.good


@pytest.mark.usefixtures("staging")
def test_status_of_the_stack_asks_for_the_queues_with_the_suffix(monkeypatch):
    asked: list[str] = []

    def queue(client: object, name: str, account: str) -> dict[str, object]:
        asked.append(name)
        return {"name": name, "depth": None, "error": None}

    monkeypatch.setattr(queue_listing, "_client", lambda place: None)
    monkeypatch.setattr(queue_listing, "_queue", queue)
    queue_listing.listing()
    assert asked == [f"{contract.queue}-staging{end}" for contract in PLAIN.values() for end in ("", "-dlq")]


def test_a_contract_takes_no_name_that_sqs_refuses():
    assert isinstance(PLAIN["user_logins"], Contract)
    for queue in ("a b", "", "x" * 77, "ä", "a.b", "arn:aws:sqs:eu-west-1:1:q"):
        with pytest.raises(ValueError, match="give letters, digits, - and _"):
            Contract(name="x", queue=queue, table="public.x", event=PLAIN["user_logins"].event)
