"""docker-compose.yml and Dockerfile against the project: no container engine is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from airflow.sdk import Connection
from psycopg.conninfo import conninfo_to_dict

from devstack import dotenv, environment, settings
from devstack.settings import ROOT
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import PREFIX, Settings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
PINS = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.M))
TOOL_PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements-tools.txt").read_text(), re.M))
AIRFLOW_SERVICES = {
    "airflow-init",
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "worker",
    "flower",
}
CELERY_SERVICES = {"redis", "worker", "flower"}
COMMAND_SERVICES = {"ops", "privacy"}
VARIABLE = re.compile(r"\$\{(\w+)")
# Of .env. Airflow's own, which each of its processes needs, and those of one role.
AIRFLOW_SECRETS = {
    "AIRFLOW_DB_PASSWORD",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
}
AWS_SECRETS = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
LOADER, MAINTAINER = "QUEUE_ETL_LOADER_PASSWORD", "QUEUE_ETL_MAINTAINER_PASSWORD"
REDIS = "REDIS_PASSWORD"
REMASKER, OFFICER = "QUEUE_ETL_REMASKER_PASSWORD", "QUEUE_ETL_OFFICER_PASSWORD"
KEYSET = "AIRFLOW_CONN_PII_KEYSET"
SECRETS = {
    "postgres": {"POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD"},
    "ministack": set(),
    "airflow-init": {
        *AIRFLOW_SECRETS, *AWS_SECRETS, "UI_PASSWORD", "POSTGRES_PASSWORD",
        LOADER, MAINTAINER, REMASKER, OFFICER, "QUEUE_ETL_ANALYST_PASSWORD", "QUEUE_ETL_OPS_PASSWORD",
    },
    "api-server": {*AIRFLOW_SECRETS, *AWS_SECRETS, "QUEUE_ETL_OPS_PASSWORD"},
    "dag-processor": AIRFLOW_SECRETS,
    "triggerer": AIRFLOW_SECRETS | AWS_SECRETS,
    "scheduler": {*AIRFLOW_SECRETS, *AWS_SECRETS, LOADER, MAINTAINER, REMASKER, KEYSET, REDIS},
    "redis": {REDIS},
    "worker": {*AIRFLOW_SECRETS, *AWS_SECRETS, LOADER, MAINTAINER, REMASKER, KEYSET, REDIS},
    "flower": {*AIRFLOW_SECRETS, "UI_PASSWORD", REDIS},
    "ops": {*AWS_SECRETS, LOADER, MAINTAINER, "QUEUE_ETL_OPS_PASSWORD", KEYSET},
    "statsd-exporter": set(),
    "prometheus": set(),
    "grafana": set(),
    "privacy": {*AWS_SECRETS, REMASKER, OFFICER, KEYSET},
}  # fmt: skip


def values_of(service: str, **given: str) -> dict[str, str]:
    """The environment of a service as compose would fill it in; None, for "as .env has it", is left out."""

    def filled(found: re.Match[str]) -> str:
        name, operator, word = found.groups()
        default = word if operator in {":-", "-"} else f"value-of-{name}"
        return given.get(name, default)

    pattern = re.compile(r"\$\{(\w+)(:?[-?])([^}]*)\}")
    environment_of = SERVICES[service].get("environment", {})
    return {name: pattern.sub(filled, str(text)) for name, text in environment_of.items() if text is not None}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_gets_its_own_secrets_and_no_others(name: str) -> None:
    all_secrets = {*re.findall(r"^(\w+)=<", EXAMPLE, re.M), *AWS_SECRETS}
    assert set(VARIABLE.findall(json.dumps(SERVICES[name]))) & all_secrets == SECRETS[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_a_healthcheck_or_is_waited_for_to_end(name: str) -> None:
    if name == "airflow-init":
        assert SERVICES[name]["healthcheck"] == {"disable": True}
        waiting = [service for service in AIRFLOW_SERVICES if service != name]
        conditions = {SERVICES[service]["depends_on"][name]["condition"] for service in waiting}
        assert conditions == {"service_completed_successfully"}
    elif name in COMMAND_SERVICES:
        assert SERVICES[name]["healthcheck"] == {"disable": True}
        assert SERVICES[name]["profiles"] == ["commands"]  # no `up` starts it
    else:
        assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(AIRFLOW_SERVICES | COMMAND_SERVICES))
def test_all_but_the_servers_wait_for_a_healthy_postgres(name: str) -> None:
    assert SERVICES[name]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_without_the_profile_of_the_emulator_nobody_waits_for_it() -> None:
    assert SERVICES["ministack"]["profiles"] == ["emulator"]
    assert "\nCOMPOSE_PROFILES=emulator\n" in EXAMPLE
    waits = {name: service.get("depends_on", {}).get("ministack") for name, service in SERVICES.items()}
    waiting = {name: condition for name, condition in waits.items() if condition is not None}
    assert set(waiting) == {"airflow-init", *COMMAND_SERVICES}
    for condition in waiting.values():
        assert condition == {"condition": "service_healthy", "required": False}


@pytest.mark.parametrize("name", sorted(AIRFLOW_SERVICES))
def test_airflow_has_time_to_stop_in_good_order(name: str) -> None:
    assert SERVICES[name]["stop_grace_period"] == "60s"


def test_celery_is_a_profile_whose_workers_share_no_staged_files() -> None:
    assert {name for name, one in SERVICES.items() if one.get("profiles") == ["celery"]} == CELERY_SERVICES
    assert "requirements-celery.lock" in DOCKERFILE
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert [volume for volume in SERVICES["worker"]["volumes"] if "staging" in volume] == []
    assert SERVICES["worker"]["environment"] == SERVICES["scheduler"]["environment"]
    broker = {
        SERVICES[name]["environment"]["AIRFLOW__CELERY__BROKER_URL"] for name in ("scheduler", "flower")
    }
    assert {address.partition("@")[2] for address in broker} == {"redis:6379/0"}


def test_the_bucket_is_made_once_and_a_folder_is_left_alone() -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    script = [sys.executable, str(ROOT / "docker" / "make-bucket.py")]
    for staging in ("/opt/airflow/staging", "s3://made-here/staging", "s3://made-here/staging"):
        subprocess.run([*script, staging], check=True, env={"AWS_ENDPOINT_URL": endpoint})
    found = boto3.client("s3", endpoint_url=endpoint).list_buckets()["Buckets"]
    assert [one["Name"] for one in found if one["Name"] == "made-here"] == ["made-here"]


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_variable_is_in_the_example_and_the_example_has_no_other() -> None:
    used = set(VARIABLE.findall((ROOT / "docker-compose.yml").read_text()))
    offered = set(re.findall(r"^(\w+)=", EXAMPLE, re.M))
    assert used | {"COMPOSE_PROFILES"} == offered  # which compose reads itself


def test_a_missing_secret_stops_compose_with_the_way_to_get_it() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"^(\w+)=<", EXAMPLE, re.M):
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", text)) == {":?run ./dev dotenv first"}


def test_the_environment_has_only_names_that_the_launcher_sets_too(tmp_path: Path) -> None:
    known = set(environment.build(settings.from_environment({"DEV_STATE": str(tmp_path)})))
    only_here = {
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK",  # here the scheduler is asked over HTTP
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",  # there people write contracts
        "UI_PASSWORD",  # for airflow-init's own command
        "AWS_SESSION_TOKEN",  # the emulator takes any key
        "AIRFLOW__CELERY__BROKER_URL",  # the launcher has no workers
        "AIRFLOW__CELERY__WORKER_CONCURRENCY",
        "AIRFLOW__CELERY__FLOWER_BASIC_AUTH",
        "QUEUE_ETL_ALERT_URLS",  # who is told
        *(f"AIRFLOW__METRICS__STATSD_{name}" for name in ("ON", "HOST", "PORT")),
    }
    settings_of_the_engine = {PREFIX + field.name.upper() for field in fields(Settings)}
    for name in AIRFLOW_SERVICES | COMMAND_SERVICES:
        assert set(SERVICES[name]["environment"]) - known - settings_of_the_engine <= only_here


@pytest.mark.parametrize("name", ["scheduler", *sorted(COMMAND_SERVICES)])
def test_every_setting_of_the_engine_may_be_set_in_dotenv(name: str) -> None:
    expected = {PREFIX + field.name.upper() for field in fields(Settings)}
    assert expected <= set(SERVICES[name]["environment"])


@pytest.mark.parametrize(
    ("conn_id", "variable", "role"),
    [
        ("postgres_default", "QUEUE_ETL_WAREHOUSE_DSN", "etl_loader"),
        ("postgres_maintenance", "QUEUE_ETL_MAINTAINER_DSN", "etl_maintainer"),
        ("postgres_remasker", "QUEUE_ETL_REMASKER_DSN", "etl_remasker"),
    ],
)
def test_tasks_and_commands_log_in_to_one_warehouse(conn_id: str, variable: str, role: str) -> None:
    address = "db.example:6543/events?sslmode=verify-full&sslrootcert=/certs/ca.pem"
    commands = "ops" if role.startswith(("etl_loader", "etl_maintainer")) else "privacy"
    text = values_of("scheduler", WAREHOUSE_ADDRESS=address)[f"AIRFLOW_CONN_{conn_id.upper()}"]
    assert text == values_of(commands, WAREHOUSE_ADDRESS=address)[variable]
    asked = conninfo_to_dict(text)
    assert (asked["user"], asked["host"], asked["port"]) == (role, "db.example", "6543")
    # Airflow has to understand the same text as a connection.
    connection = Connection.from_uri(text, conn_id=conn_id)
    assert (connection.conn_type, connection.login, connection.host) == ("postgres", role, "db.example")
    assert (connection.port, connection.schema) == (6543, "events")
    assert connection.extra_dejson == {"sslmode": "verify-full", "sslrootcert": "/certs/ca.pem"}


def test_the_page_logs_in_as_the_role_that_reads_no_body() -> None:
    asked = conninfo_to_dict(values_of("api-server")["AIRFLOW_CONN_POSTGRES_ON_CALL"])
    assert (asked["user"], asked["dbname"]) == ("ops_ro", "warehouse")
    roles = [text for text in map(str, values_of("api-server").values()) if "postgresql://etl_" in text]
    assert roles == []


def test_the_warehouse_is_the_postgres_of_this_file_unless_told_otherwise() -> None:
    asked = conninfo_to_dict(values_of("airflow-init")["QUEUE_ETL_OWNER_DSN"])
    assert (asked["user"], asked["host"], asked["dbname"]) == ("postgres", "postgres", "warehouse")
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] == "warehouse"


@pytest.mark.parametrize("name", ["scheduler", "triggerer", "api-server"])
def test_the_connection_to_aws_says_what_the_variables_say(name: str) -> None:
    given = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a/b+c", "AWS_SESSION_TOKEN": "token"}
    found = values_of(name, AWS_ENDPOINT_URL="", AWS_DEFAULT_REGION="eu-central-1", **given)
    assert given.items() <= found.items()
    assert json.loads(found["AIRFLOW_CONN_AWS_DEFAULT"]) == {
        "conn_type": "aws",
        "login": "key",
        "password": "a/b+c",
        "extra": {"region_name": "eu-central-1", "aws_session_token": "token"},
    }


@pytest.mark.parametrize("form", ["password", "extra"])
def test_a_command_has_the_keyset_of_its_variable_in_a_file(form: str, tmp_path: Path) -> None:
    keyset = KeysetDocument.new(development=True).text
    held = {"conn_type": "generic", form: keyset if form == "password" else json.loads(keyset)}
    done = subprocess.run(
        ["bash", ROOT / "docker" / "command.sh", "keys", "add", "--print"],
        cwd=ROOT,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "TMPDIR": str(tmp_path),
            "AIRFLOW_CONN_PII_KEYSET": json.dumps(held),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ids = [key["keyId"] for key in json.loads(done.stdout)["key"]]
    assert len(ids) == 2
    assert json.loads(keyset)["primaryKeyId"] in ids
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert all("/tmp" in SERVICES[name]["tmpfs"] for name in COMMAND_SERVICES)  # where mktemp makes it there


def test_commands_of_the_project_exist() -> None:
    script = SERVICES["airflow-init"]["command"][-1]
    commands = re.findall(r"python -m include\.queue_etl ([\w-]+)", script)
    assert commands == ["migrate", "create-queue"]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "include.queue_etl", command, "--help"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0


def test_the_deployment_page_names_variables_and_services_that_exist() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    changed = set(re.findall(r"^(\w+)=", page, re.M))
    assert "AWS_ENDPOINT_URL" in changed
    assert changed <= set(re.findall(r"^(\w+)=", EXAMPLE, re.M))
    run = set(re.findall(r"docker compose run --rm (?:-T )?([\w-]+)", page))
    assert run == {"airflow-init", *COMMAND_SERVICES}
    listed = re.findall(
        r"^\| (`[^|]+) \| ", page.partition("| service | holds")[2].partition("\n\n")[0], re.M
    )
    assert set(re.findall(r"`([\w-]+)`", " ".join(listed))) == AIRFLOW_SERVICES | COMMAND_SERVICES


def test_images_are_of_the_pinned_versions() -> None:
    assert f"FROM apache/airflow:slim-{PINS['apache-airflow']}-python3.11" in DOCKERFILE
    assert SERVICES["ministack"]["image"].endswith(f":{TOOL_PINS['ministack']}")
    assert {SERVICES[name]["image"] for name in AIRFLOW_SERVICES} == {f"queue-etl:{PINS['apache-airflow']}"}


def test_the_image_ends_as_an_unprivileged_user_and_copies_what_exists() -> None:
    assert re.findall(r"^USER (\w+)", DOCKERFILE, re.M)[-1] == "airflow"
    copied = re.findall(r"^COPY --chown=airflow:0 (\S+)", DOCKERFILE, re.M)
    assert all((ROOT / path).exists() for path in copied)
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert admitted == set(copied)


def test_mounted_files_exist_and_volumes_are_declared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]


def test_every_folder_that_airflow_writes_to_belongs_to_its_user() -> None:
    ours = [SERVICES[name] for name in AIRFLOW_SERVICES | COMMAND_SERVICES]
    volumes = [volume for service in ours for volume in service["volumes"] if not volume.startswith("./")]
    made = re.findall(r"^RUN install -d -m 0700 -o airflow -g 0 (.*)$", DOCKERFILE, re.M)[0].split()
    # The base image makes the folder of the logs itself.
    assert {volume.split(":")[1] for volume in volumes} - {"/opt/airflow/logs"} == set(made)


def test_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    compose = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*compose, "version"], check=False).returncode:
        pytest.skip("Docker Compose 2 is not installed")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    filled = dotenv.fill(EXAMPLE, '{"primaryKeyId": 1}')
    for profiles in ("emulator", "", "emulator,celery"):
        (tmp_path / ".env").write_text(
            filled.replace("COMPOSE_PROFILES=emulator", f"COMPOSE_PROFILES={profiles}")
        )
        done = subprocess.run(
            [*compose, "config", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
