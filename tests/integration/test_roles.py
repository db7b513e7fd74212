"""Each role may do what its people need, and nothing else: every statement here is really sent."""

# ruff: noqa: S608 - all statements are put together from texts of this file

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from include.queue_etl.postgres import migrations
from tests.integration.scratch import CONTENTS, Database

DENIED = psycopg.errors.InsufficientPrivilege
RUN = "00000000-0000-0000-0000-000000000001"

LOGIN = "INSERT INTO public.user_logins (user_id, create_date) VALUES ('x', '2007-03-01')"
LEDGER = f"INSERT INTO etl.ledger VALUES (1, '2007-03-01', '{RUN}', '{RUN}', 'L')"
QUARANTINE = (
    "INSERT INTO etl.quarantine (queue_id, sent_day, message_id, run_id, reason, payload, payload_bytes,"
    f" receive_count, shape) VALUES (1, '2007-03-01', '{RUN}', '{RUN}', 'bad_json', '', 0, 1, 'not JSON')"
)
KEPT = f"INSERT INTO etl.kept_fields VALUES (1, '2007-03-01', '{RUN}', '{RUN}', '$: object', '')"
AUDIT = "SELECT pii.record('unmask', 'r', 't')"
AUDIT_ROW = "INSERT INTO pii.audit (id, action, reason, ticket, hash) VALUES (1, 'unmask', 'r', 't', '')"
MASKED_COLUMN = "INSERT INTO etl.masked_columns VALUES ('c', 't', 'm', 'f', 'recoverable')"
TOKEN_COLUMN = (
    "INSERT INTO etl.masked_columns (contract, table_name, column_name, field, scheme)"
    " VALUES ('user_logins', 'public.user_logins', 'masked_ip', 'ip', 'recoverable')"
)
CREATE = ("CREATE TABLE public.mine (x int)", "CREATE TABLE etl.mine (x int)", "CREATE SCHEMA mine")

JSON = "etl.json_values('{}', etl.json_paths('.a')), etl.json_changed('{}', etl.json_steps('.a'), NULL)"
TOKENS_INSIDE = "etl.tokens_inside('public.user_logins', 'masked_ip', '', '{}')"
MOVE_INSIDE = "etl.move_tokens_inside('public.user_logins', 'masked_ip', '{}', '{}', '(0,0)', '(1,0)')"
SAMPLED_KEYS = "SELECT etl.sampled_keys('public.user_logins', 'masked_ip')"
GRANT_CONTRACT = "SELECT etl.grant_contract('public.user_logins', '{}')"

LOADS = (
    LOGIN,
    "COPY public.user_logins FROM STDIN",
    "INSERT INTO etl.queues (name) VALUES ('q')",
    "SELECT * FROM etl.queues",
    f"INSERT INTO etl.runs (run_id, contract, queue_id, airflow_run_id) VALUES ('{RUN}', 'c', 1, 'm')",
    "UPDATE etl.runs SET received = 1",
    "SELECT * FROM etl.runs, etl.batches, etl.keys, etl.run_summary",
    "UPDATE etl.batches SET loaded = 1",
    "INSERT INTO etl.keys (key_id, check_value) VALUES (1, 'x')",
    LEDGER,
    f"{LEDGER} ON CONFLICT DO NOTHING RETURNING queue_id, sent_day, message_id",
    "SELECT queue_id, sent_day, message_id FROM etl.ledger",
    QUARANTINE,
    f"{QUARANTINE} ON CONFLICT DO NOTHING",
    f"{KEPT} ON CONFLICT DO NOTHING",
    "SELECT etl.ensure_ledger_partition('2007-03-02')",
    "SELECT etl.drop_ledger_partitions(9999)",
    "SELECT etl.missing_partitions('public.user_logins', '{2007-03-02}')",
    "SELECT etl.ensure_partition('public.user_logins', '2007-04-01')",
    "SELECT * FROM etl.tables",
    "SELECT * FROM etl.schema_revision",
    MASKED_COLUMN,
    f"{MASKED_COLUMN} ON CONFLICT DO NOTHING",
    "CREATE TEMPORARY TABLE mine (x int)",
)

