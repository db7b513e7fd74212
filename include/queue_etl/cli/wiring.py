"""The environment -> the resources that a command works with. Each command connects to what it needs only."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from include.contracts import load_contract
from include.queue_etl.cli.arguments import Arguments
from include.queue_etl.contract import Contract
from include.queue_etl.contract.contract import QueuePlace
from include.queue_etl.errors import KeysetError, SettingsError
from include.queue_etl.log_fields import bound
from include.queue_etl.resources import BATCH_SILENCE_SECONDS, HERE, Aws, Resources
from include.queue_etl.run_context import RunContext
from include.queue_etl.settings import Settings, read_all
from include.queue_etl.sqs.credentials import from_environment
from include.queue_etl.warehouses import Contracts, Opening, named, of_warehouse, staging_of

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
    given = {**contract.settings, **overrides}
    fields = bound(contract=contract.name, run=name)
    with of_contract(role, contract, queues=True, check_dsn=check_dsn, **given) as opened, fields:
        yield RunContext(opened, contract, name)


def of_contract(
    role: tuple[str, str],
    contract: Contract,
    *,
    queues: bool = False,
    check_dsn: bool = True,
    **overrides: int,
) -> Resources:
    """What a job works with for one contract; arguments and errors as for `resources`."""
    own = {contract.name: contract}
    return resources(role, contract.warehouse, own, queues=queues, check_dsn=check_dsn, **overrides)


def opening(role: tuple[str, str]) -> Opening:
    """Opens any warehouse in this role."""
    return partial(resources, role)


def resources(
    role: tuple[str, str],
    warehouse: str,
    contracts: Contracts,
    *,
    queues: bool = False,
    check_dsn: bool = True,
    **overrides: int,
) -> Resources:
    """What a job works with.

    Args:
        role: the variable that holds its connection string, and its name
        warehouse: its name
        contracts: of that warehouse
        queues: the job cannot do without their queues
        check_dsn: look at the connection string now, which takes the import of psycopg, 0.1 s of CPU
        overrides: of settings

    Raises:
        SettingsError: names everything that is missing or wrong, and how to fix it
    """
    dsn_of = connection_string if check_dsn else required_variable
    dsn, file, settings, _ = read_all(
        lambda: dsn_of(*variable_of(role, warehouse, contracts)),
        _keyset_file,
        lambda: Settings.from_environment(os.environ, **overrides),
        lambda: _require_profiles(contracts if queues else {}),
    )
    return Resources(
        staging_of(settings, warehouse),
        _aws(),
        warehouse_dsn=dsn,
        keyset_json=lambda: _keyset_json(file),
        silence_seconds=BATCH_SILENCE_SECONDS if role == LOADER else None,
        warehouse=warehouse,
    )


def variable_of(role: tuple[str, str], warehouse: str, contracts: Iterable[str]) -> tuple[str, str]:
    """The variable that holds the role's connection string for a warehouse, and what it means."""
    variable, name = role
    meaning = name if role == OWNER else f"libpq connection string of role {name}"
    return of_warehouse(variable, warehouse), f"{meaning}{named(warehouse, contracts)}"


def owner_dsn(warehouse: str, contracts: Iterable[str]) -> str:
    """Connection string of who migrates the warehouse; raises SettingsError."""
    return connection_string(*variable_of(OWNER, warehouse, contracts))


@contextmanager
def database(role: tuple[str, str], contract: Contract) -> "Iterator[Database]":
    """The contract's warehouse alone, for a role that needs no keyset; raises SettingsError."""
    from include.queue_etl.postgres.connection import Database

    with Database(connection_string(*variable_of(role, contract.warehouse, [contract.name]))) as opened:
        yield opened


@contextmanager
def queue(name: str, place: QueuePlace = HERE, **overrides: int) -> "Iterator[SqsQueue]":
    """The queue of that name alone; `overrides` are of settings."""
    settings = _settings_of_no_run(**overrides)
    queue = _aws().at(place).queue(name, settings, place.account)
    try:
        yield queue
    finally:
        queue.close()


def _aws() -> Aws:
    return Aws(session, access=from_environment(os.environ), elsewhere=_aws_at)


def _aws_at(place: QueuePlace) -> Aws:
    """AWS by another profile, or in another region."""
    region = {"AWS_DEFAULT_REGION": place.region} if place.region else {}
    access = None if place.aws else from_environment({**os.environ, **region})
    return Aws(lambda: session(place), access=access)


def session(place: QueuePlace = HERE) -> "Session":
    """A boto3 session, by everything boto3 reads itself, or by the profile that a contract names.

    Raises:
        SettingsError: there is no such profile
    """
    import boto3
    from botocore.exceptions import ProfileNotFound

    try:
        region = place.region or (_region_of(place.aws) if place.aws else None)
        return boto3.Session(profile_name=place.aws or None, region_name=region)
    except ProfileNotFound:
        raise SettingsError([_no_profile(place.aws)]) from None


def _region_of(profile: str) -> str | None:
    """The profile's own region: boto3 would take AWS_DEFAULT_REGION, which is that of the deployment."""
    import botocore.session

    found = botocore.session.Session(profile=profile).get_scoped_config().get("region")
    return str(found) if found else None


def _require_profiles(contracts: Contracts) -> None:
    """Raises SettingsError that names each profile which is missing, and the contract that needs it."""
    using = {name: contract.aws for name, contract in contracts.items() if contract.aws}
    there = session().available_profiles if using else []
    problems = [f"contract {name}: {_no_profile(aws)}" for name, aws in using.items() if aws not in there]
    if problems:
        raise SettingsError(problems)


def _no_profile(name: str) -> str:
    return f"no profile {name!r} of AWS: add [profile {name}] to the file of AWS_CONFIG_FILE (~/.aws/config)"


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
