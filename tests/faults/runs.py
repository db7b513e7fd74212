"""A run's tasks in this process, each with connections of its own, as Airflow runs them."""

from pathlib import Path
from typing import Any

from include.queue_etl import steps
from tests.faults import worker
from tests.faults.ground import Lane

NAME = "run"


def extract(lane: Lane, name: str = NAME, **options: Any) -> list[str]:
    with lane.open_run(name, **options) as context:
        return [one["batch"] for one in steps.extract(context)]


def mask(lane: Lane, batch: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    with lane.open_run(name, **options) as context:
        return steps.mask(context, batch)


def load(lane: Lane, batch: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    with lane.open_run(name, **options) as context:
        return steps.load(context, batch)


def finish(
    lane: Lane, name: str = NAME, *, upstream_failed: bool = False, last_attempt: bool = True, **options: Any
) -> dict[str, Any]:
    with lane.open_run(name, **options) as context:
        return steps.finish(context, upstream_failed=upstream_failed, last_attempt=last_attempt)


def up_to_load(lane: Lane, name: str = NAME, **options: Any) -> list[str]:
    """Everything but finish; the batches."""
    batches = extract(lane, name, **options)
    for batch in batches:
        mask(lane, batch, name, **options)
        load(lane, batch, name, **options)
    return batches


def whole(lane: Lane, name: str = NAME, **options: Any) -> dict[str, Any]:
    """A run without faults, of at least one message."""
    up_to_load(lane, name, **options)
    return finish(lane, name, **options)


def empty_the_queue(lane: Lane) -> int:
    """Runs without faults until nothing is left; how many messages they found loaded already."""
    duplicates = 0
    while lane.on_queue():
        worker.wait_until_visible(lane)
        duplicates += whole(lane, f"clean {lane.on_queue()} {duplicates}")["duplicates"]
    return duplicates


def folder(lane: Lane, name: str = NAME) -> Path:
    """Where the run keeps its batch files."""
    return lane.staging / str(lane.run(name).id)


def files(lane: Lane, name: str = NAME) -> dict[str, bytes]:
    """Staged files of the run; leftovers of a write that was cut short have names that begin with a dot."""
    found = folder(lane, name).glob("*")
    return {path.name: path.read_bytes() for path in found if not path.name.startswith(".")}


def kinds(lane: Lane, name: str = NAME) -> list[str]:
    """Kinds of the run's staged files, sorted."""
    return sorted(file.rpartition(".")[2] for file in files(lane, name))
