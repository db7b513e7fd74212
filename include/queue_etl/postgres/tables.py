"""A contract's table as SQL: what `contract migration` writes, and `contract plan` compares with. Pure.

The contract says what the table is: columns, types, NOT NULL, choices, comments, partitions, indexes.
Names are always quoted, so that no list of reserved words has to be kept.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from include.queue_etl.contract import SUBJECT, Column, Contract, comments

# Longest name that Postgres keeps, in bytes: https://www.postgresql.org/docs/current/limits.html
_LONGEST_CALL = 80  # characters that a line of a revision has room for
_LONGEST_NAME = 63
_WIDTH = 90  # of a line of literals
# Percent of a page that inserted rows may fill, of a table with a key. A row that is replaced then finds room
# in its own page, and Postgres writes to no index: docs/decisions/0031-room-in-pages.md.
_FILLFACTOR = 90
# Who reads or writes contracts' tables, and so has to reach their schema (migrations/grants.sql).
_READERS = "etl_loader, etl_remasker, analyst, pii_officer"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column as CREATE TABLE has it.

    Attributes:
        sql_type: in the contract's words: varchar(32), timestamptz
        choices: all values that its CHECK allows; empty: it has none
    """

    name: str
    sql_type: str
    nullable: bool
    comment: str
    choices: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """An index: two with the same columns in the same order are the same, whatever their names."""

    columns: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: as a contract wants it, or as it is found in a database.

    Attributes:
        name: schema.table
        partition_column: of PARTITION BY RANGE; empty where the table is not partitioned
        fillfactor: percent of a page that inserted rows may fill; None: nothing is set, which is 100
    """

    name: str
    comment: str
    columns: tuple[TableColumn, ...]
    indexes: tuple[Index, ...]
    partition_column: str
    fillfactor: int | None = None


def of_contract(contract: Contract) -> Table:
    """The table that the contract describes."""
    unique = (Index((contract.key,), unique=True),) if contract.key else ()
    return Table(
        name=contract.table,
        comment=comments.of_table(contract),
        columns=tuple(_table_column(column) for column in contract.columns),
        indexes=(*unique, *(Index(tuple(columns)) for columns in contract.indexes)),
        partition_column=contract.partition_by.column if contract.partition_by else "",
        fillfactor=_FILLFACTOR if contract.key else None,
    )


def _table_column(column: Column) -> TableColumn:
    return TableColumn(
        column.name, column.sql_type, column.nullable, comments.of_column(column), column.choices
    )


# SQL ----------------------------------------------------------------------------------------------


def create(contract: Contract) -> list[str]:
    """The statements that make the contract's table and give each role its rights to it."""
    table = of_contract(contract)
    return [
        *_schema(contract.table),
        _create_table(table),
        comment_on_table(table),
        *(comment_on_column(table.name, column) for column in table.columns),
        *(create_index(table.name, index) for index in table.indexes),
        grant(contract),
    ]


def _schema(table: str) -> list[str]:
    """A schema of the contract's own; `public` is there, with its rights."""
    schema = table.partition(".")[0]
    if schema == "public":
        return []
    name = quoted(schema)
    return [
        f"CREATE SCHEMA IF NOT EXISTS {name};",
        f"GRANT USAGE, CREATE ON SCHEMA {name} TO etl_owner;",
        f"GRANT USAGE ON SCHEMA {name} TO {_READERS};",
    ]


def _create_table(table: Table) -> str:
    lines = [f"    {column_definition(column)}" for column in table.columns]
    lines += [f"    {check_definition(table.name, column)}" for column in table.columns if column.choices]
    by = f" PARTITION BY RANGE ({quoted(table.partition_column)})" if table.partition_column else ""
    fill = f" WITH (fillfactor = {table.fillfactor})" if table.fillfactor else ""
    return "\n".join([f"CREATE TABLE {table_name(table.name)} (", ",\n".join(lines), f"){by}{fill};"])


def column_definition(column: TableColumn) -> str:
    """A column within CREATE TABLE or ADD COLUMN, without its CHECK."""
    return f"{quoted(column.name)} {column.sql_type}{'' if column.nullable else ' NOT NULL'}"


def check_definition(table: str, column: TableColumn) -> str:
    """The named CHECK of a column with choices."""
    name = quoted(check_name(table, column.name))
    return f"CONSTRAINT {name} CHECK ({quoted(column.name)} IN ({_listed(column.choices)}))"


def check_name(table: str, column: str) -> str:
    """The name of a column's CHECK, as Postgres itself would choose it."""
    return _name(_bare(table), column, "check")


def create_index(table: str, index: Index) -> str:
    """CREATE INDEX, with the name that Postgres itself would choose."""
    kind = "UNIQUE INDEX" if index.unique else "INDEX"
    name = _name(_bare(table), *index.columns, "key" if index.unique else "idx")
    columns = ", ".join(map(quoted, index.columns))
    return f"CREATE {kind} {quoted(name)} ON {table_name(table)} ({columns});"


def comment_on_table(table: Table) -> str:
    """COMMENT ON TABLE."""
    return f"COMMENT ON TABLE {table_name(table.name)} IS\n    {_long_literal(table.comment)};"


def comment_on_column(table: str, column: TableColumn) -> str:
    """COMMENT ON COLUMN."""
    name = f"{table_name(table)}.{quoted(column.name)}"
    return f"COMMENT ON COLUMN {name} IS\n    {_long_literal(column.comment)};"


def grant(contract: Contract) -> str:
    """The call that hands the table to its owner and gives each role its rights."""
    columns = sorted({masked.column for masked in contract.personal})
    table = _literal(table_name(contract.table))
    arguments = [table, f"ARRAY[{_listed(columns)}]::text[]"]
    if contract.subject and contract.subject.name != SUBJECT:
        arguments.append(f"subject => {_literal(contract.subject.name)}")
    if contract.key:
        arguments.append("is_upsert => true")
    call = ", ".join(arguments)
    if len(call) > _LONGEST_CALL:
        call = "\n    " + ",\n    ".join(arguments) + "\n"
    return f"SELECT etl.grant_contract({call});"


def table_name(table: str) -> str:
    """schema.table, both quoted."""
    return ".".join(map(quoted, table.split(".")))


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str | int) -> str:
    """A value as a literal; texts with backslashes too, under standard_conforming_strings."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _long_literal(text: str) -> str:
    """A text as literals on lines of their own, which Postgres joins."""
    *words, last = text.split(" ")
    return "\n    ".join(map(_literal, _lines([*(f"{word} " for word in words), last])))


def _listed(values: Sequence[str | int]) -> str:
    """Literals with commas between them."""
    *most, last = map(_literal, values) if values else [""]
    return "\n        ".join(line.rstrip() for line in _lines([*(f"{value}, " for value in most), last]))


def _lines(pieces: Iterable[str]) -> list[str]:
    """The pieces joined to lines, which are longer than _WIDTH only where one piece is."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > _WIDTH:
            lines.append("")
        lines[-1] += piece
    return lines


def _bare(table: str) -> str:
    return table.partition(".")[2]


def _name(*parts: str) -> str:
    """The parts joined with "_"; where that is too long, cut, with a digest that keeps it unique."""
    name = "_".join(parts)
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 10 - len(parts[-1])]}_{digest}_{parts[-1]}"
