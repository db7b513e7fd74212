"""Recovery of masked values: for the privacy officer, with a reason, a ticket and an audit record."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract, Personal
from include.queue_etl.errors import WarehouseRefused
from include.queue_etl.keyset import Keyset
from include.queue_etl.masking import Masker


def personal_field(contract: Contract, field: str) -> Personal:
    """The personal column of an event field.

    Raises:
        ValueError: the contract has no such personal field; the message lists those it has
    """
    found = {column.field: column for column in contract.personal}
    if field not in found:
        raise ValueError(f"no personal field {field!r} in {contract.name}: one of {', '.join(found)}")
    return found[field]


def tokens_of_user(dsn: str, contract: Contract, key_column: str, key: str) -> list[tuple[Personal, str]]:
    """Distinct tokens of the rows whose `key_column` is `key`, by personal column; NULLs left out.

    Args:
        dsn: of role pii_officer, which may read the table
        contract: names table and columns
        key_column: a text column of the contract, such as `user_id`
        key: value to look for
    """
    found: list[tuple[Personal, str]] = []
    with _connect(dsn) as connection:
        for column in contract.personal:
            query = sql.SQL(
                "SELECT DISTINCT {c} FROM {t} WHERE {k} = %s AND {c} IS NOT NULL ORDER BY 1"
            ).format(
                c=sql.Identifier(column.column),
                t=sql.Identifier(*contract.table.split(".")),
                k=sql.Identifier(key_column),
            )
            found += [(column, token) for (token,) in connection.execute(query, [key])]
    return found


def record(dsn: str, contract: Contract, fields: Sequence[str], count: int, reason: str, ticket: str) -> None:
    """Commit the audit record. Call it before anything is decrypted.

    Raises:
        WarehouseRefused: Postgres did not take it; nothing may be decrypted then
    """
    details = {"contract": contract.name, "fields": sorted(set(fields)), "tokens": count}
    with _connect(dsn) as connection:
        connection.execute(
            "INSERT INTO pii.audit (action, reason, ticket, details) VALUES ('unmask', %s, %s, %s)",
            [reason, ticket, Jsonb(details)],
        )


def values(
    contract: Contract, keyset: Keyset, tokens: Iterable[tuple[Personal, str]]
) -> Iterator[tuple[str, str, str]]:
    """(field, token, value) for each token, in order; the value in its canonical form.

    Raises:
        KeysetError: a token is none of this field, or of a key the keyset lacks
    """
    masker = Masker(contract, keyset)
    for column, token in tokens:
        yield column.field, token, masker.value(column, token)


def write_csv(lines: Iterable[tuple[str, str, str]], stream: TextIO) -> int:
    """Write `field,token,value` with a heading; returns the number of values."""
    writer = csv.writer(stream)
    writer.writerow(("field", "token", "value"))
    count = 0
    for line in lines:
        writer.writerow(line)
        count += 1
    return count


def private_file(path: Path) -> TextIO:
    """Open a new file that only its owner can read; FileExistsError if there is one of that name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


def _connect(dsn: str) -> "psycopg.Connection[tuple[str, ...]]":
    try:
        return psycopg.connect(dsn, connect_timeout=10, application_name="queue_etl unmask")
    except psycopg.Error:
        raise WarehouseRefused("cannot connect as the privacy officer: check QUEUE_ETL_OFFICER_DSN") from None
