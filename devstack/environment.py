"""The environment every command of the project runs in, and the file people source to get it."""

import json
import os
import re
from pathlib import Path

from devstack import emulator, ports, postgres, warehouses
from devstack.credentials import fernet_key, secret, signing_key, write_private
from devstack.postgres import AIRFLOW, WAREHOUSE, Login
from devstack.settings import Settings

# Taken from the caller where another SQS is used; the emulator accepts anything.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
# These would win over the credentials above, send local requests through a profile of the person's own, or
# have each of Airflow's processes compile what it imports.
DROPPED = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
)
UI_USER = "admin"
# How soon Airflow looks again. Of this and the next, the caller's own values win.
PACE = {
    # The default, 1 s, leaves most of a short run's time between its tasks. With 0.1 an idle Airflow takes a
    # tenth of a core more, and rows are no fresher.
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
    # A slot of the executor may stay taken for one interval (5 s) after its task has ended: where sockets
    # close before the process is gone, the supervisor looks again no sooner. Fails after as many seconds.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "15",
    # A lost worker is noticed within a minute; the default takes five. The scheduler looks every 10 s.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
}
# What the OpenLineage provider does where it is installed and has a receiver.
LINEAGE = {
    # An event takes a thread of the task: forked for each, `finish` takes twice as much CPU.
    "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",
    # A DAG run has neither a queue nor a table; what `finish` tells names it as its parent.
    "AIRFLOW__OPENLINEAGE__EMISSION_POLICY": '[{"scope": {}, "controls": {"emit_dag_events": false}}]',
}

AIRFLOW_CFG = """\
# Written by ./dev; what differs between two stacks is in the file `env` beside this one.
[core]
load_examples = False
dags_are_paused_at_creation = False
[api]
workers = 1
[logging]
logging_level = INFO
[usage_data_collection]
enabled = False
"""


def build(settings: Settings) -> dict[str, str]:
    """Return the variables of this stack, secrets included, without anything of the caller's environment."""
    return {
        **_aws(settings),
        **_engine(settings),
        **_airflow(settings),
        **_connections(settings),
        **_other_warehouses(settings),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **settings.variables,
    }


def for_child(settings: Settings) -> dict[str, str]:
    """Return the whole environment of a command: the caller's, overruled by this stack's."""
    inherited = {name: value for name, value in os.environ.items() if name not in DROPPED}
    path = f"{settings.venv / 'bin'}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return {**inherited, **build(settings), "PATH": path}


def write(settings: Settings) -> None:
    """Write the files `env` (for `source`, mode 0600) and `airflow.cfg` of this stack."""
    lines = [f"export {name}={quoted(value)}" for name, value in build(settings).items()]
    path = f'export PATH={quoted(str(settings.venv / "bin"))}:"$PATH"'
    unset = f"unset {' '.join(DROPPED)}"
    write_private(settings.state / "env", "\n".join([unset, *lines, path, ""]))
    (settings.state / "airflow.cfg").write_text(AIRFLOW_CFG)


def read(path: Path) -> dict[str, str]:
    """Return the variables of a written `env` file, without running a shell."""
    found = re.findall(r"^export (\w+)='((?:[^']|'\\'')*)'$", path.read_text(), re.MULTILINE)
    return {name: value.replace("'\\''", "'") for name, value in found}


def quoted(value: str) -> str:
    """Return the value in single quotes, for any POSIX shell."""
    return "'" + value.replace("'", "'\\''") + "'"


def keyset_file(settings: Settings) -> Path:
    """Return where this stack keeps the keys that mask and unmask."""
    return settings.state / "secrets" / "pii_keyset.json"


def password_file(settings: Settings) -> Path:
    """Return the file in which Airflow's simple login keeps the user's password."""
    return settings.state / "secrets" / "ui_passwords.json"


def ui_password(settings: Settings) -> str:
    """Return the UI's password: random, for every user of this machine can reach its 127.0.0.1."""
    return secret(settings.state / "secrets", "ui_password")


def login(settings: Settings, role: str) -> Login:
    """Return the login of one of the warehouse's roles, with its random password."""
    server = postgres.superuser(settings)
    return Login(server.host, server.port, role, secret(settings.state / "secrets", f"{role}_password"))


