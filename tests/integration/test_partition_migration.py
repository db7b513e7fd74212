"""Revision 0011: user_logins becomes partitioned, with its rows and all that depends on it."""

from collections.abc import Callable

import psycopg
import pytest

from include.contracts import load_contracts
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.postgres import migrations
from tests.integration.schema_text import schema_text
from tests.integration.test_migrations import EXPECTED

BEFORE = ("0001", "0002", "0003", "0004", "0005", "0006")
ROWS = [("old", "2024-02-29"), ("middle", "2025-12-31"), ("new", "2026-11-21")]
LOGINS = "SELECT user_id, create_date::text FROM public.user_logins ORDER BY create_date"
NEW_LOGIN = """
    SELECT etl.ensure_partition('public.user_logins', '2027-01-01');
    INSERT INTO public.user_logins (user_id, create_date) VALUES ('later', '2027-01-31')
"""

MakeDatabase = Callable[..., psycopg.Connection]


@pytest.fixture
def made_at(empty_database: Callable[[], str]) -> MakeDatabase:
    """Makes a database at an earlier revision, with rows; gives a superuser's connection in autocommit."""

    def make(revision: str = "0006", *, rows: bool = True) -> psycopg.Connection:
        connection = psycopg.connect(empty_database(), autocommit=True)
        connection.execute("CREATE SCHEMA etl")
        connection.execute(
            "CREATE TABLE etl.schema_revision"
            " (version_num varchar(32) NOT NULL, CONSTRAINT schema_revision_pkc PRIMARY KEY (version_num))"
        )
        for path in sorted((migrations.HERE / "versions").glob("*.sql")):
            if path.stem[:4] <= revision:
                with connection.transaction():
                    connection.execute(path.read_bytes())
        connection.execute("INSERT INTO etl.schema_revision VALUES (%s)", [revision])
        for row in ROWS if rows else ():
            connection.execute("INSERT INTO public.user_logins (user_id, create_date) VALUES (%s, %s)", row)
        return connection

    return make


def migrate(connection: psycopg.Connection) -> None:
    migrations.upgrade(connection.info.dsn + f" password={connection.info.password}", {})


