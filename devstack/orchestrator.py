"""Airflow: its metadata database, its four processes, and one run of the DAG without them."""

import hashlib
import json
import re
import subprocess
import urllib.request
from pathlib import Path

from devstack import environment, ports, processes
from devstack.console import Console
from devstack.credentials import secret, write_private
from devstack.errors import StackError
from devstack.processes import Part
from devstack.settings import Settings

DAG = "user_logins"
HEALTHY_SECONDS = 180
TASK_STARTS = re.compile(r"\[DAG TEST\] starting task_id=(\w+) map_index=(-?\d+)")

# `airflow standalone` starts the same four, but its scheduler and triggerer then serve logs on every
# interface and cannot be told not to (Airflow 3.3.2, utils/serve_logs/core.py).
COMMANDS = {
    "api-server": ("api-server", "--host", ports.HOST),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


def parts(settings: Settings) -> list[Part]:
    """Return Airflow's processes as parts of the stack."""
    return [Part(name, settings.state, settings.logs / f"{name}.log", settings.root) for name in COMMANDS]


def migrate(settings: Settings, console: Console) -> None:
    """Bring Airflow's metadata database up to the installed version, unless that was done already."""
    stamp = settings.state / "airflow-database.stamp"
    # The lock decides Airflow's version, the secret and the address which database it is.
    env = environment.build(settings)
    state = (settings.root / "requirements.lock").read_text() + env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    digest = hashlib.sha256(state.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    log = settings.logs / "airflow-migrate.log"
    command, child_env = _airflow(settings, "db", "migrate"), environment.for_child(settings)
    with console.step("prepare Airflow's database"), log.open("w") as file:
        run = subprocess.run(command, cwd=settings.root, env=child_env, stdout=file, stderr=file, check=False)
    if run.returncode:
        raise StackError(f"airflow db migrate failed; see {log}")
    stamp.write_text(digest)


def start(settings: Settings, console: Console) -> None:
    """Start whichever of the four processes is not running, and wait until Airflow calls itself healthy."""
    _write_password(settings)
    missing = [part for part in parts(settings) if not _runs(part, settings)]
    processes.stop([part for part in missing if part.record()])
    if any(part.name == "api-server" for part in missing):
        ports.require_free(settings.ui_port, "DEV_UI_PORT", "the Airflow UI")
    with console.step(f"start Airflow ({len(missing)} of {len(COMMANDS)} processes)"):
        for part in missing:
            command = _airflow(settings, *COMMANDS[part.name])
            processes.start(part, command, environment.for_child(settings), settings.ui_port)
        _wait_until_healthy(settings)


def health(settings: Settings) -> dict[str, str]:
    """Return Airflow's own word on each process, `healthy` or not; empty when the UI does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"http://{ports.HOST}:{settings.ui_port}/api/v2/monitor/health"
    try:
        with opener.open(address, timeout=5) as reply:
            said = json.load(reply)
    except (OSError, ValueError):
        return {}
    named = {name.replace("_", "-"): str(part.get("status")) for name, part in said.items()}
    return {**named, "api-server": "healthy"}


def run_dag(settings: Settings, console: Console, log: Path) -> int:
    """Run the DAG once with `airflow dags test`, its output in `log`, its tasks on the console."""
    with log.open("w") as file, _dags_test(settings) as run:
        assert run.stdout is not None
        for line in run.stdout:
            file.write(line)
            if started := TASK_STARTS.search(line):
                task, index = started.groups()
                console.note(f"    task {task}" + (f", batch {index}" if index != "-1" else ""))
    return run.returncode


def _dags_test(settings: Settings) -> "subprocess.Popen[str]":
    # A wide terminal: the log would otherwise be wrapped in the middle of what is searched for.
    return subprocess.Popen(
        _airflow(settings, "dags", "test", DAG),
        cwd=settings.root,
        env={**environment.for_child(settings), "COLUMNS": "300", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _runs(part: Part, settings: Settings) -> bool:
    return part.pid() is not None and part.record().get("port") == settings.ui_port


def _wait_until_healthy(settings: Settings) -> None:
    def settled() -> bool:
        return _all_healthy(settings) or any(part.pid() is None for part in parts(settings))

    processes.wait_until(settled, HEALTHY_SECONDS)
    dead = [part for part in parts(settings) if part.pid() is None]
    if dead:
        raise StackError(f"{dead[0].name} ended at once; the end of {dead[0].log}:\n{dead[0].log_tail()}")
    if not _all_healthy(settings):
        raise StackError(f"Airflow is not healthy after {HEALTHY_SECONDS} s; its logs are in {settings.logs}")


def _all_healthy(settings: Settings) -> bool:
    said = health(settings)
    return all(said.get(name) == "healthy" for name in COMMANDS)


def _write_password(settings: Settings) -> None:
    """Choose the UI's password ourselves: Airflow would print it and leave the file open to everyone."""
    path = environment.password_file(settings)
    if not path.exists():
        password = secret(settings.state / "secrets", "ui_password")
        write_private(path, json.dumps({environment.UI_USER: password}))


def _airflow(settings: Settings, *arguments: str) -> list[str]:
    return [str(settings.python), "-m", "airflow", *arguments]
