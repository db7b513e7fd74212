"""A run's tasks in this process, each with connections of its own, as Airflow runs them."""

from pathlib import Path
from typing import Any

from include.queue_etl import steps
from tests.faults import worker
from tests.faults.servers import QueueUnderTest

NAME = "run"
LONG: dict[str, Any] = {"visibility_timeout_seconds": 300, "receive_seconds": 30}


def extract(tested: QueueUnderTest, name: str = NAME, **options: Any) -> list[str]:
    with tested.open_run(name, **options) as context:
        return [one["batch"] for one in steps.extract(context)]


def mask(tested: QueueUnderTest, batch: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    with tested.open_run(name, **options) as context:
        return steps.mask(context, batch)


def load(tested: QueueUnderTest, batch: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    with tested.open_run(name, **options) as context:
        return steps.load(context, batch)


def finish(
    tested: QueueUnderTest,
    name: str = NAME,
    *,
    upstream_failed: bool = False,
    last_attempt: bool = True,
    **options: Any,
) -> dict[str, Any]:
    with tested.open_run(name, **options) as context:
        return steps.finish(context, upstream_failed=upstream_failed, last_attempt=last_attempt)


def up_to_load(tested: QueueUnderTest, name: str = NAME, **options: Any) -> list[str]:
    """Everything but finish; the batches."""
    batches = extract(tested, name, **options)
    for batch in batches:
        mask(tested, batch, name, **options)
        load(tested, batch, name, **options)
    return batches


def whole(tested: QueueUnderTest, name: str = NAME, **options: Any) -> dict[str, Any]:
    """A run without faults, of at least one message."""
    up_to_load(tested, name, **options)
    return finish(tested, name, **options)


def empty_the_queue(tested: QueueUnderTest) -> int:
    """Runs without faults until nothing is left; how many messages they found loaded already."""
    duplicates = 0
    while tested.on_queue():
        worker.wait_until_visible(tested)
        duplicates += whole(tested, f"clean {tested.on_queue()} {duplicates}")["duplicates"]
    return duplicates


def folder(tested: QueueUnderTest, name: str = NAME) -> Path:
    """Where the run keeps its batch files."""
    return tested.staging / str(tested.run(name).id)


def files(tested: QueueUnderTest, name: str = NAME) -> dict[str, bytes]:
    """Staged files of the run; leftovers of a write that was cut short have names that begin with a dot."""
    found = folder(tested, name).glob("*")
    return {path.name: path.read_bytes() for path in found if not path.name.startswith(".")}


def kinds(tested: QueueUnderTest, name: str = NAME) -> list[str]:
    """Kinds of the run's staged files, sorted."""
    return sorted(file.rpartition(".")[2] for file in files(tested, name))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
