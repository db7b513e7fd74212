"""The stack as a whole: bring it up, take it down, forget it, say how it is."""

import hashlib
import shutil
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from devstack import (
    emulator,
    engine,
    environment,
    keyset,
    locks,
    orchestrator,
    ports,
    postgres,
    processes,
    queues,
    virtualenvs,
    warehouses,
)
from devstack.console import Console
from devstack.credentials import write_private
from devstack.errors import StackError
from devstack.processes import Part
from devstack.settings import Settings

# What `reset` removes: all that a stack makes in its state folder, and nothing a person may have put there.
STATE = (
    "postgres", "postgres.log", "postgres.moved", "ministack", "staging", "secrets", "logs", "run", "env",
    "airflow.cfg", "ports.json", "airflow-database.stamp", "warehouse.stamp",
)  # fmt: skip


@dataclass(frozen=True)
class PartStatus:
    """One line of `./dev status`."""

    name: str
    pid: int | None
    port: int | None
    health: str

    @property
    def is_healthy(self) -> bool:
        """Whether it answers and is well."""
        return self.health.startswith("healthy")


def install(settings: Settings, console: Console) -> None:
    """Build or repair the virtualenvs, one ./dev of this clone at a time."""
    with locks.held(settings.root / ".dev" / "install.lock", console):
        virtualenvs.ensure(settings, console)


def ensure(
    settings: Settings,
    console: Console,
    airflow_database: bool = False,
    sqs: bool = True,
    revisions: bool = True,
) -> None:
    """Bring up whatever of the servers is missing, and the databases, roles, keys and queues they hold.

    Each step does nothing when its work is done already, so that any command can call this first. Without
    `sqs`: Postgres only. Without `revisions` a warehouse that was prepared with the same logins keeps its
    schema: a person may still be reading the revision that `contract migration` wrote.
    """
    require_ports(settings, ("postgres", "ministack") if sqs else ("postgres",))
    install(settings, console)
    with locks.held(settings.state / "stack.lock", console):
        _start_servers(settings, console, sqs)
        _create_keyset(settings)
        environment.write(settings)  # the keys are part of a connection in it
        _prepare(settings, console, revisions)
        if sqs:
            _prepare_queues(settings, console)
        if airflow_database:
            orchestrator.migrate(settings, console)


def require_ports(settings: Settings, names: Collection[str]) -> None:
    """Raise StackError where another program has a port that one of these parts will need.

    Asked first: the virtualenvs take a minute, and a person should not wait for it to hear of a port.
    """
    checks = {"api-server": (orchestrator.require_port, settings.ui_port)}
    if settings.postgres_dsn is None:
        checks["postgres"] = (postgres.require_port, settings.postgres_port)
    if settings.sqs_endpoint is None:
        checks["ministack"] = (emulator.require_port, settings.sqs_port)
    for part in all_parts(settings):
        if part.name in names and part.name in checks:
            require, port = checks[part.name]
            # Where its own record names the port, what listens may be the part, or remains of it. The record
            # is read last: another ./dev may be starting the part.
            if not ports.is_free(port) and part.record().get("port") != port:
                require(settings)


def ui_address(settings: Settings) -> str:
    """Return the URL of Airflow's UI."""
    return f"http://localhost:{settings.ui_port}"


def page_address(settings: Settings) -> str:
    """Return the URL of the queues in Airflow's UI."""
    return f"{ui_address(settings)}/plugin/queue-etl"


def ensure_airflow(settings: Settings, console: Console) -> None:
    """Bring up Airflow's processes on top of a stack that `ensure` made."""
    with locks.held(settings.state / "stack.lock", console):
        orchestrator.start(settings, console)


def down(settings: Settings, console: Console) -> list[str]:
    """Stop every process of the stack, keeping its data; return the names of those that were running."""
    if emulator.part(settings).died():
        console.note(f"  {emulator.LOSS}")
    with locks.held(settings.state / "stack.lock", console), console.step("stop"):
        # Airflow first: it would log errors about a database that is gone.
        stopped = processes.stop(orchestrator.parts(settings))
        stopped += processes.stop([emulator.part(settings)])
        # SIGINT is Postgres's fast shutdown: it ends sessions and writes a checkpoint.
        return stopped + processes.stop([postgres.part(settings)], signal.SIGINT)


def reset(settings: Settings, console: Console) -> list[Path]:
    """Stop the stack and remove its data, secrets and logs; return what was removed."""
    down(settings, console)
    with locks.held(settings.state / "stack.lock", console):
        moved = postgres.data_folder(settings).parent
        found = [path for path in (settings.state / name for name in STATE) if path.exists()]
        if moved.parent == postgres.SYSTEM_FOLDER:
            found.append(moved)
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def all_parts(settings: Settings) -> list[Part]:
    """Return every part, servers first."""
    return [postgres.part(settings), emulator.part(settings), *orchestrator.parts(settings)]


