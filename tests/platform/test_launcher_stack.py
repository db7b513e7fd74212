"""What ./dev promises of a running stack: found again, kept, stopped whole, repaired, never in the way."""

import json
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from devstack import ports, processes, stack
from devstack.demo import DEMOS
from include.contracts import DEFAULT_CONTRACT, load_contract
from tests.platform.dev_command import Launcher, kill

QUEUE = load_contract(DEFAULT_CONTRACT).queue
SAMPLE_LINES = len(DEMOS["user_logins"].sample.read_text().splitlines())


def depth(launcher: Launcher) -> list[str]:
    """The queue's line of `./dev status`: name, contract, visible, in flight, delayed."""
    lines = launcher.run("status").stdout.splitlines()
    return next(line.split() for line in lines if line.split()[:1] == [QUEUE])


def listening_addresses(port: int) -> set[str]:
    """Addresses, as /proc/net writes them, on which anything listens (state 0A) on this port."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def test_down_leaves_no_process_and_no_port_and_loses_no_message(running: Launcher) -> None:
    assert running.run("send", str(DEMOS["user_logins"].sample)).returncode == 0
    before = depth(running)
    assert running.run("down").returncode == 0
    assert not any(processes.members(part) for part in stack.all_parts(running.settings))
    assert ports.is_free(running.settings.postgres_port)
    assert ports.is_free(running.settings.sqs_port)
    assert running.run("status").returncode == 1
    assert running.run("run", "depth").returncode == 0
    assert depth(running) == before
    assert before[2:] == [str(SAMPLE_LINES), "0", "0"]


def test_a_second_down_says_that_nothing_was_running(running: Launcher) -> None:
    running.run("down")
    assert "nothing was running" in running.run("down").stdout


@pytest.mark.parametrize("name", ["postgres", "ministack"])
def test_a_killed_server_is_reported_and_the_next_command_starts_it(running: Launcher, name: str) -> None:
    pid = running.pid(name)
    kill(running.part(name))
    status = running.run("status")
    assert (status.returncode, "died" in status.stdout) == (1, True)
    assert running.run("run", "depth").returncode == 0
    assert running.pid(name) not in (None, pid)
    assert running.run("status").returncode == 0


def test_two_commands_at_once_wait_for_each_other(running: Launcher) -> None:
    running.run("down")
    both = [running.start("psql", "-c", "select 1") for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("start Postgres" in text for text in said) == 1, said


def test_a_busy_port_is_one_clear_line(running: Launcher) -> None:
    running.run("down")
    with socket.create_server((ports.HOST, running.settings.sqs_port)):
        done = running.run("run", "depth")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dev: ")]
    assert str(running.settings.sqs_port) in line
    assert "DEV_SQS_PORT" in line
    assert "Traceback" not in done.stderr


def test_everything_listens_on_loopback_only(running: Launcher) -> None:
    loopback = {"0100007F"}
    assert listening_addresses(running.settings.postgres_port) == loopback
    assert listening_addresses(running.settings.sqs_port) == loopback


def test_the_env_file_is_private_and_gives_a_shell_what_the_commands_have(running: Launcher) -> None:
    path = running.settings.state / "env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shell = ["bash", "-euc", 'source "$0"; printf "%s\\0" "$QUEUE_ETL_OWNER_DSN" "$AIRFLOW_CONN_PII_KEYSET"']
    printed = subprocess.run([*shell, str(path)], capture_output=True, text=True, check=True).stdout
    owner, keyset, _ = printed.split("\0")
    assert owner == running.variables()["QUEUE_ETL_OWNER_DSN"]
    assert keyset == running.variables()["AIRFLOW_CONN_PII_KEYSET"]
    assert "primaryKeyId" in keyset


def test_every_secret_is_private(running: Launcher) -> None:
    files = [path for path in (running.settings.state / "secrets").iterdir() if path.is_file()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(running.settings.state.stat().st_mode) == 0o700


def test_psql_starts_postgres_and_nothing_else(running: Launcher) -> None:
    running.run("down")
    done = running.run("psql", "-Atc", "select 1")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert running.pid("postgres") is not None
    assert running.pid("ministack") is None
    assert "queue" not in done.stderr


def test_a_new_revision_waits_until_somebody_has_read_it(running: Launcher) -> None:
    stamp = running.settings.state / "warehouse.stamp"
    servers, schema = stamp.read_text().split()
    stamp.write_text(f"{servers} of-fewer-revisions")
    for reading in (("run", "contract", "list"), ("psql", "-c", "select 1")):
        done = running.run(*reading)
        assert (done.returncode, "prepare the warehouse" in done.stderr) == (0, False), done.stderr
        assert stamp.read_text() == f"{servers} of-fewer-revisions"
    assert "prepare the warehouse" in running.run("run", "depth").stderr
    assert stamp.read_text() == f"{servers} {schema}"


def test_the_stamp_of_an_earlier_version_is_taken_over(running: Launcher) -> None:
    stamp = running.settings.state / "warehouse.stamp"
    wanted = stamp.read_text()
    stamp.write_text("0" * 64)
    assert running.run("psql", "-c", "select 1").returncode == 0
    assert stamp.read_text() == wanted


def test_the_engine_runs_in_the_folder_it_is_called_from(running: Launcher, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()  # another project's
    (tmp_path / "include" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "messages").write_text("{}\n")
    done = running.run("run", "send", "messages", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"sent 1 messages to {QUEUE}\n"), done.stderr


def test_drain_passes_the_options_of_the_engine_on(running: Launcher) -> None:
    assert running.run("send", str(DEMOS["user_logins"].sample)).returncode == 0
    done = running.run("drain", "--contract", DEFAULT_CONTRACT, "--max", "3", "--run-id", "mine", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["received"] == 3
    query = "select received from etl.run_summary where airflow_run_id = 'mine'"
    assert running.run("psql", "-Atc", query).stdout == "3\n"


ROLES = ["etl_loader", "etl_maintainer", "etl_remasker", "analyst", "pii_officer", "ops_ro"]


@pytest.mark.parametrize("role", ROLES)
def test_psql_looks_with_the_eyes_of_a_role(running: Launcher, role: str) -> None:
    done = running.run("psql", "--role", role, "-Atc", "select current_user")
    assert done.stdout.strip() == role


def test_psql_returns_the_exit_code_of_psql(running: Launcher) -> None:
    assert running.run("psql", "-c", "select nothing").returncode == 1


def test_a_wrong_password_is_refused_over_tcp(running: Launcher) -> None:
    dsn = running.variables()["QUEUE_ETL_OWNER_DSN"].replace("postgres:", "postgres:wrong", 1)
    psql = running.run("psql", "--dbname", dsn, "-c", "select 1")
    assert "password authentication failed" in psql.stderr


def test_reset_forgets_the_stack_and_touches_nothing_else(running: Launcher) -> None:
    mine = running.settings.state / "notes.txt"
    mine.write_text("a person's own")
    done = running.run("reset")
    assert done.returncode == 0
    assert "removed" in done.stdout
    left = {path.name for path in running.settings.state.iterdir()}
    assert left - {"stack.lock"} == {"notes.txt"}
    mine.unlink()
