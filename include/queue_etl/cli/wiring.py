"""The environment -> the resources that a command works with. Each command connects to what it needs only."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from include.contracts import load_contract
from include.queue_etl.cli.arguments import Arguments
from include.queue_etl.errors import KeysetError, SettingsError
from include.queue_etl.resources import BATCH_SILENCE_SECONDS, Aws, Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings, read_all
from include.queue_etl.sqs.credentials import from_environment

if TYPE_CHECKING:
    from boto3 import Session

    from include.queue_etl.keys.keyset_file import KeysetFile
    from include.queue_etl.postgres.connection import Database
    from include.queue_etl.sqs.client import SqsQueue

OWNER = ("QUEUE_ETL_OWNER_DSN", "libpq connection string of a role that may create roles")
LOADER = ("QUEUE_ETL_WAREHOUSE_DSN", "etl_loader")
MAINTAINER = ("QUEUE_ETL_MAINTAINER_DSN", "etl_maintainer")
OFFICER = ("QUEUE_ETL_OFFICER_DSN", "pii_officer")
REMASKER = ("QUEUE_ETL_REMASKER_DSN", "etl_remasker")
ON_CALL = ("QUEUE_ETL_OPS_DSN", "ops_ro")
KEYSET_FILE = ("QUEUE_ETL_KEYSET_FILE", "file with the Tink JSON keyset")


@contextmanager
def run_context(
    arguments: Arguments, role: tuple[str, str] = LOADER, *, check_dsn: bool = True, **overrides: int
) -> Iterator[RunContext]:
    """A run of the command's contract, named by --run-id or anew; overrides win over its own settings."""
    contract = load_contract(arguments.contract)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = arguments.run_id or f"{arguments.name}__{moment}-{secrets.token_hex(2)}"
    with resources(role, check_dsn=check_dsn, **{**contract.settings, **overrides}) as opened:
        yield RunContext(opened, contract, name)


def resources(role: tuple[str, str], *, check_dsn: bool = True, **overrides: int) -> Resources:
    """What a job works with.

    Args:
        role: the variable that holds its connection string, and its name
        check_dsn: look at the connection string now, which takes the import of psycopg, 0.1 s of CPU
        overrides: of settings

    Raises:
        SettingsError: names everything that is missing or wrong, and how to fix it
    """
    variable, name = role
    dsn_of = connection_string if check_dsn else required_variable
    dsn, file, settings = read_all(
        lambda: dsn_of(variable, f"libpq connection string of role {name}"),
        _keyset_file,
        lambda: Settings.from_environment(os.environ, **overrides),
    )
    return Resources(
        settings,
        Aws(session, access=from_environment(os.environ)),
        warehouse_dsn=dsn,
        keyset_json=lambda: _keyset_json(file),
        silence_seconds=BATCH_SILENCE_SECONDS if role == LOADER else None,
    )


@contextmanager
def database(role: tuple[str, str]) -> "Iterator[Database]":
    """The warehouse alone, for a role that needs no keyset; raises SettingsError."""
    from include.queue_etl.postgres.connection import Database

    variable, name = role
    with Database(connection_string(variable, f"libpq connection string of role {name}")) as opened:
        yield opened


@contextmanager
def queue(name: str, **overrides: int) -> "Iterator[SqsQueue]":
    """The queue of that name alone; `overrides` are of settings."""
    settings = _settings_of_no_run(**overrides)
    queue = Aws(session, access=from_environment(os.environ)).queue(name, settings)
    try:
        yield queue
    finally:
        queue.close()


def session() -> "Session":
    """A boto3 session, by everything boto3 reads itself."""
    import boto3

    return boto3.Session()


def keyset_file() -> "KeysetFile":
    """The file of QUEUE_ETL_KEYSET_FILE, wrapped where a KMS key is set."""
    from include.queue_etl.keys.keyset_file import KeysetFile

    path, settings = read_all(_keyset_path, _settings_of_no_run)
    return KeysetFile(path, Aws(session).master_key(settings.kms_key_uri))


def _settings_of_no_run(**overrides: int) -> Settings:
    """The settings for a command that stages nothing, so that QUEUE_ETL_STAGING may be unset."""
    return Settings.from_environment({"QUEUE_ETL_STAGING": "/", **os.environ}, **overrides)


def _keyset_path() -> Path:
    """Where the keyset is or will be; raises SettingsError where it is not set."""
    return Path(required_variable(*KEYSET_FILE))


def _keyset_file() -> Path:
    """The path of the keyset; raises SettingsError where it is not set, or there is no such file."""
    path = _keyset_path()
    if not path.exists():
        name, meaning = KEYSET_FILE
        raise SettingsError([f"{name}={str(path)!r}: there is no such file: give the {meaning}"])
    return path


def _keyset_json(file: Path) -> str:
    """The keyset as it is in the file; who opens it finds out whether it is text at all."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        name, meaning = KEYSET_FILE
        raise KeysetError(f"{name}={str(file)!r}: {error.strerror}: give the {meaning}") from None


def connection_string(name: str, meaning: str) -> str:
    """An environment variable that libpq has to understand; raises SettingsError without quoting it."""
    from include.queue_etl.postgres.connection import parse_dsn

    value = required_variable(name, meaning)
    if parse_dsn(value) is None:
        form = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for what is special in a URL"
        raise SettingsError([f"{name} is no libpq connection string: give {form}"])
    return value


def required_variable(name: str, meaning: str) -> str:
    """An environment variable that must be set; raises SettingsError that says what it means."""
    value = os.environ.get(name)
    if not value:
        # The local stack has no KMS key; all else that is asked for here is in its file.
        written = "" if name == "QUEUE_ETL_KMS_KEY_URI" else " (`./dev` writes it to .dev/env)"
        raise SettingsError([f"{name} is not set: {meaning}{written}"])
    return value
