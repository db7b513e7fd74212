"""The launcher's parts one by one; no server is started."""

import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from devstack import (
    credentials,
    demo,
    dotenv,
    environment,
    keyset,
    orchestrator,
    ports,
    postgres,
    processes,
    settings,
    stack,
    suite,
    virtualenvs,
)
from devstack.checks import CHECKS
from devstack.console import Console
from devstack.errors import StackError, UsageError
from devstack.processes import Part
from devstack.settings import ROOT
from devstack.virtualenvs import Virtualenv
from include.queue_etl.cli import wiring
from include.queue_etl.errors import SettingsError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import is_development
from tests.conftest import use_own_stack
from tests.platform.dev_command import Launcher, clean_environment

COMMANDS = ("demo", "up", "down", "status", "reset", "send", "drain", "run", "psql", "test", "dotenv")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "dev", command, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.startswith("usage: dev " + command)) == (0, True)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["down", "--fast"], ["send"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "dev", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["send", "missing.jsonl"], 1, "dev: no such file: missing.jsonl"),
        (["send", "/"], 1, "dev: / is a directory: give a file with one message body on each line"),
        (["drain", "--contract", "nope"], 2, "dev drain: error: argument --contract: no contract 'nope'"),
        (["send", "--contract", "nope", "/"], 2, "there are: orders, user_logins"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_started(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    env = {**os.environ, "DEV_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, ROOT / "dev", *arguments], capture_output=True, text=True, check=False, env=env
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (tmp_path / "state").exists()


def test_after_ctrl_c_a_command_may_take_its_time_to_release(tmp_path: Path) -> None:
    child = "trap 'sleep 1; touch gave-back; exit 130' INT; touch ready; sleep 60 & wait"
    script = (
        "import os, pathlib, signal, sys\n"
        "from devstack import engine, settings\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"engine._command = lambda *_: ['bash', '-c', {f'cd {tmp_path}; ' + child!r}]\n"
        "sys.exit(engine.run(settings.from_environment(os.environ), 'drain'))\n"
    )
    env = {**os.environ, "DEV_STATE": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=env, start_new_session=True)
    try:
        assert processes.wait_until((tmp_path / "ready").exists, 20)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(20) == 130
        assert (tmp_path / "gave-back").exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_long_step_shows_that_it_lives_on_one_line() -> None:
    stream = io.StringIO()
    with Console(stream, every=0.01).step("wait"):
        assert processes.wait_until(lambda: stream.getvalue().count(" s ... ") > 1, 30)
    assert re.fullmatch(r"  wait \.\.\. (0 s \.\.\. )+0\.\d s\n", stream.getvalue())


def test_after_a_note_a_step_adds_nothing_to_the_line() -> None:
    console = Console(stream := io.StringIO(), every=0.01)
    with console.step("wait"):
        console.note("noted")
        threads = [thread for thread in threading.enumerate() if "_show_life" in thread.name]
        assert processes.wait_until(lambda: not any(thread.is_alive() for thread in threads), 30)
    assert re.fullmatch(r"noted\n  wait: \d\.\d s\n", stream.getvalue().partition("\n")[2])


def test_a_part_on_another_port_than_its_variable_says_is_named(tmp_path: Path) -> None:
    env = {"DEV_STATE": str(tmp_path), "DEV_PG_PORT": "6001"}
    own = settings.from_environment(env)
    server = replace(postgres.part(own), program=None, folder=tmp_path)
    processes.start(server, ["sleep", "300"], dict(os.environ), port=6000)
    try:
        assert stack.misplaced(own) == {"postgres": "postgres runs on 6000, DEV_PG_PORT says 6001"}
        assert stack.misplaced(settings.from_environment({**env, "DEV_PG_PORT": "6000"})) == {}
    finally:
        processes.stop([server])


def test_airflow_that_called_itself_healthy_once_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = iter([{}, dict.fromkeys(orchestrator.COMMANDS, "healthy"), {}])
    monkeypatch.setattr(orchestrator, "parts", lambda _: [])
    monkeypatch.setattr(orchestrator, "health", lambda _: next(answers))
    written = io.StringIO()
    orchestrator.start(settings.from_environment({"DEV_STATE": str(tmp_path)}), Console(written))
    assert "failed" not in written.getvalue()
    assert next(answers) == {}


def test_the_port_that_is_suggested_is_free_and_meant_for_nothing_else() -> None:
    with socket.create_server((ports.HOST, 0)) as taken, ExitStack() as held:
        port = taken.getsockname()[1]
        with suppress(OSError):  # another program has it: so much the better
            held.enter_context(socket.create_server((ports.HOST, port + 2)))
        with pytest.raises(StackError) as raised:
            ports.require_free(port, "DEV_PG_PORT", "Postgres", reserved=[port, port + 1])
        suggested = int(str(raised.value).rpartition("DEV_PG_PORT=")[2])
        assert suggested not in range(port, port + 3)
        assert ports.is_free(suggested)


def copy_of_launcher(folder: Path) -> None:
    """What `./dev` needs before anything is installed."""
    shutil.copytree(ROOT / "devstack", folder / "devstack")
    for name in ("dev", ".env.example", "include/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


@pytest.mark.parametrize("variable", settings.DEFAULT_PORTS)
def test_a_taken_port_is_said_before_anything_is_installed(variable: str, tmp_path: Path) -> None:
    copy_of_launcher(tmp_path)
    with socket.create_server((ports.HOST, 0)) as server:
        port = server.getsockname()[1]
        done = Launcher(clean_environment(tmp_path / "state") | {variable: str(port)}).run(
            "up", root=tmp_path
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dev: port {port} is taken by another program")
    assert not (tmp_path / ".venv").exists()


def test_every_wrong_port_is_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"DEV_PG_PORT=x.*DEV_UI_PORT=70000"):
        settings.from_environment({"DEV_PG_PORT": "x", "DEV_UI_PORT": "70000"})


def test_a_port_is_remembered_until_its_variable_says_otherwise(tmp_path: Path) -> None:
    env = {"DEV_STATE": str(tmp_path)}
    settings.from_environment({**env, "DEV_PG_PORT": "6001"}).remember_ports()
    assert settings.from_environment(env).postgres_port == 6001
    assert settings.from_environment({**env, "DEV_PG_PORT": "6002"}).postgres_port == 6002


def test_free_ports_are_different() -> None:
    assert len(set(ports.free_ports(["a", "b", "c"]).values())) == 3


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = credentials.secret(tmp_path / "secrets", "word")
    assert credentials.secret(tmp_path / "secrets", "word") == first
    assert stat.S_IMODE((tmp_path / "secrets" / "word").stat().st_mode) == 0o600


@pytest.mark.parametrize("value", ["plain", "two words", 'a "b" $HOME', "it's", "", '{"a": "\\"b\\""}'])
def test_a_quoted_value_means_the_same_to_a_shell_and_to_us(tmp_path: Path, value: str) -> None:
    path = tmp_path / "env"
    path.write_text(f"export NAME={environment.quoted(value)}\n")
    shell = subprocess.run(
        ["bash", "-euc", 'source "$0"; printf %s "$NAME"', path], capture_output=True, text=True, check=True
    )
    assert shell.stdout == value
    assert environment.read(path) == {"NAME": value}


def test_the_hint_names_only_variables_that_dev_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = environment.build(settings.from_environment({"DEV_STATE": str(tmp_path)}))
    source = "".join(path.read_text() for path in (ROOT / "include/queue_etl").rglob("*.py"))
    asked_for = set(re.findall(r'"(QUEUE_ETL_[A-Z_]+(?:DSN|FILE|URI))"', source))
    assert "QUEUE_ETL_KMS_KEY_URI" in asked_for - set(written)
    hinted = set()
    for name in asked_for:
        monkeypatch.delenv(name, raising=False)
        with pytest.raises(SettingsError) as raised:
            wiring.required_variable(name, "meaning")
        if "`./dev` writes it" in str(raised.value):
            hinted.add(name)
    assert hinted == asked_for & set(written)


# Virtualenvs


@pytest.fixture
def installed(tmp_path: Path) -> Virtualenv:
    locks = (tmp_path / "some.lock", tmp_path / "more.lock")
    for lock in locks:
        lock.write_text("")
    env = Virtualenv(tmp_path / "venv", locks, tmp_path / "install.log")
    env.python.parent.mkdir(parents=True)
    env.python.symlink_to(sys.executable)
    env.stamp.write_text(env.wanted())
    return env


def test_a_complete_virtualenv_is_left_alone(installed: Virtualenv) -> None:
    assert virtualenvs.is_current(installed)


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_lock_is_installed_again(installed: Virtualenv, which: int) -> None:
    installed.locks[which].write_text("changed==1.0\n")
    assert not virtualenvs.is_current(installed)


def test_a_changed_comment_in_the_lock_installs_nothing(installed: Virtualenv) -> None:
    installed.locks[0].write_text("    # via something else\n")
    assert virtualenvs.is_current(installed)


def test_an_interrupted_install_is_repaired(installed: Virtualenv) -> None:
    installed.stamp.unlink()
    assert not virtualenvs.is_current(installed)


def test_a_virtualenv_whose_python_is_gone_is_repaired(installed: Virtualenv) -> None:
    installed.python.unlink()
    assert not virtualenvs.is_current(installed)


def test_a_virtualenv_that_was_moved_is_made_again(installed: Virtualenv) -> None:
    moved = installed.folder.rename(installed.folder.with_name("elsewhere"))
    assert not virtualenvs.is_current(replace(installed, folder=moved))


def test_where_uv_fails_pip_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "bin" / "uv"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    lock = tmp_path / "empty.lock"
    lock.write_text("# nothing to install\n")
    env = Virtualenv(tmp_path / "venv", (lock,), tmp_path / "install.log")
    virtualenvs.build(env, Console(sys.stdout))
    assert virtualenvs.is_current(env)
    assert "uv failed" in capsys.readouterr().out


def test_the_uv_of_the_folder_is_not_used_to_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "venv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent))
    lock = tmp_path / "empty.lock"
    lock.write_text("")
    env = Virtualenv(tmp_path / "venv", (lock,), tmp_path / "install.log")
    virtualenvs.build(env, Console(sys.stderr))
    assert virtualenvs.is_current(env)


def test_without_a_uv_pip_installs_the_pinned_one_and_that_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone without network could not run it: here are its commands, and CI begins with them."""
    ran: list[list[str]] = []

    def attempt(env: Virtualenv, console: Console, tool: str, commands: list[list[str]]) -> bool:
        ran.extend(commands)
        return True

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(virtualenvs, "_attempt", attempt)
    locks = tuple(ROOT / f"{name}.lock" for name in virtualenvs.DEVELOPMENT)
    env = Virtualenv(tmp_path / "venv", locks, tmp_path / "install.log")
    env.folder.mkdir()
    virtualenvs.build(env, Console(sys.stdout))
    programs = [Path(command[0]).name for command in ran]
    assert programs[1:] == ["python", "uv"]
    assert "--require-hashes" in ran[1]
    first, *hashes = Path(ran[1][-1]).read_text().splitlines()
    assert first.startswith("uv==")
    assert hashes
    assert all(line.strip().startswith(("--hash=sha256:", "# via")) for line in hashes)
    assert ran[2][-4:] == ["-r", str(locks[0]), "-r", str(locks[1])]


def test_the_uv_of_the_other_virtualenv_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uv = ROOT / ".venv" / "bin" / "uv"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    lock = tmp_path / "empty.lock"
    lock.write_text("")
    env = Virtualenv(tmp_path / "venv", (lock,), tmp_path / "install.log", uv)
    virtualenvs.build(env, Console(sys.stdout))
    assert "(uv)" in capsys.readouterr().out
    assert virtualenvs.is_current(env)
    assert not (env.folder / "bin" / "pip").exists()  # as uv leaves it


# Processes


def part(folder: Path) -> Part:
    return Part("sleeper", folder, folder / "log", folder)


def start_family(sleeper: Part) -> int:
    """Start a leader with a child in its session and one that has left it; return the leader's pid."""
    script = "sleep 300 & setsid sleep 300 & touch ready; wait"
    pid = processes.start(sleeper, ["bash", "-c", script], dict(os.environ), port=1)
    assert processes.wait_until(lambda: len(processes.members(sleeper)) == 3, 30)
    return pid


def test_stop_ends_the_children_too_even_those_that_left_the_session(tmp_path: Path) -> None:
    sleeper = part(tmp_path)
    start_family(sleeper)
    assert processes.stop([sleeper]) == ["sleeper"]
    assert processes.members(sleeper) == []


def test_what_a_killed_leader_left_behind_is_found_and_stopped(tmp_path: Path) -> None:
    sleeper = part(tmp_path)
    leader = start_family(sleeper)
    os.kill(leader, signal.SIGKILL)
    assert processes.wait_until(lambda: sleeper.pid() is None, 30)
    # What the leader had just started, such as `touch`, ends by itself.
    assert processes.wait_until(lambda: len(processes.members(sleeper)) == 2, 30)
    processes.stop([sleeper])
    assert processes.members(sleeper) == []


def test_another_process_that_got_our_pid_is_not_stopped(tmp_path: Path) -> None:
    sleeper = part(tmp_path)
    stranger = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        sleeper.record_file.parent.mkdir()
        sleeper.record_file.write_text(json.dumps({"pid": stranger.pid, "started": "1", "port": 1}))
        assert sleeper.pid() is None
        assert processes.stop([sleeper]) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    stubborn = part(tmp_path)
    script = "trap '' TERM; touch deaf; while :; do sleep 1; done"
    processes.start(stubborn, ["bash", "-c", script], dict(os.environ), port=1)
    assert processes.wait_until((tmp_path / "deaf").exists, 30)
    processes.stop([stubborn], patience=0.2)
    assert processes.members(stubborn) == []


def test_the_table_read_by_ps_knows_this_process_too() -> None:
    # What macOS uses; where ps is not installed there is /proc.
    if not any(Path(folder, "ps").exists() for folder in os.get_exec_path()):
        pytest.skip("no ps here")
    listed = {process.pid for process in processes.from_ps()}
    assert os.getpid() in listed


# .env


def test_dotenv_fills_every_placeholder_differently() -> None:
    example = (ROOT / ".env.example").read_text()
    filled = dotenv.fill(example, '{"primaryKeyId": 1}')
    values = dict(line.split("=", 1) for line in filled.splitlines() if "=" in line and line[0] != "#")
    assert "<" not in "".join(values.values())
    secrets = [values[name] for name in re.findall(r"^(\w+)=<", example, re.MULTILINE)]
    assert len(set(secrets)) == len(secrets)
    connection = json.loads(values["AIRFLOW_CONN_PII_KEYSET"].strip("'"))
    assert json.loads(connection["password"]) == {"primaryKeyId": 1}


def test_dotenv_builds_no_virtualenv(tmp_path: Path) -> None:
    copy_of_launcher(tmp_path)
    done = subprocess.run([sys.executable, tmp_path / "dev", "dotenv"], capture_output=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / ".env").exists()
    assert not (tmp_path / ".venv").exists()


def test_a_keyset_made_without_tink_masks_and_has_the_development_mark() -> None:
    opened = Keyset.from_json(keyset.new_json())
    assert opened.decrypt(opened.encrypt(b"value", b"context"), b"context") == b"value"
    assert is_development(opened.primary_key_id)
    assert opened.primary_key_id != Keyset.from_json(keyset.new_json()).primary_key_id


def test_dotenv_refuses_a_kind_that_nothing_makes() -> None:
    with pytest.raises(StackError, match="<magic> for NAME"):
        dotenv.fill("NAME=<magic>", "{}")


def test_dotenv_does_not_replace_secrets_in_use(tmp_path: Path) -> None:
    target = tmp_path / ".env"
    target.write_text("mine")
    with pytest.raises(StackError, match="exists already"):
        dotenv.write(target, ROOT / ".env.example", "{}")
    assert target.read_text() == "mine"


# Demo and test


def test_the_tests_leave_the_ports_of_the_persons_stack_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict.fromkeys(settings.DEFAULT_PORTS, "40001")
    for name, port in given.items():
        monkeypatch.setenv(name, port)
    monkeypatch.delenv("DEV_STATE", raising=False)
    own = suite.own_settings(settings.from_environment(given))
    assert own.state == ROOT / ".dev" / "test"
    assert 40001 not in {own.postgres_port, own.sqs_port, own.ui_port}


def test_the_tests_take_a_given_stack_with_its_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"DEV_STATE": str(tmp_path), "DEV_PG_PORT": "40001"}
    for name in settings.DEFAULT_PORTS:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    own = suite.own_settings(settings.from_environment(given))
    assert (own.state, own.postgres_port) == (tmp_path, 40001)
    assert own.sqs_port != settings.DEFAULT_PORTS["DEV_SQS_PORT"]


@pytest.fixture
def no_servers_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEV_STATE", raising=False)


@pytest.mark.usefixtures("no_servers_given")
def test_no_two_workers_share_a_folder_or_a_port() -> None:
    stacks = suite._stacks(suite.own_settings(settings.from_environment({})), 4)
    assert len({one.state for one in stacks}) == 4
    assert len({port for one in stacks for port in (one.postgres_port, one.sqs_port, one.ui_port)}) == 12


@pytest.mark.usefixtures("no_servers_given")
@pytest.mark.parametrize("variable", ["DEV_SQS_ENDPOINT", "DEV_PG_DSN"])
def test_on_servers_of_others_tests_run_one_by_one(variable: str) -> None:
    given = settings.from_environment({variable: "http://127.0.0.1:1"})
    own = suite.own_settings(given)
    stacks = suite._stacks(own, 4)
    assert stacks == [own]
    unit, *others = suite._tests(own, stacks, None, [])
    assert unit.stacks == ()
    assert not any("--numprocesses" in " ".join(check.command) for check in others)


def folders_of(checks: list[suite.Check]) -> list[str]:
    tests = [check for check in checks if "pytest" in check.command]
    return [argument for check in tests for argument in check.command if argument.startswith("tests/")]


def test_the_whole_runs_each_folder_once_and_quick_some_of_them() -> None:
    own = settings.from_environment({})
    existing = {f"tests/{path.parent.name}" for path in (ROOT / "tests").glob("*/test_*.py")}
    whole, quick = (folders_of(suite._tests(own, [own] * 4, target, [])) for target in (None, "quick"))
    assert sorted(whole) == sorted(existing)
    assert set(quick) == {"tests/unit", "tests/integration", "tests/model"}


def test_the_suite_that_bounds_seconds_runs_when_nothing_else_does() -> None:
    own = settings.from_environment({})
    checks = suite._tests(own, [own] * 8, None, [])
    (together,) = [check for check in checks if "--numprocesses=8" in check.command]
    (alone,) = [check for check in checks if "tests/living" in check.command]
    assert checks.index(alone) > checks.index(together)
    assert "tests/living" not in folders_of([together])


def test_with_arguments_the_tests_run_in_one_process() -> None:
    own = settings.from_environment({})
    for target, stacks in (("integration", [own]), ("unit", [])):
        (check,) = suite._tests(own, stacks, target, ["-k", "audit"])
        assert check.command[-3:] == [f"tests/{target}", "-k", "audit"]


def test_the_unit_tests_have_a_worker_a_core_no_stack_and_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "CORES", 3)
    own = settings.from_environment({})
    for target, stacks in (("unit", []), (None, [own] * 4)):
        unit = suite._tests(own, stacks, target, [])[0]
        assert {"tests/unit", "--numprocesses=3", "--cov"} <= set(unit.command)
        assert unit.stacks == ()


def test_only_what_runs_all_kinds_of_checks_runs_the_static_ones() -> None:
    own = settings.from_environment({})
    expected = [title for title, _ in CHECKS]
    for target in (None, *suite.TARGETS):
        titles = [check.title for check in suite._static_checks(own, target)]
        assert titles == (expected if target in (None, "quick") else [])


@pytest.mark.parametrize("given", [None, "", "folder"])
def test_a_worker_without_a_stack_is_refused_unless_its_tests_need_none(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.delenv(suite.STACKS_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(suite.STACKS_VARIABLE, given)
    if given == "":
        before = dict(os.environ)
        use_own_stack("gw1")
        assert dict(os.environ) == before
        return
    with pytest.raises(pytest.UsageError, match=r"no stack for the worker gw1"):
        use_own_stack("gw1")


def outcome(exit_code: int = 0, **run: object) -> demo.Outcome:
    return demo.Outcome("user_logins", run, 5, exit_code, Path("log"))


def test_the_demo_in_json_has_the_promised_keys() -> None:
    numbers = json.loads(outcome(state="succeeded", received=3, loaded=2, total_seconds=1.5).as_json())
    assert set(numbers) == {
        "received", "loaded", "quarantined", "duplicates", "deleted", "left_on_queue", "seconds",
    }  # fmt: skip
    assert (numbers["received"], numbers["left_on_queue"], numbers["seconds"]) == (3, 5, 1.5)


@pytest.mark.parametrize(
    ("result", "succeeded"),
    [
        (outcome(state="succeeded"), True),
        (outcome(state="failed"), False),
        (outcome(exit_code=1, state="succeeded"), False),
        (outcome(), False),
    ],
)
def test_the_demo_succeeds_only_if_airflow_and_the_record_agree(
    result: demo.Outcome, succeeded: bool
) -> None:
    assert result.succeeded is succeeded


@pytest.mark.parametrize("run", [suite.run_side_by_side, suite.run_in_turn])
def test_all_checks_run_and_each_has_its_exit_code(
    tmp_path: Path, run: Callable[[settings.Settings, Console, list[suite.Check]], list[int]]
) -> None:
    own = replace(settings.from_environment({"DEV_STATE": str(tmp_path)}), root=tmp_path)
    checks = [
        suite.Check(str(code), ["bash", "-c", f"echo {code} > ran.{code}; exit {code}"]) for code in (0, 3, 4)
    ]
    assert run(own, Console(sys.stdout), checks) == [0, 3, 4]
    assert {path.name for path in tmp_path.glob("ran.*")} == {"ran.0", "ran.3", "ran.4"}


@pytest.mark.parametrize(("codes", "expected"), [([], 0), ([0, 0], 0), ([0, 3, 4], 3)])
def test_the_first_failure_is_the_exit_code(codes: list[int], expected: int) -> None:
    assert suite._first_failure(codes) == expected


def test_what_a_check_says_side_by_side_comes_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(suite, "CORES", 2)
    own = replace(settings.from_environment({}), root=tmp_path)
    # Each waits for the other to have begun: they do run at once.
    line = "touch began.{0}; timeout 20 bash -c 'until [ -e began.{1} ]; do sleep 0.01; done' || exit 9; "
    line += "echo {0} begins; echo {0} ends; {2}"
    commands = {"one": line.format("one", "two", "exit 0"), "two": line.format("two", "one", "exit 1")}
    checks = [suite.Check(title, ["bash", "-c", command]) for title, command in commands.items()]
    console = Console(stream := io.StringIO())
    with console.step("start"):
        assert suite.run_side_by_side(own, console, checks) == [0, 1]
    said = re.sub(r"\d+\.\d s", "1.0 s", stream.getvalue())
    assert "one begins\none ends\n  one: 1.0 s\n" in said
    assert "two begins\ntwo ends\n  two: failed after 1.0 s\n" in said
    assert said.endswith("\n  start: 1.0 s\n")


def test_the_sample_has_the_right_shape_and_only_documentation_addresses() -> None:
    lines = demo.DEMOS["user_logins"].sample.read_text().splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}") and '"ip"' in line]
    assert {frozenset(event) for event in events} == {
        frozenset({"user_id", "app_version", "device_type", "ip", "locale", "device_id"})
    }
    # RFC 5737
    assert all(event["ip"].startswith(("192.0.2.", "198.51.100.", "203.0.113.")) for event in events)
    assert any(event["locale"] is None for event in events)
    assert 0 < len(lines) - len(events) < 10
