"""The schema of the warehouse and its roles: Alembic, with plain SQL inside.

A second pipeline adds one revision here, NNNN_name.py and NNNN_name.sql: the table of its contract, owned by
`etl_owner`, with

- INSERT for `etl_loader`, SELECT for `analyst` and `pii_officer`;
- UPDATE of what is personal for `pii_officer`, who erases it;
- SELECT of ctid and the masked columns, and UPDATE of these, for `etl_remasker`, who moves them to a new key.

Masked columns must allow NULL: a blank value is NULL, and an erased one too.
"""

import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path

import psycopg
from psycopg import sql

from include.queue_etl.errors import QueueEtlError, WarehouseRefused
from include.queue_etl.postgres import Connection, connect, to_engine_error

HERE = Path(__file__).parent
ATTEMPTS = 10
# Those that log in.
ROLES = ("etl_loader", "etl_maintainer", "etl_remasker", "analyst", "pii_officer", "ops_ro")


def head_revision() -> str:
    """The revision this code needs.

    Read off the file names, not through Alembic: every preflight asks, and importing Alembic with SQLAlchemy
    takes longer than all the preflight's statements. A test proves that Alembic says the same.
    """
    return max(path.stem[:4] for path in (HERE / "versions").glob("[0-9]*.py"))


def upgrade(owner_dsn: str, passwords: Mapping[str, str]) -> None:
    """Bring the database to `head_revision()` and set the roles' passwords. Running it again changes nothing.

    Args:
        owner_dsn: of a superuser, or of a role with CREATEROLE that owns the database
        passwords: of the roles in `ROLES`; one left out keeps its password, and cannot log in without

    Raises:
        ValueError: a password is given for a role that is not ours, or a revision lacks its .py
        WarehouseUnavailable, WarehouseRefused: a failed migration leaves the database as it was
    """
    if foreign := set(passwords) - set(ROLES):
        raise ValueError(f"not a role of the warehouse: {', '.join(sorted(foreign))}")
    if alone := _without_revision(HERE / "versions"):
        raise ValueError(f"no .py beside {', '.join(alone)}: nothing would run it; copy the one before it")
    _despite_neighbours(lambda: _migrate(owner_dsn))
    _despite_neighbours(lambda: _set_passwords(owner_dsn, passwords))


def _without_revision(folder: Path) -> list[str]:
    """SQL that Alembic does not see, since a revision is a Python file."""
    return sorted(path.name for path in folder.glob("[0-9]*.sql") if not path.with_suffix(".py").exists())


def _migrate(owner_dsn: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.attributes["connect"] = lambda: _connect(owner_dsn)
    command.upgrade(config, "head")


def _connect(owner_dsn: str) -> Connection:
    connection = connect(owner_dsn, silence_seconds=inf)  # an index may take hours to build
    connection.autocommit = False
    return connection


def _set_passwords(owner_dsn: str, passwords: Mapping[str, str]) -> None:
    """Send SCRAM verifiers made here, so that a server which logs its statements logs no password."""
    with _connect(owner_dsn) as connection:
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
            connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )


def _despite_neighbours(work: Callable[[], None]) -> None:
    """Repeat `work` while another database of the cluster changes the same roles.

    Roles are cluster-wide, advisory locks are not; Postgres then says "tuple concurrently updated" (XX000).
    """
    failure = _failure_of(work)
    for attempt in range(1, ATTEMPTS):
        if not isinstance(failure, psycopg.errors.InternalError_):
            break
        time.sleep(0.1 * attempt)
        failure = _failure_of(work)
    if failure is not None:
        raise _told(failure)


def _failure_of(work: Callable[[], None]) -> psycopg.Error | None:
    """What Postgres said to `work`, whether or not SQLAlchemy has wrapped it; None when all went well."""
    try:
        work()
    except Exception as error:
        said = getattr(error, "orig", error)
        if not isinstance(said, psycopg.Error):
            raise
        return said
    return None


def _told(failure: psycopg.Error) -> QueueEtlError:
    """Like all our errors without values; but what class 42 says is about names, and is needed to mend it."""
    told = to_engine_error(failure)
    if isinstance(told, WarehouseRefused) and (failure.sqlstate or "").startswith("42"):
        message = f"Postgres refused: {failure.diag.message_primary} (SQLSTATE {failure.sqlstate})"
        return WarehouseRefused(message, failure.sqlstate)
    return told
