"""Recovery of masked values: for the privacy officer, with a reason, a ticket and an audit entry."""

import csv
from collections.abc import Iterator, Sequence
from typing import TextIO

from include.queue_etl.contract import Column, Contract, MaskedField
from include.queue_etl.errors import KeysetError, RateExceeded
from include.queue_etl.keys.token_format import is_token
from include.queue_etl.privacy.audit import REFUSED, AuditLog, Purpose
from include.queue_etl.resources import Resources
from include.queue_etl.transform.masking import Masker

Tokens = Sequence[tuple[MaskedField, str]]
Value = tuple[str, str, str]  # field, token, value
FORMULA = ("=", "+", "-", "@")


def personal_field(contract: Contract, field: str) -> MaskedField:
    """The recoverable column of an event field.

    Raises:
        ValueError: the contract has no such field; the message lists those it has
    """
    found = {column.field: column for column in contract.recoverable}
    if field not in found:
        raise ValueError(f"no recoverable field {field!r} in {contract.name}: one of {', '.join(found)}")
    return found[field]


def require_subject(contract: Contract) -> Column:
    """The column that says whose row it is.

    Raises:
        ValueError: the contract has none
    """
    if contract.subject is None:
        raise ValueError(f"no field of {contract.name} says whose row it is: give tokens and --field")
    return contract.subject


def unmask(
    resources: Resources, audit: AuditLog, contract: Contract, tokens: Tokens, purpose: Purpose
) -> Iterator[Value]:
    """Put the request on record, then open the tokens.

    Args:
        resources: as role pii_officer
        audit: gets the request
        contract: whose tokens they are
        tokens: each with its column
        purpose: why

    Returns:
        (field, token, value) for each token, in order, as they are opened: the normalized value. Opening
        raises KeysetError on a token that is none of its field, or of a key the keyset lacks.

    Raises:
        RateExceeded: more tokens than the hour has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was opened
    """
    masker = Masker(contract, resources.keyset)
    fields = sorted({column.field for column, _ in tokens})
    details = {"contract": contract.name, "fields": fields, "tokens": len(tokens)}
    most = resources.settings.unmask_per_hour
    entry = audit.record("unmask", purpose, details, per_hour=most)
    if entry.action.endswith(REFUSED):
        raise RateExceeded(
            f"{len(tokens)} tokens are more than this hour has room for (QUEUE_ETL_UNMASK_PER_HOUR={most}); "
            f"audit entry {entry.id} says so"
        )
    return ((column.field, token, _unmask_one(masker, column, token)) for column, token in tokens)


def _unmask_one(masker: Masker, column: MaskedField, token: str) -> str:
    if not is_token(token):
        raise KeysetError("not a token: it does not begin as a token does")
    return masker.unmask(column, token)


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
