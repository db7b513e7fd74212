"""Batch files of a run, between the tasks: written once, sealed, found again after a crash.

    <staging>/<run id>/<batch>.<kind>        0003-9f2c1a.raw

Every file is compressed, then encrypted under a data key of its own (AES-256-GCM). The data key stands in the
file's head, sealed with the keyset and bound to run, batch and kind: a truncated, changed, swapped or foreign
file does not open. Files appear whole or not at all.
"""

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from include.queue_etl.errors import KeysetError, StagedFileDamaged
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.token_format import key_id
from include.queue_etl.staging.stores import Store

# The format of a file. It changes with what is written; files of OLDER that open are read all the same.
MAGIC = b"QETL2"
OLDER = (b"QETL1",)
# Of zstd; all are read alike. Raw batches may be archived for years; the others, of which tokens and receipt
# handles are the most, hardly shrink.
_LEVEL, _ARCHIVED_LEVEL = -3, 1
_NONCE = b"\x00" * 12  # a nonce must be unique for its key; every file has a key of its own

Content = TypeVar("Content")


class Kind(StrEnum):
    """What a staged file holds."""

    RECEIPT_HANDLES = "receipts"  # what finish needs to delete or release the batch's messages
    RAW = "raw"  # bodies as received: personal data
    REJECTED = "rejected"  # quarantine lines; each payload is encrypted on its own too
    MASKED = "masked"  # ledger entries and rows, ready for COPY


RETAINED = (Kind.MASKED, Kind.REJECTED)  # of closed runs, for reconcile


@dataclass(frozen=True, slots=True)
class BatchFile:
    """The name of a staged file, as a value."""

    batch: str
    kind: Kind

    @property
    def name(self) -> str:
        """File name: `0003-9f2c1a.raw`."""
        return f"{self.batch}.{self.kind}"

    @classmethod
    def parse(cls, name: str) -> "BatchFile | None":
        """The inverse of `name`; None for a name that is none of ours."""
        batch, _, kind = name.rpartition(".")
        return cls(batch, Kind(kind)) if batch and kind in set(Kind) else None


def batch_name(number: int) -> str:
    """A fresh name: `0003-9f2c1a`.

    The number is for people. The random part keeps two attempts of one task, alive at the same time, from
    writing to one name.
    """
    return f"{number:04d}-{secrets.token_hex(3)}"


@dataclass(slots=True)
class FileList:
    """Which files lie in one run's folder.

    Attributes:
        names: of all files: batch files, and what a killed write left
        written_at: Unix time of the last write
    """

    names: list[str] = field(default_factory=list)
    written_at: float = 0.0

    def batches(self, kind: Kind) -> list[str]:
        """Names of the batches that have a file of this kind."""
        files = map(BatchFile.parse, self.names)
        return [file.batch for file in files if file is not None and file.kind is kind]


class StagingArea:
    """All staged files: a folder for each run."""

    def __init__(self, store: Store, keyset: Keyset) -> None:
        self._store = store
        self._keyset = keyset

    def run(self, run_id: UUID) -> "StagedRun":
        """The staged files of one run, whether there are any or not."""
        return StagedRun(self._store, run_id, self._keyset)

    def runs(self) -> dict[UUID, FileList]:
        """Every run that has files here, of whatever state and age."""
        found: dict[UUID, FileList] = {}
        for file in self._store.everything():
            if run_id := run_of(file.name):
                run = found.setdefault(run_id, FileList())
                run.names.append(file.name.partition("/")[2])
                run.written_at = max(run.written_at, file.written_at)
        return found


class StagedRun:
    """The staged files of one run."""

    def __init__(self, store: Store, run_id: UUID, keyset: Keyset) -> None:
        self._store = store
        self._run_id = run_id
        self._keyset = keyset

    def seal(self, file: BatchFile, content: msgspec.Struct) -> None:
        """Store a file; a re-run of the same task may replace it with an equal one.

        Raises:
            StagingUnavailable: disk full, no permission, bucket out of reach; nothing appears under the name
        """
        context = self._context(file)
        level = _ARCHIVED_LEVEL if file.kind is Kind.RAW else _LEVEL
        packed = zstandard.ZstdCompressor(level=level).compress(msgspec.msgpack.encode(content))
        data_key = AESGCM.generate_key(256)
        sealed_key = self._keyset.encrypt(data_key, context)
        head = MAGIC + bytes([len(sealed_key)]) + sealed_key
        sealed = head + AESGCM(data_key).encrypt(_NONCE, packed, context)
        self._store.write(self._path(file), sealed)

    def open(self, file: BatchFile, content_type: type[Content]) -> Content | None:
        """The content of a file, or None where there is no such file.

        Raises:
            StagedFileDamaged: it is not what was sealed under this name, or the keyset is another
            StagingUnavailable: the folder or bucket cannot be read
        """
        sealed = self._store.read(self._path(file))
        if sealed is None:
            return None
        try:
            content = msgspec.msgpack.decode(self._unsealed(file, sealed), type=content_type)
        except (KeysetError, InvalidTag, zstandard.ZstdError, msgspec.DecodeError):
            raise StagedFileDamaged(f"staged file {self._path(file)} {_damage(sealed)}") from None
        return content

    def key_of(self, file: BatchFile) -> int | None:
        """Id of the key that a file is sealed with; None for a file that is gone, or none of ours."""
        sealed = self._store.read(self._path(file))
        return key_id(sealed[len(MAGIC) + 1 :]) if sealed and sealed.startswith((MAGIC, *OLDER)) else None

    def batches(self, kind: Kind) -> list[str]:
        """Names of the batches that have a file of this kind, sorted."""
        return [file.batch for file in self._files() if file.kind is kind]

    def destroy(self, *kinds: Kind, batch: str | None = None) -> None:
        """Remove the run's files of these kinds (of one batch only, where given); none is fine."""
        files = [file for file in self._files() if file.kind in kinds and batch in (None, file.batch)]
        self._store.remove([self._path(file) for file in files])

    def remove(self, names: list[str]) -> None:
        """Remove files of the run's folder by name; those that are gone are fine."""
        self._store.remove([f"{self._run_id}/{name}" for name in names])

    def _unsealed(self, file: BatchFile, sealed: bytes) -> bytes:
        key_at = len(MAGIC) + 1
        if not sealed.startswith((MAGIC, *OLDER)) or len(sealed) <= key_at:
            raise InvalidTag
        body_at = key_at + sealed[key_at - 1]
        context = self._context(file)
        data_key = self._keyset.decrypt(sealed[key_at:body_at], context)
        packed = AESGCM(data_key).decrypt(_NONCE, sealed[body_at:], context)
        return zstandard.ZstdDecompressor().decompress(packed)

    def _files(self) -> list[BatchFile]:
        names = self._store.names(str(self._run_id))
        return [file for name in names if (file := BatchFile.parse(name)) is not None]

    def _path(self, file: BatchFile) -> str:
        return f"{self._run_id}/{file.name}"

    def _context(self, file: BatchFile) -> bytes:
        return f"queue_etl/staging/{self._run_id}/{file.name}".encode()


def run_of(path: str) -> UUID | None:
    """The run in whose folder a file lies; None for what is not of a run."""
    folder, _, name = path.partition("/")
    try:
        return UUID(folder) if name else None
    except ValueError:
        return None


def _damage(sealed: bytes) -> str:
    if sealed.startswith(OLDER):
        return "was made by an older version, or was changed: this version cannot open it"
    return (
        "is not what was sealed under that name (truncated, changed, swapped, of another run, "
        "or another keyset)"
    )
