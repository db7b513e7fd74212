"""Access to SQS from the environment is what boto3 would find, or left to boto3."""

import boto3
import botocore.httpsession
import pytest

from include.queue_etl.sqs.credentials import Access, Credentials, from_environment

GIVEN = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-1"}
VARIABLES = (
    *GIVEN,
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
)


@pytest.fixture(autouse=True)
def files(monkeypatch, tmp_path):
    """Neither of a person's own files, nor their variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "ap-southeast-4", "af-south-1", "il-central-1"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_SESSION_TOKEN": "token"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_SQS": "https://sqs.example.org"},
    ],
    ids=["plain", "token", "endpoint", "endpoint of sqs"],
)
def test_it_is_what_boto3_finds(monkeypatch, files, region, more):
    variables = {**GIVEN, **more, "AWS_DEFAULT_REGION": region}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    client, theirs = session.client("sqs"), session.get_credentials().get_frozen_credentials()
    access = from_environment({**files, **variables})
    assert access is not None
    assert (access.endpoint, access.region) == (client.meta.endpoint_url, client.meta.region_name)
    assert access.credentials == Credentials(theirs.access_key, theirs.secret_key, theirs.token)
    assert access.credentials.get_frozen_credentials() == access.credentials
    assert access.ca_bundle == botocore.httpsession.get_cert_path(True)


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_the_environment_are_trusted(files, name):
    access = from_environment({**files, **GIVEN, name: "/etc/own.pem"})
    assert isinstance(access, Access)
    assert access.ca_bundle == "/etc/own.pem"


@pytest.mark.parametrize("missing", GIVEN)
def test_what_is_missing_is_left_to_boto3(files, missing):
    assert from_environment({**files, **GIVEN, missing: ""}) is None


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_PROFILE": "work"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_DEFAULT_REGION": "cn-north-1"},
        {"AWS_DEFAULT_REGION": "us-gov-west-1"},
        {"AWS_DEFAULT_REGION": "moon"},
        {"AWS_ENDPOINT_URL": "not a url"},
    ],
    ids=lambda more: "=".join(*more.items()),
)
def test_what_only_boto3_knows_is_left_to_it(files, more):
    assert from_environment({**files, **GIVEN, **more}) is None


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_file_of_the_person_is_left_to_boto3(files, tmp_path, variable):
    (tmp_path / "there").write_text("[default]\n")
    assert from_environment({**files, **GIVEN, variable: str(tmp_path / "there")}) is None
