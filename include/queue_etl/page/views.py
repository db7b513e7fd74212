"""What each view of the page shows, as the values of its template. Nothing here changes anything."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError
from include.queue_etl.page import charts, standing, wording
from include.queue_etl.page.charts import Chart
from include.queue_etl.page.depths import UNKNOWN, Depths, QueueFigures
from include.queue_etl.page.keys import expiring, newest_key, older, sampled_columns
from include.queue_etl.page.staged import MOST_FILES, Staged, StagedFigures, staging
from include.queue_etl.page.store import (
    NEWEST,
    KnownRun,
    PageStore,
    PartitionLine,
    RejectedLine,
    RunLine,
    ShapeLine,
    Slice,
    Standing,
)
from include.queue_etl.run_context import Run
from include.queue_etl.settings import Settings
from include.queue_etl.transform.shapes import Shapes
from include.queue_etl.warehouses import by_warehouse, named

REDRIVE_DAG, REMASK_DAG, MAINTENANCE_DAG = "queue_etl_redrive", "queue_etl_remask", "queue_etl_maintenance"
RUNS = 25  # lines of a contract's table of runs
AUDIT = 30
QUARANTINE_DAYS = 30
ENGINE_TABLES = ("etl.ledger", "etl.quarantine", "etl.kept_fields", "etl.runs", "etl.batches")

T = TypeVar("T")
log = logging.getLogger(__name__)


class Range(NamedTuple):
    """A time that the charts show, and its steps."""

    name: str
    length: timedelta
    step: timedelta


RANGES = {
    one.name: one
    for one in (
        Range("1h", timedelta(hours=1), timedelta(minutes=1)),
        Range("24h", timedelta(hours=24), timedelta(minutes=15)),
        Range("7d", timedelta(days=7), timedelta(hours=2)),
        Range("30d", timedelta(days=30), timedelta(hours=8)),
    )
}
DEFAULT_RANGE = "24h"


class Reason(NamedTuple):
    """Quarantined messages of one reason."""

    reason: str
    messages: int
    waiting: int
    payload_bytes: int
    most_receives: int
    first_at: datetime
    last_at: datetime


class Contracts(Protocol):
    """Contracts by name, and what is wrong with the files of others."""

    @property
    def good(self) -> Mapping[str, Contract]: ...  # noqa: D102
    @property
    def broken(self) -> Mapping[str, str]: ...  # noqa: D102


class NotThere(LookupError):
    """There is no such contract, or the viewer may not know of it."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks.

    Attributes:
        may_see: tells of a DAG's id whether its runs may be seen
        may_redrive: they may start runs of queue_etl_redrive
    """

    may_see: Callable[[str], bool]
    may_redrive: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A contract in the overview."""

    name: str
    word: standing.Word
    depth: QueueFigures = UNKNOWN
    standing: Standing | None = None
    problem: str = ""

    @property
    def share(self) -> float | None:
        """Of today's messages that went to quarantine."""
        return standing.share_quarantined(self.standing) if self.standing else None

    @property
    def oldest(self) -> int | None:
        """Age of the oldest waiting message in seconds."""
        return standing.oldest_age(self.standing, self.depth) if self.standing else None


