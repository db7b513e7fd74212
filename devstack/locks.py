"""One ./dev at a time where two would collide."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.console import Console


@contextmanager
def held(path: Path, console: Console) -> Iterator[None]:
    """Hold an exclusive lock on `path` during the block, waiting for the process that has it.

    The kernel frees it when the holder dies, and no child inherits it, so nothing has to be cleaned up.
    """
    # Private: logs, the emulator's saved messages and staged batches end up beside the lock.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take(descriptor, console)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, console: Console) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode() or "?"
        console.note(f"  waiting for another ./dev (process {holder})")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
