"""The environment -> the parts that a command works with. Each command connects to what it needs only."""

import os
import secrets
from argparse import Namespace as Arguments
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from include.contracts import any_contract, load_contract
from include.queue_etl.aws import from_environment
from include.queue_etl.errors import KeysetError, SettingsError
from include.queue_etl.pipeline import Pipeline, Run
from include.queue_etl.settings import Settings, read_all

if TYPE_CHECKING:
    from boto3 import Session

    from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline
    from include.queue_etl.privacy.keys import KeyFile
    from include.queue_etl.privacy.officer import OfficerPipeline
    from include.queue_etl.privacy.rotation import RotationPipeline
    from include.queue_etl.sqs import SqsQueue

SomePipeline = TypeVar("SomePipeline", bound=Pipeline)


@contextmanager
def pipeline(arguments: Arguments, *, check_dsn: bool = True, **overrides: int) -> Iterator[Pipeline]:
    """The pipeline of one run, as role etl_loader.

    Checking the connection string takes psycopg, whose import takes 0.1 s of CPU.
    """
    name, role = "QUEUE_ETL_WAREHOUSE_DSN", "etl_loader"
    with _parts(Pipeline, arguments, name, role, contract=None, check_dsn=check_dsn, **overrides) as pipeline:
        yield pipeline


@contextmanager
def upkeep(arguments: Arguments, contract: str | None = None) -> "Iterator[UpkeepPipeline]":
    """What redrive, reconcile, dead letters and maintenance work with, as role etl_maintainer.

    `contract` stands for --contract, in commands that serve all of them.
    """
    from include.queue_etl.operations.upkeep_pipeline import UpkeepPipeline

    name, role = "QUEUE_ETL_MAINTAINER_DSN", "etl_maintainer"
    with _parts(UpkeepPipeline, arguments, name, role, contract=contract) as pipeline:
        yield pipeline


@contextmanager
def officer(arguments: Arguments, contract: str | None = None) -> "Iterator[OfficerPipeline]":
    """What unmask, erase and the audit work with, as role pii_officer; `contract` as in `upkeep`."""
    from include.queue_etl.privacy.officer import OfficerPipeline

    name, role = "QUEUE_ETL_OFFICER_DSN", "pii_officer"
    with _parts(OfficerPipeline, arguments, name, role, contract=contract) as pipeline:
        yield pipeline


@contextmanager
def rotation(arguments: Arguments) -> "Iterator[RotationPipeline]":
    """What remask and the keys work with, as role etl_remasker."""
    from include.queue_etl.privacy.rotation import RotationPipeline

    name, role = "QUEUE_ETL_REMASKER_DSN", "etl_remasker"
    with _parts(RotationPipeline, arguments, name, role, contract=any_contract()) as pipeline:
        yield pipeline


def _parts(
    kind: type[SomePipeline],
    arguments: Arguments,
    dsn_variable: str,
    role: str,
    *,
    contract: str | None,
    check_dsn: bool = True,
    **overrides: int,
) -> SomePipeline:
    dsn_of = connection_string if check_dsn else variable
    dsn, file, settings = read_all(
        lambda: dsn_of(dsn_variable, f"libpq connection string of role {role}"),
        _keyset_file,
        lambda: Settings.from_environment(os.environ, **overrides),
    )
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = arguments.run_id or f"{arguments.name}__{moment}-{secrets.token_hex(2)}"
    return kind(
        load_contract(contract or arguments.contract),
        Run(contract or arguments.contract, name),
        settings,
        session=session,
        endpoint_urls={},
        warehouse_dsn=dsn,
        keyset_json=lambda: _keyset_json(file),
        access=from_environment(os.environ),
    )


@contextmanager
def queue(name: str) -> "Iterator[SqsQueue]":
    """The queue of that name alone."""
    from include.queue_etl.sqs import SqsQueue

    settings = Settings.from_environment({"QUEUE_ETL_STAGING": "/", **os.environ})
    access = from_environment(os.environ)
    if access and settings.sqs_client == "pycurl":
        queue = SqsQueue.at(access, name, settings)
    else:
        queue = SqsQueue.connect(session(), name, settings)
    try:
        yield queue
    finally:
        queue.close()


def session() -> "Session":
    """A boto3 session, by everything boto3 reads itself."""
    import boto3

    return boto3.Session()


def key_file() -> "KeyFile":
    """The file of QUEUE_ETL_KEYSET_FILE, wrapped where a KMS key is set."""
    from include.queue_etl.pipeline import kms_key
    from include.queue_etl.privacy.keys import KeyFile

    path, settings = read_all(
        _keyset_file, lambda: Settings.from_environment({"QUEUE_ETL_STAGING": "/", **os.environ})
    )
    uri = settings.kms_key_uri
    return KeyFile(path, (lambda: kms_key(uri, session())) if uri else None)


def _keyset_file() -> Path:
    return Path(variable("QUEUE_ETL_KEYSET_FILE", "file with the Tink JSON keyset"))


def _keyset_json(file: Path) -> str:
    """The keyset as it is in the file; what is no text is found out by who opens it."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KeysetError(
            f"QUEUE_ETL_KEYSET_FILE={str(file)!r}: {error.strerror}: give the file with the Tink JSON keyset"
        ) from None


def connection_string(name: str, meaning: str) -> str:
    """An environment variable that libpq has to understand; raises as `variable` does, without quoting it."""
    from include.queue_etl.postgres import parsed

    value = variable(name, meaning)
    if parsed(value) is None:
        form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for what is special in a URL"
        raise SettingsError([f"{name} is no libpq connection string: give {form}"])
    return value


def variable(name: str, meaning: str) -> str:
    """An environment variable that must be set; raises SettingsError that says what it means."""
    value = os.environ.get(name)
    if not value:
        raise SettingsError([f"{name} is not set: {meaning} (`./dev` writes it to .dev/env)"])
    return value
