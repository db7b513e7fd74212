"""The DAG of a contract with connections of its own: AWS connection, region, account and warehouse."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import psycopg
import pytest
import queue_etl_connections as connections
from airflow.dag_processing.dagbag import DagBag
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqs_queue_depth import QueueWatch, SqsQueueDepthTrigger

from include.contracts import user_logins
from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import SettingsError
from include.queue_etl.postgres import migrations
from tests.bench.sqs_stub import QUEUE, serving
from tests.dags.runs import run_dag
from tests.support.wait import wait_until

DAGS = Path(__file__).resolve().parents[2] / "dags"
ACCOUNT = "123456789012"
LOGIN = {
    "user_id": "of the partner", "app_version": "2.3.0", "device_type": "ios", "locale": None,
    "ip": "203.0.113.77", "device_id": "1",
}  # fmt: skip
Declare = Callable[..., Contract]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Make the contract `user_logins` say this, too."""

    def make(**options: str) -> Contract:
        contract = replace(user_logins.CONTRACT, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(user_logins, "CONTRACT", contract)
        return contract

    return make


def dag_of(file: str, dag_id: str) -> Any:
    """A DAG as its file makes it now."""
    bag = DagBag(str(DAGS / file))
    assert not bag.import_errors, bag.import_errors
    return bag.dags[dag_id]


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, like: str, **changed: Any) -> None:
    """A connection like another one, but for what is changed."""
    given = json.loads(os.environ[f"AIRFLOW_CONN_{like.upper()}"])
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({**given, **changed}))


