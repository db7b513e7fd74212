"""Batch files of a run, between the tasks: written once, sealed, found again after a crash.

    <staging>/<run id>/<batch>.<kind>        0003-9f2c1a.raw

Every file is compressed, then encrypted under a data key of its own (AES-256-GCM). The data key stands in the
file's head, sealed with the keyset and bound to run, batch and kind: a truncated, changed, swapped or foreign
file does not open. Files appear whole or not at all.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

import msgspec
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from include.queue_etl.errors import KeysetError, StagedFileDamaged, StagingUnavailable
from include.queue_etl.keyset import Keyset, key_id

if TYPE_CHECKING:
    from boto3 import Session

MAGIC = b"QETL1"
_NONCE = b"\x00" * 12  # a nonce must be unique for its key; every file has a key of its own

Content = TypeVar("Content")


class Kind(StrEnum):
    """What a staged file holds."""

    RECEIPTS = "receipts"  # what finish needs to delete or give back the batch's messages
    RAW = "raw"  # bodies as received: personal data
    REJECTED = "rejected"  # quarantine lines; each payload is sealed on its own too
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


class Store(Protocol):
    """Named byte strings under one root; a name appears with its whole content or not at all."""

    def write(self, name: str, content: bytes) -> None:
        """Store durably; an existing name is replaced."""

    def read(self, name: str) -> bytes | None:
        """The content, or None where there is none."""

    def names(self, folder: str) -> list[str]:
        """Names directly inside a folder, without the folder, sorted."""

    def remove(self, names: list[str]) -> None:
        """Remove; a name that is gone already is fine."""

    def everything(self) -> Iterator[tuple[str, float]]:
        """Every name under the root, with its folder, and the Unix time at which it was written."""

    def problem(self) -> str | None:
        """Why nothing can be written here, or None; writes and removes a probe."""


class LocalFolder:
    """A folder that all workers share (one machine, or a network file system)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        path = self._root / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        with _as_staging_error(f"cannot write {path}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                _write_durably(temporary, content)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def read(self, name: str) -> bytes | None:  # noqa: D102
        with _as_staging_error(f"cannot read {self._root / name}"):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:  # noqa: D102
        with _as_staging_error(f"cannot list {self._root / folder}"):
            try:
                return sorted(entry.name for entry in (self._root / folder).iterdir())
            except FileNotFoundError:
                return []

    def remove(self, names: list[str]) -> None:  # noqa: D102
        with _as_staging_error(f"cannot remove from {self._root}"):
            for name in names:
                (self._root / name).unlink(missing_ok=True)
            for folder in {(self._root / name).parent for name in names}:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def everything(self) -> Iterator[tuple[str, float]]:  # noqa: D102
        with _as_staging_error(f"cannot list {self._root}"):
            if not self._root.exists():  # no run has staged anything yet
                return
            for folder in [entry.name for entry in self._root.iterdir() if entry.is_dir()]:
                for name in self.names(folder):
                    with suppress(FileNotFoundError):  # finish may be removing it at this moment
                        yield f"{folder}/{name}", (self._root / folder / name).stat().st_mtime

    def problem(self) -> str | None:  # noqa: D102
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = f".probe-{secrets.token_hex(6)}"
            self.write(probe, b"probe")
            (self._root / probe).unlink(missing_ok=True)
        except OSError as error:
            return f"staging: cannot create {self._root}: {error.strerror}"
        except StagingUnavailable as error:
            return f"staging: {error}"
        return None


class S3Prefix:
    """A bucket and prefix that all workers reach."""

    def __init__(self, url: str, session: "Session", endpoint_url: str | None) -> None:
        from botocore.config import Config

        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        config = Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 4},
            # An emulator answers on one host for all buckets; AWS wants the virtual host.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
        )
        self._client = session.client("s3", endpoint_url=endpoint_url, config=config)

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        self._call("write", name, self._client.put_object, Key=self._prefix + name, Body=content)

    def read(self, name: str) -> bytes | None:  # noqa: D102
        try:
            reply = self._call("read", name, self._client.get_object, Key=self._prefix + name)
            content: bytes = self._call("read", name, lambda Bucket: reply["Body"].read())
        except FileNotFoundError:
            return None
        return content

    def names(self, folder: str) -> list[str]:  # noqa: D102
        prefix = f"{self._prefix}{folder}/"
        return sorted(item["Key"].removeprefix(prefix) for item in self._objects(prefix))

    def remove(self, names: list[str]) -> None:  # noqa: D102
        for start in range(0, len(names), 1000):  # DeleteObjects takes at most 1,000 keys
            objects = [{"Key": self._prefix + name} for name in names[start : start + 1000]]
            reply = self._call("remove", "", self._client.delete_objects, Delete={"Objects": objects})
            if errors := reply.get("Errors"):
                raise StagingUnavailable(f"cannot remove from s3://{self._bucket}: {errors[0].get('Code')}")

    def everything(self) -> Iterator[tuple[str, float]]:  # noqa: D102
        for item in self._objects(self._prefix):
            yield item["Key"].removeprefix(self._prefix), item["LastModified"].timestamp()

    def problem(self) -> str | None:  # noqa: D102
        probe = f".probe-{secrets.token_hex(6)}"
        try:
            self.write(probe, b"probe")
            self.remove([probe])
        except StagingUnavailable as error:
            return f"staging: {error}"
        return None

    def _objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            listing = self._call("list", prefix, self._client.list_objects_v2, Prefix=prefix, **more)
            yield from listing.get("Contents", [])
            if not listing.get("IsTruncated"):
                return
            more = {"ContinuationToken": listing["NextContinuationToken"]}

    def _call(self, verb: str, name: str, method: Callable[..., Any], **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return method(Bucket=self._bucket, **arguments)
        except ClientError as error:
            code = error.response["Error"].get("Code", "unknown")
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError from None
            detail = str(code)
        except BotoCoreError as error:
            detail = type(error).__name__
        raise StagingUnavailable(f"cannot {verb} s3://{self._bucket}/{self._prefix}{name}: {detail}")


@dataclass(slots=True)
class StagedRun:
    """What lies in one run's folder.

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

    @property
    def leftovers(self) -> list[str]:
        """Names of the files that a closed run has no use for."""
        kept = [BatchFile(batch, kind).name for kind in RETAINED for batch in self.batches(kind)]
        return [name for name in self.names if name not in kept]


class Staging:
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
        packed = zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(content))
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
            raise StagedFileDamaged(
                f"staged file {self._path(file)} is not what was sealed under that name "
                "(truncated, changed, swapped, of another run, or another keyset)"
            ) from None
        return content

    def key_of(self, file: BatchFile) -> int | None:
        """Id of the key that a file is sealed with; None for a file that is gone, or none of ours."""
        sealed = self._store.read(self._path(file))
        return key_id(sealed[len(MAGIC) + 1 :]) if sealed and sealed.startswith(MAGIC) else None

    def batches(self, kind: Kind) -> list[str]:
        """Names of the batches that have a file of this kind, sorted."""
        return [file.batch for file in self._files() if file.kind is kind]

    def destroy(self, *kinds: Kind, batch: str | None = None) -> None:
        """Remove the run's files of these kinds (of one batch only, where given); none is fine."""
        doomed = [file for file in self._files() if file.kind in kinds and batch in (None, file.batch)]
        self._store.remove([self._path(file) for file in doomed])

    def of_run(self, run_id: UUID) -> "Staging":
        """The staged files of another run, in the same place."""
        return Staging(self._store, run_id, self._keyset)

    def runs(self) -> dict[UUID, StagedRun]:
        """Every run that has files here, of whatever state and age."""
        found: dict[UUID, StagedRun] = {}
        for path, written_at in self._store.everything():
            folder, _, name = path.partition("/")
            if name and (run_id := _run_id(folder)):
                run = found.setdefault(run_id, StagedRun())
                run.names.append(name)
                run.written_at = max(run.written_at, written_at)
        return found

    def remove(self, names: list[str]) -> None:
        """Remove files of the run's folder by name; those that are gone are fine."""
        self._store.remove([f"{self._run_id}/{name}" for name in names])

    def problem(self) -> str | None:
        """Why nothing can be staged, or None."""
        return self._store.problem()

    def _unsealed(self, file: BatchFile, sealed: bytes) -> bytes:
        key_at = len(MAGIC) + 1
        if not sealed.startswith(MAGIC) or len(sealed) <= key_at:
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


def _run_id(folder: str) -> UUID | None:
    try:
        return UUID(folder)
    except ValueError:
        return None


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            # On a full disk os.write may return a short count and raise only at the next call.
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_staging_error(what: str) -> Iterator[None]:
    """Turn an OSError into StagingUnavailable with the path and the system's words."""
    try:
        yield
    except OSError as error:
        raise StagingUnavailable(f"{what}: {error.strerror}") from None
