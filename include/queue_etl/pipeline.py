"""The parts of one run, each connected on first use: a task pays only for the clients it needs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID, uuid5

from include.queue_etl.contract import Contract
from include.queue_etl.errors import KeyServiceUnavailable, KeysetError, PreflightError, QueueEtlError
from include.queue_etl.keyset import Keyset, MasterKey, unwrapped
from include.queue_etl.settings import Settings
from include.queue_etl.staging import LocalFolder, S3Prefix, Staging, Store

if TYPE_CHECKING:
    from boto3 import Session
    from tink.aead import Aead

    from include.queue_etl.aws import Access
    from include.queue_etl.sqs import SqsQueue
    from include.queue_etl.warehouse import RunState, Warehouse

log = logging.getLogger(__name__)
WEAK = (
    "contract %s masks %s with %s, which has no key: whoever reads the table finds the values by trying. One "
    "core tries every IPv4 address in two to six minutes (docs/privacy.md). Only for joining with tables "
    "masked so before; production refuses it"
)
_RUNS = UUID("6d4a7b56-9d0c-4a6f-8f0b-2f3d6f1f4f6e")  # namespace of run ids


def kms_key(uri: str, session: "Session", endpoint_url: str | None = None) -> "Aead":
    """The key that wraps the keyset; imports boto3."""
    from include.queue_etl.kms import KmsKey

    return KmsKey(uri, session, endpoint_url)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contract.

    Attributes:
        contract: its name
        airflow_run_id: Airflow's run id, or any text that names the run elsewhere
    """

    contract: str
    airflow_run_id: str

    @property
    def id(self) -> UUID:
        """The same for all tasks and retries of the run; also its folder, as a run id may hold `..`."""
        return uuid5(_RUNS, f"{self.contract}\n{self.airflow_run_id}")


