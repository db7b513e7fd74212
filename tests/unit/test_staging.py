"""Staged files in a local folder: whole or not at all, and private.

What holds for a bucket too is in tests/integration/test_staging_stores.py.
"""

import errno
import os
import secrets
import stat
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.errors import StagedFileDamaged, StagingUnavailable
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun, batch_name
from include.queue_etl.staging.stores import LocalFolder
from include.queue_etl.transform.batches import MaskedBatch, ReceiptHandles, RejectedBatch

RUN = UUID("00000000-0000-4000-8000-00000000000a")
FILE = BatchFile("0000-abcdef", Kind.RAW)
CONTENT = RejectedBatch(b"canary-4711 " * 100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def staging(root: Path, keyset: Keyset) -> StagedRun:
    return StagedRun(LocalFolder(root), RUN, keyset)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@given(st.integers(0, 99_999), st.sampled_from(Kind))
def test_a_file_name_says_its_batch_and_kind(number, kind):
    file = BatchFile(batch_name(number), kind)
    assert BatchFile.parse(file.name) == file


@pytest.mark.parametrize(
    "name",
    ["", "raw", ".raw", "0000-abcdef", "0000-abcdef.", "0000-abcdef.tmp", "0000-abcdef.RAW", ".x.raw.1f.tmp"],
)
def test_a_foreign_name_is_none_of_ours(name):
    assert BatchFile.parse(name) is None


def test_two_attempts_never_use_one_name():
    names = {batch_name(3) for _ in range(200)}
    assert len(names) > 190
    assert all(name.startswith("0003-") for name in names)


def test_batches_sort_by_their_number():
    assert [name[:4] for name in sorted(map(batch_name, (10, 2, 1)))] == ["0001", "0002", "0010"]


def test_folders_and_files_are_for_their_owner_alone(staging, root):
    assert LocalFolder(root).problem() is None
    staging.seal(FILE, CONTENT)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / str(RUN)).stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(root)] == [0o600]


def test_the_content_is_not_readable_on_disk(staging, root):
    staging.seal(FILE, CONTENT)
    assert [b"canary" in path.read_bytes() for path in files(root)] == [False]


def test_a_probe_leaves_nothing_behind(root):
    assert LocalFolder(root).problem() is None
    assert list(root.iterdir()) == []


def test_the_folder_of_a_run_goes_with_its_last_file(staging, root):
    staging.seal(FILE, CONTENT)
    staging.destroy(Kind.RAW)
    assert list(root.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left_alone(staging, root):
    staging.seal(FILE, CONTENT)
    (root / str(RUN) / "note.txt").write_text("mine")
    staging.destroy(*Kind)
    assert [path.name for path in files(root)] == ["note.txt"]


def test_a_full_disk_leaves_no_file_and_says_so(staging, root, monkeypatch):
    written: list[int] = []

    def write(descriptor: int, content: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(real_write(descriptor, content[:10]))  # what Linux does: a short count first
        return written[0]

    real_write = os.write
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StagingUnavailable, match=r"cannot write .*0000-abcdef.raw: No space left on device"):
        staging.seal(FILE, CONTENT)
    assert written == [10]
    assert files(root) == []
    assert staging.open(FILE, RejectedBatch) is None


def test_a_short_write_goes_on_where_it_stopped(staging, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real_write(descriptor, content[:7]))
    staging.seal(FILE, CONTENT)
    assert staging.open(FILE, RejectedBatch) == CONTENT


def test_a_crash_before_the_rename_leaves_no_batch(staging, root, monkeypatch):
    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        staging.seal(FILE, CONTENT)
    assert staging.batches(Kind.RAW) == []
    assert files(root) == []


def test_what_a_killed_process_left_half_written_is_no_batch(staging, root):
    staging.seal(FILE, CONTENT)
    (root / str(RUN) / f".{FILE.name}.{secrets.token_hex(6)}.tmp").write_bytes(b"half")
    assert staging.batches(Kind.RAW) == [FILE.batch]


@pytest.mark.parametrize("act", ["seal", "open", "batches", "destroy"])
def test_a_folder_that_cannot_be_used_is_one_clear_error(act, tmp_path, keyset):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    staging = StagedRun(LocalFolder(blocked), RUN, keyset)
    calls = {
        "seal": lambda: staging.seal(FILE, CONTENT),
        "open": lambda: staging.open(FILE, RejectedBatch),
        "batches": lambda: staging.batches(Kind.RAW),
        "destroy": lambda: staging.destroy(Kind.RAW),
    }
    with pytest.raises(StagingUnavailable, match=r"cannot .*: Not a directory"):
        calls[act]()


def test_a_folder_that_cannot_be_made_is_a_problem_before_the_run(tmp_path):
    (tmp_path / "file").write_text("in the way")
    problem = LocalFolder(tmp_path / "file" / "staging").problem()
    assert problem == f"staging: cannot create {tmp_path}/file/staging: Not a directory"


def test_a_folder_that_cannot_be_written_is_a_problem_before_the_run(root, monkeypatch):
    def refused(*arguments: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refused)
    assert str(LocalFolder(root).problem()).startswith("staging: cannot write ")
    assert str(LocalFolder(root).problem()).endswith(": Read-only file system")


def test_a_file_that_cannot_be_removed_is_one_clear_error(staging, monkeypatch):
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    staging.seal(FILE, CONTENT)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StagingUnavailable, match=r"cannot remove from .*: Permission denied"):
        staging.destroy(Kind.RAW)


# Files of older versions ---------------------------------------------------------------------------------


def as_made_before(root: Path) -> Path:
    """The staged file as the version before marked it."""
    (path,) = files(root)
    path.write_bytes(path.read_bytes().replace(b"QETL2", b"QETL1", 1))
    return path


def test_a_file_of_the_version_before_opens(staging, root):
    staging.seal(FILE, CONTENT)
    as_made_before(root)
    assert staging.open(FILE, RejectedBatch) == CONTENT
    assert staging.key_of(FILE) is not None


def test_an_old_file_that_does_not_open_is_named_as_of_an_older_version(staging, root):
    staging.seal(FILE, CONTENT)
    path = as_made_before(root)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StagedFileDamaged, match="was made by an older version, or was changed"):
        staging.open(FILE, RejectedBatch)


def test_stored_fields_keep_the_names_of_older_versions():
    handles = msgspec.msgpack.decode(msgspec.msgpack.encode(ReceiptHandles(["id"], ["handle"])))
    assert {"ids", "receipts"} <= set(handles)
    masked = MaskedBatch(b"", b"", b"", 0, {}, {}, [], 1)
    assert {"odd", "airflow_run_id"} <= set(msgspec.msgpack.decode(msgspec.msgpack.encode(masked)))
