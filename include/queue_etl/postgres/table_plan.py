"""What has to change so that a table is what its contract says, and whether it can. Pure.

A change is compatible where all rows stay as they are and every load and query goes on. All others are
breaking: no SQL made here could answer what is to become of the rows that are there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.contract.comments import Masking, masking_in, normalization
from include.queue_etl.postgres import tables
from include.queue_etl.postgres.tables import Index, Table, TableColumn, quoted, table_name

# What a compatible change costs on a table with many rows. Loads wait while a table is read or written.
AT_ONCE = "at once"
READS = "reads the whole table"
WRITES = "writes the whole table anew"
# A comment that begins so keeps a column that the contract no longer has.
NO_LONGER_LOADED = "No longer loaded"


@dataclass(frozen=True, slots=True)
class Change:
    """Something in which contract and table differ.

    Attributes:
        what: in words
        cost: of a compatible change: AT_ONCE, READS or WRITES
        sql: of a compatible change
        instead: of a breaking change: what a person can do
    """

    what: str
    cost: str = AT_ONCE
    sql: tuple[str, ...] = ()
    instead: str = ""

    @property
    def is_breaking(self) -> bool:
        """It cannot be made without losing something, or without knowing what the rows hold."""
        return bool(self.instead)


@dataclass(frozen=True, slots=True)
class Found:
    """A table as it is in a database.

    Attributes:
        table: itself
        checks: column -> name of the CHECK of its choices
        index_names: index -> its name
        masked: (column, how it was masked) of everything that ever was, as etl.masked_columns has it
    """

    table: Table
    checks: Mapping[str, str] = field(default_factory=dict)
    index_names: Mapping[Index, str] = field(default_factory=dict)
    masked: frozenset[tuple[str, Masking]] = frozenset()


def creation(contract: Contract) -> Change:
    """The change where there is no table."""
    return Change("the table is new", sql=tuple(tables.create(contract)))


def changes(contract: Contract, found: Found) -> list[Change]:
    """Everything in which the contract and its table differ; empty where they agree."""
    return list(_Comparison(contract, tables.of_contract(contract), found).changes())


def missing_room(contract: Contract, found: Found) -> list[Change]:
    """Those of the changes without which the table refuses what the contract accepts.

    A wider type, a new choice, NULL allowed. The columns of `found` are enough, and columns that it has not
    are left out.
    """
    return list(_Comparison(contract, tables.of_contract(contract), found).missing_room())


@dataclass(frozen=True, slots=True)
class _Comparison:
    contract: Contract
    wanted: Table
    found: Found

    @property
    def _alter(self) -> str:
        return f"ALTER TABLE {table_name(self.wanted.name)}"

    def _alter_column(self, column: TableColumn) -> str:
        return f"{self._alter} ALTER COLUMN {quoted(column.name)}"

    def changes(self) -> Iterator[Change]:
        there = {column.name: column for column in self.found.table.columns}
        for column in self.wanted.columns:
            if column.name in there:
                yield from self._column(column, there.pop(column.name))
            else:
                yield self._new_column(column)
        for column in there.values():
            if not column.comment.startswith(NO_LONGER_LOADED):
                yield self._dropped_column(column)
        yield from self._indexes()
        yield from self._partitions()
        yield from self._fillfactor()
        if self.wanted.comment != self.found.table.comment:
            yield Change("comment of the table", sql=(tables.comment_on_table(self.wanted),))

    def missing_room(self) -> Iterator[Change]:
        there = {column.name: column for column in self.found.table.columns}
        for column in (one for one in self.wanted.columns if one.name in there):
            pair = column, there[column.name]
            # A check of somebody's own, where the contract has no choices, may be meant.
            choices = self._choices(*pair) if column.choices else ()
            for change in (*self._type(*pair), *self._nullability(*pair), *choices):
                if not change.is_breaking:
                    yield change

    # Columns

    def _new_column(self, column: TableColumn) -> Change:
        what = f"column {column.name} is new: {column.sql_type}"
        if not column.nullable:
            return Change(
                f"{what} NOT NULL",
                instead="rows that are there have no value for it. Let it be null: `T | None` in the event, "
                "and `= None` where messages without the field are to load. Or, in a revision of your own, "
                f"give those rows a value: {self._alter} ADD COLUMN {tables.column_definition(column)} "
                f"DEFAULT ...; {self._alter_column(column)} DROP DEFAULT;",
            )
        check = f", ADD {tables.check_definition(self.wanted.name, column)}" if column.choices else ""
        add = f"{self._alter} ADD COLUMN {tables.column_definition(column)}{check};"
        comment = tables.comment_on_column(self.wanted.name, column)
        return Change(what, READS if check else AT_ONCE, (add, comment))

    def _dropped_column(self, column: TableColumn) -> Change:
        null = "" if column.nullable else f"{self._alter_column(column)} DROP NOT NULL; "
        comment = tables.comment_on_column(self.wanted.name, replace(column, comment=f"{NO_LONGER_LOADED}."))
        return Change(
            f"column {column.name} is not in the contract",
            instead="in a revision of your own, keep it for the rows that are there: "
            f"{null}{_on_one_line(comment)} Or give up its values: "
            f"{self._alter} DROP COLUMN {quoted(column.name)};",
        )

    def _column(self, wanted: TableColumn, there: TableColumn) -> Iterator[Change]:
        yield from self._masking(wanted, there)
        yield from self._type(wanted, there)
        yield from self._nullability(wanted, there)
        yield from self._choices(wanted, there)
        if wanted.comment != there.comment:
            comment = tables.comment_on_column(self.wanted.name, wanted)
            yield Change(f"comment of column {wanted.name}", sql=(comment,))

    def _type(self, wanted: TableColumn, there: TableColumn) -> Iterator[Change]:
        if wanted.sql_type == there.sql_type:
            return
        what = f"column {wanted.name} is {there.sql_type}, and becomes {wanted.sql_type}"
        alter = f"{self._alter_column(wanted)} TYPE {wanted.sql_type}"
        if cost := widening(there.sql_type, wanted.sql_type):
            yield Change(what, cost, (f"{alter};",))
            return
        yield Change(
            what,
            instead=f"its values may not fit. Leave the contract at {there.sql_type}; or give the field "
            'another column, with Name("..."); or look whether all values fit, and then, in a revision of '
            f"your own: {alter} USING {quoted(wanted.name)}::{wanted.sql_type};",
        )

    def _nullability(self, wanted: TableColumn, there: TableColumn) -> Iterator[Change]:
        if wanted.nullable and not there.nullable:
            drop = f"{self._alter_column(wanted)} DROP NOT NULL;"
            yield Change(f"column {wanted.name} may be NULL", sql=(drop,))
        if there.nullable and not wanted.nullable:
            yield Change(
                f"column {wanted.name} may no longer be NULL",
                instead="rows that are there may hold NULL. Leave `| None` in the contract; or give those "
                "rows a value, and then, in a revision of your own: "
                f"{self._alter_column(wanted)} SET NOT NULL;",
            )

    def _choices(self, wanted: TableColumn, there: TableColumn) -> Iterator[Change]:
        if set(wanted.choices) == set(there.choices):
            return
        old = self.found.checks.get(wanted.name)
        drop = f"DROP CONSTRAINT {quoted(old)}" if old else ""
        add = f"ADD {tables.check_definition(self.wanted.name, wanted)}" if wanted.choices else ""
        alter = f"{self._alter} {', '.join(filter(None, [drop, add]))};"
        if not wanted.choices:
            yield Change(f"column {wanted.name} may have any value", sql=(alter,))
        elif there.choices and set(there.choices) < set(wanted.choices):
            more = [str(choice) for choice in wanted.choices if choice not in there.choices]
            yield Change(f"column {wanted.name} may also be {', '.join(more)}", READS, (alter,))
        else:
            yield Change(
                f"column {wanted.name} may have fewer values",
                instead="rows that are there may hold others. Leave these choices in the contract; or change "
                f"those rows, and then, in a revision of your own: {alter}",
            )

    # What is personal

    def _masking(self, wanted: TableColumn, there: TableColumn) -> Iterator[Change]:
        said = masking_in(there.comment)
        before = said if said is not None else self._registered(wanted.name)
        now = [masked for masked in self.contract.personal if masked.column == wanted.name]
        for masked in now:
            if not any(_is_same(masked, one) for one in before):
                yield self._masked_otherwise(wanted, masked, before)
        if any(not masked.path for masked in now):
            return
        for name in sorted({one.field for one in before} - {masked.field for masked in now}):
            yield Change(
                f"column {wanted.name}: {name} is no longer masked",
                instead="tokens of rows that are there would stand beside clear values. Give the field "
                'another column, with Name("..."), and keep this one for its tokens',
            )

    def _registered(self, name: str) -> frozenset[Masking]:
        return frozenset(masking for column, masking in self.found.masked if column == name)

    def _masked_otherwise(
        self, wanted: TableColumn, masked: MaskedField, before: frozenset[Masking]
    ) -> Change:
        if any(one.field == masked.field for one in before):
            return Change(
                f"column {wanted.name}: {masked.field} is masked in another way",
                instead="equal values of old and new rows would have different tokens. Leave the mark as it "
                'is; or give the tokens another column, with Personal(column="...")',
            )
        if before and not masked.path:
            others = ", ".join(sorted({one.field for one in before}))
            return Change(
                f"column {wanted.name} gets the tokens of {masked.field}",
                instead=f"it holds those of {others}, and tokens are bound to the field: unmask refuses "
                'those of the other. Give the tokens another column, with Personal(column="...")',
            )
        comment = tables.comment_on_column(self.wanted.name, wanted)
        return Change(
            f"column {wanted.name} becomes personal: {masked.field}",
            instead="the clear values of rows that are there would stay in it. Give the tokens another "
            'column, with Personal(column="..."), and remove the clear values. Or remove them first, and '
            f"when none is left, say so in a revision of your own: {_on_one_line(comment)}",
        )

    # Indexes and partitions

    def _indexes(self) -> Iterator[Change]:
        there = self.found.table.indexes
        for index in self.wanted.indexes:
            if index not in there:
                yield self._new_index(index)
        for index in there:
            if index.unique and index not in self.wanted.indexes:
                yield Change(
                    f"rows are unique by {', '.join(index.columns)}, which is not the key",
                    instead="a load fails at the second row with the same values. Make it the key; or, in a "
                    f"revision of your own, drop the index {quoted(self.found.index_names[index])}, or the "
                    "constraint that it belongs to",
                )

    def _new_index(self, index: Index) -> Change:
        create = tables.create_index(self.wanted.name, index)
        columns = ", ".join(index.columns)
        if not index.unique:
            return Change(f"index on {columns}", READS, (create,))
        return Change(
            f"the key is {columns}",
            instead="rows that are there may have the same key. Leave one of each, and then, in a revision "
            f"of your own: {create}",
        )

    def _partitions(self) -> Iterator[Change]:
        wanted, there = self.wanted.partition_column, self.found.table.partition_column
        if wanted != there:
            yield Change(
                f"the table is partitioned by {there or 'nothing'}, and not by {wanted or 'nothing'}",
                instead="Postgres cannot change this of a table that is there. In a revision of your own, "
                "rename it, make the new one, move the rows, and drop the old one. Or leave partition_by as "
                "it was",
            )

    def _fillfactor(self) -> Iterator[Change]:
        """Only where nothing is set: who set another value knows the table's rows."""
        wanted = self.wanted.fillfactor
        if wanted and not self.found.table.fillfactor:
            yield Change(
                "new pages keep room for rows that are replaced",
                sql=(f"{self._alter} SET (fillfactor = {wanted});",),
            )


