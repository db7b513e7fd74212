"""A queue of another account or region: what the requests say, by a stub that records them.

Emulators do not tell accounts and regions apart as AWS does, so only the requests count here.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devstack.programs import queue_listing
from include.contracts import LoadedContracts
from include.contracts.user_logins import CONTRACT
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import pipeline, wiring
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import SettingsError
from include.queue_etl.resources import Aws
from tests.bench.sqs_stub import QUEUE, Stub, serving

ACCOUNT = "123456789012"
KEY = re.compile(rb"Credential=(\w+)/\d+/([a-z0-9-]+)/sqs/")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    """SQS for the deployment's own credentials, and for those of the profile `partner`."""
    with serving([b"{}"], record=True) as served:
        config = tmp_path / "config"
        config.write_text(
            "[profile partner]\nregion = eu-central-1\naws_access_key_id = PARTNERKEY\n"
            f"aws_secret_access_key = secret\nendpoint_url = {served.url}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OWNKEY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield served


@pytest.fixture
def profile(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file with the profile is there."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def signed(stub: Stub) -> set[tuple[str, str]]:
    """Access key and region of every request."""
    found = [KEY.search(head) for head, _ in stub.requests]
    assert found
    assert all(found)
    return {(match[1].decode(), match[2].decode()) for match in found if match}


def asked_for(stub: Stub) -> list[dict[str, str]]:
    """What each GetQueueUrl said."""
    return [json.loads(body) for _, body in stub.requests if b"QueueName" in body]


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (QueuePlace(), ("OWNKEY", "us-east-1")),
        (QueuePlace(region="ap-south-1"), ("OWNKEY", "ap-south-1")),
        (QueuePlace(aws="partner"), ("PARTNERKEY", "eu-central-1")),
        (QueuePlace(aws="partner", region="eu-west-3"), ("PARTNERKEY", "eu-west-3")),
    ],
    ids=["here", "region", "profile", "profile and region"],
)
@pytest.mark.usefixtures("profile")
def test_requests_are_signed_by_that_key_for_that_region(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, client: str, place: QueuePlace, expected: tuple[str, str]
) -> None:
    monkeypatch.setenv("QUEUE_ETL_SQS_CLIENT", client)
    with wiring.queue(QUEUE, place) as queue:
        assert queue.depth().visible == 1
    assert signed(stub) == {expected}


def test_without_files_a_region_alone_needs_no_boto3(stub: Stub) -> None:
    aws = wiring._aws().at(QueuePlace(region="ap-south-1"))
    assert aws.access is not None
    assert (aws.access.endpoint, aws.access.region) == (stub.url, "ap-south-1")


@pytest.mark.parametrize("client", ["pycurl", "boto3"])
def test_the_owner_of_the_queue_is_named(stub: Stub, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    monkeypatch.setenv("QUEUE_ETL_SQS_CLIENT", client)
    with wiring.queue(QUEUE, QueuePlace(account=ACCOUNT)) as queue:
        queue.depth()
    with wiring.queue(QUEUE) as queue:
        queue.depth()
    assert asked_for(stub) == [
        {"QueueName": QUEUE, "QueueOwnerAWSAccountId": ACCOUNT},
        {"QueueName": QUEUE},
    ]


@pytest.mark.usefixtures("profile")
def test_commands_of_a_contract_ask_its_place(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = replace(CONTRACT, queue=QUEUE, aws="partner", region="eu-west-3", queue_account=ACCOUNT)
    monkeypatch.setattr(pipeline, "load_contract", lambda name: contract)
    monkeypatch.setattr(queue_listing, "load_contracts", lambda: LoadedContracts({"it": contract}, {}))
    assert cli.main(["depth", "--json"]) == 0
    (listed,) = queue_listing.listing()
    assert [queue["error"] for queue in listed["queues"]] == [None, None]
    assert listed["queues"][0]["depth"] == {"visible": 1, "in_flight": 0, "delayed": 0}
    assert signed(stub) == {("PARTNERKEY", "eu-west-3")}
    assert {asked.get("QueueOwnerAWSAccountId") for asked in asked_for(stub)} == {ACCOUNT}


def test_a_profile_that_is_missing_is_named_with_its_contract_and_all_else(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = replace(CONTRACT, aws="partner", warehouse="orders")
    monkeypatch.setattr(pipeline, "load_contract", lambda name: contract)
    for name in ("QUEUE_ETL_KEYSET_FILE", "QUEUE_ETL_STAGING"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["check"]) == 1
    listed = capsys.readouterr().err.splitlines()[1:]
    assert [line.split(": ")[0].strip("- ") for line in listed] == [
        "QUEUE_ETL_WAREHOUSE_DSN__ORDERS is not set",
        "QUEUE_ETL_KEYSET_FILE is not set",
        "QUEUE_ETL_STAGING is not set",
        "contract user_logins",
    ]
    assert "no profile 'partner' of AWS: add [profile partner]" in listed[-1]


def test_status_goes_on_where_a_profile_is_missing(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = replace(CONTRACT, aws="partner")
    monkeypatch.setattr(queue_listing, "load_contracts", lambda: LoadedContracts({"it": contract}, {}))
    (listed,) = queue_listing.listing()
    assert all("no profile 'partner'" in queue["error"] for queue in listed["queues"])


def test_who_knows_no_other_place_says_so() -> None:
    with pytest.raises(SettingsError, match="not by partner"):
        Aws(wiring.session).at(QueuePlace(aws="partner"))
