"""The tokens of known values: for the privacy officer, who looks for their rows, with an audit entry."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.resources import Resources
from include.queue_etl.transform.masking import Masker

STRANGE = {
    "not_an_address": "no address",
    "not_an_email": "no e-mail address",
    "not_a_phone": "no phone number",
}
log = logging.getLogger(__name__)


class Masked(NamedTuple):
    """A token of a value.

    Attributes:
        value: which of the given values, from 1: never the value itself
        key_id: of the key that made it; None for a scheme without a key
    """

    value: int
    field: str
    token: str
    key_id: int | None


def mask(
    resources: Resources,
    audit: AuditLog,
    contract: Contract,
    column: MaskedField,
    values: Sequence[str],
    purpose: Purpose,
) -> list[Masked]:
    """Put the request on record, then mask the values under every key of the keyset.

    It costs the hour's allowance a token for each value: a person who may mask many values can find out what
    many tokens stand for.

    Args:
        resources: as role pii_officer
        audit: gets the request: how many values, never one of them
        contract: whose tokens they are
        column: of one of its personal fields
        values: as they stand in events; none of them blank
        purpose: why

    Returns:
        for each value its tokens, that of the primary key first, then those of the newest keys

    Raises:
        ValueError: a value is blank, and so masked as nothing
        RateExceeded: more values than the hour has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was masked
    """
    if not all(value.strip() for value in values):
        raise ValueError("a value is blank: its column holds NULL")
    document = resources.keyset_document
    details = {"contract": contract.name, "fields": [column.field]}
    audit.record_tokens("mask", purpose, details, len(values), resources.settings.unmask_per_hour)
    maskers = {key_id: Masker(contract, document.only_key(key_id)) for key_id in _newest(document)}
    by_key = [(key_id, masker.mask(column, values, "")) for key_id, masker in maskers.items()]
    anomalies = maskers[document.key_ids[0]].anomalies
    for kind, words in STRANGE.items():
        if anomalies[kind]:
            log.warning("%d values are %s: their tokens are those of the text", anomalies[kind], words)
    return [masked for number in range(len(values)) for masked in _of_value(number, column, by_key)]


def _newest(document: KeysetDocument) -> list[int]:
    primary, *others = document.key_ids
    return [primary, *reversed(others)]


def _of_value(
    number: int, column: MaskedField, by_key: Sequence[tuple[int, Sequence[str]]]
) -> Iterator[Masked]:
    for key_id, tokens in by_key[:1] if column.mark.is_weak else by_key:
        yield Masked(number + 1, column.field, tokens[number], None if column.mark.is_weak else key_id)