ALERT = (
    "INSERT INTO etl.alerts (kind, subject, contract, since, what, place, remedy)"
    " VALUES ('k', 's', 'c', now(), 'w', 'p', 'm')"
)
STATE = "INSERT INTO etl.queue_states VALUES ('c', 'q', now(), 1, 1, 1, 1, 1, 1, now())"
ROWS_OF_DAY = "SELECT etl.rows_of_day('public.user_logins', 'create_date', 'q', '2007-03-01')"
ENSURE = "SELECT etl.ensure_partition('public.user_logins', '2007-05-01')"
DROP = "SELECT etl.drop_partitions('public.user_logins')"

ALLOWED = {
    "etl_loader": LOADS,
    "etl_maintainer": (
        *LOADS,  # a redrive loads
        "SELECT * FROM etl.ledger",
        "UPDATE etl.ledger SET status = 'L', run_id = run_id",
        "SELECT * FROM etl.quarantine",
        "UPDATE etl.quarantine SET reason = 'x', redriven_at = now(), redriven_run_id = run_id",
        "UPDATE etl.quarantine SET shape = 'x'",
        "DELETE FROM etl.quarantine",
        "SELECT * FROM etl.quarantine_summary",
        "SELECT ctid, queue_id, sent_day FROM etl.kept_fields",
        "DELETE FROM etl.kept_fields",
        "SELECT etl.expired_partitions('public.user_logins')",
        DROP,
        ROWS_OF_DAY,
        "SELECT * FROM etl.quarantine_deleted",
        "UPDATE etl.last_watch SET looked_at = looked_at",
        STATE,
        "SELECT * FROM etl.queue_states, etl.alerts, etl.alert_notices",
        ALERT,
        "UPDATE etl.alerts SET ended_at = now()",
    ),
    "analyst": ("SELECT * FROM public.user_logins", "SELECT * FROM etl.table_freshness"),
    "pii_officer": (
        "SELECT * FROM public.user_logins",
        "SELECT * FROM etl.quarantine",
        "UPDATE public.user_logins SET user_id = NULL, masked_ip = NULL, masked_device_id = NULL",
        "DELETE FROM etl.quarantine",
        "SELECT * FROM etl.queues, etl.keys, etl.run_summary, etl.quarantine_summary, etl.schema_revision",
        "SELECT * FROM etl.quarantine_shapes",
        "SELECT * FROM etl.kept_fields, etl.kept_summary",
        "DELETE FROM etl.kept_fields",
        AUDIT,
        "SELECT * FROM pii.audit",
        f"SELECT {JSON}",
    ),
    "etl_remasker": (
        "SELECT ctid, masked_ip, masked_device_id FROM public.user_logins",
        "UPDATE public.user_logins SET masked_ip = 'y', masked_device_id = 'z' WHERE ctid = '(0,1)'",
        "SELECT queue_id, sent_day, message_id, payload FROM etl.quarantine",
        "UPDATE etl.quarantine SET payload = ''",
        "SELECT queue_id, sent_day, message_id, payload FROM etl.kept_fields",
        "UPDATE etl.kept_fields SET payload = ''",
        "SELECT * FROM etl.keys, etl.queues, etl.run_summary, etl.schema_revision, etl.masked_columns",
        "INSERT INTO etl.keys (key_id, check_value, retired_at) VALUES (1, 'x', now())",
        "UPDATE etl.keys SET retired_at = now()",
        AUDIT,
    ),
    "ops_ro": (
        "SELECT * FROM etl.run_summary",
        "SELECT * FROM etl.quarantine_summary",
        "SELECT * FROM etl.quarantine_shapes",
        "SELECT * FROM etl.kept_summary",
        "SELECT * FROM etl.schema_revision",
        "SELECT * FROM etl.run_figures, etl.batch_figures, etl.quarantine_figures, etl.key_figures",
        "SELECT * FROM etl.audit_entries, etl.table_freshness, etl.queues",
        SAMPLED_KEYS,
        "SELECT * FROM etl.queue_states, etl.alerts, etl.last_watch",
    ),
}

