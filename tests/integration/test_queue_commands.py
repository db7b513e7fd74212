"""create-queue and depth on the command line, with a second contract beside the project's own."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from include import contracts
from include.queue_etl.cli import app as cli
from tests.contracts.clicks import CONTRACT as FOURTH
from tests.contracts.deliveries import CONTRACT as THIRD
from tests.contracts.newsletter_signups import CONTRACT as SECOND

OWN = contracts.load_contract(contracts.DEFAULT_CONTRACT)
SHIPPED = [contracts.load_contract(name) for name in contracts.contract_names()]
OTHERS = [*SHIPPED, THIRD, FOURTH]  # whose files lie beside that of the second
QUEUES = [queue for contract in OTHERS for queue in (contract.queue, contract.dead_letter_queue)]
SECOND_CONTRACTS = Path(__file__).parents[1] / "contracts"
DEPTH = {"visible": 0, "in_flight": 0, "delayed": 0}


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second contract is one of the project's; its queues are missing, then and afterwards."""
    monkeypatch.setattr(contracts, "__path__", [*contracts.__path__, str(SECOND_CONTRACTS)])
    yield
    sys.modules.pop(f"{contracts.__name__}.{SECOND.name}", None)
    delete(SECOND.queue, SECOND.dead_letter_queue)


def delete(*queues: str) -> None:
    client = boto3.client("sqs")
    for queue in queues:
        try:
            client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"])
        except client.exceptions.QueueDoesNotExist:
            continue


@pytest.fixture
def answer(second: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """One command's JSON."""

    def run(*arguments: str) -> Any:
        assert cli.main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_create_queue_makes_those_of_every_contract_and_says_which(answer: Callable[..., Any]) -> None:
    answer("create-queue", "--all")
    delete(SECOND.queue, SECOND.dead_letter_queue)
    own = {OWN.queue: "there", OWN.dead_letter_queue: "there"}
    assert answer("create-queue") == own
    made = {SECOND.queue: "made", SECOND.dead_letter_queue: "made"}
    assert answer("create-queue", "--all") == {**dict.fromkeys(QUEUES, "there"), **made}
    assert set(answer("create-queue", "--all").values()) == {"there"}


def test_create_queue_makes_those_of_one_contract(answer: Callable[..., Any]) -> None:
    made = {SECOND.queue: "made", SECOND.dead_letter_queue: "made"}
    assert answer("create-queue", "--contract", SECOND.name) == made
    delete(SECOND.dead_letter_queue)
    assert answer("create-queue", "--contract", SECOND.name) == {
        SECOND.queue: "there",
        SECOND.dead_letter_queue: "made",
    }


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_a_missing_queue_does_not_hide_the_depth_of_the_others(
    answer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    client: str,
) -> None:
    monkeypatch.setenv("QUEUE_ETL_SQS_CLIENT", client)
    answer("create-queue", "--all")
    delete(SECOND.queue)
    found = answer("depth", "--all")
    assert set(found) == {*QUEUES, SECOND.queue, SECOND.dead_letter_queue}
    assert (found[SECOND.queue], found[SECOND.dead_letter_queue]) == (None, DEPTH)
    assert cli.main(["depth", "--all"]) == 0
    said = capsys.readouterr().out
    assert f"{SECOND.queue}      does not exist\n" in said
    assert f"{SECOND.dead_letter_queue}  visible 0, in_flight 0, delayed 0\n" in said


def test_the_depth_of_one_queue_that_is_missing_is_an_error(
    second: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["depth", "--contract", SECOND.name]) == 1
    assert capsys.readouterr().err.endswith("GetQueueUrl: QueueDoesNotExist\n")


def test_without_a_region_create_queue_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    assert cli.main(["create-queue", "--all"]) == 1
    assert capsys.readouterr().err == f"create-queue: queue '{SHIPPED[0].queue}': NoRegionError\n"
