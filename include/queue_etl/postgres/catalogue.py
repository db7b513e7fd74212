"""A table as Postgres has it in its catalogue, in the words of a contract."""

import re
from typing import LiteralString

from include.queue_etl.contract.comments import Masking
from include.queue_etl.contract.marks import Scheme
from include.queue_etl.postgres.connection import Connection
from include.queue_etl.postgres.table_plan import Found
from include.queue_etl.postgres.tables import Index, Table, TableColumn, table_name

# What format_type() says -> what a contract says.
_TYPES = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
# A CHECK of choices by pg_get_constraintdef(): CHECK ((currency = ANY (ARRAY['EUR'::text, 'GBP'::text])))
_CHOICES = re.compile(
    r'CHECK \(\(\(?(?:"(?:[^"]|"")+"|\w+)\)?(?:::text)? = (ANY \(.*|\(?\'.*|\(?-?\d.*)', re.DOTALL
)


def find(connection: Connection, name: str) -> Found | None:
    """The table of that name, schema.table; None where there is none."""
    parameters = {"table": table_name(name), "plain": name}
    facts = connection.execute(TABLE, parameters).fetchone()
    if facts is None:
        return None
    comment, partition_column, fillfactor = facts
    found = find_columns(connection, name)
    indexes = {
        Index(tuple(names), unique): index for names, unique, index in connection.execute(INDEXES, parameters)
    }
    masked = frozenset(
        (column, Masking(field, Scheme(scheme), None))
        for column, field, scheme in connection.execute(MASKED, parameters)
    )
    table = Table(name, comment, found.table.columns, tuple(indexes), partition_column, fillfactor)
    return Found(table, found.checks, indexes, masked)


def find_columns(connection: Connection, name: str) -> Found:
    """The columns of that table with the checks of their choices; nothing else, so every role may ask."""
    parameters = {"table": table_name(name)}
    checks = {
        column: (constraint, choices)
        for column, constraint, definition in connection.execute(CHECKS, parameters)
        if (choices := choices_in(definition))
    }
    columns = tuple(
        TableColumn(column, _sql_type(kind), nullable, words, checks[column][1] if column in checks else ())
        for column, kind, nullable, words in connection.execute(COLUMNS, parameters)
    )
    return Found(Table(name, "", columns, (), ""), {column: check for column, (check, _) in checks.items()})


def _sql_type(kind: str) -> str:
    name, bracket, sizes = kind.partition("(")
    return f"{_TYPES.get(name, name)}{bracket}{sizes}"


def choices_in(definition: str) -> tuple[str | int, ...]:
    """The values that a CHECK allows its column; empty where it says something else."""
    found = _CHOICES.match(definition)
    if not found:
        return ()
    texts = re.findall(r"'((?:[^']|'')*)'::(?:text|character varying)", found[1])
    if texts:
        return tuple(text.replace("''", "'") for text in texts)
    return tuple(map(int, re.findall(r"-?\d+", found[1])))


TABLE: LiteralString = """
    SELECT coalesce(obj_description(pg_class.oid, 'pg_class'), ''), coalesce(attname, ''),
           (SELECT option_value::integer FROM pg_options_to_table(reloptions)
            WHERE option_name = 'fillfactor')
    FROM pg_class
    LEFT JOIN pg_partitioned_table ON partrelid = pg_class.oid AND partnatts = 1 AND partstrat = 'r'
    LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = partattrs[0]
    WHERE pg_class.oid = to_regclass(%(table)s) AND relkind IN ('r', 'p')
"""
COLUMNS: LiteralString = """
    SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull,
           coalesce(col_description(attrelid, attnum), '')
    FROM pg_attribute
    WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
"""
CHECKS: LiteralString = """
    SELECT attname, conname, pg_get_constraintdef(pg_constraint.oid)
    FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
    WHERE conrelid = to_regclass(%(table)s) AND contype = 'c' AND cardinality(conkey) = 1
    ORDER BY conname
"""
# Plain ones: of columns, without a condition.
INDEXES: LiteralString = """
    SELECT ARRAY(
               SELECT attname::text FROM unnest(indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
               JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = key.attnum
               WHERE place <= indnkeyatts ORDER BY place
           ), indisunique, relname
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE indrelid = to_regclass(%(table)s) AND indpred IS NULL AND indexprs IS NULL AND indisvalid
      AND amname = 'btree'
    ORDER BY relname
"""
MASKED: LiteralString = """
    SELECT column_name, field, scheme FROM etl.masked_columns WHERE table_name = %(plain)s
"""
