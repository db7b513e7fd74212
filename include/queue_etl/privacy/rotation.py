"""Rotation of keys: everything moves to the primary key while pipelines run; then the old key can go.

    keys add -> give the keyset to every process -> keys promote -> give it to every process -> remask
    -> keys destroy -> give it to every process

Pseudonyms change with the key: whoever stored tokens elsewhere has to fetch them again. Tokens of one-way
fields cannot be moved, as nobody knows what they stand for.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from include.queue_etl.contract import Contract, Personal, Scheme
from include.queue_etl.copytext import NULL
from include.queue_etl.errors import KeyInUse
from include.queue_etl.keyset import Keyset
from include.queue_etl.masked_columns import MaskedColumn
from include.queue_etl.masking import Masker, token_heads
from include.queue_etl.pipeline import Pipeline
from include.queue_etl.privacy import keys
from include.queue_etl.privacy.audit import Purpose
from include.queue_etl.privacy.remasker import Remasker, Sealed, moved, resealed
from include.queue_etl.privacy.retained import Change, Row, rewrite
from include.queue_etl.staging import BatchFile

Contracts = Mapping[str, Contract]
log = logging.getLogger(__name__)


class Usage(NamedTuple):
    """So many things at one place bear a key. `remedy` says what moves them where remask does not."""

    place: str
    things: int
    one_way: bool = False
    remedy: str = ""


class RotationPipeline(Pipeline):
    """The parts that move and destroy keys: `warehouse_dsn` is that of role etl_remasker."""

    @cached_property
    def warehouse(self) -> "Remasker":
        """The warehouse; it connects at its first statement."""
        return Remasker(self._warehouse_dsn)

    def staged_keys(self) -> Counter[int | None]:
        """Key id -> staged files of any run that are sealed with it."""
        return Counter(
            self.staging.of_run(run_id).key_of(file)
            for run_id, run in self.staging.runs().items()
            for file in map(BatchFile.parse, run.names)
            if file is not None
        )


# What is done -------------------------------------------------------------------------------------


def remask(pipeline: RotationPipeline, contracts: Contracts, purpose: Purpose) -> dict[str, int]:
    """Move every token, quarantined payload and retained staged file to the keyset's primary key.

    While pipelines run, in transactions of their own: stopped at any point, a repetition goes on with what is
    left. Rows that a process with an older keyset loads in the meantime are found by the last look.

    Returns:
        "rows", "payloads" and "files" moved; "unopened": those that no key of the keyset opens; "one_way":
        tokens of other keys, which cannot be moved; "left": what else still bears another key of the keyset:
        0, or something did not open, or pipelines with an older keyset are at work; "damaged": staged
        files that do not open and stay until maintenance removes them; "open_runs": runs whose files
        could not be looked at, as they are not closed

    Raises:
        PreflightError: warehouse or keyset are not ready
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    pipeline.check_warehouse()
    primary, *others = keys.key_ids(pipeline.keyset_json)
    pipeline.warehouse.record("remask", purpose, {"to_key": primary, "from_keys": others})
    names = ("rows", "payloads", "files", "unopened", "one_way", "left", "damaged", "open_runs")
    counts: Counter[str] = Counter(dict.fromkeys(names, 0))
    for contract in contracts.values():
        _remask_table(pipeline, contract, others, counts)
        _remask_quarantine(pipeline, contract, others, counts)
    _remask_files(pipeline, contracts, primary, counts)
    columns = pipeline.warehouse.masked_columns(contracts.values())
    for key_id in others:
        for use in usage(pipeline, columns, key_id):
            counts["one_way" if use.one_way else "left"] += use.things
    log.info("remask to key %d: %s", primary, dict(counts))
    return dict(counts)


def usage(pipeline: RotationPipeline, columns: Sequence[MaskedColumn], key_id: int) -> list[Usage]:
    """What bears the key: staged files, tokens in these columns, quarantined messages; only what is there."""
    # Staged files first: what is loaded from one meanwhile is then seen in its table.
    found = [
        Usage("staged files", pipeline.staged_keys()[key_id]),
        *(_usage_of(column, pipeline.warehouse.bearing(column, key_id)) for column in columns),
        Usage("quarantined messages", pipeline.warehouse.payloads_bearing(key_id)),
    ]
    return [use for use in found if use.things]


def _usage_of(column: MaskedColumn, count: int) -> Usage:
    place = f"{column.table}.{column.column}" + (" (one-way)" if column.one_way else "")
    if column.loaded:
        return Usage(place, count, column.one_way)
    remedy = (
        f": no contract masks it today; bring back the file of contract {column.contract} and remask, "
        "or drop the column"
    )
    return Usage(place, count, column.one_way, remedy)


