"""Airflow connections become what the pipeline needs, and a missing one is one clear line."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import queue_etl_connections as connections
from psycopg.conninfo import conninfo_to_dict

from include.queue_etl.errors import SettingsError

Connect = Callable[..., None]
SECRET = "canary-secret"
KEY = {"login": "key", "password": SECRET}


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make a connection in the environment, as Airflow reads it."""

    def make(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "generic", **fields}))

    return make


def test_options_of_libpq_in_the_extra_reach_the_warehouse(connect: Connect) -> None:
    extra = {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "cursor": "dictcursor"}
    connect(
        "postgres_default", host="db", port=6543, login="etl_loader", password=SECRET, schema="w", extra=extra
    )
    assert conninfo_to_dict(connections.warehouse_dsn()) == {
        "host": "db",
        "port": "6543",
        "user": "etl_loader",
        "password": SECRET,
        "dbname": "w",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
    }


def test_iam_authentication_is_refused_instead_of_ignored(connect: Connect) -> None:
    connect("postgres_default", host="db", login="etl_loader", extra={"iam": True})
    with pytest.raises(SettingsError, match="postgres_default: extra `iam` is not supported"):
        connections.warehouse_dsn()


def test_a_missing_connection_is_named_with_the_way_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_PII_KEYSET", raising=False)
    with pytest.raises(SettingsError, match="no connection pii_keyset: airflow connections add pii_keyset"):
        connections.keyset_json()


@pytest.mark.parametrize(
    ("opened", "warehouse"),
    [
        (connections.open_run, "postgres_default"),
        (connections.open_redrive, "postgres_maintenance"),
    ],
)
def test_all_that_is_missing_is_named_at_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, opened: Callable[[str], Any], warehouse: str
) -> None:
    for conn_id in (warehouse, "pii_keyset"):
        monkeypatch.delenv(f"AIRFLOW_CONN_{conn_id.upper()}", raising=False)
    connect("aws_default", extra={"service_config": "{}"})
    monkeypatch.setenv("QUEUE_ETL_TRANSFERS", "0")
    context = {"run_id": "manual__1", "params": {}, "dag": SimpleNamespace(dag_id="some_dag")}
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context)
    with pytest.raises(SettingsError) as caught, opened("user_logins"):
        pass
    assert [re.split("[:=]", problem)[0] for problem in caught.value.problems] == [
        "QUEUE_ETL_TRANSFERS",
        "connection aws_default",
        f"no connection {warehouse}",
        "no connection pii_keyset",
    ]


def test_the_keyset_may_be_the_extra(connect: Connect) -> None:
    connect("pii_keyset", extra={"primaryKeyId": 1, "key": []})
    assert json.loads(connections.keyset_json()) == {"primaryKeyId": 1, "key": []}


def test_a_keyset_connection_without_keyset_is_said(connect: Connect) -> None:
    connect("pii_keyset", login="somebody")
    with pytest.raises(SettingsError, match="pii_keyset has neither password nor extra"):
        connections.keyset_json()


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, {}),
        ({"endpoint_url": "http://a"}, {"sqs": "http://a", "s3": "http://a", "kms": "http://a"}),
        ({"service_config": {"sqs": {"endpoint_url": "http://q"}}}, {"sqs": "http://q"}),
        (
            {"endpoint_url": "http://a", "service_config": {"s3": {"endpoint_url": "http://b"}}},
            {"sqs": "http://a", "s3": "http://b", "kms": "http://a"},
        ),
    ],
)
def test_each_service_has_its_own_endpoint(connect: Connect, extra: Any, expected: dict[str, str]) -> None:
    connect("aws_default", extra=extra)
    assert connections.endpoint_urls(connections.aws_connection()) == expected


def test_a_service_config_that_is_text_is_said(connect: Connect) -> None:
    connect("aws_default", extra={"service_config": '{"sqs": {}}'})
    with pytest.raises(SettingsError, match="service_config has to be an object"):
        connections.endpoint_urls(connections.aws_connection())


def test_without_an_aws_connection_the_machine_decides() -> None:
    assert connections.endpoint_urls(None) == {}


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the person running the tests has in ~/.aws."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize(
    "fields",
    [
        {**KEY, "extra": {"region_name": "eu-west-1", "endpoint_url": "http://queue:1"}},
        {**KEY, "extra": {"region_name": "eu-west-1"}},
        {**KEY, "extra": {"service_config": {"sqs": {"endpoint_url": "http://queue:1"}}}},
        {**KEY, "extra": {"aws_session_token": "of-the-connection"}},
        {**KEY, "extra": {}},
    ],
)
@pytest.mark.usefixtures("no_files")
def test_a_key_in_the_connection_needs_no_boto3_and_gives_what_boto3_would(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-environment")
    monkeypatch.setenv("AWS_SECURITY_TOKEN", "of-the-environment")
    connect("aws_default", conn_type="aws", **fields)
    connection, session = connections.aws_connection(), connections.aws_session()
    access = connections.aws_access(connection, os.environ)
    client = session.client("sqs", endpoint_url=connections.endpoint_urls(connection).get("sqs"))
    assert access is not None
    assert (access.endpoint, access.region) == (client.meta.endpoint_url, client.meta.region_name)
    assert tuple(access.credentials) == tuple(session.get_credentials().get_frozen_credentials())[:3]


@pytest.mark.usefixtures("no_files")
def test_without_an_aws_connection_the_environment_may_say_it_all() -> None:
    access = connections.aws_access(None, os.environ)
    assert access is not None
    assert access.credentials.access_key == os.environ["AWS_ACCESS_KEY_ID"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"login": "key"},
        {"extra": {"aws_access_key_id": "key", "aws_secret_access_key": SECRET}},
        {**KEY, "extra": {"role_arn": "arn:aws:iam::1:role/etl"}},
        {**KEY, "extra": {"profile_name": "etl"}},
        {**KEY, "extra": {"verify": False}},
    ],
)
@pytest.mark.usefixtures("no_files")
def test_what_needs_more_than_a_key_is_left_to_boto3(connect: Connect, fields: dict[str, Any]) -> None:
    connect("aws_default", conn_type="aws", **fields)
    assert connections.aws_access(connections.aws_connection(), os.environ) is None


@pytest.mark.usefixtures("no_files")
def test_a_session_factory_of_the_platform_is_asked(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect("aws_default", conn_type="aws", **KEY)
    monkeypatch.setenv("AIRFLOW__AWS__SESSION_FACTORY", "company.aws.SessionFactory")
    assert connections.aws_access(connections.aws_connection(), os.environ) is None
