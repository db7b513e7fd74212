"""The migrations make the expected schema, by whatever role, however often."""

import difflib
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.contracts import contract_names, load_contract, load_contracts
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.postgres import migrations
from tests.contracts.newsletter_signups import CONTRACT as SECOND
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
    """In a process of its own, as two people would do it."""
    code = f"from include.queue_etl.postgres import migrations; migrations.upgrade({dsn!r}, {{}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_failed_migration_leaves_nothing(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE VIEW public.user_logins AS SELECT 1")
    with pytest.raises(WarehouseRefused, match=r'^0001_warehouse\.sql: .* relation "user_logins" already'):
        migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT to_regnamespace('etl'), to_regnamespace('pii')").fetchone()
    assert found == (None, None)


def test_a_database_of_an_earlier_commit_is_taken_over(empty_database: Callable[[], str]) -> None:
    """As Alembic left it at revision 0004: with its version table, and nothing of the later revisions."""
    dsn = empty_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE SCHEMA etl")
        connection.execute(
            "CREATE TABLE etl.schema_revision"
            " (version_num varchar(32) NOT NULL, CONSTRAINT schema_revision_pkc PRIMARY KEY (version_num))"
        )
        for path in sorted((migrations.HERE / "versions").glob("000[1-4]_*.sql")):
            connection.execute(path.read_bytes())
        connection.execute("INSERT INTO etl.schema_revision VALUES ('0004')")
        connection.execute(
            "INSERT INTO public.user_logins (user_id, create_date) VALUES ('kept', '2026-01-31')"
        )
    migrations.upgrade(dsn, {})
    assert text_of(dsn) == EXPECTED.read_text(encoding="utf-8")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT user_id FROM public.user_logins").fetchall() == [("kept",)]
        assert connection.execute("SELECT version_num FROM etl.schema_revision").fetchall() == [
            (migrations.head_revision(),)
        ]
        columns = connection.execute("SELECT table_name, column_name FROM etl.masked_columns").fetchall()
    assert sorted(columns) == [
        ("public.user_logins", "masked_device_id"),
        ("public.user_logins", "masked_ip"),
    ]


def test_redrives_of_an_earlier_version_are_told_from_runs_of_the_queue(
    empty_database: Callable[[], str],
) -> None:
    """By what they redrove, or by their name; each of these runs counts one message of the quarantine."""
    dsn = empty_database()
    runs = {
        "manual__1": "redrive", "redrive__20260101": "redrive", "queue_etl_redrive__manual__1": "redrive",
        "manual__2": "queue", "redriveXX1": "queue", "redrive__deleted": "queue",
    }  # fmt: skip
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE SCHEMA etl")
        connection.execute("CREATE TABLE etl.schema_revision (version_num varchar(32) NOT NULL)")
        for path in sorted((migrations.HERE / "versions").glob("000[1-5]_*.sql")):
            connection.execute(path.read_bytes())
        connection.execute("INSERT INTO etl.schema_revision VALUES ('0005')")
        connection.execute("INSERT INTO etl.queues (name) VALUES ('q')")
        connection.execute(
            "INSERT INTO etl.runs (run_id, contract, queue_id, airflow_run_id, state, finished_at, received,"
            " loaded, quarantined, quarantined_by_reason, duplicates, deleted) SELECT gen_random_uuid(), 'c',"
            " 1, name, 'succeeded', now(), 1, 0, 1, jsonb_build_object('r', 1), 0,"
            " CASE WHEN name LIKE '%%deleted' THEN 1 ELSE 0"
            " END FROM unnest(%s::text[]) AS name",
            [list(runs)],
        )
        connection.execute(
            "INSERT INTO etl.quarantine SELECT 1, '2026-01-01', gen_random_uuid(), run_id, 'r', '', 0, 1,"
            " now(), now(), run_id FROM etl.runs WHERE airflow_run_id = 'manual__1'"
        )
    migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT airflow_run_id, kind, received, quarantined FROM etl.run_summary")
        assert {name: facts for name, *facts in found} == {
            name: [kind, *([0, 0] if kind == "redrive" else [1, 1])] for name, kind in runs.items()
        }