class Views:
    """Reads the warehouses and the queues for each view."""

    def __init__(
        self, contracts: Callable[[], Contracts], store_of: Callable[[str], PageStore], depths: Depths,
        settings: Callable[[], Settings], staged: Staged,
    ) -> None:  # fmt: skip
        """Connect to nothing yet.

        Args:
            contracts: loads them
            store_of: opens a warehouse by its name; raises SettingsError where its connection is missing
            depths: of the queues
            settings: as this process has them
            staged: the files between the steps
        """
        self._contracts = contracts
        self._store_of = store_of
        self._depths = depths
        self._settings = settings
        self._staged = staged

    def overview(self, viewer: Viewer) -> dict[str, Any]:
        """A line for each contract, those that need somebody first."""
        good, broken = self._seen(viewer)
        now = datetime.now(UTC)
        depths = self._depths.of(good.values())
        lines = [Line(name, standing.BROKEN, problem=problem) for name, problem in broken.items()]
        problems = []
        for warehouse, own in _used(good):
            queues = [(name, contract.queue) for name, contract in own.items()]
            stands, problem = self._read(warehouse, own, partial(_standings, queues=queues))
            problems += [problem] if problem else []
            for name, contract in own.items():
                stand = (stands or {}).get(name)
                word = self._word(contract, stand, depths[name], now) if stand else standing.UNREACHABLE
                lines.append(Line(name, word, depths[name], stand, problem))
        lines.sort(key=lambda line: (line.word.rank, line.name))
        return {"lines": lines, "problems": problems}

    def contract(self, viewer: Viewer, name: str, range_name: str = DEFAULT_RANGE) -> dict[str, Any]:
        """Charts and runs of one contract; raises NotThere."""
        chosen = RANGES.get(range_name, RANGES[DEFAULT_RANGE])
        values = {
            "name": name,
            "range": chosen.name,
            "ranges": list(RANGES),
            "contract": None,
            "charts": [],
        }
        contract, problem = self._contract(viewer, name)
        if contract is None:
            return {**values, "line": Line(name, standing.BROKEN, problem=problem), "problems": [problem]}
        depth = self._depths.of([contract])[name]
        since = _floor(datetime.now(UTC) - chosen.length + chosen.step, chosen.step)

        def read(store: PageStore) -> tuple[Standing, list[Slice], list[RunLine]]:
            stands = store.standings([(name, contract.queue)])
            return stands[name], store.slices(name, since, chosen.step), store.runs(name, RUNS)

        found, problem = self._read(contract.warehouse, {name: contract}, read)
        if found is None:
            line = Line(name, standing.UNREACHABLE, depth, problem=problem)
            return {**values, "contract": contract, "line": line, "problems": [problem]}
        stand, slices, runs = found
        word = self._word(contract, stand, depth, datetime.now(UTC))
        return {
            **values,
            "contract": contract,
            "line": Line(name, word, depth, stand),
            "charts": _charts(slices, since, chosen),
            "runs": [(run, dag_run(run)) for run in runs],
            "problems": [],
        }

    def quarantine(self, viewer: Viewer, name: str) -> dict[str, Any]:
        """What waits in quarantine by reason, day and shape; raises NotThere."""
        values = {
            "name": name,
            "may_redrive": viewer.may_redrive,
            "redrive_dag": REDRIVE_DAG,
        }
        contract, problem = self._contract(viewer, name)
        if contract is None:
            return {**values, "problems": [problem]}
        since = datetime.now(UTC).date() - timedelta(days=QUARANTINE_DAYS - 1)

        def read(store: PageStore) -> tuple[list[RejectedLine], list[ShapeLine]]:
            queue = contract.queue
            return store.rejected(queue), store.shapes(queue)

        found, problem = self._read(contract.warehouse, {name: contract}, read)
        if found is None:
            return {**values, "problems": [problem]}
        rejected, shapes = found
        reasons = by_reason(rejected)
        return {
            **values,
            "reasons": reasons,
            "waiting": sum(reason.waiting for reason in reasons),
            "chart": _days_chart(rejected, since),
            "shapes": _compared(contract, shapes),
            "newest": NEWEST,
            "problems": [],
        }

    def keys(self, viewer: Viewer) -> dict[str, Any]:
        """Keys, the audit, and what expires when, in each warehouse."""
        good, _ = self._seen(viewer)
        parts, problems = [], []
        for warehouse, own in _used(good):
            found, problem = self._read(warehouse, own, partial(_keys, contracts=own))
            problems += [problem] if problem else []
            if found is not None:
                parts.append({"warehouse": warehouse, **found})
        return {"parts": parts, "problems": problems, **self._kept_days()}

    def storage(self, viewer: Viewer) -> dict[str, Any]:
        """Staged files, and sizes of tables and partitions, in each warehouse."""
        good, _ = self._seen(viewer)
        parts, problems = [], []
        used = _used(good)
        staged = self._staged.of(warehouse for warehouse, _ in used)
        for warehouse, own in used:
            tables = {one.table for contract in own.values() for one in contract.each_table()}
            names = [*ENGINE_TABLES, *sorted(tables)]
            files = staged[warehouse]
            found, problem = self._read(warehouse, own, partial(_stored, tables=names, files=files))
            problems += [problem] if problem else []
            if found is not None:
                sizes, runs = found
                parts.append(
                    {
                        "warehouse": warehouse,
                        "staging": staging(files, runs),
                        "tables": _by_table(sizes, names),
                        "retain": _retain(own),
                    }
                )
        return {"parts": parts, "problems": problems, "most_files": MOST_FILES}

    def run(self, viewer: Viewer, dag_id: str, run_id: str) -> dict[str, Any]:
        """The batches of one DAG run."""
        good, broken = self._seen(viewer)
        values = {"dag_id": dag_id, "run_id": run_id, "panel": True, "run": None}
        if dag_id == REDRIVE_DAG:
            candidates = {name: Run(name, f"{dag_id}__{run_id}").id for name in good}
        elif dag_id in good:
            candidates = {dag_id: Run(dag_id, run_id).id}
        else:
            return {
                **values,
                "known": dag_id in broken,
                "problems": [broken[dag_id]] if dag_id in broken else [],
            }
        problems = []
        for warehouse, own in _used({name: good[name] for name in candidates}):
            ids = [candidates[name] for name in own]
            found, problem = self._read(warehouse, own, partial(_run, run_ids=ids))
            problems += [problem] if problem else []
            if found is not None and found[0] is not None:
                return {**values, "known": True, "run": found[0], "batches": found[1], "problems": problems}
        return {**values, "known": True, "run": None, "problems": problems}

    def _seen(self, viewer: Viewer) -> tuple[dict[str, Contract], dict[str, str]]:
        """Good and broken contracts that the viewer may know of."""
        loaded = self._contracts()
        good = {name: one for name, one in loaded.good.items() if viewer.may_see(name)}
        return good, {name: text for name, text in loaded.broken.items() if viewer.may_see(name)}

    def _contract(self, viewer: Viewer, name: str) -> tuple[Contract | None, str]:
        """The contract, or what is wrong with its file."""
        good, broken = self._seen(viewer)
        if name not in good and name not in broken:
            raise NotThere(name)
        return good.get(name), broken.get(name, "")

    def _read(
        self, warehouse: str, contracts: Iterable[str], read: Callable[[PageStore], T]
    ) -> tuple[T | None, str]:
        """What was read, or why nothing could be: the other warehouses are shown all the same."""
        try:
            return read(self._store_of(warehouse)), ""
        except QueueEtlError as error:
            said = wording.said(error)
            log.warning("the page cannot read%s: %s", named(warehouse, contracts) or " the warehouse", said)
            return None, f"warehouse {warehouse or '(default)'}: {said}"

    def _word(self, contract: Contract, stand: Standing, depth: QueueFigures, now: datetime) -> standing.Word:
        settings, own = self._settings(), contract.settings
        limits = standing.Limits(
            own.get("alert_stalled_minutes", settings.alert_stalled_minutes),
            own.get("alert_quarantined_percent", settings.alert_quarantined_percent),
        )
        return standing.word_of(stand, depth, now=now, limits=limits)

    def _kept_days(self) -> dict[str, int]:
        settings = self._settings()
        return {"ledger_days": settings.ledger_days, "quarantine_days": settings.quarantine_days}


