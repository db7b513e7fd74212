"""What a killed MiniStack loses is said and made again: by ./dev, and by the healthcheck of its container."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import emulator, processes, queues
from devstack.console import Console
from devstack.demo import DEMOS
from devstack.settings import ROOT, Settings
from include.contracts import contract_names, load_contract
from tests.platform.dev_command import Launcher, kill, sqs
from tests.platform.test_compose import SERVICES

CONTRACTS = [load_contract(name) for name in contract_names()]
QUEUES = [name for contract in CONTRACTS for name in (contract.queue, contract.dead_letter_queue)]
SUFFIX = "${QUEUE_ETL_QUEUE_SUFFIX-}"
GIVEN: list[str] = SERVICES["ministack"]["healthcheck"]["test"]
HEALTH = [argument.removesuffix(SUFFIX) for argument in GIVEN]


def names(settings: Settings) -> set[str]:
    return {url.rpartition("/")[2] for url in sqs(settings).list_queues().get("QueueUrls", [])}


def attributes(settings: Settings) -> dict[str, dict[str, str]]:
    """Of each queue, but for the times."""
    client = sqs(settings)
    found = {}
    for url in client.list_queues()["QueueUrls"]:
        all_of_it = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        kept = {name: value for name, value in all_of_it.items() if not name.endswith("Timestamp")}
        found[url.rpartition("/")[2]] = kept
    return found


def delete(settings: Settings, *queues: str) -> None:
    client = sqs(settings)
    for queue in queues:
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"])


def create_missing(settings: Settings) -> list[str]:
    return queues.create_missing(settings, queues.listing(settings))


def row(shown: str, queue: str) -> list[str]:
    """The words of a queue's line in `./dev status`."""
    return next(line.split() for line in shown.splitlines() if line.split()[:1] == [queue])


# ./dev


def test_after_a_crash_the_next_command_says_what_is_lost_and_restores_it(running: Launcher) -> None:
    assert running.run("send", str(DEMOS["user_logins"].sample)).returncode == 0
    kill(running.part("ministack"))
    done = running.run("send", str(DEMOS["user_logins"].sample))
    assert done.returncode == 0, done.stderr
    assert emulator.LOSS in done.stderr
    assert f"made the queues {', '.join(QUEUES)}" in done.stderr
    assert names(running.settings) == set(QUEUES)
    again = running.run("send", str(DEMOS["user_logins"].sample))
    assert emulator.LOSS not in again.stderr
    assert "made the queues" not in again.stderr


def test_a_crash_is_said_by_status_and_by_down(running: Launcher) -> None:
    kill(running.part("ministack"))
    status = running.run("status")
    said = " ".join(status.stdout.split())
    assert status.returncode == 1
    assert f"{emulator.LOSS}; ./dev up starts it and makes its queues again" in said
    down = running.run("down")
    assert (down.returncode, emulator.LOSS in down.stdout) == (0, True)
    assert emulator.LOSS not in running.run("down").stdout


def test_status_makes_a_missing_queue_again_and_shows_all_else(running: Launcher) -> None:
    lost, dead = QUEUES[:2]
    delete(running.settings, lost)
    status = running.run("status")
    assert status.returncode == 1
    assert row(status.stdout, lost)[2:5] == ["does", "not", "exist"]
    assert row(status.stdout, dead)[-3:] == ["0", "0", "0"]
    assert "Pipeline runs" in status.stdout
    assert f"made again, empty: {lost}; " in status.stdout
    after = running.run("status")
    assert after.returncode == 0, after.stdout
    assert row(after.stdout, lost)[-3:] == ["0", "0", "0"]


def test_status_leaves_somebody_elses_sqs_as_it_is(running: Launcher) -> None:
    delete(running.settings, QUEUES[0])
    endpoint = emulator.endpoint(running.settings)
    for _ in range(2):
        status = running.run("status", DEV_SQS_ENDPOINT=endpoint)
        assert status.returncode == 1
        said = " ".join(status.stdout.split())
        assert f"./dev up makes the missing queues at {endpoint}: {QUEUES[0]}" in said
        assert "Pipeline runs" in status.stdout
    assert QUEUES[0] not in names(running.settings)