def test_messages_quarantined_by_an_earlier_version_stay_without_shape(
    empty_database: Callable[[], str],
) -> None:
    """As revision 0006 left them. No keyset is near: maintenance, which has one, gives them their shape."""
    dsn = empty_database()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE SCHEMA etl")
        connection.execute("CREATE TABLE etl.schema_revision (version_num varchar(32) NOT NULL)")
        for path in sorted((migrations.HERE / "versions").glob("000[1-6]_*.sql")):
            connection.execute(path.read_bytes())
        connection.execute("INSERT INTO etl.schema_revision VALUES ('0006')")
        connection.execute("INSERT INTO etl.queues (name) VALUES ('q')")
        connection.execute(
            "INSERT INTO etl.quarantine SELECT 1, '2026-01-01', gen_random_uuid(), gen_random_uuid(), reason,"
            " 'sealed', 6, 1, now(), redriven_at FROM (VALUES ('bad_json', now()), ('bad_json', NULL),"
            " ('bad_type', NULL), ('bad_type', NULL)) AS given (reason, redriven_at)"
        )
    migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        kept = connection.execute("SELECT count(*), count(shape) FROM etl.quarantine").fetchone()
        found = connection.execute(
            "SELECT queue, reason, shape, waiting FROM etl.quarantine_shapes ORDER BY 2"
        )
        assert found.fetchall() == [("q", "bad_json", None, 1), ("q", "bad_type", None, 2)]
    assert kept == (4, 0)


def test_a_database_that_is_newer_than_the_code_is_left_alone(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE etl.schema_revision SET version_num = '9999'")
    with pytest.raises(WarehouseRefused, match=r"revision 9999, newer than this code \(\d{4}\): update"):
        migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT version_num FROM etl.schema_revision").fetchone() == ("9999",)


@pytest.mark.parametrize("name", contract_names())
def test_every_contract_has_its_table_with_its_columns(database: Database, name: str) -> None:
    contract = load_contract(name)
    with database.owner() as connection:
        found = connection.execute(f"SELECT * FROM {contract.table}").description  # noqa: S608
    assert [column.name for column in found] == list(contract.column_names)


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


def test_a_password_for_a_foreign_role_is_refused_and_nothing_is_changed(
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


@pytest.fixture
def plain_owner(server_dsn: str, empty_database: Callable[[], str]) -> Iterator[tuple[str, str]]:
    """DSNs of a database whose owner may make roles and is no superuser: as the owner, as a superuser."""
    dsn = empty_database()
    owner = sql.Identifier(f"owner_{secrets.token_hex(4)}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'x'").format(owner))
        ((name,),) = connection.execute("SELECT current_database()").fetchall()
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), owner))
    yield make_conninfo(dsn, user=owner.as_string().strip('"'), password="x"), dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(owner))
        connection.execute(sql.SQL("DROP OWNED BY {}").format(owner))
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(owner))


def grant_to_owner(plain_owner: tuple[str, str], roles: Sequence[str]) -> None:
    """The roles are there already, made by the superuser: what is the owner's by CREATE ROLE elsewhere."""
    dsn, superuser_dsn = plain_owner
    owner = sql.Identifier(str(conninfo_to_dict(dsn)["user"]))
    with psycopg.connect(superuser_dsn, autocommit=True) as connection:
        for role in roles:
            grant = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION")
            connection.execute(grant.format(sql.Identifier(role), owner))


def test_an_owner_who_is_no_superuser_can_migrate(plain_owner: tuple[str, str]) -> None:
    """As on managed Postgres, where nobody is. Only the roles' log settings are left out, and said."""
    grant_to_owner(plain_owner, (*migrations.ROLES, "etl_owner"))
    warnings = migrations.upgrade(plain_owner[0], {})
    expected = without_role_settings(EXPECTED.read_text(encoding="utf-8"))
    assert without_role_settings(text_of(plain_owner[1])) == expected
    roles = ("etl_loader", "etl_maintainer", "etl_remasker", "pii_officer")
    for role, warning in zip(roles, warnings, strict=True):
        assert f"may quote personal data that {role} sends" in warning
        assert "SET log_min_messages = 'fatal'" in warning
        assert "log_statement" not in warning  # as the server has it by itself