def _aws(settings: Settings) -> dict[str, str]:
    own = os.environ if settings.sqs_endpoint else {}
    credentials = {name: own.get(name) or default for name, default in CREDENTIALS.items()}
    return {
        **credentials,
        "AWS_ENDPOINT_URL": emulator.endpoint(settings),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _dsns(settings: Settings, database: str) -> dict[str, str]:
    return {
        "QUEUE_ETL_WAREHOUSE_DSN": login(settings, "etl_loader").url(database),
        "QUEUE_ETL_MAINTAINER_DSN": login(settings, "etl_maintainer").url(database),
        "QUEUE_ETL_REMASKER_DSN": login(settings, "etl_remasker").url(database),
        "QUEUE_ETL_OWNER_DSN": postgres.superuser(settings).url(database),
        "QUEUE_ETL_OFFICER_DSN": login(settings, "pii_officer").url(database),
        "QUEUE_ETL_OPS_DSN": login(settings, "ops_ro").url(database),
    }


def _other_warehouses(settings: Settings) -> dict[str, str]:
    """Those that contracts name, on the same server: the roles are its own, and so are their passwords."""
    found: dict[str, str] = {}
    for name in warehouses.names(settings):
        database = warehouses.database(name)
        connections = _warehouse_connections(settings, database)
        texts = {variable: json.dumps(connection) for variable, connection in connections.items()}
        found |= warehouses.variables(name, {**_dsns(settings, database), **texts})
    return found


def _engine(settings: Settings) -> dict[str, str]:
    return {
        **_dsns(settings, WAREHOUSE),
        "QUEUE_ETL_KEYSET_FILE": str(keyset_file(settings)),
        "QUEUE_ETL_STAGING": str(settings.state / "staging"),
        "QUEUE_ETL_LOADER_PASSWORD": login(settings, "etl_loader").password,
        "QUEUE_ETL_MAINTAINER_PASSWORD": login(settings, "etl_maintainer").password,
        "QUEUE_ETL_REMASKER_PASSWORD": login(settings, "etl_remasker").password,
        "QUEUE_ETL_ANALYST_PASSWORD": login(settings, "analyst").password,
        "QUEUE_ETL_OFFICER_PASSWORD": login(settings, "pii_officer").password,
        "QUEUE_ETL_OPS_PASSWORD": login(settings, "ops_ro").password,
    }


def _airflow(settings: Settings) -> dict[str, str]:
    secrets = settings.state / "secrets"
    server = postgres.superuser(settings)
    metadata = Login(server.host, server.port, AIRFLOW, secret(secrets, "airflow_db_password"))
    url = f"http://{ports.HOST}:{settings.ui_port}"
    return {
        "AIRFLOW_HOME": str(settings.root),
        "AIRFLOW_CONFIG": str(settings.state / "airflow.cfg"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(settings.root / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(settings.root / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__FERNET_KEY": secret(secrets, "fernet_key", fernet_key),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{UI_USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file(settings)),
        **{name: os.environ.get(name) or value for name, value in (PACE | LINEAGE).items()},
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata.url(AIRFLOW, "postgresql+psycopg2"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(settings.logs),
        "AIRFLOW__API__HOST": ports.HOST,
        "AIRFLOW__API__PORT": str(settings.ui_port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": secret(secrets, "api_secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": secret(secrets, "jwt_secret", signing_key),
    }


def _connections(settings: Settings) -> dict[str, str]:
    aws = _aws(settings)
    connections = {
        "AIRFLOW_CONN_AWS_DEFAULT": {
            "conn_type": "aws",
            "login": aws["AWS_ACCESS_KEY_ID"],
            "password": aws["AWS_SECRET_ACCESS_KEY"],
            "extra": {"endpoint_url": aws["AWS_ENDPOINT_URL"], "region_name": aws["AWS_DEFAULT_REGION"]},
        },
        **_warehouse_connections(settings, WAREHOUSE),
        "AIRFLOW_CONN_PII_KEYSET": {"conn_type": "generic", "password": _keyset(settings)},
    }
    return {name: json.dumps(connection) for name, connection in connections.items()}


def _warehouse_connections(settings: Settings, database: str) -> dict[str, dict[str, object]]:
    return {
        "AIRFLOW_CONN_POSTGRES_DEFAULT": _warehouse(settings, "etl_loader", database),
        "AIRFLOW_CONN_POSTGRES_MAINTENANCE": _warehouse(settings, "etl_maintainer", database),
        "AIRFLOW_CONN_POSTGRES_REMASKER": _warehouse(settings, "etl_remasker", database),
        "AIRFLOW_CONN_POSTGRES_ON_CALL": _warehouse(settings, "ops_ro", database),
    }


def _warehouse(settings: Settings, role: str, database: str) -> dict[str, object]:
    user = login(settings, role)
    return {
        "conn_type": "postgres",
        "host": user.host,
        "port": user.port,
        "login": user.user,
        "password": user.password,
        "schema": database,
    }


def _keyset(settings: Settings) -> str:
    path = keyset_file(settings)
    return json.dumps(json.loads(path.read_text())) if path.exists() else ""
