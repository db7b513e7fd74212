"""The schema of the warehouse and its roles, in plain SQL.

`versions/NNNN_name.sql` are the revisions. Each runs once in a database, in the order of the numbers. The
table `etl.schema_revision` has the number of the last one. After them, every `migrate` runs `grants.sql`.

A second pipeline adds one revision here, which `contract migration` writes: the table of its contract, and a
call of `etl.grant_contract`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path

import psycopg
from psycopg import sql

from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError, WarehouseRefused
from include.queue_etl.postgres import masked_columns, partitions, server_log
from include.queue_etl.postgres.connection import Connection, connect, to_engine_error

HERE = Path(__file__).parent
NOTHING = "0000"  # revision of a database in which none has run
ATTEMPTS = 10
# Any number: it only has to differ from those of other programs in the same database.
MIGRATION_LOCK = 7_205_319_140
# Those that log in.
ROLES = ("etl_loader", "etl_maintainer", "etl_remasker", "analyst", "pii_officer", "ops_ro")


def head_revision() -> str:
    """The revision this code needs."""
    return max(path.stem[:4] for path in (HERE / "versions").glob("[0-9]*.sql"))


def upgrade(owner_dsn: str, passwords: Mapping[str, str], contracts: Iterable[Contract] = ()) -> list[str]:
    """Bring the database to `head_revision()`, renew all grants and set the roles' passwords.

    Running it again restores what is missing and changes nothing else.

    Args:
        owner_dsn: of a superuser, or of a role with CREATEROLE that owns the database
        passwords: of the roles in `ROLES`; one left out keeps its password, and cannot log in without
        contracts: their tables, as far as they exist, get their grants; masked columns and partitions are
            registered

    Returns:
        What the owner was not allowed to do and somebody else should, a sentence each

    Raises:
        ValueError: a password is given for a role that is not ours, or revisions are numbered wrongly
        WarehouseUnavailable, WarehouseRefused: a failed migration leaves the database as it was
    """
    if foreign := set(passwords) - set(ROLES):
        raise ValueError(f"not a role of the warehouse: {', '.join(sorted(foreign))}")
    revisions = _revisions()
    contracts = [table for contract in contracts for table in contract.each_table()]
    _despite_neighbours(lambda: _migrate(owner_dsn, revisions, contracts))
    _despite_neighbours(lambda: _set_passwords(owner_dsn, passwords))
    with _connect(owner_dsn) as connection:
        return server_log.warnings(connection)


def _revisions() -> list[Path]:
    """The revisions in the order in which they run."""
    paths = sorted((HERE / "versions").glob("[0-9]*.sql"))
    for number, path in enumerate(paths, 1):
        if not path.name.startswith(f"{number:04}_"):
            raise ValueError(
                f"migrations/versions/{path.name} should be {number:04}_*.sql: revisions are numbered from "
                "0001, without gaps, each number once"
            )
    return paths


def _migrate(owner_dsn: str, revisions: Iterable[Path], contracts: Iterable[Contract]) -> None:
    """All in one transaction, and one migration of the database at a time."""
    with _connect(owner_dsn) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
        current, head = _current_revision(connection), head_revision()
        if current > head:
            raise WarehouseRefused(
                f"the warehouse is at revision {current}, newer than this code ({head}): update the code"
            )
        if current == NOTHING:
            _require_owner_role(connection)
        for path in revisions:
            if path.stem[:4] > current:
                _run(connection, path)
        connection.execute("DELETE FROM etl.schema_revision")
        connection.execute("INSERT INTO etl.schema_revision (version_num) VALUES (%s)", [head])
        connection.execute((HERE / "grants.sql").read_bytes())
        for contract in contracts:
            _grant(connection, contract)
            masked_columns.register(connection, contract)
            partitions.register(connection, contract)


def _run(connection: Connection, path: Path) -> None:
    """Run a revision; an error has its name as a note."""
    try:
        connection.execute(path.read_bytes())
    except psycopg.Error as error:
        error.add_note(path.name)
        raise


def _grant(connection: Connection, contract: Contract) -> None:
    """Renew the rights to a contract's table, if it is there."""
    columns = sorted({masked.column for masked in contract.personal})
    subject = contract.subject and contract.subject.name
    given = {"columns": columns, "subject": subject, "is_upsert": bool(contract.key)}
    connection.execute(GRANT_CONTRACT, {"table": contract.table, **given})


def _current_revision(connection: Connection) -> str:
    """Number of the last revision that ran; a new database gets its table for it."""
    # Not in `public`, where Airflow's own revision would be if it shared the database. The table is the one
    # that Alembic made for earlier versions.
    if connection.execute("SELECT to_regclass('etl.schema_revision')").fetchone() == (None,):
        connection.execute("CREATE SCHEMA IF NOT EXISTS etl")
        connection.execute(
            "CREATE TABLE etl.schema_revision"
            " (version_num varchar(32) NOT NULL CONSTRAINT schema_revision_pkc PRIMARY KEY)"
        )
    found = connection.execute("SELECT version_num FROM etl.schema_revision").fetchone()
    return str(found[0]) if found else NOTHING


def _require_owner_role(connection: Connection) -> None:
    """Roles belong to the whole server: who made etl_owner for another database has to share it."""
    found = connection.execute(FOREIGN_OWNER_ROLE).fetchone()
    if found:
        raise WarehouseRefused(
            f"role etl_owner is there already, made for another database of this server, and {found[0]} may "
            f"not grant it: as a superuser, or as who made it, run GRANT etl_owner TO {found[0]} WITH ADMIN "
            "OPTION; then migrate again"
        )


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
    """What Postgres said to `work`; None when all went well."""
    try:
        work()
    except psycopg.Error as error:
        return error
    return None


def _told(failure: psycopg.Error) -> QueueEtlError:
    """Like all our errors without values; those of classes 42 and 0A are of names, which people need."""
    told = to_engine_error(failure)
    message = str(told)
    if isinstance(told, WarehouseRefused) and (failure.sqlstate or "").startswith(("42", "0A")):
        message = f"Postgres refused: {failure.diag.message_primary} (SQLSTATE {failure.sqlstate})"
    told.args = ("".join(f"{revision}: " for revision in getattr(failure, "__notes__", ())) + message,)
    return told


# A column that is not there yet is for the preflight to name.
GRANT_CONTRACT = """
    SELECT etl.grant_contract(to_regclass(%(table)s), ARRAY(
        SELECT attname::text FROM pg_attribute
        WHERE attrelid = to_regclass(%(table)s) AND NOT attisdropped AND attname = ANY (%(columns)s)
    ), %(subject)s, %(is_upsert)s) WHERE to_regclass(%(table)s) IS NOT NULL
"""
FOREIGN_OWNER_ROLE = """
    SELECT quote_ident(current_user)
    FROM pg_roles AS mine JOIN pg_roles AS owner ON owner.rolname = 'etl_owner'
    WHERE mine.rolname = current_user AND NOT mine.rolsuper
      AND NOT pg_has_role(owner.oid, 'MEMBER WITH ADMIN OPTION')
"""