FORBIDDEN = {
    "etl_loader": (
        "SELECT * FROM public.user_logins",
        "SELECT count(*) FROM public.user_logins",
        f"{LOGIN} RETURNING user_id",
        "UPDATE public.user_logins SET user_id = 'y'",
        "DELETE FROM public.user_logins",
        "TRUNCATE public.user_logins",
        "SELECT run_id FROM etl.ledger",
        "SELECT status FROM etl.ledger",
        "UPDATE etl.ledger SET status = 'Q'",
        "DELETE FROM etl.ledger",
        "SELECT * FROM etl.ledger_20070301",
        "DROP TABLE etl.ledger_20070301",
        "SELECT payload FROM etl.quarantine",
        "SELECT reason FROM etl.quarantine",
        "SELECT shape FROM etl.quarantine",
        "SELECT * FROM etl.quarantine_shapes",
        "UPDATE etl.quarantine SET reason = 'x'",
        "DELETE FROM etl.quarantine",
        "SELECT payload FROM etl.kept_fields",
        "SELECT shape FROM etl.kept_fields",
        "SELECT * FROM etl.kept_summary",
        "UPDATE etl.kept_fields SET payload = ''",
        "DELETE FROM etl.kept_fields",
        "DELETE FROM etl.runs",
        "DELETE FROM etl.batches",
        "DELETE FROM etl.keys",
        "UPDATE etl.keys SET retired_at = NULL",
        "UPDATE etl.queues SET name = 'x'",
        "SELECT * FROM pii.audit",
        AUDIT,
        AUDIT_ROW,
        "UPDATE etl.schema_revision SET version_num = '0'",
        "SELECT * FROM etl.masked_columns",
        "UPDATE etl.masked_columns SET table_name = 'x'",
        "DELETE FROM etl.masked_columns",
        "INSERT INTO etl.tables VALUES ('etl.runs', 'day', 'started_at')",
        "UPDATE etl.tables SET retain_days = 1",
        "DELETE FROM etl.tables",
        "SELECT * FROM public.user_logins_p200703",
        "INSERT INTO public.user_logins_p200703 (user_id, create_date) VALUES ('x', '2007-03-01')",
        "DROP TABLE public.user_logins_p200703",
        "SELECT etl.revoke_all('public.user_logins')",
        "SELECT etl.expired_partitions('public.user_logins')",
        DROP,
        GRANT_CONTRACT,
        f"SELECT {TOKENS_INSIDE}",
        f"SELECT {MOVE_INSIDE}",
        ROWS_OF_DAY,
        ALERT,
        "SELECT * FROM etl.alert_notices",
        "SELECT * FROM etl.quarantine_deleted",
        *CREATE,
    ),
    "etl_maintainer": (
        "SELECT etl.rows_of_day('pii.audit', 'at', 'q', '2007-03-01')",
        "UPDATE etl.quarantine_deleted SET messages = 0",
        "DELETE FROM etl.alerts",
        "SELECT * FROM public.user_logins",
        "SELECT count(*) FROM public.user_logins",
        f"{LOGIN} RETURNING user_id",
        "UPDATE public.user_logins SET user_id = 'y'",
        "DELETE FROM public.user_logins",
        "TRUNCATE public.user_logins",
        "UPDATE etl.ledger SET message_id = run_id",
        "DELETE FROM etl.ledger",
        "SELECT * FROM etl.ledger_20070301",
        "DROP TABLE etl.ledger_20070301",
        "UPDATE etl.tables SET retain_days = 1",
        "SELECT * FROM public.user_logins_p200703",
        "DROP TABLE public.user_logins_p200703",
        "UPDATE etl.quarantine SET payload = ''",
        "TRUNCATE etl.quarantine",
        "SELECT payload FROM etl.kept_fields",
        "SELECT shape FROM etl.kept_fields",
        "UPDATE etl.kept_fields SET payload = ''",
        "DELETE FROM etl.runs",
        "DELETE FROM etl.batches",
        "DELETE FROM etl.keys",
        "UPDATE etl.keys SET retired_at = NULL",
        "UPDATE etl.queues SET name = 'x'",
        "SELECT * FROM pii.audit",
        AUDIT,
        AUDIT_ROW,
        "UPDATE etl.schema_revision SET version_num = '0'",
        *CREATE,
    ),
    "analyst": (
        LOGIN,
        "SELECT * FROM public.user_logins_p200703",
        ENSURE,
        DROP,
        "UPDATE public.user_logins SET user_id = 'y'",
        "DELETE FROM public.user_logins",
        "SELECT * FROM etl.ledger",
        "SELECT * FROM etl.quarantine",
        "SELECT * FROM etl.quarantine_summary",
        "SELECT * FROM etl.quarantine_shapes",
        "SELECT * FROM etl.kept_fields",
        "SELECT * FROM etl.kept_summary",
        "SELECT * FROM etl.run_summary",
        "SELECT * FROM etl.run_figures",
        "SELECT * FROM etl.quarantine_figures",
        "SELECT * FROM etl.audit_entries",
        SAMPLED_KEYS,
        "SELECT etl.ensure_ledger_partition('2007-03-02')",
        "SELECT * FROM pii.audit",
        AUDIT,
        *CREATE,
    ),
    "pii_officer": (
        LOGIN,
        "UPDATE public.user_logins SET locale = 'y'",
        "DELETE FROM public.user_logins",
        QUARANTINE,
        "UPDATE etl.quarantine SET payload = ''",
        "UPDATE etl.quarantine SET shape = 'x'",
        KEPT,
        "UPDATE etl.kept_fields SET payload = ''",
        AUDIT_ROW,
        "SELECT * FROM etl.ledger",
        "UPDATE etl.keys SET check_value = 'x'",
        "UPDATE pii.audit SET reason = 'x'",
        "DELETE FROM pii.audit",
        "TRUNCATE pii.audit",
        "SELECT pii.chained(audit) FROM pii.audit",
        "SELECT etl.drop_ledger_partitions(15)",
        "UPDATE public.user_logins_p200703 SET user_id = NULL",
        ENSURE,
        DROP,
        f"SELECT {TOKENS_INSIDE}",
        f"SELECT {MOVE_INSIDE}",
        *CREATE,
    ),
    "etl_remasker": (
        LOGIN,
        "SELECT user_id FROM public.user_logins",
        "SELECT count(*) FROM public.user_logins WHERE user_id = 'x'",
        "UPDATE public.user_logins SET user_id = 'y'",
        "DELETE FROM public.user_logins",
        "SELECT * FROM etl.ledger",
        "SELECT reason FROM etl.quarantine",
        "SELECT shape FROM etl.quarantine",
        "SELECT * FROM etl.quarantine_shapes",
        "UPDATE etl.quarantine SET reason = 'x'",
        "DELETE FROM etl.quarantine",
        QUARANTINE,
        "SELECT shape FROM etl.kept_fields",
        "SELECT run_id FROM etl.kept_fields",
        "DELETE FROM etl.kept_fields",
        KEPT,
        "UPDATE etl.keys SET check_value = 'x'",
        "DELETE FROM etl.keys",
        "SELECT * FROM etl.runs",
        MASKED_COLUMN,
        "DELETE FROM etl.masked_columns",
        "SELECT masked_ip FROM public.user_logins_p200703",
        ENSURE,
        DROP,
        GRANT_CONTRACT,
        "SELECT * FROM pii.audit",
        AUDIT_ROW,
        f"SELECT {JSON}",
        *CREATE,
    ),
    "ops_ro": (
        "SELECT * FROM public.user_logins",
        "SELECT * FROM etl.runs",
        "SELECT * FROM etl.batches",
        "SELECT * FROM etl.ledger",
        "SELECT * FROM etl.quarantine",
        "SELECT payload FROM etl.quarantine",
        "UPDATE etl.quarantine SET shape = 'x'",
        "SELECT payload FROM etl.kept_fields",
        "SELECT shape FROM etl.kept_fields",
        "SELECT * FROM etl.keys",
        "SELECT check_value FROM etl.keys",
        "SELECT masked_ip FROM public.user_logins",
        "SELECT * FROM etl.masked_columns",
        "SELECT * FROM pii.audit",
        "SELECT reason FROM pii.audit",
        "SELECT etl.ensure_ledger_partition('2007-03-02')",
        ENSURE,
        DROP,
        *CREATE,
    ),
}