def _on_one_line(comment: str) -> str:
    """A COMMENT whose text is a literal on each line, as one literal."""
    return re.sub(r"'\n\s+'", "", comment).replace("\n    ", " ")


def _is_same(masked: MaskedField, before: Masking) -> bool:
    how = normalization(masked.mark)
    return (masked.field, masked.mark.scheme) == before[:2] and before.normalization in (None, how)


# Types --------------------------------------------------------------------------------------------

_INTEGERS = ("smallint", "integer", "bigint")


def widening(old: str, new: str) -> str:
    """What it costs to make a column of type `old` one of type `new`; "" where values may not fit."""
    if old in _INTEGERS and new in _INTEGERS:
        return WRITES if _INTEGERS.index(old) < _INTEGERS.index(new) else ""
    old_name, old_sizes = _type(old)
    new_name, new_sizes = _type(new)
    if old_name == "varchar" and new_name in ("varchar", "text"):
        return AT_ONCE if not new_sizes or (old_sizes and old_sizes < new_sizes) else ""
    if old_name == new_name == "numeric":
        return _wider_numeric(old_sizes, new_sizes)
    return ""


def _wider_numeric(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    if not new:
        return AT_ONCE
    if not old or new[1] < old[1] or new[0] - new[1] < old[0] - old[1]:
        return ""
    return AT_ONCE if new[1] == old[1] else WRITES


def _type(sql_type: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = sql_type.partition("(")
    return name, tuple(map(int, re.findall(r"\d+", sizes)))
