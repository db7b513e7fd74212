"""The migrations make the expected schema, whoever runs them, however often."""

import difflib
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import make_conninfo

from include import migrations
from include.contracts import contract_names, load_contract
from include.queue_etl.errors import WarehouseRefused
from tests.integration.schema_text import schema_text
from tests.integration.scratch import Database

ROOT = Path(__file__).parents[2]
EXPECTED = Path(__file__).with_name("expected_schema.txt")


def text_of(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return schema_text(connection)


def test_the_migrated_schema_is_the_expected_one(empty_database: Callable[[], str], tmp_path: Path) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    found, expected = text_of(dsn), EXPECTED.read_text(encoding="utf-8")
    if found != expected:
        new = tmp_path / EXPECTED.name
        new.write_text(found, encoding="utf-8")
        changes = difflib.unified_diff(
            expected.splitlines(), found.splitlines(), "expected", "found", "", "", 1
        )
        pytest.fail("\n".join([*changes, f"if that is what you want: cp {new} {EXPECTED}"]), pytrace=False)


def test_migrating_again_changes_nothing(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    first = text_of(dsn)
    migrations.upgrade(dsn, {})
    assert text_of(dsn) == first


def test_two_who_migrate_one_database_at_once_both_succeed(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: subprocess_upgrade(dsn), range(2)))
    assert text_of(dsn) == EXPECTED.read_text(encoding="utf-8")


def test_two_databases_of_one_server_migrated_at_once_share_the_roles(
    empty_database: Callable[[], str],
) -> None:
    both = [empty_database(), empty_database()]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(subprocess_upgrade, both))
    assert {text_of(dsn) for dsn in both} == {EXPECTED.read_text(encoding="utf-8")}


def subprocess_upgrade(dsn: str) -> None:
    """In a process of its own: Alembic's context is a global of the process."""
    code = f"from include import migrations; migrations.upgrade({dsn!r}, {{}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_failed_migration_leaves_nothing(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE VIEW public.user_logins AS SELECT 1")
    with pytest.raises(WarehouseRefused, match='relation "user_logins" already exists'):
        migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT to_regnamespace('etl'), to_regnamespace('pii')").fetchone()
    assert found == (None, None)


def test_the_head_revision_is_the_one_alembic_sees() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.HERE))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [migrations.head_revision()]
    names = {revision.revision: Path(revision.path).name for revision in script.walk_revisions()}
    assert all(re.fullmatch(rf"{number}_\w+\.py", name) for number, name in names.items())


def test_the_first_revision_cannot_be_undone(empty_database: Callable[[], str]) -> None:
    from alembic import command

    dsn = empty_database()
    migrations.upgrade(dsn, {})
    config = Config()
    config.set_main_option("script_location", str(migrations.HERE))
    config.attributes["connect"] = lambda: psycopg.connect(dsn)
    with pytest.raises(NotImplementedError, match="cannot be undone"):
        command.downgrade(config, "base")
    assert text_of(dsn) == EXPECTED.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", contract_names())
def test_every_contract_has_its_table_with_its_columns(database: Database, name: str) -> None:
    contract = load_contract(name)
    with database.owner() as connection:
        found = connection.execute(f"SELECT * FROM {contract.table}").description  # noqa: S608
    assert [column.name for column in found] == [column.column for column in contract.columns]


# Passwords and who migrates


def test_a_database_that_cannot_be_reached_is_one_clear_line(server_dsn: str) -> None:
    with pytest.raises(WarehouseRefused) as caught:
        migrations.upgrade(make_conninfo(server_dsn, dbname="nowhere"), {})
    assert re.fullmatch(
        r"Postgres at .*, database nowhere, user \w+: there is no such database", str(caught.value)
    )


def test_a_role_that_may_not_migrate_is_told_so(
    database: Database, empty_database: Callable[[], str]
) -> None:
    analyst = make_conninfo(empty_database(), user=f"analyst_{database.suffix}", password=database.password)
    with pytest.raises(WarehouseRefused, match="permission denied for database"):
        migrations.upgrade(analyst, {})


def test_two_databases_of_one_server_may_set_passwords_at_once(
    empty_database: Callable[[], str], database: Database, spare_role: str
) -> None:
    others = [database.owner_dsn, empty_database()]
    migrations.upgrade(others[1], {})

    def set_passwords(dsn: str) -> None:
        for _ in range(10):
            migrations._despite_neighbours(lambda: migrations._set_passwords(dsn, {spare_role: "password"}))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(set_passwords, others))
    psycopg.connect(make_conninfo(database.owner_dsn, user=spare_role, password="password")).close()


def test_a_password_for_a_role_that_is_not_ours_is_refused_before_anything_is_done(
    empty_database: Callable[[], str],
) -> None:
    dsn = empty_database()
    with pytest.raises(ValueError, match="postgres"):
        migrations.upgrade(dsn, {"postgres": "x"})
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('etl')").fetchone() == (None,)


@pytest.fixture
def spare_role(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Stands for one of the four: their passwords belong to the stack that runs on this server."""
    name = f"spare_{secrets.token_hex(4)}"
    with database.owner() as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        monkeypatch.setattr(migrations, "ROLES", (*migrations.ROLES, name))
        yield name
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_password_that_is_given_is_the_one_that_works(database: Database, spare_role: str) -> None:
    for password in ("first 'pass\\word", "second"):
        migrations.upgrade(database.owner_dsn, {spare_role: password})
        psycopg.connect(make_conninfo(database.owner_dsn, user=spare_role, password=password)).close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(make_conninfo(database.owner_dsn, user=spare_role, password="wrong"))


def test_a_server_that_logs_every_statement_logs_no_password(database: Database, spare_role: str) -> None:
    log = database.server_log()
    logging_all = make_conninfo(database.owner_dsn, options="-c log_statement=all")
    migrations.upgrade(logging_all, {spare_role: "open-sesame"})
    written = log.since()
    assert f'ALTER ROLE "{spare_role}" LOGIN PASSWORD' in written
    assert "open-sesame" not in written


def test_an_owner_who_is_no_superuser_can_migrate(
    empty_database: Callable[[], str], server_dsn: str, database: Database
) -> None:
    """As on managed Postgres, where nobody is. Only the roles' log settings are left out, with a notice."""
    dsn = empty_database()
    owner = f"owner_{secrets.token_hex(4)}"
    quoted = sql.Identifier(owner)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'x'").format(quoted))
        name = connection.execute("SELECT current_database()").fetchone()[0]
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), quoted))
        # The roles are there already, made by the superuser: what is his by CREATE ROLE elsewhere.
        for role in (*migrations.ROLES, "etl_owner"):
            grant = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION")
            connection.execute(grant.format(sql.Identifier(role), quoted))
    try:
        migrations.upgrade(make_conninfo(dsn, user=owner, password="x"), {})
        expected = without_role_settings(EXPECTED.read_text(encoding="utf-8"))
        assert without_role_settings(text_of(dsn)) == expected
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(quoted))
            connection.execute(sql.SQL("DROP OWNED BY {}").format(quoted))
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(quoted))


def without_role_settings(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("  set "))
