"""Airflow connections, environment and run params -> what the jobs of include/queue_etl work with.

Everything is fetched when a task opens it, nothing at import. No text made here holds a
password, a keyset or a URI: connections are named by their id only.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from include.queue_etl.errors import SettingsError

if TYPE_CHECKING:
    import boto3
    from airflow.sdk import Connection

    from include.queue_etl.contract import Contract
    from include.queue_etl.contract.contract import QueuePlace
    from include.queue_etl.privacy.everywhere import Part
    from include.queue_etl.resources import Aws, Resources
    from include.queue_etl.run_context import RunContext
    from include.queue_etl.sqs.credentials import Access

AWS = "aws_default"
WAREHOUSE = "postgres_default"
MAINTENANCE = "postgres_maintenance"
REMASKER = "postgres_remasker"
ON_CALL = "postgres_on_call"
KEYSET = "pii_keyset"
NOTE = "run_note"  # key of an XCom, as in queue_etl_run_note.py
# Of the extra of an AWS connection: with more in it, a role to assume say, boto3 finds the credentials.
FIXED = {"region_name", "endpoint_url", "service_config", "aws_session_token"}
# Params of a run's form that stand for the setting of the same name.
SETTING_PARAMS = ("max_messages", "receive_seconds")

HOW_TO_ADD = {
    AWS: f"airflow connections add {AWS} --conn-type aws ...",
    WAREHOUSE: f"airflow connections add {WAREHOUSE} --conn-type postgres --conn-login etl_loader ...",
    MAINTENANCE: f"airflow connections add {MAINTENANCE} --conn-type postgres --conn-login etl_maintainer",
    REMASKER: f"airflow connections add {REMASKER} --conn-type postgres --conn-login etl_remasker",
    ON_CALL: f"airflow connections add {ON_CALL} --conn-type postgres --conn-login ops_ro ...",
    KEYSET: f"airflow connections add {KEYSET} --conn-type generic --conn-password <Tink JSON keyset>",
}


@contextmanager
def open_run(contract_name: str) -> "Iterator[RunContext]":
    """The running task's DAG run, as role etl_loader; it connects on first use.

    The same DAG run gives the same run, so a retried or cleared task goes on with the run's own batches.

    Raises:
        SettingsError: names every connection, setting or param that is missing or wrong, and how to fix it
    """
    from airflow.sdk import get_current_context

    from include.contracts import load_contract
    from include.queue_etl.resources import BATCH_SILENCE_SECONDS
    from include.queue_etl.run_context import RunContext

    contract = load_contract(contract_name)
    given = {**contract.settings, **_given_settings(get_current_context()["params"])}
    opened = _of_contract(WAREHOUSE, contract, BATCH_SILENCE_SECONDS, without_boto3=True, **given)
    _exit_on_sigterm()
    name = _run_name(contract_name)
    with opened as resources, _log_fields(contract_name, name):
        yield RunContext(resources, contract, name)


@contextmanager
def open_redrive(contract_name: str) -> "Iterator[RunContext]":
    """The running task's DAG run as a redrive, as role etl_maintainer; raises as `open_run` does."""
    from include.contracts import load_contract
    from include.queue_etl.run_context import RunContext

    contract = load_contract(contract_name)
    name = _run_name(contract_name)
    opened = _of_contract(MAINTENANCE, contract, None, without_boto3=False, **contract.settings)
    with opened as resources, _log_fields(contract_name, name):
        yield RunContext(resources, contract, name)


def open_maintenance(warehouse: str, contracts: "Mapping[str, Contract]") -> "Resources":
    """What maintenance works with in a warehouse, as role etl_maintainer; raises as `open_run` does."""
    return _resources(MAINTENANCE, warehouse, contracts)


def in_each_warehouse(
    contracts: "Mapping[str, Contract]", job: "Callable[[Resources, Mapping[str, Contract]], dict[str, int]]"
) -> dict[str, int]:
    """Do a job of maintenance in every warehouse; counts and errors as those of `warehouses.in_each`."""
    from include.queue_etl.warehouses import in_each

    return in_each(contracts, open_maintenance, job)


@contextmanager
def open_remask(contracts: "Mapping[str, Contract]") -> "Iterator[list[Part]]":
    """What remask works with in every warehouse, as role etl_remasker; raises as `open_run` does."""
    from include.queue_etl.privacy.everywhere import Part
    from include.queue_etl.warehouses import all_open

    with all_open(contracts, partial(_resources, REMASKER)) as opened:
        yield [*map(Part.of, opened)]


def _given_settings(params: Mapping[str, Any]) -> dict[str, int]:
    """Settings of the form; a field left empty is none, so that the environment's setting holds."""
    return {name: int(params[name]) for name in SETTING_PARAMS if params.get(name) is not None}


