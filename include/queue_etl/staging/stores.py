"""Where staged files lie: a folder that all workers share, or a bucket."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from include.queue_etl.errors import StagingUnavailable
from include.queue_etl.private_files import write_durably

if TYPE_CHECKING:
    from boto3 import Session


class StoredFile(NamedTuple):
    """A stored byte string: its name with the folder, the Unix time at which it was written, its bytes."""

    name: str
    written_at: float
    size: int


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

    def everything(self) -> Iterator[StoredFile]:
        """Every file under the root; it is listed no further than somebody reads."""

    def problem(self) -> str | None:
        """Why nothing can be written here, or None; writes and removes a probe."""


class LocalFolder:
    """A folder that all workers share (one machine, or a network file system)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        path = self._root / name
        with _as_staging_error(f"cannot write {path}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, content)

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

    def everything(self) -> Iterator[StoredFile]:  # noqa: D102
        with _as_staging_error(f"cannot list {self._root}"):
            if not self._root.exists():  # no run has staged anything yet
                return
            with os.scandir(self._root) as entries:
                for folder in (entry.name for entry in entries if entry.is_dir()):
                    for name in self.names(folder):
                        with suppress(FileNotFoundError):  # finish may be removing it at this moment
                            found = (self._root / folder / name).stat()
                            yield StoredFile(f"{folder}/{name}", found.st_mtime, found.st_size)

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

    def everything(self) -> Iterator[StoredFile]:  # noqa: D102
        for item in self._objects(self._prefix):
            name = item["Key"].removeprefix(self._prefix)
            yield StoredFile(name, item["LastModified"].timestamp(), item["Size"])

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


@contextmanager
def _as_staging_error(what: str) -> Iterator[None]:
    """Turn an OSError into StagingUnavailable with the path and the system's text."""
    try:
        yield
    except OSError as error:
        raise StagingUnavailable(f"{what}: {error.strerror}") from None
