"""The SQL of a contract's table, as text."""

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

from include.contracts import user_logins
from include.queue_etl.contract import Contract, Month, SentAt
from include.queue_etl.postgres import catalogue, migrations, revisions, tables
from include.queue_etl.postgres.table_plan import AT_ONCE, Change
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS
from tests.support import every_type

ROOT = Path(__file__).resolve().parents[2]


class Plain(Struct):
    code: str


def statements(contract: Contract) -> str:
    return "\n".join(tables.create(contract))


def test_the_table_of_a_small_contract():
    assert (
        statements(SIGNUPS)
        == """\
CREATE TABLE "public"."newsletter_signups" (
    "email_token" varchar(160),
    "newsletter" varchar(40) NOT NULL,
    "confirmed" boolean,
    "referrer" varchar(20),
    "signed_up_on" date NOT NULL
);
COMMENT ON TABLE "public"."newsletter_signups" IS
    'The body of one message, inside its SNS notification. One row for each message; contract '
    'newsletter_signups.';
COMMENT ON COLUMN "public"."newsletter_signups"."email_token" IS
    'From `email`. Masked: recoverable token, normalized as text.';
COMMENT ON COLUMN "public"."newsletter_signups"."newsletter" IS
    'From `newsletter`.';
COMMENT ON COLUMN "public"."newsletter_signups"."confirmed" IS
    'Computed from `doubleOptIn`.';
COMMENT ON COLUMN "public"."newsletter_signups"."referrer" IS
    'From `referrer`.';
COMMENT ON COLUMN "public"."newsletter_signups"."signed_up_on" IS
    'From the message''s SentTimestamp.';
SELECT etl.grant_contract('"public"."newsletter_signups"', ARRAY['email_token']::text[]);"""
    )


def test_what_a_contract_may_also_have():
    contract = every_type.contract(table="sales.order", partition_by=Month("placed_at"))
    text = statements(contract)
    assert text.startswith(
        'CREATE SCHEMA IF NOT EXISTS "sales";\n'
        'GRANT USAGE, CREATE ON SCHEMA "sales" TO etl_owner;\n'
        'GRANT USAGE ON SCHEMA "sales" TO etl_loader, etl_remasker, analyst, pii_officer;\n'
    )
    assert ') PARTITION BY RANGE ("placed_at");\n' in text
    assert """CONSTRAINT "order_currency_check" CHECK ("currency" IN ('EUR', 'GBP', 'o''clock'))""" in text
    assert 'CONSTRAINT "order_size_check" CHECK ("size" IN (-1, 2))' in text
    assert "'Who bought. From `customer`.';" in text
    assert """'it''s 100 % "so": \\ {x} $1 -- ; DROP TABLE x. From `note`.';""" in text
    assert "'From `items`. Masked at `items[*].phone`: recoverable token, normalized as text.';" in text
    assert 'CREATE INDEX "order_customer_placed_at_idx" ON "sales"."order" ("customer", "placed_at");' in text


def test_a_key_is_a_unique_index_and_one_row_is_the_newest_message():
    text = statements(Contract("c", "q", "public.c", Plain, message=(SentAt("at"),), key="code"))
    assert 'CREATE UNIQUE INDEX "c_code_key" ON "public"."c" ("code");' in text
    assert "\n) WITH (fillfactor = 90);\n" in text
    assert "'The newest message of each code; contract c.';" in text
    assert text.endswith("ARRAY[]::text[], is_upsert => true);")


def test_a_contract_without_personal_fields_grants_no_column():
    text = statements(Contract("c", "q", "public.c", Plain))
    assert text.endswith("""SELECT etl.grant_contract('"public"."c"', ARRAY[]::text[]);""")


def test_long_names_are_cut_and_stay_different():
    table = f"public.{'t' * 40}"
    names = [tables.check_name(table, f"{'c' * 40}{number}") for number in range(2)]
    assert [len(name) for name in names] == [63, 63]
    assert len(set(names)) == 2
    assert all(name.endswith("_check") for name in names)


def test_a_name_may_hold_quotes():
    assert tables.quoted('a"b') == '"a""b"'


@pytest.mark.parametrize("contract", [user_logins.CONTRACT, SIGNUPS, every_type.contract()])
def test_a_written_revision_passes_the_projects_own_checks(contract, tmp_path):
    revision = tmp_path / "0001_it.sql"
    revision.write_text(revisions.creation(contract))
    told = subprocess.run(
        [Path(sys.executable).parent / "sqlfluff", "lint", "--config", ROOT / "pyproject.toml", revision],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout.count("FAIL")) == (0, 0), told.stdout


# Revisions --------------------------------------------------------------------------------------------------


@pytest.fixture
def versions(monkeypatch, tmp_path):
    """A project with one revision."""
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(
        'create table "public"."One" (a int); CREATE TABLE public.two (a int);'
    )
    monkeypatch.setattr(migrations, "HERE", tmp_path)
    return folder


def test_a_revision_gets_the_next_number_and_replaces_no_file(versions):
    assert revisions.write("orders", "SELECT 1;\n") == versions / "0002_orders.sql"
    assert revisions.write("orders", "SELECT 2;\n") == versions / "0003_orders.sql"
    assert (versions / "0002_orders.sql").read_text() == "SELECT 1;\n"


def test_a_table_that_a_revision_makes_is_known(versions):
    assert revisions.makes_table("public.One")
    assert revisions.makes_table("public.two")
    assert not revisions.makes_table("public.one")
    assert not revisions.makes_table("public.tw")


def test_changes_are_made_as_the_owner_who_does_not_wait_for_long():
    change = Change("column code may be NULL", AT_ONCE, ("ALTER TABLE x;", "COMMENT y;"))
    assert (
        revisions.alteration(SIGNUPS, [change])
        == """\
-- The table of the contract newsletter_signups follows it.
SET LOCAL ROLE etl_owner;
-- While this waits for who reads the table, all its loads wait behind it: give up and try again.
SET LOCAL lock_timeout = '30s';

-- column code may be NULL (at once)
ALTER TABLE x;
COMMENT y;

RESET lock_timeout;
RESET ROLE;
"""
    )


# What Postgres says of a CHECK ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "choices"),
    [
        ("CHECK ((currency = ANY (ARRAY['EUR'::text, 'o''clock'::text])))", ("EUR", "o'clock")),
        ("CHECK ((currency = 'EUR'::text))", ("EUR",)),
        ("CHECK ((\"a = b\" = ANY (ARRAY['x'::text])))", ("x",)),
        (
            "CHECK (((code)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))",
            ("a", "b"),
        ),
        ("CHECK ((size = ANY (ARRAY[('-1'::integer)::bigint, (2)::bigint])))", (-1, 2)),
        ("CHECK ((size = 1)) NOT VALID", (1,)),
        ("CHECK ((size > 0))", ()),
        ("CHECK ((note <> 'x'::text))", ()),
        ("CHECK ((length(note) = 3))", ()),
    ],
)
def test_the_choices_of_a_check_are_read(definition, choices):
    assert catalogue.choices_in(definition) == choices
