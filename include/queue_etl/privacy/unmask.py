"""Recovery of masked values: for the privacy officer, with a reason, a ticket and an audit entry."""

import csv
from collections.abc import Iterator, Sequence
from typing import TextIO

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.token_format import is_token
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.officer_store import OfficerStore, refuse_problems
from include.queue_etl.privacy.subjects import Place, Search
from include.queue_etl.resources import Resources
from include.queue_etl.transform.masking import Masker

Tokens = Sequence[tuple[MaskedField, str]]
Value = tuple[str, str, str]  # field, token, value
ValueAnywhere = tuple[str, str, str, str]  # contract, field, token, value
NAMES = ("contract", "field", "token", "value")
FORMULA = ("=", "+", "-", "@")


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
    details = {"contract": contract.name, "fields": _fields(tokens)}
    audit.record_tokens("unmask", purpose, details, len(tokens), resources.settings.unmask_per_hour)
    return ((masked.field, token, _unmask_one(masker, masked, token)) for masked, token in tokens)


def find(resources: Resources, searches: Sequence[Search]) -> list[tuple[Contract, Tokens]]:
    """For each search its contract, and the tokens in all rows of its tables that hold the value.

    Raises:
        PreflightError: the officer lacks a privilege, or a table is missing, in any of the contracts
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was read, or not all of it
    """
    store, document = OfficerStore(resources.database), resources.keyset_document
    places = [(search.contract, search.places(document)) for search in searches]
    tables = [(table, where) for contract, where in places for table in contract.each_table()]
    refuse_problems(store.search_problems(table, where) for table, where in tables)
    return [(contract, _tokens_where(store, contract, where)) for contract, where in places]


def _tokens_where(store: OfficerStore, contract: Contract, where: Sequence[Place]) -> Tokens:
    """Of all tables of the contract, each token once."""
    found = (one for table in contract.each_table() for one in store.tokens_where(table, where))
    return list(dict.fromkeys(found))


def unmask_everywhere(
    resources: Resources,
    audit: AuditLog,
    kind: str,
    found: Sequence[tuple[Contract, Tokens]],
    purpose: Purpose,
) -> Iterator[ValueAnywhere]:
    """As `unmask`, for what `find` found in several contracts by a kind of value, in one request.

    One entry of the audit stands for all of it, so that the hour's limit refuses all of it, or nothing.
    """
    maskers = [(Masker(contract, resources.keyset), contract, tokens) for contract, tokens in found]
    count = sum(len(tokens) for _, tokens in found)
    fields = {contract.name: _fields(tokens) for contract, tokens in found}
    details = {"by": kind, "contracts": fields}
    audit.record_tokens("unmask", purpose, details, count, resources.settings.unmask_per_hour)
    return (
        (contract.name, masked.field, token, _unmask_one(masker, masked, token))
        for masker, contract, tokens in maskers
        for masked, token in tokens
    )


def _fields(tokens: Tokens) -> list[str]:
    return sorted({masked.field for masked, _ in tokens})


def _unmask_one(masker: Masker, column: MaskedField, token: str) -> str:
    if not is_token(token):
        raise KeysetError("not a token: it does not begin as a token does")
    return masker.unmask(column, token)


def write_csv(
    lines: Iterator[Value] | Iterator[ValueAnywhere], stream: TextIO, names: Sequence[str] = NAMES[1:]
) -> int:
    """Write the lines below a heading of their names; returns the number of values.

    A value that a spreadsheet would take for a formula gets a single quote before it. Source: OWASP,
    "CSV Injection".
    """
    writer = csv.writer(stream)
    writer.writerow(names)
    count = 0
    for *others, value in lines:
        writer.writerow((*others, f"'{value}" if value.startswith(FORMULA) else value))
        count += 1
    return count
