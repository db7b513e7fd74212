"""COPY into a table, and names of columns as SQL."""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from include.queue_etl.contract import Contract
from include.queue_etl.postgres.connection import Connection, table_identifier

# From the catalog: CREATE TABLE ... (LIKE ...) asks for SELECT on the table, which the loader does not have.
COLUMN_TYPES: LiteralString = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = %(table)s::regclass AND attname = ANY (%(columns)s) AND NOT attisdropped
"""


def copy(
    connection: Connection,
    table: sql.Identifier,
    columns: Sequence[str],
    content: bytes | str,
    options: LiteralString = "",
) -> int:
    """Send COPY data (text, unless options say otherwise); return the number of rows Postgres made of it."""
    if not content:
        return 0
    command = sql.SQL("COPY {} ({}) FROM STDIN{}").format(table, listed(columns), sql.SQL(options))
    with connection.cursor() as cursor:
        with cursor.copy(command) as copying:
            copying.write(content)
        return cursor.rowcount


def column_types(connection: Connection, contract: Contract) -> dict[str, sql.Composable]:
    """The contract's columns, each with its type in the database."""
    names = list(contract.column_names)
    values = {"table": table_identifier(contract.table).as_string(connection), "columns": names}
    found: list[tuple[str, LiteralString]] = connection.execute(COLUMN_TYPES, values).fetchall()
    return {name: sql.SQL(kind) for name, kind in found}


def typed(types: dict[str, sql.Composable]) -> sql.Composed:
    """The columns with their types, for CREATE TABLE."""
    return sql.SQL(", ").join(sql.Identifier(name) + sql.SQL(" ") + kind for name, kind in types.items())


def listed(columns: Sequence[str]) -> sql.Composed:
    """The names with commas between."""
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def qualified(table: str, names: Sequence[str]) -> sql.Composed:
    """The same, each with its table."""
    return sql.SQL(", ").join(sql.Identifier(table, name) for name in names)