@pytest.fixture(scope="module")
def filled(database: Database) -> Database:
    """With a queue, a day and a column of tokens, so that nothing fails for want of them."""
    with database.owner() as connection:
        connection.execute("SELECT etl.ensure_ledger_partition('2007-03-01')")
        connection.execute("SELECT etl.ensure_partition('public.user_logins', '2007-03-01')")
        connection.execute(f"TRUNCATE {CONTENTS} RESTART IDENTITY")
        connection.execute("INSERT INTO etl.queues (name) VALUES ('roles')")
        connection.execute(f"{TOKEN_COLUMN} ON CONFLICT DO NOTHING")
    return database


def test_every_role_is_in_the_matrix():
    assert set(ALLOWED) == set(FORBIDDEN) == set(migrations.ROLES)


def test_the_document_says_how_many_statements_are_sent():
    told = f"{len(cases(ALLOWED))} allowed and {len(cases(FORBIDDEN))} forbidden statements"
    assert told in (Path(__file__).parents[2] / "docs/privacy.md").read_text(encoding="utf-8")


def cases(matrix: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(role, statement) for role, statements in matrix.items() for statement in statements]


def send(database: Database, role: str, statement: str) -> None:
    """Run it as that role and take it back."""
    with psycopg.connect(database.dsn(role)) as connection, connection.transaction(force_rollback=True):
        if statement.startswith("COPY"):
            with connection.cursor().copy(statement):
                pass
        else:
            connection.execute(statement)


