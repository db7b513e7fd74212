"""A copy of Airflow's new metadata database: its migration takes 6 s of CPU, a copy of what it made 1 s."""

import hashlib
import subprocess
from pathlib import Path

from devstack import postgres
from devstack.errors import StackError
from devstack.postgres import AIRFLOW
from devstack.settings import Settings

TABLES = "select count(*) from pg_tables where schemaname = 'public'"


def copy(settings: Settings) -> Path:
    """Return where this clone keeps the copy for its stacks; another version of Airflow has another."""
    lock = settings.root / "requirements.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    return settings.root / ".dev" / f"airflow-database-{digest}.sql"


def is_empty(settings: Settings) -> bool:
    """Tell whether the stack's metadata database has no tables."""
    return postgres.query(settings, TABLES, database=AIRFLOW) == "0"


def restore(settings: Settings) -> None:
    """Make the tables in an empty database, as the copy has them, all or none."""
    sql = copy(settings).read_text()
    postgres.query(settings, f"begin;\n{sql}\ncommit;\n", database=AIRFLOW)


def save(settings: Settings) -> None:
    """Keep a copy of a database that was migrated just now and holds nobody's data; remove older ones."""
    path = copy(settings)
    for old in path.parent.glob("airflow-database-*.sql"):
        old.unlink()
    partial = path.with_suffix(".partial")
    partial.write_text(dump(settings))
    partial.rename(path)


def dump(settings: Settings) -> str:
    """Return SQL that makes the stack's metadata database as it is.

    Raises:
        StackError: pg_dump failed
    """
    login = postgres.superuser(settings)
    address = [f"--host={login.host}", f"--port={login.port}", f"--username={login.user}"]
    command = [str(postgres.bundled(settings) / "bin" / "pg_dump"), *address, f"--dbname={AIRFLOW}"]
    env = postgres.psql_environment(login)
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise StackError(f"pg_dump: {(run.stderr.strip().splitlines() or ['failed'])[0]}")
    return run.stdout
