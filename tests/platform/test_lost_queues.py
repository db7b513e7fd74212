"""What a killed MiniStack loses is said and made again by ./dev."""

import os
import signal
from typing import Any

import boto3
import pytest
from dev_command import Launcher

from devstack import emulator, processes
from devstack.demo import SAMPLE
from devstack.settings import Settings
from include.contracts import contract_names, load_contract

CONTRACTS = [load_contract(name) for name in contract_names()]
QUEUES = [name for contract in CONTRACTS for name in (contract.queue, contract.dead_letter_queue)]


@pytest.fixture
def running(launcher: Launcher) -> Launcher:
    done = launcher.run("psql", "-c", "select 1")
    assert done.returncode == 0, done.stderr
    return launcher


def kill(settings: Settings) -> None:
    """Kill the emulator as a crash does."""
    pid = emulator.part(settings).pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: emulator.part(settings).pid() is None, 10)


def sqs(settings: Settings) -> Any:
    return boto3.client(
        "sqs",
        endpoint_url=emulator.endpoint(settings),
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def names(settings: Settings) -> set[str]:
    return {url.rpartition("/")[2] for url in sqs(settings).list_queues().get("QueueUrls", [])}


def delete(settings: Settings, *queues: str) -> None:
    client = sqs(settings)
    for queue in queues:
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"])


# ./dev


def test_after_a_crash_the_next_command_says_what_is_lost_and_mends_it(running: Launcher) -> None:
    assert running.run("send", str(SAMPLE)).returncode == 0
    kill(running.settings)
    done = running.run("send", str(SAMPLE))
    assert done.returncode == 0, done.stderr
    assert emulator.LOSS in done.stderr
    assert f"made the queues {', '.join(QUEUES)}" in done.stderr
    assert names(running.settings) == set(QUEUES)
    again = running.run("send", str(SAMPLE))
    assert emulator.LOSS not in again.stderr
    assert "made the queues" not in again.stderr


def test_a_crash_is_said_by_status_and_by_down(running: Launcher) -> None:
    kill(running.settings)
    status = running.run("status")
    assert (status.returncode, emulator.LOSS in status.stdout) == (1, True)
    assert "./dev up starts it and makes its queues again" in status.stdout
    down = running.run("down")
    assert (down.returncode, emulator.LOSS in down.stdout) == (0, True)
    assert emulator.LOSS not in running.run("down").stdout


def test_status_makes_a_missing_queue_again_and_shows_all_else(running: Launcher) -> None:
    lost, dead = QUEUES[:2]
    delete(running.settings, lost)
    status = running.run("status")
    assert status.returncode == 1
    assert f"queue {lost}: does not exist" in status.stdout
    assert f"queue {dead}: visible 0, in_flight 0, delayed 0" in status.stdout
    assert "airflow_run_id" in status.stdout
    assert f"made again, empty: {lost}; " in status.stdout
    after = running.run("status")
    assert after.returncode == 0, after.stdout
    assert f"queue {lost}: visible 0" in after.stdout


def test_status_leaves_somebody_elses_sqs_as_it_is(running: Launcher) -> None:
    delete(running.settings, QUEUES[0])
    endpoint = emulator.endpoint(running.settings)
    for _ in range(2):
        status = running.run("status", DEV_SQS_ENDPOINT=endpoint)
        assert status.returncode == 1
        assert f"./dev up makes the missing queues at {endpoint}: {QUEUES[0]}" in status.stdout
        assert "airflow_run_id" in status.stdout
    assert QUEUES[0] not in names(running.settings)