def partitions(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    return connection.execute(
        "SELECT partition_table::text, first_day::text, end_day::text"
        " FROM etl.partition_ranges('public.user_logins') ORDER BY 2"
    ).fetchall()


@pytest.mark.parametrize("revision", BEFORE)
def test_rows_of_every_earlier_revision_are_kept(made_at: MakeDatabase, revision: str) -> None:
    with made_at(revision) as connection:
        places = connection.execute("SELECT ctid, * FROM public.user_logins").fetchall()
        migrate(connection)
        assert schema_text(connection) == EXPECTED.read_text(encoding="utf-8")
        assert connection.execute("SELECT ctid, * FROM public.user_logins").fetchall() == places
        assert partitions(connection) == [("user_logins_first", "2024-02-01", "2026-12-01")]
        connection.execute(NEW_LOGIN)
        assert connection.execute(LOGINS).fetchall() == [*ROWS, ("later", "2027-01-31")]
        comment = connection.execute("SELECT obj_description('public.user_logins'::regclass)").fetchone()
        assert "one row for each message" in comment[0].lower()


def test_a_table_without_rows_leaves_no_partition(made_at: MakeDatabase) -> None:
    with made_at(rows=False) as connection:
        migrate(connection)
        assert partitions(connection) == []
        assert connection.execute("SELECT to_regclass('public.user_logins_first')").fetchone() == (None,)


def test_a_view_of_the_analysts_shows_new_rows_too(made_at: MakeDatabase) -> None:
    with made_at() as connection:
        connection.execute("CREATE SCHEMA reports")
        connection.execute("GRANT USAGE, CREATE ON SCHEMA reports TO analyst")
        connection.execute("SET ROLE analyst")
        connection.execute(
            'CREATE VIEW reports."per Month" WITH (security_barrier=true) AS SELECT user_id, create_date'
            " FROM public.user_logins WHERE create_date > '2025-01-01'"
        )
        connection.execute('CREATE VIEW reports.above AS SELECT user_id FROM reports."per Month"')
        connection.execute("GRANT SELECT ON reports.above TO PUBLIC")
        connection.execute("RESET ROLE")
        about = "SELECT relname, relowner::regrole::text, relacl::text, reloptions FROM pg_class"
        views = f"{about} WHERE relnamespace = 'reports'::regnamespace AND relkind = 'v' ORDER BY 1"
        before = connection.execute(views).fetchall()
        migrate(connection)
        connection.execute(NEW_LOGIN)
        assert connection.execute(views).fetchall() == before
        connection.execute("SET ROLE analyst")
        found = connection.execute("SELECT user_id FROM reports.above ORDER BY 1").fetchall()
        assert found == [("later",), ("middle",), ("new",)]


def test_rights_that_others_were_given_survive(made_at: MakeDatabase) -> None:
    rights = """
        SELECT grantee::regrole::text, privilege_type, is_grantable FROM pg_class, aclexplode(relacl)
        WHERE oid = 'public.user_logins'::regclass AND grantee = 'ops_ro'::regrole
        UNION ALL
        SELECT attname, privilege_type, is_grantable FROM pg_attribute, aclexplode(attacl)
        WHERE attrelid = 'public.user_logins'::regclass AND grantee = 'ops_ro'::regrole
    """
    with made_at() as connection:
        # Stands for a role that is none of ours: those are not revoked where no contract is given.
        connection.execute("GRANT SELECT ON public.user_logins TO ops_ro WITH GRANT OPTION")
        connection.execute("GRANT UPDATE (locale) ON public.user_logins TO ops_ro")
        before = connection.execute(rights).fetchall()
        migrate(connection)
        assert connection.execute(rights).fetchall() == before
        assert len(before) == 2


def test_nobody_but_the_owner_has_rights_to_the_old_rows_directly(made_at: MakeDatabase) -> None:
    with made_at() as connection:
        migrate(connection)
        migrations.upgrade(
            connection.info.dsn + f" password={connection.info.password}", {}, load_contracts().good.values()
        )
        found = connection.execute(
            "SELECT grantee::regrole::text FROM pg_class, aclexplode(relacl)"
            " WHERE relname = 'user_logins_first' UNION ALL SELECT grantee::regrole::text"
            " FROM pg_attribute, aclexplode(attacl) WHERE attrelid = 'public.user_logins_first'::regclass"
        ).fetchall()
        assert {grantee for (grantee,) in found} <= {"etl_owner"}


def test_indexes_and_checks_go_on_for_new_rows(made_at: MakeDatabase) -> None:
    with made_at() as connection:
        connection.execute("CREATE INDEX by_user ON public.user_logins (user_id)")
        connection.execute("ALTER TABLE public.user_logins ADD CHECK (locale <> 'xx')")
        migrate(connection)
        connection.execute(NEW_LOGIN)
        indexed = connection.execute(
            "SELECT indrelid::regclass::text FROM pg_index WHERE indrelid IN"
            " ('public.user_logins_first'::regclass, 'public.user_logins_p202701'::regclass)"
        ).fetchall()
        assert sorted(indexed) == [("user_logins_first",), ("user_logins_p202701",)]
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(
                "INSERT INTO public.user_logins VALUES ('u', '', '', '', 'xx', 1, '2027-01-01')"
            )


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "CREATE MATERIALIZED VIEW public.mine AS SELECT * FROM public.user_logins",
            "materialized view mine",
        ),
        (
            "CREATE FUNCTION public.mine() RETURNS bigint LANGUAGE sql"
            " RETURN (SELECT count(*) FROM public.user_logins)",
            "function mine()",
        ),
        (
            "CREATE FUNCTION public.mine(public.user_logins) RETURNS int LANGUAGE sql RETURN 1",
            "function mine(",
        ),
        (
            "CREATE UNIQUE INDEX mine ON public.user_logins (user_id)",
            "unique index mine, which lacks create_date",
        ),
        ("CREATE TABLE public.mine () INHERITS (public.user_logins)", "table mine"),
        (
            "CREATE PUBLICATION mine FOR TABLE public.user_logins",
            "publication of table user_logins in publication mine",
        ),
        ("CREATE POLICY mine ON public.user_logins", "policy mine"),
        ("CREATE RULE mine AS ON DELETE TO public.user_logins DO INSTEAD NOTHING", "rule mine on table"),
        (
            "CREATE TRIGGER mine AFTER INSERT ON public.user_logins"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger mine on table",
        ),
    ],
)
def test_what_would_be_left_behind_is_named_and_nothing_is_done(
    made_at: MakeDatabase, statement: str, named: str
) -> None:
    with made_at() as connection:
        connection.execute(statement)
        with pytest.raises(WarehouseRefused) as caught:
            migrate(connection)
        assert f"public.user_logins cannot be partitioned because of {named}" in str(caught.value).replace(
            "rule _RETURN on ", ""
        )
        assert connection.execute("SELECT version_num FROM etl.schema_revision").fetchone() == ("0006",)
        assert connection.execute(LOGINS).fetchall() == ROWS


def test_rows_without_a_date_are_told_and_nothing_is_done(made_at: MakeDatabase) -> None:
    with made_at() as connection:
        connection.execute("INSERT INTO public.user_logins (user_id) VALUES ('a'), ('b')")
        with pytest.raises(WarehouseRefused, match=r"public.user_logins has 2 rows without create_date.*"):
            migrate(connection)
        connection.execute(
            "UPDATE public.user_logins SET create_date = '2026-01-01' WHERE create_date IS NULL"
        )
        migrate(connection)
        assert connection.execute("SELECT count(*) FROM public.user_logins").fetchone() == (5,)


def test_a_table_that_somebody_partitioned_by_its_date_stays_as_it_is(made_at: MakeDatabase) -> None:
    with made_at(rows=False) as connection:
        connection.execute("ALTER TABLE public.user_logins RENAME TO plain")
        connection.execute(
            "CREATE TABLE public.user_logins (LIKE public.plain) PARTITION BY RANGE (create_date)"
        )
        connection.execute(
            "CREATE TABLE public.year PARTITION OF public.user_logins"
            " FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
        )
        migrate(connection)
        migrations.upgrade(
            connection.info.dsn + f" password={connection.info.password}", {}, load_contracts().good.values()
        )
        connection.execute(NEW_LOGIN)
        assert [name for name, _, _ in partitions(connection)] == ["year", "user_logins_p202701"]
        owner = connection.execute(
            "SELECT etl.ensure_partition('public.user_logins', '2026-03-01')"
        ).fetchone()
        assert owner == (0,)
