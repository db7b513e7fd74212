"""Airflow connections become what the pipeline needs, and a missing one is one clear line."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import queue_etl_connections as connections
from psycopg.conninfo import conninfo_to_dict

from include.queue_etl.errors import SettingsError

Connect = Callable[..., None]
SECRET = "canary-secret"


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
    assert connections.endpoint_urls() == expected


def test_without_an_aws_connection_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT", raising=False)
    monkeypatch.setattr(connections, "_connection", lambda _conn_id: None)
    assert connections.endpoint_urls() == {}
