"""Airflow: its metadata database and its four processes."""

import hashlib
import json
import subprocess
import urllib.request

from devstack import airflow_database, environment, locks, ports, postgres, processes
from devstack.console import Console
from devstack.credentials import write_private
from devstack.errors import StackError
from devstack.postgres import AIRFLOW
from devstack.processes import Part
from devstack.settings import Settings

DAG = "user_logins"
HEALTHY_SECONDS = 180

# `airflow standalone` starts the same four, but its scheduler and triggerer then serve logs on every
# interface and cannot be told not to (Airflow 3.3.2, utils/serve_logs/core.py).
COMMANDS = {
    "api-server": ("api-server", "--host", ports.HOST),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

# Runs of `airflow dags test` that were stopped. Nobody goes on with them, but with max_active_runs=1 the
# schedule waits until they time out; Airflow has no command that ends a run.
END_STOPPED_TESTS = """
with ended as (
    update dag_run set state = 'failed', end_date = now()
     where triggered_by = 'TEST' and state in ('queued', 'running') returning dag_id, run_id
), tasks as (
    update task_instance task set state = 'failed' from ended
     where task.dag_id = ended.dag_id and task.run_id = ended.run_id
       and task.state not in ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
)
select count(*) from ended
"""


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
    with console.step("prepare Airflow's database"):
        _migrate_or_copy(settings, console)
    stamp.write_text(digest)


def _migrate_or_copy(settings: Settings, console: Console) -> None:
    """Let Airflow migrate the database, but copy an empty one from a stack of this clone that did it before.

    Not where the server is somebody else's: its version may read no copy of ours.
    """
    if settings.postgres_dsn is not None or not airflow_database.is_empty(settings):
        return _migrate(settings)
    # Of stacks that start at once, one migrates and the others copy.
    with locks.held(settings.root / ".dev" / "airflow-database.lock", console):
        if airflow_database.copy(settings).exists():
            return airflow_database.restore(settings)
        _migrate(settings)
        airflow_database.save(settings)


def _migrate(settings: Settings) -> None:
    log = settings.logs / "airflow-migrate.log"
    command, env = airflow_command(settings, "db", "migrate"), environment.for_child(settings)
    with log.open("w") as file:
        run = subprocess.run(command, cwd=settings.root, env=env, stdout=file, stderr=file, check=False)
    if run.returncode:
        raise StackError(f"airflow db migrate failed; see {log}")


def start(settings: Settings, console: Console) -> None:
    """Start whichever of the four processes is not running, and wait until Airflow calls itself healthy."""
    _write_password(settings)
    missing = [part for part in parts(settings) if not _runs(part, settings)]
    processes.stop([part for part in missing if part.record()])
    if any(part.name == "api-server" for part in missing):
        require_port(settings)
    if any(part.name == "scheduler" for part in missing):
        _end_stopped_tests(settings, console)
    with console.step(f"start Airflow ({len(missing)} of {len(COMMANDS)} processes)"):
        for part in missing:
            _start(part, settings)
        _wait_until_healthy(settings)


def require_port(settings: Settings) -> None:
    """Raise StackError where another program has the port of the Airflow UI."""
    ports.require_free(settings.ui_port, "DEV_UI_PORT", "the Airflow UI", settings.ports.values())


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


def _end_stopped_tests(settings: Settings, console: Console) -> None:
    ended = int(postgres.query(settings, END_STOPPED_TESTS, database=AIRFLOW))
    if ended:
        console.note(f"  ended {ended} DAG run(s) that `airflow dags test` left behind when it was stopped")


def _start(part: Part, settings: Settings) -> None:
    command = airflow_command(settings, *COMMANDS[part.name])
    processes.start(part, command, environment.for_child(settings), settings.ui_port)
    if part.name == "api-server":
        # First and alone: tasks report to it, and one that cannot counts as failed.
        processes.wait_until(lambda: bool(health(settings)) or part.pid() is None, HEALTHY_SECONDS)


def _runs(part: Part, settings: Settings) -> bool:
    """Runs, on this port, and not since before Postgres was started anew: then it may be about to give up."""
    if part.pid() is None or part.record().get("port") != settings.ui_port:
        return False
    return not part.is_older_than(postgres.part(settings))


def _wait_until_healthy(settings: Settings) -> None:
    """Airflow's word is asked for once a turn: on a busy machine the next answer may be late."""

    def healthy() -> bool:
        for part in parts(settings):
            if part.pid() is None:
                raise StackError(f"{part.name} ended at once; the end of {part.log}:\n{part.log_tail()}")
        return _all_healthy(settings)

    if not processes.wait_until(healthy, HEALTHY_SECONDS, every=0.3):
        raise StackError(f"Airflow is not healthy after {HEALTHY_SECONDS} s; its logs are in {settings.logs}")


def _all_healthy(settings: Settings) -> bool:
    said = health(settings)
    return all(said.get(name) == "healthy" for name in COMMANDS)


def _write_password(settings: Settings) -> None:
    """Choose the UI's password ourselves: Airflow would print it and leave the file open to everyone."""
    path = environment.password_file(settings)
    if not path.exists():
        write_private(path, json.dumps({environment.UI_USER: environment.ui_password(settings)}))


def airflow_command(settings: Settings, *arguments: str) -> list[str]:
    """Return the command line of Airflow's own program, for the stack's environment."""
    return [str(settings.python), "-m", "airflow", *arguments]
