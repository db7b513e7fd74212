"""Rotation of keys: everything moves to the primary key while pipelines run; then the old key can go.

    keys add -> give the keyset to every process -> keys promote -> give it to every process -> remask
    -> keys destroy -> give it to every process

Pseudonyms change with the key: tokens stored elsewhere have to be fetched again. Tokens of one-way
fields cannot be moved, as nobody knows what they stand for.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.counts import in_words
from include.queue_etl.errors import KeyInUse
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.keys.token_format import token_prefixes
from include.queue_etl.postgres.masked_columns import MaskedColumn
from include.queue_etl.postgres.payloads import PayloadTable, StoredPayload
from include.queue_etl.privacy import archived_files
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.remask_store import Reencrypt, RemaskStore, reencrypted
from include.queue_etl.privacy.retained_files import Change, Row, rewrite, with_changes
from include.queue_etl.resources import Resources
from include.queue_etl.staging.area import BatchFile, StagingArea
from include.queue_etl.transform import kept
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import PayloadCipher

Contracts = Mapping[str, Contract]
PLACES = {PayloadTable.QUARANTINE: "quarantined messages", PayloadTable.KEPT_FIELDS: "kept fields"}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """How many things in one place are encrypted with a key.

    Attributes:
        place: a column, or where else, for people
        is_one_way: they are one-way tokens, which cannot be moved to another key
        how_to_move: where remask does not do it; empty where it does
    """

    place: str
    count: int
    is_one_way: bool = False
    how_to_move: str = ""


# What is done -------------------------------------------------------------------------------------


def remask(resources: Resources, audit: AuditLog, contracts: Contracts, purpose: Purpose) -> dict[str, int]:
    """Move every token, payload and retained staged file to the keyset's primary key.

    While pipelines run, in transactions of their own: stopped at any point, a repetition goes on with what is
    left. Rows that a process with an older keyset loads in the meantime are found by the last look.

    Returns:
        "rows", "payloads" (of quarantined messages and kept fields) and "files" moved, where a row counts
        again for each jsonb column; "unopened":
        those that no key of the keyset opens; "one_way": tokens of other keys, which cannot be moved; "left":
        what else is still encrypted with another key of the keyset: 0, or something did not open, or
        pipelines with an older keyset are at work; "damaged": staged files that do not open and stay until
        maintenance removes them; "open_runs": runs whose files could not be looked at, as they are not closed

    Raises:
        PreflightError: warehouse or keyset are not ready
        WarehouseRefused: nobody can say what a masked column holds; nothing was moved
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    resources.require_schema()
    primary, *others = resources.keyset_document.key_ids
    columns = RemaskStore(resources.database).masked_columns(contracts.values())
    audit.record("remask", purpose, {"to_key": primary, "from_keys": others})
    names = ("rows", "payloads", "files", "unopened", "one_way", "left", "damaged", "open_runs")
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    for contract in contracts.values():
        for one in contract.each_table():
            _remask_table(resources, one, others, counts)
        for table, reencrypt in _reencryption(contract, resources.keyset).items():
            _remask_payloads(resources, contract, table, reencrypt, others, counts)
    _remask_files(resources, contracts, primary, counts)
    for key_id in others:
        for used in usage(resources, columns, key_id):
            counts["one_way" if used.is_one_way else "left"] += used.count
    log.info("remask to key %d: %s", primary, in_words(counts))
    return dict(counts)


def usage(resources: Resources, columns: Sequence[MaskedColumn], key_id: int) -> list[Usage]:
    """What is encrypted with the key: staged files, tokens in these columns, payloads.

    Places that hold nothing are left out.
    """
    store = RemaskStore(resources.database)
    # Staged files first: what is loaded from one meanwhile is then seen in its table.
    found = [
        Usage("staged files", staged_keys(resources.staging)[key_id]),
        *(_usage_of(column, store.count_tokens(column, key_id)) for column in columns),
        *(Usage(place, store.count_payloads(table, key_id)) for table, place in PLACES.items()),
    ]
    where = f"warehouse {resources.warehouse}: " if resources.warehouse else ""
    return [replace(used, place=f"{where}{used.place}") for used in found if used.count]


def _usage_of(column: MaskedColumn, count: int) -> Usage:
    place = column.place + (" (one-way)" if column.one_way else "")
    if column.loaded:
        return Usage(place, count, column.one_way)
    how_to_move = (
        f": no contract masks it today; restore the file of contract {column.contract} and remask, "
        "or drop the column"
    )
    return Usage(place, count, column.one_way, how_to_move)


def staged_keys(staging: StagingArea) -> Counter[int | None]:
    """Key id -> staged files of any run that are encrypted with it."""
    return Counter(
        staging.run(run_id).key_of(file)
        for run_id, files in staging.runs().items()
        for file in map(BatchFile.parse, files.names)
        if file is not None
    )


def status(resources: Resources, contracts: Contracts) -> list[dict[str, Any]]:
    """Each key of the keyset, the primary one first, then the retired ones: what it is and what uses it."""
    primary, *others = resources.keyset_document.key_ids
    store = RemaskStore(resources.database)
    known, columns = store.known_keys(), store.masked_columns(contracts.values())
    return [
        {
            "key_id": key_id,
            "state": "primary" if key_id == primary else "secondary" if key_id in others else "gone",
            "first_used_at": known[key_id][0].isoformat() if key_id in known else None,
            "retired_at": known[key_id][1] and known[key_id][1].isoformat() if key_id in known else None,
            "in_use": {used.place: used.count for used in usage(resources, columns, key_id)},
        }
        for key_id in dict.fromkeys([primary, *others, *known])
    ]