def status(settings: Settings) -> list[PartStatus]:
    """Look at every part: is its process there, and does it answer."""
    servers = [
        _server(postgres.part(settings), settings.postgres_dsn, postgres.is_ready(settings)),
        _server(emulator.part(settings), settings.sqs_endpoint, emulator.is_ready(settings)),
    ]
    said = orchestrator.health(settings)
    return servers + [_airflow(part, said) for part in orchestrator.parts(settings)]


def recreate_queues(settings: Settings, console: Console, found: queues.Listing) -> str:
    """Make the missing queues where the emulator is ours; return a sentence for what was or can be done."""
    names = ", ".join(queue.name for queue in found.missing)
    if settings.sqs_endpoint:
        return f"./dev up makes the missing queues at {settings.sqs_endpoint}: {names}"
    with locks.held(settings.state / "stack.lock", console):
        queues.create_missing(settings, found)
    return f"made again, empty: {names}; messages that were on them are lost, rows in Postgres are safe"


def misplaced(settings: Settings) -> dict[str, str]:
    """Return a sentence for each part that runs on another port than its variable says, by its name."""
    variables = {"postgres": "DEV_PG_PORT", "ministack": "DEV_SQS_PORT", "api-server": "DEV_UI_PORT"}
    found = {}
    for part in (part for part in all_parts(settings) if part.name in variables):
        variable = variables[part.name]
        port, actual = settings.ports[variable], part.record().get("port")
        if actual not in (None, port) and part.pid():
            found[part.name] = f"{part.name} runs on {actual}, {variable} says {port}"
    return found


def _server(part: Part, elsewhere: str | None, answers: bool) -> PartStatus:
    if elsewhere:
        return PartStatus(part.name, None, None, "healthy, not ours" if answers else "does not answer")
    return _judge(part, "healthy" if answers else "does not answer", listens=True)


def _airflow(part: Part, said: dict[str, str]) -> PartStatus:
    # The other three have no port; their records hold that of the UI, to be started anew when it changes.
    return _judge(part, said.get(part.name, "does not answer"), listens=part.name == "api-server")


def _judge(part: Part, health: str, listens: bool) -> PartStatus:
    pid = part.pid()
    if pid is None:
        return PartStatus(part.name, None, None, "died" if part.died() else "stopped")
    return PartStatus(part.name, pid, part.record().get("port") if listens else None, health)


def _start_servers(settings: Settings, console: Console, sqs: bool) -> None:
    for line in misplaced(settings).values():
        console.note(f"  {line}: it moves there")
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.logs.mkdir(exist_ok=True)
    if settings.postgres_dsn is None:
        postgres.start(settings, console)
    elif not postgres.is_ready(settings):
        raise StackError("no Postgres answers at DEV_PG_DSN")
    if sqs:
        _start_sqs(settings, console)
    settings.remember_ports()


def _start_sqs(settings: Settings, console: Console) -> None:
    if settings.sqs_endpoint is None:
        emulator.start(settings, console)
    elif not emulator.is_ready(settings):
        raise StackError(f"nothing answers at DEV_SQS_ENDPOINT {settings.sqs_endpoint}")


def _create_keyset(settings: Settings) -> None:
    path = environment.keyset_file(settings)
    if not path.exists():
        write_private(path, keyset.new_json())


def _prepare(settings: Settings, console: Console, revisions: bool) -> None:
    stamp = settings.state / "warehouse.stamp"
    servers, schema = _servers_digest(settings), _schema_digest(settings)
    found = stamp.read_text().split() if stamp.exists() else []
    if found[:1] != [servers] or (revisions and found[1:] != [schema]):
        with console.step("prepare the warehouse"):
            postgres.provision(settings, map(warehouses.database, warehouses.names(settings)))
            engine.output(settings, "migrate")
        stamp.write_text(f"{servers} {schema}")


def _prepare_queues(settings: Settings, console: Console) -> None:
    """Make the queues that are missing; a contract that cannot be loaded is said and stops no other."""
    with console.step("check the queues"):
        found = queues.listing(settings)
        made = queues.create_missing(settings, found)
    if made:
        console.note(f"  made the queues {', '.join(made)}")
    for name, error in found.broken.items():
        console.note(f"  contract {name} cannot be loaded, its queues are left alone: {error}")


def _servers_digest(settings: Settings) -> str:
    """Return a digest that changes with the server, the warehouses and the passwords of the roles."""
    variables = sorted(environment.build(settings).items())
    logins = [pair for pair in variables if pair[0].endswith(("_DSN", "_PASSWORD", "_CONN"))]
    return hashlib.sha256(repr(logins).encode()).hexdigest()


def _schema_digest(settings: Settings) -> str:
    """Return a digest that changes with the revisions and what runs them."""
    digest = hashlib.sha256()
    migrations = settings.root / "include" / "queue_etl" / "postgres" / "migrations"
    for path in sorted([*migrations.rglob("*.py"), *migrations.rglob("*.sql")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
