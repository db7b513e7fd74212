"""Files that only their owner can read, there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def write_durably(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all, and durably: a crash leaves the old one or the new one.

    Raises:
        OSError: nothing appears under the name
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        _write(temporary, content)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def create_durably(path: Path, content: bytes) -> None:
    """Write a new file durably; raises FileExistsError where there is one."""
    _write(path, content)
    _sync_folder(path.parent)


@contextmanager
def new_text_file(path: Path) -> Iterator[TextIO]:
    """A new text file to write into; it is removed again when it cannot be written to its end.

    Raises:
        OSError: it cannot be made: there is something of that name, or no such folder, ...
    """
    try:
        descriptor = _new(path)
    except OSError as error:
        raise OSError(f"cannot make the file {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
    except BaseException:
        path.unlink()
        raise


def _write(path: Path, content: bytes) -> None:
    descriptor = _new(path)
    try:
        rest = memoryview(content)
        while rest:
            # On a full disk os.write may return a short count and raise only at the next call.
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