@pytest.mark.parametrize(("role", "statement"), cases(ALLOWED))
def test_a_role_may(filled: Database, role: str, statement: str) -> None:
    send(filled, role, statement)


@pytest.mark.parametrize(("role", "statement"), cases(FORBIDDEN))
def test_a_role_may_not(filled: Database, role: str, statement: str) -> None:
    with pytest.raises(DENIED):
        send(filled, role, statement)


@pytest.mark.parametrize("function", ["ensure_ledger_partition('2007-03-02')", "drop_ledger_partitions(15)"])
def test_a_function_with_its_owners_rights_cannot_be_led_to_other_tables(
    filled: Database, function: str
) -> None:
    """The session's search path and temporary tables come after what the function means."""
    with psycopg.connect(filled.dsn("etl_loader")) as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE TEMPORARY TABLE pg_inherits (inhparent oid, inhrelid oid)")
        connection.execute("CREATE TEMPORARY TABLE pg_class (oid oid, relname text)")
        connection.execute("INSERT INTO pg_inherits VALUES ('etl.ledger'::regclass, 1)")
        connection.execute("INSERT INTO pg_class VALUES (1, 'ledger_20000101'), (1, 'ledger_20070302')")
        connection.execute("SET search_path = pg_temp, pg_catalog")
        connection.execute(f"SELECT etl.{function}")
        connection.execute("SET search_path = pg_catalog")
        made = connection.execute("SELECT to_regclass('etl.ledger_20070302') IS NOT NULL").fetchone()
    assert made == ("ensure" in function,)


def test_nobody_without_a_role_of_ours_gets_in(filled: Database) -> None:
    stranger = sql.Identifier(f"stranger_{filled.suffix}")
    with filled.owner() as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(stranger))
        try:
            connection.execute(sql.SQL("SET ROLE {}").format(stranger))
            for table in ("public.user_logins", "etl.runs", "etl.run_summary", "pii.audit"):
                with pytest.raises(DENIED):
                    connection.execute(f"SELECT * FROM {table}")
            with pytest.raises(DENIED):
                connection.execute("SELECT etl.ensure_ledger_partition('2007-03-02')")
        finally:
            connection.execute("RESET ROLE")
            connection.execute(sql.SQL("DROP ROLE {}").format(stranger))


def test_the_audit_trail_says_which_login_it_was(clean_database: Database) -> None:
    with psycopg.connect(clean_database.dsn("pii_officer")) as connection:
        connection.execute(AUDIT)
    assert clean_database.rows("SELECT who FROM pii.audit") == [(f"pii_officer_{clean_database.suffix}",)]


def test_no_role_of_ours_is_a_superuser_or_may_make_roles(filled: Database) -> None:
    roles = ", ".join(f"'{role}'" for role in (*migrations.ROLES, "etl_owner"))
    powers = "rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
    assert filled.rows(f"SELECT rolname FROM pg_roles WHERE rolname IN ({roles}) AND ({powers})") == []
    assert filled.rows("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'etl_owner'") == [(False,)]
