"""A database of our own beside the warehouse, on the server that QUEUE_ETL_OWNER_DSN names."""

import os
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from include.queue_etl.postgres import migrations
from include.queue_etl.postgres.runs import RunStore
from tests.integration.scratch import CONTENTS, Database, copy_settings
from tests.support.resources import open_store


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


@pytest.fixture
def clean_database(database: Database) -> Database:
    """The scratch database, empty of data."""
    with database.owner() as connection:
        connection.execute(f"TRUNCATE {CONTENTS} RESTART IDENTITY")
    return database


@pytest.fixture
def warehouse(clean_database: Database) -> Iterator[RunStore]:
    """A warehouse on the empty scratch database, as etl_loader."""
    with open_store(clean_database.loader_dsn) as warehouse:
        yield warehouse
