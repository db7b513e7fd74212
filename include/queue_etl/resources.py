"""What every job works with, each part connected on first use: a task pays only for the clients it needs.

Resources know neither a contract nor a run. A job takes the store of its database role from
`Resources.database`: RunStore, MaintenanceStore, OfficerStore, RemaskStore, AuditLog.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import KeyServiceUnavailable, KeysetError, PreflightError, SettingsError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument, MasterKey
from include.queue_etl.settings import Settings
from include.queue_etl.staging.area import StagingArea
from include.queue_etl.staging.stores import LocalFolder, S3Prefix, Store

if TYPE_CHECKING:
    from boto3 import Session

    from include.queue_etl.keys.kms import KmsKey
    from include.queue_etl.postgres.connection import Database
    from include.queue_etl.sqs.client import SqsQueue
    from include.queue_etl.sqs.credentials import Access

# Longest silence of Postgres within a statement of a run: a batch takes less than a second.
BATCH_SILENCE_SECONDS = 120.0
HERE = QueuePlace()


def _nowhere_else(place: QueuePlace) -> "Aws":
    raise SettingsError([f"AWS is reached in one way alone, and not by {place.aws or place.region}"])


@dataclass(frozen=True, slots=True)
class Aws:
    """How AWS is reached.

    Attributes:
        session: makes the boto3 session; called only where boto3 is needed
        endpoint_urls: by service (`sqs`, `s3`, `kms`), where boto3 does not find them itself
        access: to SQS, where it needs no boto3 session
        elsewhere: how it is reached for a contract that names another connection or region; raises
            SettingsError
    """

    session: "Callable[[], Session]"
    endpoint_urls: Mapping[str, str] = field(default_factory=dict)
    access: "Access | None" = None
    elsewhere: "Callable[[QueuePlace], Aws]" = _nowhere_else

    def at(self, place: QueuePlace) -> "Aws":
        """How AWS is reached for queues of that place; raises SettingsError."""
        return self.elsewhere(place) if place.aws or place.region else self

    def queue(self, name: str, settings: Settings, account: str = "") -> "SqsQueue":
        """The queue of that name, of another account where one is given.

        Raises:
            QueueRefused, QueueUnavailable: as for `SqsQueue.connect`
        """
        from include.queue_etl.sqs.client import SqsQueue

        if self.access and settings.sqs_client == "pycurl":
            return SqsQueue.at(self.access, name, settings, account)
        return SqsQueue.connect(self.session(), name, settings, self.endpoint_urls.get("sqs"), account)

    def master_key(self, uri: str) -> MasterKey | None:
        """Makes the KMS key that wraps the keyset; None where the settings name none."""

        def connect() -> "KmsKey":
            from include.queue_etl.keys.kms import KmsKey

            return KmsKey(uri, self.session(), self.endpoint_urls.get("kms"))

        return connect if uri else None

    def bucket(self, url: str) -> S3Prefix:
        """A bucket and prefix for staged files."""
        return S3Prefix(url, self.session(), self.endpoint_urls.get("s3"))

    def endpoints(self, services: Sequence[str]) -> list[str]:
        """Where these services answer; boto3 knows more sources than the settings, so it is asked."""
        session = self.session()
        clients = [session.client(name, endpoint_url=self.endpoint_urls.get(name)) for name in services]
        return [client.meta.endpoint_url for client in clients]


class Resources:
    """Settings, keyset, database, staging and queues. Leaving the context closes what was opened."""

    def __init__(
        self,
        settings: Settings,
        aws: Aws,
        *,
        warehouse_dsn: str,
        keyset_json: str | Callable[[], str],
        silence_seconds: float | None = None,
        warehouse: str = "",
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: limits and places
            aws: how AWS is reached
            warehouse_dsn: libpq connection string; its role decides what can be done
            keyset_json: Tink JSON keyset, or what reads it when it is needed (raises KeysetError)
            silence_seconds: of the database, as for `postgres.connect`
            warehouse: its name; the default one has none
        """
        self.settings = settings
        self.aws = aws
        self.warehouse = warehouse
        self._warehouse_dsn = warehouse_dsn
        self._given_keyset = keyset_json
        self._silence_seconds = silence_seconds
        self._queues: dict[tuple[str, QueuePlace], SqsQueue] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()
        self._queues.clear()

    @cached_property
    def database(self) -> "Database":
        """The warehouse; it connects at its first statement."""
        from include.queue_etl.postgres.connection import Database

        database = Database(self._warehouse_dsn, self._silence_seconds)
        self._opened.callback(database.close)
        return database

    def queue(self, name: str, place: QueuePlace = HERE) -> "SqsQueue":
        """The queue of that name in that place, the same at each call.

        Raises:
            QueueRefused, QueueUnavailable: as for `SqsQueue.connect`
            SettingsError: the place's connection is missing
        """
        if (name, place) not in self._queues:
            queue = self.aws.at(place).queue(name, self.settings, place.account)
            self._queues[name, place] = queue
            self._opened.callback(queue.close)
        return self._queues[name, place]

    @cached_property
    def stored_keyset(self) -> KeysetDocument:
        """The keyset as it is stored, perhaps wrapped; raises KeysetError where it cannot be read."""
        given = self._given_keyset
        return KeysetDocument(given if isinstance(given, str) else given())

    @cached_property
    def keyset_document(self) -> KeysetDocument:
        """The keyset in the clear, for who needs its keys one by one; raises as `keyset` does."""
        return self.stored_keyset.unwrap(self.aws.master_key(self.settings.kms_key_uri))

    @cached_property
    def keyset(self) -> Keyset:
        """The keyset; raises KeysetError, or KeyServiceUnavailable where KMS has to unwrap it."""
        return self.keyset_document.open()

    def archive_days(self, contract: Contract | None) -> int:
        """How long raw batches of the contract's closed runs are kept; of none: as the settings say."""
        own = contract.settings if contract else {}
        return own.get("archive_days", self.settings.archive_days)

    @cached_property
    def staging_store(self) -> Store:
        """Where staged files lie."""
        staging = self.settings.staging
        return self.aws.bucket(staging) if staging.startswith("s3://") else LocalFolder(Path(staging))

    @cached_property
    def staging(self) -> StagingArea:
        """All staged files."""
        return StagingArea(self.staging_store, self.keyset)

    # Is everything there?

    def require_loading(self, contract: Contract | None = None) -> None:
        """Check warehouse and keyset, for jobs that load without the queue.

        Raises:
            PreflightError: names every part that is not ready, and what to do
        """
        contracts = [contract] if contract else []
        self._require_none(self.production_problems(contracts) or self.loading_problems(contract))

    def require_schema(self) -> None:
        """Check the warehouse's schema and the keyset, for jobs that load nothing.

        What the role may not do shows when the job does it.

        Raises:
            PreflightError: names every part that is not ready, and what to do
        """
        from include.queue_etl.postgres import checks

        def problems() -> list[str]:
            return self._with_key_problems(checks.schema_problems(self.database))

        self._require_none(self.production_problems([]) or problems())

    def loading_problems(self, contract: Contract | None) -> list[str]:
        """Why nothing could be loaded now, a sentence each."""
        from include.queue_etl.postgres import checks

        return self._with_key_problems(checks.loading_problems(self.database, contract))

    def production_problems(self, contracts: Sequence[Contract]) -> list[str]:
        """Everything that is only fit for development; empty unless the settings say production."""
        if self.settings.env != "production":
            return []
        from include.queue_etl import production

        used = {
            "sqs": True,
            "s3": self.settings.staging.startswith("s3://"),
            "kms": self.settings.kms_key_uri,
        }
        endpoints = self.aws.endpoints([name for name in used if used[name]])
        for place in {contract.place for contract in contracts} - {HERE}:
            endpoints += self.aws.at(place).endpoints(["sqs"])
        try:
            keyset = self.stored_keyset
        except KeysetError:
            keyset = None  # reported where it is opened
        return production.problems(production.Setup(contracts, self._warehouse_dsn, keyset, endpoints))

    def _with_key_problems(self, problems: list[str]) -> list[str]:
        try:
            keyset = self.keyset
        except (KeysetError, KeyServiceUnavailable) as error:
            return [*problems, str(error)]
        return problems or self._key_problems(keyset)

    def _key_problems(self, keyset: Keyset) -> list[str]:
        """Whether this keyset opens what earlier runs masked; else equal values would stop matching."""
        from include.queue_etl.postgres import checks

        values = checks.key_checks(self.database)
        missing = [str(key_id) for key_id, value in values.items() if not keyset.opens(value)]
        if missing:
            return [
                f"the keyset lacks key {', '.join(missing)}, which masked rows that are in the warehouse: "
                "give the right keyset, or add the old keys to it"
            ]
        return []

    def _require_none(self, problems: list[str]) -> None:
        if problems:
            raise PreflightError(problems)
