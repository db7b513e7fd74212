"""`./dev demo` and `./dev up` as a person runs them, whole and stopped half way."""

import json
import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from devstack import emulator, orchestrator, postgres, processes
from devstack.demo import DEMOS
from devstack.postgres import AIRFLOW
from tests.platform.dev_command import Launcher, kill

RUNS = "select coalesce(string_agg(state, ' '), '') from dag_run where triggered_by = 'TEST'"


def states(launcher: Launcher) -> list[str]:
    """Of all runs that `airflow dags test` made, in no order."""
    return postgres.query(launcher.settings, RUNS, database=AIRFLOW).split()


@pytest.fixture(scope="module")
def answer(launcher: Launcher) -> str:
    """What the first demo of a new stack prints with --json."""
    done = launcher.run("demo", "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_accounts_for_every_message_it_sent(answer: str) -> None:
    found = json.loads(answer)
    sent = len(DEMOS["user_logins"].sample.read_text().splitlines())
    assert (found["received"], found["deleted"], found["left_on_queue"]) == (sent, sent, 0)
    assert found["loaded"] + found["quarantined"] == sent


def test_the_demo_of_another_contract_replaces_rows_by_key(launcher: Launcher, answer: str) -> None:
    done = launcher.run("demo", "--contract", "orders", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    messages = [json.loads(line) for line in DEMOS["orders"].sample.read_text().splitlines()]
    assert (found["received"], found["deleted"], found["left_on_queue"]) == (len(messages), len(messages), 0)
    assert found["quarantined"] == 5
    orders = {message["order_id"] for message in messages[:-5]}
    assert postgres.query(launcher.settings, "select count(*) from public.orders") == str(len(orders))


def test_a_file_without_messages_is_one_clear_line(launcher: Launcher, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_text("\n \n")
    done = launcher.run("demo", "--messages", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"dev: {path} is empty: put one message body on each line\n"


@pytest.fixture
def stopped_demo(launcher: Launcher, answer: str) -> Launcher:
    """A second demo, killed once Airflow had begun its run."""
    demo = launcher.start("demo", start_new_session=True)
    begun = processes.wait_until(lambda: "running" in states(launcher), 300)
    os.killpg(demo.pid, signal.SIGKILL)  # with Ctrl-C Airflow ends the run itself if a task is at work
    demo.communicate(timeout=300)
    assert begun
    return launcher


def test_a_demo_that_was_stopped_does_not_hold_up_the_schedule(stopped_demo: Launcher) -> None:
    assert "running" in states(stopped_demo)
    up = stopped_demo.run("up")
    assert up.returncode == 0, up.stderr
    assert "ended 1 DAG run" in up.stdout
    assert set(states(stopped_demo)) == {"success", "failed"}


def test_after_a_crash_of_the_emulator_up_makes_its_queue_again(launcher: Launcher, answer: str) -> None:
    kill(launcher.part("ministack"))
    up = launcher.run("up")
    assert up.returncode == 0, up.stderr
    assert emulator.LOSS in up.stdout
    assert "made the queues orders-queue, orders-queue-dlq, login-queue, login-queue-dlq" in up.stdout
    assert json.loads(launcher.run("demo", "--json").stdout)["left_on_queue"] == 0


def test_airflow_is_started_anew_after_postgres(launcher: Launcher) -> None:
    assert launcher.run("up").returncode == 0
    before = [launcher.pid(name) for name in orchestrator.COMMANDS]
    kill(launcher.part("postgres"))
    up = launcher.run("up")
    assert up.returncode == 0, up.stderr
    after = [launcher.pid(name) for name in orchestrator.COMMANDS]
    assert None not in after
    assert not set(before) & set(after)
    # A look at one moment; on a busy machine Airflow may answer late.
    assert processes.wait_until(lambda: launcher.run("status").returncode == 0, 300)


def test_a_run_that_failed_under_the_scheduler_is_told_with_its_reason(launcher: Launcher) -> None:
    assert launcher.run("up").returncode == 0
    table = "public.user_logins"
    assert launcher.run("psql", "-c", f"revoke insert on {table} from etl_loader").returncode == 0
    assert launcher.run("demo").returncode == 1
    status = launcher.run("status")
    assert launcher.run("psql", "-c", f"grant insert on {table} to etl_loader").returncode == 0
    said = " ".join(status.stdout.split())
    assert status.returncode == 1
    assert "DAG user_logins: its last run failed; extract: PreflightError: not started" in said
    assert f"role etl_loader may not INSERT INTO {table}" in said


def test_up_says_address_user_and_password_and_the_ui_takes_them(launcher: Launcher) -> None:
    said = launcher.run("up").stdout
    address = re.search(r"^Airflow: +(http://\S+)$", said, re.MULTILINE)
    login = re.search(r"^login: +user (\w+), password (\w+)$", said, re.MULTILINE)
    assert address
    assert login
    user, password = login.groups()
    reply = httpx.post(f"{address[1]}/auth/token", json={"username": user, "password": password})
    assert reply.status_code == 201
    wrong = httpx.post(f"{address[1]}/auth/token", json={"username": user, "password": password[:-1]})
    assert wrong.status_code == 401
