"""What lies in staging, as far as it is counted quickly: the page does not wait for a million files."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from include.queue_etl.errors import QueueEtlError
from include.queue_etl.page import wording
from include.queue_etl.page.answers import Answers
from include.queue_etl.page.store import KnownRun
from include.queue_etl.staging.area import run_of
from include.queue_etl.staging.stores import Store

MOST_FILES = 2_000  # two listings of a bucket: 0.2 s of CPU, aside from the request
LOOK_SECONDS = 5.0
WAIT_SECONDS = 1.0
KEPT_SECONDS = 60.0
ASKED_AT_ONCE = 2

# Given the name of a warehouse: where its files lie; raises QueueEtlError where that is not to be had.
OpenStore = Callable[[str], Store]
log = logging.getLogger(__name__)


class Heap(NamedTuple):
    """Some staged files; `oldest_at` is when the first of them was written, None where there are none."""

    runs: int = 0
    files: int = 0
    size: int = 0
    oldest_at: datetime | None = None

    def with_file(self, size: int, written_at: datetime) -> "Heap":
        """With a file more, of one run."""
        oldest = min(self.oldest_at or written_at, written_at)
        return Heap(1, self.files + 1, self.size + size, oldest)


@dataclass(frozen=True, slots=True)
class StagedFigures:
    """What is known of the staged files of a warehouse.

    Attributes:
        by_run: the files of each run
        is_whole: all files were counted; else no more than MOST_FILES, or those of LOOK_SECONDS
        problem: why nothing is known, in a sentence
    """

    by_run: dict[UUID, Heap] = field(default_factory=dict)
    is_whole: bool = True
    problem: str = ""


# By whether their run is open; None: the warehouse does not know it.
STATES = {
    True: "open: they wait for their next task",
    False: "closed: kept for reconcile and replay",
    None: "unknown to this warehouse",
}
UNKNOWN = StagedFigures(problem="staging has not answered yet: look again")


class Staged:
    """Counts the files of warehouses, and keeps each answer for a minute."""

    def __init__(
        self, open_store: OpenStore, *, wait_seconds: float = WAIT_SECONDS, kept_seconds: float = KEPT_SECONDS
    ) -> None:
        """Open nothing yet.

        Args:
            open_store: what it raises becomes the problem that the page shows
            wait_seconds: as for `Answers`
            kept_seconds: as for `Answers`
        """
        self._open_store = open_store
        self._answers = Answers(
            UNKNOWN, wait_seconds=wait_seconds, kept_seconds=kept_seconds, asked_at_once=ASKED_AT_ONCE
        )

    def of(self, warehouses: Iterable[str]) -> dict[str, StagedFigures]:
        """The figures by warehouse, as far as they are known in time."""
        return self._answers.to({name: partial(self._figures, name) for name in warehouses})

    def _figures(self, warehouse: str) -> StagedFigures:
        try:
            return staged_figures(self._open_store(warehouse))
        except QueueEtlError as error:
            problem = wording.said(error)
        except Exception as error:  # the page is drawn whatever AWS says; its text may quote a request
            problem = type(error).__name__
        log.info("the staged files of warehouse %s are unknown: %s", warehouse or "(default)", problem)
        return StagedFigures(problem=problem)


def staged_figures(
    store: Store, *, most_files: int = MOST_FILES, look_seconds: float = LOOK_SECONDS
) -> StagedFigures:
    """Count files until all, enough of them, or the time is over.

    Raises:
        StagingUnavailable: the folder or bucket cannot be listed
    """
    until = time.monotonic() + look_seconds
    by_run: dict[UUID, Heap] = {}
    for number, file in enumerate(store.everything()):
        if number == most_files or time.monotonic() > until:
            return StagedFigures(by_run, is_whole=False)
        if run_id := run_of(file.name):
            written_at = datetime.fromtimestamp(file.written_at, UTC)
            by_run[run_id] = by_run.get(run_id, Heap()).with_file(file.size, written_at)
    return StagedFigures(by_run)


def added(heaps: Iterable[Heap]) -> Heap:
    """All of them together."""
    found = [*heaps]
    oldest = min((heap.oldest_at for heap in found if heap.oldest_at), default=None)
    return Heap(
        sum(heap.runs for heap in found),
        sum(heap.files for heap in found),
        sum(heap.size for heap in found),
        oldest,
    )


def staging(files: StagedFigures, runs: Sequence[KnownRun]) -> dict[str, Any]:
    """The staged files by the state of their run, and all open runs.

    Args:
        files: as far as they were counted
        runs: all open ones, and those of the files that are closed
    """
    is_open = {run.run_id: run.is_open for run in runs}
    heaps: dict[bool | None, list[Heap]] = {state: [] for state in STATES}
    for run_id, heap in files.by_run.items():
        heaps[is_open.get(run_id)].append(heap)
    lines = [(name, added(heaps[state])) for state, name in STATES.items()]
    waiting = [run.started_at for run in runs if run.is_open]
    return {
        "counted": files,
        "lines": [*lines, ("all", added(files.by_run.values()))],
        "open_runs": len(waiting),
        "open_since": min(waiting, default=None),
    }