def status(pipeline: RotationPipeline, contracts: Contracts) -> list[dict[str, Any]]:
    """Each key of the keyset, the primary one first, and the retired ones: what it is and what bears it."""
    primary, *others = keys.key_ids(pipeline.keyset_json)
    known = pipeline.warehouse.known_keys()
    columns = pipeline.warehouse.masked_columns(contracts.values())
    return [
        {
            "key_id": key_id,
            "state": "primary" if key_id == primary else "secondary" if key_id in others else "gone",
            "first_used_at": known[key_id][0].isoformat() if key_id in known else None,
            "retired_at": known[key_id][1] and known[key_id][1].isoformat() if key_id in known else None,
            "in_use": {use.place: use.things for use in usage(pipeline, columns, key_id)},
        }
        for key_id in dict.fromkeys([primary, *others, *known])
    ]


def retire(
    pipeline: RotationPipeline,
    contracts: Contracts,
    key_id: int,
    purpose: Purpose,
    abandon_one_way: bool = False,
) -> str:
    """The keyset in the clear without this key, which from now on no process may mask with.

    Args:
        pipeline: with the keyset that still holds the key
        contracts: all of them
        key_id: of a key that is not the primary one
        purpose: for the audit
        abandon_one_way: let one-way tokens of the key stay: nothing can ever be matched with them again

    Raises:
        KeyInUse: something bears the key, or a run is open that may yet; the key stays as it was
        KeysetError: it is the primary key, or not there
    """
    pipeline.check_warehouse()
    rest = keys.without(pipeline.keyset_json, key_id)
    check_value = keys.single(pipeline.keyset_json, key_id).check_value()
    # Retired first, looked at then: a run that began before is open, one that begins now is refused.
    pipeline.warehouse.set_retired(key_id, check_value, retired=True)
    try:
        _require_unused(pipeline, contracts, key_id, abandon_one_way)
        pipeline.warehouse.record("destroy key", purpose, {"key_id": key_id})
    except BaseException:
        pipeline.warehouse.set_retired(key_id, check_value, retired=False)
        raise
    return rest


# What that is made of -----------------------------------------------------------------------------


def _require_unused(
    pipeline: RotationPipeline, contracts: Contracts, key_id: int, abandon_one_way: bool
) -> None:
    problems = []
    if runs := pipeline.warehouse.count_open_runs():
        problems.append(f"{runs} runs are open: try again when they are finished")
    columns = pipeline.warehouse.masked_columns(contracts.values())
    for use in usage(pipeline, columns, key_id):
        if not (abandon_one_way and use.one_way):
            problems.append(f"{use.place}: {use.things} bear it{use.remedy}")
    if problems:
        raise KeyInUse(problems)


def _remask_table(
    pipeline: RotationPipeline, contract: Contract, others: Sequence[int], counts: Counter[str]
) -> None:
    """Pass over the table until a pass finds nothing to move: rows that change go to the end of it."""
    heads = [head for key_id in others for head in token_heads(key_id)]
    masker = Masker(contract, pipeline.keyset)
    while heads and contract.recoverable:
        rows = unopened = 0
        stretches = pipeline.warehouse.stretches(contract)
        for number, blocks in enumerate(stretches, 1):
            done = pipeline.warehouse.move_rows(contract, masker, heads, blocks)
            rows, unopened = rows + done.moved, unopened + done.unopened
            if done.moved:
                log.info("%s: %d rows moved, part %d of %d", contract.table, rows, number, len(stretches))
        counts["rows"] += rows
        if not rows:
            counts["unopened"] += unopened
            return


def _remask_quarantine(
    pipeline: RotationPipeline, contract: Contract, others: Sequence[int], counts: Counter[str]
) -> None:
    last: Sealed | None = None
    while page := pipeline.warehouse.sealed_with(contract, others, last):
        done = pipeline.warehouse.move_payloads(contract, pipeline.keyset, page)
        counts["payloads"] += done.moved
        counts["unopened"] += done.unopened
        last = page[-1]


def _remask_files(
    pipeline: RotationPipeline, contracts: Contracts, primary: int, counts: Counter[str]
) -> None:
    runs = pipeline.staging.runs()
    closed = pipeline.warehouse.closed(runs)
    counts["open_runs"] = len(runs) - len(closed)
    for run_id in closed:
        changed = rewrite(
            pipeline.staging.of_run(run_id),
            contracts,
            lambda contract: moving(contract, pipeline.keyset),
            to_key=primary,
        )
        counts["files"] += changed["files"]
        counts["damaged"] += changed["damaged"]


def moving(contract: Contract, keyset: Keyset) -> Change:
    """Move tokens and payloads to the primary key; what does not open stays."""
    masker = Masker(contract, keyset)
    columns = [
        (index, column)
        for index, column in enumerate(contract.columns)
        if isinstance(column, Personal) and column.scheme is Scheme.RECOVERABLE
    ]

    def row(given: Row) -> Row:
        new = [*given]
        for index, column in columns:
            if given[index] != NULL:
                new[index] = moved(masker, column, given[index]) or given[index]
        return new

    def payload(message_id: str, sealed: bytes) -> bytes:
        return resealed(keyset, contract, message_id, sealed) or sealed

    return Change(row, payload)