def dag_run(run: RunLine) -> tuple[str, str] | None:
    """DAG and run id in Airflow; None of runs that a command made."""
    if run.kind == "queue":
        return run.contract, run.name
    dag, separator, name = run.name.partition("__")
    return (dag, name) if separator and dag == REDRIVE_DAG else None


def _used(contracts: Mapping[str, Contract]) -> list[tuple[str, Mapping[str, Contract]]]:
    """The warehouses of these contracts; the default one too where one of them has it."""
    return [(warehouse, own) for warehouse, own in by_warehouse(contracts).items() if own]


def _floor(moment: datetime, step: timedelta) -> datetime:
    """The last whole step, counted from midnight UTC of 1 January 2001."""
    origin = datetime(2001, 1, 1, tzinfo=UTC)
    return origin + (moment - origin) // step * step


def _charts(slices: Sequence[Slice], since: datetime, chosen: Range) -> list[Chart]:
    steps = round(chosen.length / chosen.step)
    minutes = chosen.step / timedelta(minutes=1)

    def chart(
        title: str, unit: str, series: Sequence[str], values: Callable[[Slice], tuple[float, ...]]
    ) -> Chart:
        found = {one.at: values(one) for one in slices}
        return charts.stacked(title, unit, series, found, since, chosen.step, steps)

    return [
        chart(
            "Messages a minute", "a minute", ("loaded", "quarantined", "duplicates"),
            lambda one: (one.loaded / minutes, one.quarantined / minutes, one.duplicates / minutes),
        ),
        chart("Quarantined", "messages", ("", "quarantined"), lambda one: (0, one.quarantined)),
        chart(
            "Seconds of a run by stage", "s", ("extract", "mask", "load", "finish"),
            lambda one: (one.extract_seconds, one.mask_seconds, one.load_seconds, one.finish_seconds),
        ),
    ]  # fmt: skip