def test_the_sensor_looks_where_the_contract_says(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_ETL_QUEUE_SUFFIX", "-staging")
    declare(aws="partner_aws", region="eu-west-1", queue_account=ACCOUNT, warehouse="partner")
    dag = dag_of("queue_etl.py", "user_logins")
    sense = dag.get_task("sense")
    assert (sense.sqs_queue, sense.aws_conn_id) == ("login-queue-staging", "partner_aws")
    assert (sense.region_name, sense.queue_account) == ("eu-west-1", ACCOUNT)
    assert [asset.name for asset in dag.get_task("finish").outlets] == ["partner.public.user_logins"]


def test_by_default_the_sensor_looks_where_it_always_did() -> None:
    sense = dag_of("queue_etl.py", "user_logins").get_task("sense")
    assert (sense.sqs_queue, sense.aws_conn_id) == ("login-queue", "aws_default")
    assert (sense.region_name, sense.queue_account) == (None, None)


def test_a_trigger_that_an_earlier_version_stored_still_starts() -> None:
    stored: dict[str, Any] = {
        "queue": "q",
        "aws_conn_id": "aws_default",
        "region_name": None,
        "min_messages": 1,
    }
    trigger = SqsQueueDepthTrigger(**stored, max_age_seconds=None, poke_interval=5, deadline=0)
    assert trigger.watch.account is None
    assert SqsQueueDepthTrigger(**trigger.serialize()[1]).watch == trigger.watch


def test_the_sensor_signs_for_that_region_and_names_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([b"{}"], record=True) as stub:
        extra = {"endpoint_url": stub.url, "region_name": "us-east-1"}
        connect(monkeypatch, "partner_aws", "aws_default", login="PARTNERKEY", extra=extra)
        found = QueueWatch(QUEUE, "partner_aws", "eu-west-3", 1, None, ACCOUNT).ask()
    assert bool(found)
    assert all(b"Credential=PARTNERKEY/" in head and b"/eu-west-3/sqs/" in head for head, _ in stub.requests)
    asked = [json.loads(body) for _, body in stub.requests if b"QueueName" in body]
    assert asked == [{"QueueName": QUEUE, "QueueOwnerAWSAccountId": ACCOUNT}]


@pytest.mark.parametrize("without_boto3", [True, False])
def test_tasks_sign_with_the_contracts_connection(
    monkeypatch: pytest.MonkeyPatch, without_boto3: bool, tmp_path: Path
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    extra = {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"}
    connect(monkeypatch, "partner_aws", "aws_default", login="PARTNERKEY", extra=extra)
    aws = connections._aws_at(without_boto3, QueuePlace())
    there = aws.at(QueuePlace("partner_aws", "eu-west-3"))
    assert aws.at(QueuePlace(account=ACCOUNT)) is aws
    assert there.endpoint_urls["sqs"] == "http://127.0.0.1:1"
    session = there.session()
    assert (session.region_name, session.get_credentials().access_key) == ("eu-west-3", "PARTNERKEY")
    assert (there.access is not None) is without_boto3
    if there.access:
        assert (there.access.region, there.access.credentials.access_key) == ("eu-west-3", "PARTNERKEY")


def test_all_connections_that_a_contract_lacks_are_listed_at_once(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(aws="partner_aws", warehouse="partner")
    context = {"run_id": "manual__1", "params": {}, "dag": SimpleNamespace(dag_id="user_logins")}
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context)
    with pytest.raises(SettingsError) as caught, connections.open_run("user_logins"):
        pytest.fail("nothing is open")
    assert caught.value.problems == (
        "no connection postgres_default__partner of warehouse partner (contract user_logins): airflow"
        " connections add postgres_default__partner --conn-type postgres --conn-login etl_loader ..."
        " (or set AIRFLOW_CONN_POSTGRES_DEFAULT__PARTNER)",
        "no connection partner_aws of contract user_logins: airflow connections add partner_aws"
        " --conn-type aws ... (or set AIRFLOW_CONN_PARTNER_AWS)",
    )


@pytest.fixture
def partner_warehouse(monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    """A second warehouse with its connections; as its owner, autocommit."""
    owner, name = os.environ["QUEUE_ETL_OWNER_DSN"], f"partner_{secrets.token_hex(4)}"
    with psycopg.connect(owner, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = make_conninfo(owner, dbname=name)
    migrations.upgrade(dsn, {}, [user_logins.CONTRACT])
    for kind in ("default", "maintenance", "remasker"):
        connect(monkeypatch, f"postgres_{kind}__partner", f"postgres_{kind}", schema=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
    with psycopg.connect(owner, autocommit=True) as server:
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def partner_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of another region with a queue there, and the connection `partner_aws`."""
    client = boto3.client("sqs", region_name="eu-west-3")
    monkeypatch.setenv("QUEUE_ETL_QUEUE_SUFFIX", f"-{secrets.token_hex(4)}")
    name = f"login-queue{os.environ['QUEUE_ETL_QUEUE_SUFFIX']}"
    url = client.create_queue(QueueName=name)["QueueUrl"]
    connect(monkeypatch, "partner_aws", "aws_default")
    yield SimpleNamespace(client=client, url=url, name=name)
    client.delete_queue(QueueUrl=url)


def test_a_run_moves_messages_from_that_queue_to_that_warehouse(
    declare: Declare,
    partner_warehouse: psycopg.Connection[Any],
    partner_queue: Any,
    warehouse: psycopg.Connection[Any],
) -> None:
    declare(aws="partner_aws", region="eu-west-3", warehouse="partner")
    partner_queue.client.send_message(QueueUrl=partner_queue.url, MessageBody=json.dumps(LOGIN))
    depth = {"QueueUrl": partner_queue.url, "AttributeNames": ["ApproximateNumberOfMessages"]}

    def waiting() -> int:
        answer = partner_queue.client.get_queue_attributes(**depth)
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    wait_until(lambda: waiting() == 1)
    outcome = run_dag(dag_of("queue_etl.py", "user_logins"), {"wait_seconds": 1})
    assert outcome.state == "success"
    users = "SELECT user_id FROM public.user_logins WHERE user_id = 'of the partner'"
    assert partner_warehouse.execute(users).fetchall() == [("of the partner",)]
    assert warehouse.execute(users).fetchall() == []
    assert partner_warehouse.execute("SELECT name FROM etl.queues").fetchall() == [(partner_queue.name,)]
    assert waiting() == 0

    partner_warehouse.execute("UPDATE etl.runs SET finished_at = now() - interval '60 days'")
    for dag_id in ("queue_etl_maintenance", "queue_etl_recovery"):
        assert run_dag(dag_of(f"{dag_id}.py", dag_id), {}).state == "success"
    staging = Path(os.environ["QUEUE_ETL_STAGING"]) / "partner"
    assert [path for path in staging.rglob("*.*") if path.is_file()] == []
    remask = dag_of("queue_etl_remask.py", "queue_etl_remask").test(run_conf={"ticket": "DPO-2"})
    assert remask.state.value == "success"
    audit = "SELECT action FROM pii.audit"
    assert partner_warehouse.execute(audit).fetchall() == [("remask",)]