def _exit_on_sigterm() -> None:
    """Make SIGTERM an exception in this task, so that what it holds is released on the way out.

    Airflow sends it when somebody ends the run, or a worker stops. Its own handler only calls `on_kill`, and
    five seconds later the process is killed (task_runner.py and supervisor.py of Airflow 3.3). A second
    SIGTERM does not interrupt the release.
    """

    def stop(number: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
        signal.signal(signal.SIGTERM, stop)


@contextmanager
def _log_fields(contract_name: str, run_name: str) -> "Iterator[None]":
    """Give every line of a run its contract and run as fields, and its batch where there is one.

    Airflow's logging takes fields from structlog, also for lines of the standard library's logging.
    """
    from structlog.contextvars import bound_contextvars

    from include.queue_etl.log_fields import bound, bound_also

    with bound_also(bound_contextvars), bound(contract=contract_name, run=run_name):
        yield


def _run_name(contract_name: str) -> str:
    """Name of the run, one for each DAG run: those of two DAGs can have the same id.

    The contract's own DAG has its name, and its runs have the names that Airflow gives them.
    """
    from airflow.sdk import get_current_context

    context = get_current_context()
    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    return str(run_id) if dag_id == contract_name else f"{dag_id}__{run_id}"


def _of_contract(
    conn_id: str, contract: "Contract", silence_seconds: float | None, *, without_boto3: bool, **given: int
) -> "Resources":
    """With `without_boto3` SQS is reached without it where `aws_access` can tell how."""
    own = {contract.name: contract}
    return _resources(
        conn_id, contract.warehouse, own, silence_seconds, without_boto3=without_boto3, queues=True, **given
    )


def _resources(
    conn_id: str,
    warehouse: str,
    contracts: "Mapping[str, Contract]",
    silence_seconds: float | None = None,
    *,
    without_boto3: bool = False,
    queues: bool = False,
    **given: int,
) -> "Resources":
    """What a job works with in a warehouse; `queues`: it cannot do without those of the contracts."""
    from include.queue_etl.resources import HERE, Resources
    from include.queue_etl.settings import Settings, read_all
    from include.queue_etl.warehouses import named, of_warehouse, staging_of

    own, needed_by = of_warehouse(conn_id, warehouse), named(warehouse, contracts)
    settings, aws, dsn, keyset, _ = read_all(
        lambda: Settings.from_environment(os.environ, **given),
        lambda: _aws_at(without_boto3, HERE),
        lambda: warehouse_dsn(own, needed_by),
        keyset_json,
        lambda: _require_aws(contracts if queues else {}),
    )
    return Resources(
        staging_of(settings, warehouse),
        aws,
        warehouse_dsn=dsn,
        keyset_json=keyset,
        silence_seconds=silence_seconds,
        warehouse=warehouse,
    )


def _require_aws(contracts: "Mapping[str, Contract]") -> None:
    """Raises SettingsError that names each missing AWS connection, and the contract that needs it."""
    from include.queue_etl.settings import read_all

    read_all(*(partial(_require_aws_of, contract) for contract in contracts.values()))


def _require_aws_of(contract: "Contract") -> None:
    if contract.aws:
        endpoint_urls(_required(contract.aws, AWS, f" of contract {contract.name}"), contract.aws)


def _aws_at(without_boto3: bool, place: "QueuePlace") -> "Aws":
    """How AWS is reached for queues of that place, by `aws_default` where it names no connection.

    With `without_boto3` SQS is reached without it where `aws_access` can tell how.

    Raises:
        SettingsError: the place's connection is missing, or `service_config` is no object
    """
    from include.queue_etl.resources import Aws

    conn_id = place.aws or AWS
    connection = _required(place.aws, AWS) if place.aws else aws_connection()
    return Aws(
        partial(aws_session, conn_id, place.region),
        endpoint_urls(connection, conn_id),
        aws_access(connection, os.environ, place.region) if without_boto3 else None,
        partial(_aws_at, without_boto3),
    )


def queue_to_watch(contract: "Contract") -> dict[str, Any]:
    """The arguments with which the sensor finds the contract's queue."""
    return {
        "sqs_queue": contract.queue,
        "aws_conn_id": contract.aws or AWS,
        "region_name": contract.region or None,
        "queue_account": contract.queue_account or None,
    }


def run_so_far() -> dict[str, bool]:
    """What `finish` has to know of the run: has a task before it failed, and is this its own last try."""
    from airflow.sdk import get_current_context

    ti = get_current_context()["ti"]
    failed = ti.get_ti_count(ti.dag_id, run_ids=[ti.run_id], states=["failed", "upstream_failed"])
    return {"upstream_failed": failed > 0, "last_attempt": ti.try_number > ti.max_tries}


def push_note(figures: str) -> None:
    """Leave the line with the run's figures for queue_etl_run_note.py; it stays when the task fails."""
    from airflow.sdk import get_current_context

    get_current_context()["ti"].xcom_push(NOTE, figures)


def run_has_ended() -> Callable[[str, str], bool]:
    """Tells whether Airflow has ended a run, given DAG id and run id; not so for a run it does not know."""
    from airflow.sdk import get_current_context

    ti = get_current_context()["ti"]
    return lambda dag_id, run_id: bool(
        ti.get_dr_count(dag_id, run_ids=[run_id], states=["success", "failed"])
    )


def aws_session(conn_id: str = AWS, region: str = "") -> "boto3.Session":
    """A session with the credentials and region of `aws_default`; without that connection, the machine's own.

    Another connection and another region where they are given.

    Assumed roles refresh themselves. Imports boto3, about half a second of CPU: only steps that need AWS call
    it.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    return AwsGenericHook(aws_conn_id=conn_id, client_type="sqs", region_name=region or None).get_session()


def aws_connection() -> "Connection | None":
    """`aws_default`; None where no secrets backend has it: then the machine's own credentials hold."""
    return _connection(AWS)


def aws_access(
    connection: "Connection | None", environment: Mapping[str, str], region: str = ""
) -> "Access | None":
    """Access to SQS where connection and environment say all there is to say; None where it takes boto3.

    They say it with a key and its secret in the connection, and no more than FIXED in its extra; or without a
    connection. A region that is given wins over theirs.
    """
    from airflow.configuration import conf

    from include.queue_etl.sqs.credentials import from_environment

    given = _variables(connection)
    if given is None or conf.get("aws", "session_factory", fallback=None):
        return None
    here = {"AWS_DEFAULT_REGION": region} if region else {}
    return from_environment({**environment, **given, **here})


def _variables(connection: "Connection | None") -> dict[str, str] | None:
    """What the connection says, as variables: a session made with it reads all else from the environment.

    None where variables cannot say it.
    """
    if connection is None:
        return {}
    extra = connection.extra_dejson
    if not (connection.login and connection.password) or extra.keys() - FIXED:
        return None
    token = extra.get("aws_session_token") or ""
    given = {
        "AWS_DEFAULT_REGION": extra.get("region_name"),
        "AWS_ENDPOINT_URL_SQS": endpoint_urls(connection).get("sqs"),
    }
    return {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": token,
        "AWS_SECURITY_TOKEN": token,
        **{name: value for name, value in given.items() if value},
    }


def endpoint_urls(connection: "Connection | None", conn_id: str = AWS) -> dict[str, str]:
    """Endpoints of SQS, S3 and KMS in the connection's extra; a service that is not there is AWS's own.

    `{"service_config": {"sqs": {"endpoint_url": ...}}}` wins over `{"endpoint_url": ...}`, as in the provider
    (`AwsConnectionWrapper.get_service_endpoint_url`), read here because importing the provider imports boto3.

    Raises:
        SettingsError: `service_config` is no object
    """
    return {name: url for name in ("sqs", "s3", "kms") if (url := _endpoint_url(connection, conn_id, name))}


def cloudwatch_endpoint(conn_id: str = AWS) -> str | None:
    """The endpoint of CloudWatch, as in `endpoint_urls`."""
    return _endpoint_url(_connection(conn_id), conn_id, "cloudwatch")


def _endpoint_url(connection: "Connection | None", conn_id: str, service: str) -> str | None:
    extra = connection.extra_dejson if connection else {}
    special, general = extra.get("service_config", {}), extra.get("endpoint_url")
    if not isinstance(special, dict):  # a URI can only say text
        raise SettingsError([f"connection {conn_id}: service_config has to be an object; write it as JSON"])
    found: str | None = special.get(service, {}).get("endpoint_url") or general
    return found


def warehouse_dsn(conn_id: str = WAREHOUSE, needed_by: str = "") -> str:
    """Connection string for libpq of a connection, with sslmode and every libpq option of its extra.

    Extra keys that libpq does not know are options of Airflow's PostgresHook and have no meaning here; `iam`
    is refused, because ignoring it would mean to connect without the password it stands for.

    Raises:
        SettingsError: the connection is missing, or asks for IAM authentication
    """
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import Conninfo

    connection = _required(conn_id, conn_id.partition("__")[0], needed_by)
    extra = connection.extra_dejson
    if extra.get("iam"):
        raise SettingsError([f"connection {conn_id}: extra `iam` is not supported; give a password"])
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    options = {key: value for key, value in extra.items() if key in known}
    named = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
    }
    return make_conninfo("", **{**options, **{key: value for key, value in named.items() if value}})


def keyset_json() -> str:
    """The Tink keyset in `pii_keyset`: the connection's password, or all of its extra.

    Raises:
        SettingsError: the connection is missing or empty
    """
    connection = _required(KEYSET, KEYSET)
    keyset: str | None = connection.password or connection.extra
    if not keyset:
        raise SettingsError([f"connection {KEYSET} has neither password nor extra: {HOW_TO_ADD[KEYSET]}"])
    return keyset


def _required(conn_id: str, kind: str, needed_by: str = "") -> "Connection":
    """The connection; raises SettingsError that says how to add one of that kind, a key of HOW_TO_ADD."""
    connection = _connection(conn_id)
    if connection is None:
        how, variable = HOW_TO_ADD[kind].replace(kind, conn_id, 1), f"AIRFLOW_CONN_{conn_id.upper()}"
        raise SettingsError([f"no connection {conn_id}{needed_by}: {how} (or set {variable})"])
    return connection


def _connection(conn_id: str) -> "Connection | None":
    """The connection; None where no secrets backend has it."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection: Connection = Connection.get(conn_id)
    except AirflowNotFoundException:
        return None
    return connection