# The container


@pytest.fixture
def server(launcher: Launcher) -> Iterator[Settings]:
    """A MiniStack that never had a queue, as in a new container."""
    assert launcher.run("reset").returncode == 0
    emulator.start(launcher.settings, Console(sys.stderr))
    yield launcher.settings
    processes.stop([emulator.part(launcher.settings)])


def health(settings: Settings, log: Path) -> tuple[int, str]:
    """Run the healthcheck of docker-compose.yml once; its exit code and what it prints."""
    script = next(
        volume.split(":")[0] for volume in SERVICES["ministack"]["volumes"] if f":{HEALTH[2]}:" in volume
    )
    python = str(settings.tools_venv / "bin" / "python")
    arguments = [str(log) if argument == "/proc/1/fd/2" else argument for argument in HEALTH[3:]]
    done = subprocess.run(
        [python, str(ROOT / script), *arguments],
        env=emulator.environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_healthcheck_is_given_the_queue_of_every_contract() -> None:
    assert HEALTH[:2] == ["CMD", "python"]
    assert HEALTH[3:5] == ["--log", "/proc/1/fd/2"]
    assert GIVEN[5:] == [f"{contract.queue}{SUFFIX}" for contract in CONTRACTS]


def test_a_new_container_is_healthy_at_once_and_has_its_queues(server: Settings, tmp_path: Path) -> None:
    assert names(server) == set()
    assert health(server, tmp_path / "log") == (0, "")
    assert names(server) == set(QUEUES)
    assert health(server, tmp_path / "log") == (0, "")
    assert not (tmp_path / "log").exists()


def test_a_restarted_container_that_lost_its_queues_says_so_once(server: Settings, tmp_path: Path) -> None:
    assert health(server, tmp_path / "log") == (0, "")
    kill(emulator.part(server))
    emulator.start(server, Console(sys.stderr))
    assert names(server) == set()
    line = f"ministack had lost its queues {', '.join(QUEUES)}: made again, empty\n"
    assert health(server, tmp_path / "log") == (1, line)
    assert (tmp_path / "log").read_text() == line
    assert names(server) == set(QUEUES)
    assert health(server, tmp_path / "log") == (0, "")


def test_a_container_that_ended_in_good_order_has_lost_nothing(server: Settings, tmp_path: Path) -> None:
    assert health(server, tmp_path / "log") == (0, "")
    processes.stop([emulator.part(server)])
    emulator.start(server, Console(sys.stderr))
    assert names(server) == set(QUEUES)
    assert health(server, tmp_path / "log") == (0, "")


@pytest.mark.parametrize("lost", QUEUES[:2])
def test_one_queue_of_two_is_made_again_and_the_other_kept(
    server: Settings, tmp_path: Path, lost: str
) -> None:
    assert health(server, tmp_path / "log") == (0, "")
    before = attributes(server)
    delete(server, lost)
    assert health(server, tmp_path / "log")[0] == 1
    assert attributes(server) == before


def test_the_healthcheck_makes_queues_as_create_queue_does(running: Launcher, tmp_path: Path) -> None:
    delete(running.settings, *QUEUES)
    assert create_missing(running.settings) == QUEUES
    made = attributes(running.settings)
    assert "RedrivePolicy" in made[QUEUES[0]]
    delete(running.settings, *QUEUES)
    health(running.settings, tmp_path / "log")
    assert attributes(running.settings) == made
    assert create_missing(running.settings) == []


def test_without_a_server_the_healthcheck_fails_in_one_line(server: Settings, tmp_path: Path) -> None:
    processes.stop([emulator.part(server)])
    code, said = health(server, tmp_path / "log")
    assert (code, said.count("\n")) == (1, 1)
    assert "Connection refused" in said


def test_a_log_that_cannot_be_opened_does_not_hide_the_loss(server: Settings, tmp_path: Path) -> None:
    assert health(server, tmp_path / "log") == (0, "")
    delete(server, QUEUES[0])
    code, said = health(server, tmp_path / "no folder" / "log")
    assert code == 1
    assert said.startswith(f"ministack had lost its queues {QUEUES[0]}: ")
