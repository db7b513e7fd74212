"""docker-compose.yml and Dockerfile against the project: no container engine is needed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack import dotenv, environment, settings
from devstack.settings import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
PINS = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.M))
TOOL_PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements-tools.txt").read_text(), re.M))
AIRFLOW_SERVICES = {"airflow-init", "api-server", "scheduler", "dag-processor", "triggerer"}
VARIABLE = re.compile(r"\$\{(\w+)")


def test_the_services_are_the_expected_ones() -> None:
    assert set(SERVICES) == {"postgres", "ministack", *AIRFLOW_SERVICES}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_a_healthcheck_or_is_waited_for_to_end(name: str) -> None:
    if name == "airflow-init":
        assert SERVICES[name]["healthcheck"] == {"disable": True}
        waiting = [service for service in AIRFLOW_SERVICES if service != name]
        conditions = {SERVICES[service]["depends_on"][name]["condition"] for service in waiting}
        assert conditions == {"service_completed_successfully"}
    else:
        assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(AIRFLOW_SERVICES))
def test_airflow_waits_for_healthy_servers(name: str) -> None:
    needs = SERVICES[name]["depends_on"]
    assert {needs[server]["condition"] for server in ("postgres", "ministack")} == {"service_healthy"}


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_variable_is_in_the_example_and_the_example_has_no_other() -> None:
    used = set(VARIABLE.findall((ROOT / "docker-compose.yml").read_text()))
    offered = set(re.findall(r"^(\w+)=", EXAMPLE, re.M))
    assert used == offered


def test_a_missing_secret_stops_compose_with_the_way_to_get_it() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in re.findall(r"^(\w+)=<", EXAMPLE, re.M):
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", text)) == {":?run ./dev dotenv first"}


def test_the_environment_has_only_names_that_the_launcher_sets_too(tmp_path: Path) -> None:
    known = set(environment.build(settings.from_environment({"DEV_STATE": str(tmp_path)})))
    only_here = {
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK",  # here the scheduler is asked over HTTP
        "UI_PASSWORD",  # for airflow-init's own command
    }
    for name in AIRFLOW_SERVICES:
        assert set(SERVICES[name]["environment"]) - known <= only_here


def test_connections_are_json_and_name_services_of_this_file() -> None:
    environment_of_scheduler = SERVICES["scheduler"]["environment"]
    aws = json.loads(environment_of_scheduler["AIRFLOW_CONN_AWS_DEFAULT"])
    postgres = json.loads(environment_of_scheduler["AIRFLOW_CONN_POSTGRES_DEFAULT"])
    assert aws["extra"]["endpoint_url"] == "http://ministack:4566"
    assert (postgres["host"], postgres["login"], postgres["schema"]) == (
        "postgres",
        "etl_loader",
        "warehouse",
    )


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
    mounted = {volume.split(":")[1] for volume in SERVICES["scheduler"]["volumes"]}
    # The base image makes the folder of the logs itself.
    assert all(folder in DOCKERFILE for folder in mounted - {"/opt/airflow/logs"})


def test_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is not installed")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    (tmp_path / ".env").write_text(dotenv.fill(EXAMPLE, '{"primaryKeyId": 1}'))
    done = subprocess.run(
        [compose, "config", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
