"""A database of our own beside the warehouse, on the server that QUEUE_ETL_OWNER_DSN names."""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include import migrations
from include.queue_etl.warehouse import Warehouse

CONTENTS = (
    "public.user_logins, etl.queues, etl.runs, etl.batches, etl.keys, etl.ledger, etl.quarantine, pii.audit"
)


@dataclass(frozen=True)
class Database:
    """A migrated database.

    The roles are the cluster's, and so are their passwords: those of a running stack must not change. So
    the tests log in through roles of their own, each a member of one of ours, which it becomes at once.
    """

    owner_dsn: str
    suffix: str
    password: str

    def dsn(self, role: str) -> str:
        return make_conninfo(
            self.owner_dsn, user=f"{role}_{self.suffix}", password=self.password, options=f"-c role={role}"
        )

    @property
    def loader_dsn(self) -> str:
        return self.dsn("etl_loader")

    @property
    def name(self) -> str:
        return str(conninfo_to_dict(self.owner_dsn)["dbname"])

    def owner(self) -> psycopg.Connection:
        return psycopg.connect(self.owner_dsn, autocommit=True)

    def rows(self, statement: str) -> list[tuple]:
        with self.owner() as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture(scope="session")
def server_dsn() -> str:
    """A superuser's DSN; its database is left alone."""
    dsn = os.environ.get("QUEUE_ETL_OWNER_DSN")
    if not dsn:
        pytest.fail("QUEUE_ETL_OWNER_DSN is not set: run the tests through ./dev test")
    return dsn


@pytest.fixture(scope="session")
def empty_database(server_dsn: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database at each call and returns its owner's DSN; all are dropped at the end."""
    made = []

    def make() -> str:
        name = f"scratch_{secrets.token_hex(4)}"
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append(name)
        return make_conninfo(server_dsn, dbname=name)

    yield make
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def database(server_dsn: str, empty_database: Callable[[], str]) -> Iterator[Database]:
    """The migrated scratch database, with whatever the tests before left in it."""
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    made = Database(dsn, secrets.token_hex(4), secrets.token_urlsafe(16))
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        for role in migrations.ROLES:
            login = sql.Identifier(f"{role}_{made.suffix}")
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
            connection.execute(create.format(login, sql.Literal(made.password), sql.Identifier(role)))
            copy_settings(connection, made, role)
    yield made
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        for role in migrations.ROLES:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"{role}_{made.suffix}")))


def copy_settings(connection: psycopg.Connection, database: Database, role: str) -> None:
    """A role's settings are not inherited by its members."""
    found = connection.execute(
        "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase"
        " WHERE datname = %s AND setrole = %s::regrole",
        (database.name, role),
    )
    for (setting,) in found.fetchall():
        name, value = setting.split("=", 1)
        alter = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
        connection.execute(
            alter.format(
                sql.Identifier(f"{role}_{database.suffix}"),
                sql.Identifier(database.name),
                sql.Identifier(name),
                sql.Literal(value),
            )
        )


@pytest.fixture
def clean_database(database: Database) -> Database:
    """The scratch database, empty of data."""
    with database.owner() as connection:
        connection.execute(f"TRUNCATE {CONTENTS} RESTART IDENTITY")
    return database


@pytest.fixture
def warehouse(clean_database: Database) -> Iterator[Warehouse]:
    """A warehouse on the empty scratch database, as etl_loader."""
    with Warehouse(clean_database.loader_dsn) as warehouse:
        yield warehouse
