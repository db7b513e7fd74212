"""Staging that fails: full disks, and files that are damaged, lost or of another run."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.queue_etl.errors import RunFailed, StagedFileDamaged, StagingUnavailable
from tests.faults.bodies import Sent, some, texts
from tests.faults.reconciliation import GOOD, balance, ledger_entries
from tests.faults.runs import (
    LONG,
    NAME,
    empty_the_queue,
    extract,
    files,
    finish,
    flip,
    folder,
    kinds,
    load,
    mask,
    up_to_load,
)
from tests.faults.servers import QueueUnderTest


@contextlib.contextmanager
def small_disk(staging: Path) -> Iterator[None]:
    """A file system of 1 MiB: room for a hundred batches or so, as a file takes 4 KiB at least."""
    staging.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(staging)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(staging)], check=True)


@contextlib.contextmanager
def small_files(staging: Path) -> Iterator[None]:
    """No file may grow beyond a few hundred bytes: what a quota does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("full", "messages"), [(small_disk, 2_000), (small_files, 300)])
def test_on_a_full_disk_no_partial_file_counts_and_messages_are_released(
    tested: QueueUnderTest, full: Callable[[Path], Any], messages: int
) -> None:
    sent = some(tested.tag, messages)
    tested.send(texts(sent))
    with full(tested.staging):
        with pytest.raises(StagingUnavailable):
            extract(tested, **LONG)
        whole_batches = kinds(tested).count("raw")
        assert (whole_batches > 50) == (full is small_disk), "it was not in the middle"
        assert tested.queue().depth().in_flight <= 10 * whole_batches, "messages without a file stay hidden"
        with pytest.raises(RunFailed):
            finish(tested, upstream_failed=True)
        assert tested.queue().depth().visible == len(sent)
        assert kinds(tested) == []

    assert empty_the_queue(tested) == 0
    assert balance(tested, sent) == GOOD


def test_if_mask_fills_a_disk_masked_batches_load_and_others_are_released(
    tested: QueueUnderTest,
) -> None:
    sent = some(tested.tag, 900)
    tested.send(texts(sent))
    with small_disk(tested.staging):
        batches = extract(tested, **LONG)
        with pytest.raises(StagingUnavailable):
            _mask_all(tested, batches)
        masked = [file.partition(".")[0] for file in files(tested) if file.endswith(".masked")]
        assert 0 < len(masked) < len(batches)
        for batch in masked:
            load(tested, batch)
        with pytest.raises(RunFailed):
            finish(tested, upstream_failed=True)
        depth = tested.queue().depth()
        assert (depth.visible, depth.in_flight) == (len(sent) - ledger_entries(tested), 0)
        assert ledger_entries(tested) == 10 * len(masked)

    assert empty_the_queue(tested) == 0
    assert balance(tested, sent) == GOOD


def _mask_all(tested: QueueUnderTest, batches: list[str]) -> None:
    for batch in batches:
        mask(tested, batch)


def _flip(path: Path, other: Path) -> None:
    flip(path)


def _truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _swap(path: Path, other: Path) -> None:
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def _lose(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("kind", ["raw", "masked", "rejected"])
@pytest.mark.parametrize("harm", [_flip, _truncate, _swap, _lose], ids=lambda harm: harm.__name__[1:])
def test_a_damaged_batch_is_not_loaded_and_its_messages_are_released(
    tested: QueueUnderTest, sent: list[Sent], kind: str, harm: Callable[[Path, Path], None]
) -> None:
    batches = extract(tested, **LONG)
    if kind != "raw":
        for batch in batches:
            mask(tested, batch)
            (folder(tested) / f"{batch}.raw").unlink()
    harm(*(folder(tested) / f"{batch}.{kind}" for batch in batches[:2]))

    # A re-run of mask does not restore a masked file that is gone, nor look at rejected messages.
    task = mask if kind == "raw" else load
    with pytest.raises(StagedFileDamaged) as raised:
        task(tested, batches[0])
    with pytest.raises(RunFailed):
        finish(tested, upstream_failed=True)

    assert tested.tag not in str(raised.value).replace(str(tested.staging), "")
    assert tested.queue().depth().visible == len(sent)
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_batch_of_another_run_is_not_loaded(tested: QueueUnderTest, sent: list[Sent]) -> None:
    foreign = extract(tested, "foreign", max_messages=10, **LONG)[0]
    own = extract(tested, **LONG)[0]
    shutil.copy(folder(tested, "foreign") / f"{foreign}.raw", folder(tested) / f"{own}.raw")

    with pytest.raises(StagedFileDamaged):
        mask(tested, own)
    for name in ("foreign", NAME):
        with pytest.raises(RunFailed):
            finish(tested, name, upstream_failed=True)
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_messages_with_damaged_receipt_handles_come_back_by_themselves(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = up_to_load(tested)
    flip(folder(tested) / f"{batches[0]}.receipts")

    with pytest.raises(RunFailed):
        finish(tested)

    assert empty_the_queue(tested) == 10
    assert balance(tested, sent) == GOOD
