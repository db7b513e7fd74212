"""deploy/helm-values.yaml, and what of it the project itself decides."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from include.queue_etl.settings import PREFIX

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "helm-values.yaml"
# The schema of the chart has 800 kB and is not part of this project: give the path of values.schema.json.
SCHEMA = "AIRFLOW_CHART_SCHEMA"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def text_of(values: dict[str, Any], name: str) -> str:
    return next(item["value"] for item in values["env"] if item["name"] == name)


@pytest.mark.skipif(SCHEMA not in os.environ, reason=f"{SCHEMA} names no values.schema.json of the chart")
def test_the_charts_own_schema_accepts_the_values(values):
    jsonschema.validate(values, json.loads(Path(os.environ[SCHEMA]).read_text()))


def test_the_chart_leaves_the_images_own_local_settings_alone(values):
    assert (ROOT / "config" / "airflow_local_settings.py").is_file()
    assert values["airflowLocalSettings"] is None


def test_staging_is_a_bucket_and_no_worker_keeps_a_disk(values):
    assert text_of(values, f"{PREFIX}STAGING").startswith("s3://")
    assert values["workers"]["celery"]["persistence"] == {"enabled": False}


def test_rights_on_aws_come_from_roles_of_service_accounts(values):
    accounts = [values["workers"]["celery"]["serviceAccount"], values["triggerer"]["serviceAccount"]]
    arns = [account["annotations"]["eks.amazonaws.com/role-arn"] for account in accounts]
    assert all(account["create"] for account in accounts)
    assert all(arn.startswith("arn:aws:iam::") for arn in arns)
    assert "AWS_ACCESS_KEY_ID" not in FILE.read_text()
    assert json.loads(text_of(values, "AIRFLOW_CONN_AWS_DEFAULT"))["conn_type"] == "aws"


def test_secrets_are_named_and_never_written_down(values):
    secrets = values["workers"]["celery"]["env"] + values["migrateDatabaseJob"]["env"]
    assert all(set(item) == {"name", "valueFrom"} for item in secrets)
    names = {item["name"] for item in secrets}
    assert {"AIRFLOW_CONN_PII_KEYSET", "AIRFLOW_CONN_POSTGRES_DEFAULT", "QUEUE_ETL_OWNER_DSN"} < names
    assert not names & {item["name"] for item in values["env"]}


def test_the_image_has_the_version_of_airflow_that_is_locked(values):
    (line,) = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "airflow==" in line]
    version = line.split("==")[1].split()[0]
    assert values["airflowVersion"] == values["images"]["airflow"]["tag"] == version