def test_a_second_owner_on_one_server_is_told_what_to_grant(plain_owner: tuple[str, str]) -> None:
    owner = conninfo_to_dict(plain_owner[0])["user"]
    hint = f"GRANT etl_owner TO {owner} WITH ADMIN OPTION"
    with pytest.raises(WarehouseRefused, match=f"role etl_owner is there already.* run {hint}; then"):
        migrations.upgrade(plain_owner[0], {})
    assert "schema etl" not in text_of(plain_owner[1])
    grant_to_owner(plain_owner, ["etl_owner"])
    migrations.upgrade(plain_owner[0], {})
    assert "schema etl" in text_of(plain_owner[1])


def test_a_superuser_leaves_nothing_to_warn_of(empty_database: Callable[[], str]) -> None:
    assert migrations.upgrade(empty_database(), {}) == []


def without_role_settings(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("  set "))


# What migrate restores


SIGNUPS = Path(__file__).parent.parent / "contracts" / "newsletter_signups.sql"


def test_migrate_releases_every_grant_that_is_missing(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    first = text_of(dsn)
    roles = sql.SQL(", ").join(map(sql.Identifier, migrations.ROLES))
    with psycopg.connect(dsn) as connection:
        for things in ("ALL TABLES", "ALL FUNCTIONS"):
            connection.execute(
                sql.SQL("REVOKE ALL ON {} IN SCHEMA public, etl, pii FROM {}").format(sql.SQL(things), roles)
            )
        connection.execute(sql.SQL("REVOKE ALL ON SCHEMA public, etl, pii FROM {}").format(roles))
    assert text_of(dsn) != first
    migrations.upgrade(dsn, {}, load_contracts().good.values())
    assert text_of(dsn) == first


def test_migrate_takes_back_what_a_role_must_not_have(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    first = text_of(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("GRANT SELECT ON public.user_logins, etl.ledger TO PUBLIC, etl_loader, ops_ro")
        connection.execute("GRANT UPDATE (locale) ON public.user_logins TO pii_officer, etl_remasker")
        connection.execute("GRANT EXECUTE ON FUNCTION etl.drop_ledger_partitions TO analyst")
        connection.execute("ALTER TABLE public.user_logins OWNER TO CURRENT_USER")
    migrations.upgrade(dsn, {}, load_contracts().good.values())
    assert text_of(dsn) == first


def test_a_contracts_table_has_each_right_by_one_line_of_its_revision(
    empty_database: Callable[[], str],
) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    with psycopg.connect(dsn) as connection:
        connection.execute(SIGNUPS.read_bytes())
    made = text_of(dsn)
    (paragraph,) = [part for part in made.split("\n\n") if part.startswith("relation newsletter_signups")]
    rights = [line.strip() for line in paragraph.splitlines() if line.startswith(("  grant", "  owner"))]
    assert rights == [
        "grant (ctid) etl_remasker=r/etl_owner",
        "grant (email_token) etl_remasker=rw/etl_owner",
        "grant (email_token) pii_officer=w/etl_owner",
        "grant analyst=r/etl_owner",
        "grant etl_loader=a/etl_owner",
        "grant pii_officer=r/etl_owner",
        "owner etl_owner",
    ]
    migrations.upgrade(dsn, {}, [SECOND])
    assert text_of(dsn) == made
    registered = "SELECT contract, column_name, field, scheme FROM etl.masked_columns WHERE table_name = %s"
    with psycopg.connect(dsn) as connection:
        assert connection.execute(registered, [SECOND.table]).fetchall() == [
            ("newsletter_signups", "email_token", "email", "recoverable")
        ]


def test_a_contract_without_its_table_yet_does_not_stop_migrate(empty_database: Callable[[], str]) -> None:
    dsn = empty_database()
    migrations.upgrade(dsn, {}, [SECOND])
    with psycopg.connect(dsn) as connection:
        registered = connection.execute("SELECT DISTINCT table_name FROM etl.masked_columns").fetchall()
    assert registered == [("public.user_logins",)]