def retire(
    resources: Resources,
    audit: AuditLog,
    contracts: Contracts,
    key_id: int,
    purpose: Purpose,
    abandon_one_way: bool = False,
) -> KeysetDocument:
    """The keyset in the clear without this key, which from now on no process may mask with.

    Args:
        resources: with the keyset that still holds the key, as role etl_remasker
        audit: gets the deed
        contracts: all of them
        key_id: of a key that is not the primary one
        purpose: for the audit
        abandon_one_way: let one-way tokens of the key stay: nothing can ever be matched with them again

    Raises:
        KeyInUse: something is encrypted with the key, or an open run may yet use it; the key stays as it was
        KeysetError: it is the primary key, or not there
    """
    resources.require_schema()
    with retiring(resources, contracts, key_id, abandon_one_way=abandon_one_way) as rest:
        audit.record("destroy key", purpose, {"key_id": key_id})
    return rest


@contextmanager
def retiring(
    resources: Resources, contracts: Contracts, key_id: int, *, abandon_one_way: bool
) -> Iterator[KeysetDocument]:
    """The keyset without this key, which is retired in the warehouse unless something fails meanwhile.

    Raises:
        KeyInUse, KeysetError: as `retire` does
    """
    document, store = resources.keyset_document, RemaskStore(resources.database)
    rest = document.remove_key(key_id)
    check_value = document.only_key(key_id).check_value()
    # Retired first, looked at then: a run that began before is open, one that begins now is refused.
    store.set_retired(key_id, check_value, retired=True)
    try:
        _require_unused(resources, contracts, key_id, abandon_one_way)
        yield rest
    except BaseException:
        store.set_retired(key_id, check_value, retired=False)
        raise


# What that is made of -----------------------------------------------------------------------------


def _require_unused(resources: Resources, contracts: Contracts, key_id: int, abandon_one_way: bool) -> None:
    problems = []
    if runs := RemaskStore(resources.database).count_open_runs():
        where = f" in warehouse {resources.warehouse}" if resources.warehouse else ""
        problems.append(f"{runs} runs are open{where}: try again when they are finished")
    columns = RemaskStore(resources.database).masked_columns(contracts.values())
    for used in usage(resources, columns, key_id):
        if not (abandon_one_way and used.is_one_way):
            problems.append(f"{used.place}: {used.count} are encrypted with it{used.how_to_move}")
    if problems:
        raise KeyInUse(problems)


def _remask_table(
    resources: Resources, contract: Contract, others: Sequence[int], counts: Counter[str]
) -> None:
    """Pass over the table until a pass finds nothing to move: rows that change go to the end of it."""
    prefixes = [prefix for key_id in others for prefix in token_prefixes(key_id)]
    masker, store = Masker(contract, resources.keyset), RemaskStore(resources.database)
    while prefixes and contract.recoverable:
        rows = unopened = 0
        ranges = store.block_ranges(contract)
        for number, blocks in enumerate(ranges, 1):
            done = store.move_rows(contract, masker, prefixes, blocks)
            rows, unopened = rows + done.moved, unopened + done.unopened
            if done.moved:
                log.info("%s: %d rows moved, part %d of %d", contract.table, rows, number, len(ranges))
        counts["rows"] += rows
        if not rows:
            counts["unopened"] += unopened
            return


def _reencryption(contract: Contract, keyset: Keyset) -> dict[PayloadTable, Reencrypt]:
    """How the payloads of each table are moved to the primary key."""
    return {
        PayloadTable.QUARANTINE: PayloadCipher(keyset, contract.name).reencrypt,
        PayloadTable.KEPT_FIELDS: kept.cipher(keyset, contract.name).reencrypt,
    }


def _remask_payloads(
    resources: Resources,
    contract: Contract,
    table: PayloadTable,
    reencrypt: Reencrypt,
    others: Sequence[int],
    counts: Counter[str],
) -> None:
    last: StoredPayload | None = None
    store = RemaskStore(resources.database)
    while page := store.payloads_using(table, contract, others, last):
        done = store.move_payloads(table, reencrypt, page)
        counts["payloads"] += done.moved
        counts["unopened"] += done.unopened
        last = page[-1]


def _remask_files(resources: Resources, contracts: Contracts, primary: int, counts: Counter[str]) -> None:
    runs = resources.staging.runs()
    closed = RemaskStore(resources.database).closed(runs)
    counts["open_runs"] = len(runs) - len(closed)
    for run_id in closed:
        changed = rewrite(
            resources.staging.run(run_id),
            contracts,
            lambda contract: moving(contract, resources.keyset),
            to_key=primary,
        )
        changed += archived_files.reseal(resources.staging.run(run_id), primary)
        counts["files"] += changed["files"]
        counts["damaged"] += changed["damaged"]


def moving(contract: Contract, keyset: Keyset) -> Change:
    """Move tokens and payloads to the primary key; what does not open stays."""
    masker, reencryption = Masker(contract, keyset), _reencryption(contract, keyset)
    names = contract.column_names
    fields = [(names.index(masked.column), masked) for masked in contract.recoverable]

    def row(given: Row) -> Row:
        new = [*given]
        for index, masked in fields:
            new[index] = with_changes(new[index], masked.path, partial(_moved, masker, masked))
        return new

    def moved(reencrypt: Reencrypt, message_id: str, payload: bytes) -> bytes:
        return reencrypt(message_id, payload) or payload

    return Change(
        row,
        partial(moved, reencryption[PayloadTable.QUARANTINE]),
        partial(moved, reencryption[PayloadTable.KEPT_FIELDS]),
    )


def _moved(masker: Masker, masked: MaskedField, token: object) -> object:
    return (reencrypted(masker, masked, token) if isinstance(token, str) else None) or token