def by_reason(lines: Sequence[RejectedLine]) -> list[Reason]:
    """All days of each reason together; what waits comes first."""
    found: dict[str, list[RejectedLine]] = {}
    for line in lines:
        found.setdefault(line.reason, []).append(line)
    reasons = [
        Reason(
            reason,
            sum(line.messages for line in days),
            sum(line.waiting for line in days),
            sum(line.payload_bytes for line in days),
            max(line.most_receives for line in days),
            min(line.first_at for line in days),
            max(line.last_at for line in days),
        )
        for reason, days in found.items()
    ]
    return sorted(reasons, key=lambda one: (-one.waiting, -one.messages, one.reason))


def _days_chart(lines: Sequence[RejectedLine], since: date) -> Chart:
    values: dict[datetime, tuple[int, int]] = {}
    for line in lines:
        at = _midnight(line.day)
        redriven, waiting = values.get(at, (0, 0))
        values[at] = (redriven + line.messages - line.waiting, waiting + line.waiting)
    series, day = ("redriven", "waiting"), timedelta(days=1)
    return charts.stacked(
        "Quarantined by day", "messages", series, values, _midnight(since), day, QUARANTINE_DAYS
    )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _compared(contract: Contract, groups: Sequence[ShapeLine]) -> list[dict[str, Any]]:
    """Each group with how its shape differs from what the contract of today expects."""
    shapes = Shapes(contract)
    found = []
    for group in groups:
        differences = shapes.differences(group.shape or "")
        # Of a body that is no JSON there is nothing to compare.
        is_json = (group.shape or "").startswith("$")
        fits = is_json and not any((differences.missing, differences.other_type))
        found.append({"group": group, "differences": differences, "fits": fits, "is_json": is_json})
    return found


def _keys(store: PageStore, contracts: Mapping[str, Contract]) -> dict[str, Any]:
    keys = store.used_keys()
    tables = sorted({contract.table for contract in contracts.values()})
    sizes = store.sizes(["etl.ledger", *tables])
    columns = sampled_columns(store, contracts.values(), sizes, newest_key(keys))
    queues = {contract.queue: name for name, contract in contracts.items()}
    return {
        "keys": keys,
        "newest_key": newest_key(keys),
        "columns": columns,
        "older": older(columns),
        "is_estimate": any(column.scale > 1 for column in columns),
        "last_remask": store.last_remask(),
        "audit": store.audit(AUDIT),
        "oldest_waiting": {queues[queue]: at for queue, at in store.oldest_waiting(list(queues)).items()},
        "ledger": [line for line in sizes if line.table == "etl.ledger" and line.bounds],
        "partitions": expiring(contracts.values(), sizes),
    }


def _standings(store: PageStore, queues: Sequence[tuple[str, str]]) -> dict[str, Standing]:
    return store.standings(queues)


def _stored(
    store: PageStore, tables: Sequence[str], files: StagedFigures
) -> tuple[list[PartitionLine], list[KnownRun]]:
    return store.sizes(tables), store.known_runs([*files.by_run])


def _run(store: PageStore, run_ids: Sequence[Any]) -> tuple[RunLine | None, Sequence[Any]]:
    found = store.run(run_ids)
    return found, store.batches(found.run_id) if found else []


def _by_table(lines: Sequence[PartitionLine], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each table that exists with its partitions, and sums of rows and bytes."""
    found = []
    for name in names:
        own = [line for line in lines if line.table == name]
        if own:
            rows = [line.rows for line in own if line.rows is not None]
            found.append(
                {
                    "name": name,
                    "parts": own,
                    "rows": sum(rows) if rows else None,
                    "size": sum(p.size for p in own),
                }
            )
    return found


def _retain(contracts: Mapping[str, Contract]) -> dict[str, int | None]:
    return {contract.table: contract.retain_days for contract in contracts.values()}
