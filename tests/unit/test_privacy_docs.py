"""The IAM policies are least privilege, and docs/privacy.md says what the code does."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from include.queue_etl.cli.app import _parser
from include.queue_etl.contract import Scheme
from include.queue_etl.keys.keyset_document import WRAP_CONTEXT
from include.queue_etl.postgres import migrations

DOCS = Path(__file__).resolve().parents[2] / "docs"
PRIVACY = (DOCS / "privacy.md").read_text(encoding="utf-8")
TAKE = {"sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility"}  # fmt: skip
STAGE = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"}
ACTIONS = {
    "pipeline": {*TAKE, *STAGE, "cloudwatch:GetMetricStatistics", "kms:Decrypt"},
    "maintenance": {*TAKE, *STAGE, "sqs:SendMessage", "kms:Decrypt"},
    "officer": {*STAGE, "kms:Decrypt"},
    "key-custodian": {*STAGE, "kms:Encrypt", "kms:Decrypt"},
}


def statements(name: str) -> list[dict]:
    policy = json.loads((DOCS / f"privacy/iam-{name}.json").read_text(encoding="utf-8"))
    assert set(policy) == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    return policy["Statement"]


def test_every_policy_is_expected_and_linked():
    found = {path.stem.removeprefix("iam-") for path in DOCS.glob("privacy/iam-*.json")}
    assert found == set(ACTIONS)
    assert {name for name in found if f"(privacy/iam-{name}.json)" in PRIVACY} == found


@pytest.mark.parametrize("name", ACTIONS)
def test_a_policy_allows_these_actions_and_no_other(name):
    assert {action for one in statements(name) for action in one["Action"]} == ACTIONS[name]
    assert {one["Effect"] for one in statements(name)} == {"Allow"}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_policy_names_its_resources(name):
    for one in statements(name):
        resources = [one["Resource"]] if isinstance(one["Resource"], str) else one["Resource"]
        service = one["Action"][0].partition(":")[0]
        if service == "cloudwatch":  # knows no resources for reading metrics
            assert resources == ["*"]
            continue
        assert all(resource.startswith(f"arn:aws:{service}:") for resource in resources)
        assert all("*" not in resource.removesuffix("/PREFIX/*") for resource in resources)


@pytest.mark.parametrize("name", ACTIONS)
def test_kms_is_for_the_keyset_alone(name):
    (one,) = [one for one in statements(name) if one["Action"][-1].startswith("kms:")]
    # Tink's KMS client sends the associated data in hex: tink/integration/awskms.
    assert one["Condition"] == {"StringEquals": {"kms:EncryptionContext:associatedData": WRAP_CONTEXT.hex()}}


def test_every_role_and_scheme_is_explained():
    rows = set(re.findall(r"^\| `(\w+)` \|", PRIVACY, re.MULTILINE))
    assert {*migrations.ROLES, "etl_owner"} <= rows
    told = set(re.findall(r"`(\w+)`", PRIVACY.partition("| `scheme` of")[2].partition("## Recover")[0]))
    assert {scheme.value for scheme in Scheme} <= told


def test_every_command_can_be_typed_as_the_page_has_it():
    blocks = re.findall(r"^```\w*\n(.*?)^```$", PRIVACY, re.MULTILINE | re.DOTALL)
    lines = [line.partition(" <")[0] for block in blocks for line in block.splitlines()]
    typed = [line for line in lines if line.startswith("python -m include.queue_etl ")]
    keys = PRIVACY.partition("\n## Keys\n")[2].partition("```\n")[2].partition("```\n")[0]
    # Its lines say after two blanks or more what the command does; ID stands for a number.
    typed += [
        re.split(r" {2,}", line.replace(" ID", " 7"))[0] for line in keys.splitlines() if line[:1].strip()
    ]
    assert len(typed) >= 11
    for line in typed:
        _parser().parse_args(shlex.split(line.removeprefix("python -m include.queue_etl ")))


def test_every_test_that_the_page_names_exists():
    tests = {path: path.read_text(encoding="utf-8") for path in (DOCS.parent / "tests").rglob("test_*.py")}
    defined = {name for text in tests.values() for name in re.findall(r"def (test_\w+)", text)}
    files = {path.stem for path in tests}
    named = set(re.findall(r"\btest_\w+", PRIVACY))
    assert len(named) > 8
    assert named - defined - files == set()


def test_the_rate_of_unkeyed_hashes_can_be_measured_again():
    script = (
        (DOCS / "privacy/hash_rate.py").read_text(encoding="utf-8").replace("SECONDS = 2.0", "SECONDS = 0.05")
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["sha256", "sha256", "md5", "md5", "keyed"]
    assert all(re.search(r"[\d.]+ million/s .* in [\d,]+ s$", line) for line in lines[:4])