class Pipeline:
    """The parts of one run. Use it as a context manager; leaving it closes what was opened."""

    def __init__(
        self,
        contract: Contract,
        run: Run,
        settings: Settings,
        *,
        session: "Callable[[], Session]",
        endpoint_urls: Mapping[str, str],
        warehouse_dsn: str,
        keyset_json: str | Callable[[], str],
        access: "Access | None" = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            contract: what to move
            run: on whose behalf
            settings: limits and places
            session: makes the boto3 session; called only by steps that talk to AWS
            endpoint_urls: by service (`sqs`, `s3`, `kms`), where boto3 does not find them itself
            warehouse_dsn: libpq connection string
            keyset_json: Tink JSON keyset, or what reads it when it is needed (raises KeysetError)
            access: to SQS, where it needs no boto3 session
        """
        self.contract = contract
        self.run = run
        self.settings = settings
        self._session = session
        self._endpoint_urls = endpoint_urls
        self._warehouse_dsn = warehouse_dsn
        self._given_keyset = keyset_json
        self._access = access

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for part in ("queue", "dead_letters", "warehouse"):
            if part in self.__dict__:  # cached_property keeps what it made there
                self.__dict__[part].close()

    @cached_property
    def keyset(self) -> Keyset:
        """The keyset; raises KeysetError, or KeyServiceUnavailable where KMS has to unwrap it."""
        return Keyset.from_json(self._keyset_json, self.master_key)

    @cached_property
    def keyset_json(self) -> str:
        """The keyset in the clear, for who needs its keys one by one; raises as `keyset` does."""
        return unwrapped(self._keyset_json, self.master_key)

    @cached_property
    def _keyset_json(self) -> str:
        given = self._given_keyset
        return given if isinstance(given, str) else given()

    @property
    def master_key(self) -> MasterKey | None:
        """Makes what wraps the keyset; None where the settings name no KMS key."""
        uri = self.settings.kms_key_uri
        endpoint = self._endpoint_urls.get("kms")
        return (lambda: kms_key(uri, self._session(), endpoint)) if uri else None

    @cached_property
    def queue(self) -> "SqsQueue":
        """The contract's queue; raises QueueRefused or QueueUnavailable."""
        from include.queue_etl.sqs import SqsQueue

        name, settings = self.contract.queue, self.settings
        if self._access and settings.sqs_client == "pycurl":
            return SqsQueue.at(self._access, name, settings)
        return SqsQueue.connect(self._session(), name, settings, self._endpoint_urls.get("sqs"))

    @cached_property
    def warehouse(self) -> "Warehouse":
        """The warehouse; it connects at its first statement."""
        from include.queue_etl.postgres import BATCH_SILENCE_SECONDS
        from include.queue_etl.warehouse import Warehouse

        return Warehouse(self._warehouse_dsn, BATCH_SILENCE_SECONDS)

    @cached_property
    def staging(self) -> Staging:
        """The run's staged files."""
        return Staging(self._store(), self.run.id, self.keyset)

    def preflight(self) -> None:
        """Check every part before the first message is received; writes nothing but a probe.

        Raises:
            PreflightError: names every part that is not ready, and what to do
        """
        # Before the first connection: it might be the one without TLS.
        if problems := self.production_problems():
            raise PreflightError(problems)
        for column in self.contract.personal:
            if column.is_weak:
                log.warning(WEAK, self.contract.name, column.field, column.scheme)
        problems = [problem for check in self._checks() for problem in check()]
        if problems:
            raise PreflightError(problems)

    def check_warehouse(self) -> None:
        """Check warehouse and keyset, for what does without the queue.

        Raises:
            PreflightError: names every part that is not ready, and what to do
        """
        if problems := self.production_problems() or self._warehouse_and_key_problems():
            raise PreflightError(problems)

    def production_problems(self) -> list[str]:
        """Everything that is only fit for development; empty unless the settings say production."""
        if self.settings.env != "production":
            return []
        from include.queue_etl import production

        try:
            keyset_json = self._keyset_json
        except KeysetError:
            keyset_json = ""  # said where it is opened
        return production.problems(
            production.Setup(self.contract, self._warehouse_dsn, keyset_json, self._endpoints())
        )

    def open_run(self, depth: Mapping[str, int] | None) -> "RunState":
        """Enter the run in the warehouse, with what the sensor saw, or find it there."""
        return self.warehouse.open_run(self.run.id, self.contract, self.run.airflow_run_id, depth or {})

    def is_closed(self) -> bool:
        """Whether the run is over: its messages are deleted or back on the queue."""
        state = self.warehouse.run_state(self.run.id)
        return state is not None and state.closed

    def record_key(self) -> None:
        """Note the primary key, and the columns it masks, before anything is masked; again is fine."""
        self.warehouse.register_columns(self.contract)
        self.warehouse.add_key_check(self.keyset.primary_key_id, self.keyset.check_value())

    def _endpoints(self) -> list[str]:
        """Where the AWS services answer; boto3 knows more sources than the settings, so it is asked."""
        used = {
            "sqs": True,
            "s3": self.settings.staging.startswith("s3://"),
            "kms": self.settings.kms_key_uri,
        }
        session, urls = self._session(), self._endpoint_urls
        clients = [session.client(name, endpoint_url=urls.get(name)) for name in used if used[name]]
        return [client.meta.endpoint_url for client in clients]

    def _store(self) -> Store:
        if self.settings.staging.startswith("s3://"):
            return S3Prefix(self.settings.staging, self._session(), self._endpoint_urls.get("s3"))
        return LocalFolder(Path(self.settings.staging))

    def _checks(self) -> list[Callable[[], list[str]]]:
        return [self._queue_problems, self._warehouse_and_key_problems, self._staging_problems]

    def _queue_problems(self) -> list[str]:
        try:
            self.queue.depth()
        except QueueEtlError as error:
            return [str(error)]
        return []

    def _warehouse_and_key_problems(self) -> list[str]:
        problems = self.warehouse.problems(self.contract)
        try:
            keyset = self.keyset
        except (KeysetError, KeyServiceUnavailable) as error:
            return [*problems, str(error)]
        return problems or self._key_problems(keyset)

    def _key_problems(self, keyset: Keyset) -> list[str]:
        """Whether this keyset opens what earlier runs masked; else equal values would stop matching."""
        checks = self.warehouse.key_checks()
        strange = [str(key_id) for key_id, check in checks.items() if not keyset.opens(check)]
        if strange:
            return [
                f"the keyset lacks key {', '.join(strange)}, which masked rows that are in the warehouse: "
                "give the right keyset, or add the old keys to it"
            ]
        return []

    def _staging_problems(self) -> list[str]:
        problem = self._store().problem()
        return [problem] if problem else []
