"""Recovery of masked values: for the privacy officer, with a reason, a ticket and an audit entry."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from include.queue_etl.contract import Contract, Personal
from include.queue_etl.errors import KeysetError, RateExceeded
from include.queue_etl.masking import Masker
from include.queue_etl.privacy.audit import REFUSED, Entry, Purpose
from include.queue_etl.privacy.officer import USER, OfficerPipeline

Tokens = Sequence[tuple[Personal, str]]
Value = tuple[str, str, str]  # field, token, value
TOKEN = re.compile("A[Q-Za-f]")  # Tink's ciphertexts begin with the byte 1, in base64 with one of these
FORMULA = ("=", "+", "-", "@")


def personal_field(contract: Contract, field: str) -> Personal:
    """The recoverable column of an event field.

    Raises:
        ValueError: the contract has no such field; the message lists those it has
    """
    found = {column.field: column for column in contract.recoverable}
    if field not in found:
        raise ValueError(f"no recoverable field {field!r} in {contract.name}: one of {', '.join(found)}")
    return found[field]


def require_user_id(contract: Contract) -> None:
    """Raise ValueError unless the contract's table has a column `user_id` to look for."""
    if USER not in {column.column for column in contract.columns}:
        raise ValueError(f"{contract.table} has no column {USER}: give tokens and --field")


def unmask(
    pipeline: OfficerPipeline, tokens: Tokens, purpose: Purpose, **asked: str
) -> tuple[Entry, Iterator[Value]]:
    """Put the request on record, then open the tokens.

    Args:
        pipeline: of the officer
        tokens: each with its column
        purpose: why
        asked: what else the audit should say of the request, such as who approved it

    Returns:
        the committed audit entry, and (field, token, value) for each token, in order, as they are opened:
        the value in its canonical form. Opening raises KeysetError on a token that is none of its field, or
        of a key the keyset lacks.

    Raises:
        RateExceeded: more tokens than the hour has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was opened
    """
    masker = Masker(pipeline.contract, pipeline.keyset)
    fields = sorted({column.field for column, _ in tokens})
    details = {"contract": pipeline.contract.name, "fields": fields, "tokens": len(tokens), **asked}
    most = pipeline.settings.unmask_per_hour
    entry = pipeline.warehouse.record("unmask", purpose, details, per_hour=most)
    if entry.action.endswith(REFUSED):
        raise RateExceeded(
            f"{len(tokens)} tokens are more than this hour has room for (QUEUE_ETL_UNMASK_PER_HOUR={most}); "
            f"audit entry {entry.id} says so"
        )
    return entry, ((column.field, token, _opened(masker, column, token)) for column, token in tokens)


def _opened(masker: Masker, column: Personal, token: str) -> str:
    if not TOKEN.match(token):
        raise KeysetError("not a token: it does not begin as a token does")
    return masker.value(column, token)


def write_csv(lines: Iterator[Value], stream: TextIO) -> int:
    """Write `field,token,value` with a heading; returns the number of values.

    A value that a spreadsheet would take for a formula gets a single quote before it. Source: OWASP,
    "CSV Injection".
    """
    writer = csv.writer(stream)
    writer.writerow(("field", "token", "value"))
    count = 0
    for field, token, value in lines:
        writer.writerow((field, token, f"'{value}" if value.startswith(FORMULA) else value))
        count += 1
    return count


@contextmanager
def private_file(path: Path) -> Iterator[TextIO]:
    """A new file that only its owner can read; it is removed again when it cannot be written to its end.

    Raises:
        OSError: it cannot be made: there is something of that name, or no such folder, ...
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise OSError(f"cannot make the file {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
    except BaseException:
        path.unlink()
        raise
