"""1,000 canaries through every path of the DAGs, then a search of all places a value could have got to."""

import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from include.queue_etl import steps
from include.queue_etl.cli import app as command_line
from include.queue_etl.errors import WarehouseUnavailable
from tests.dags.conftest import empty, visible
from tests.dags.runs import Outcome, run_dag
from tests.faults import canaries
from tests.faults.bodies import some
from tests.faults.documents import some_orders
from tests.support.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]
STATE = Path(os.environ["QUEUE_ETL_STAGING"]).parent
TAG = f"canary{secrets.token_hex(4)}"


@pytest.fixture
def orders_queue(sqs: Any) -> Iterator[str]:
    """URL of the queue of `orders`, emptied."""
    url: str = sqs.get_queue_url(QueueName="orders-queue")["QueueUrl"]
    empty(sqs, url)
    yield url
    empty(sqs, url)


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """In each form, also inside gzip and zstd: else 0 hits would mean nothing."""
    import base64
    import gzip
    from urllib.parse import quote

    import zstandard

    (one,) = some(TAG, 1)
    text = f'{{"ip": "{one.ip}", "id": "{one.device_id}"}}'.encode()
    forms = [
        text, text.hex().encode(), base64.b64encode(text), base64.b64encode(b"x" + text),
        base64.urlsafe_b64encode(b"xy" + text), quote(text).encode(), gzip.compress(text),
        b"head" + zstandard.ZstdCompressor().compress(text), b"head" + gzip.compress(text.hex().encode()),
    ]  # fmt: skip
    for number, written in enumerate(forms):
        (tmp_path / str(number)).write_bytes(written)
    assert len(canaries.in_files(tmp_path.iterdir())) == len(forms)


def test_a_thousand_canaries_are_found_nowhere_but_in_the_officers_file(
    dags: Mapping[str, Any],
    sqs: Any,
    login_queue: str,
    orders_queue: str,
    warehouse: psycopg.Connection[Any],
    run_user_logins: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    began = time.time()
    sent, orders = some(TAG, 800), some_orders(TAG, 200)
    send([one.body for one in sent], login_queue)
    send([one.body for one in orders], orders_queue)
    wait_until(lambda: (visible(sqs, "login-queue"), visible(sqs, "orders-queue")) == (800, 200))
    caplog.set_level(logging.DEBUG)  # not before: at this level boto3 would log what the test itself sends

    killed_in_the_middle()
    assert searched(began, caplog, capfd) == {}
    wait_until(lambda: visible(sqs, "login-queue") == 800)
    fails_once(monkeypatch)
    outcome = run_user_logins()
    assert outcome.state == "success"
    assert max(outcome.tries.values()) > 1
    assert run_dag(dags["orders"], {"wait_seconds": 1}).state == "success"
    assert run_dag(dags["queue_etl_redrive"], {"dry_run": False}).state == "success"
    officers_file = unmasked(warehouse, tmp_path)

    rows = warehouse.execute(
        "SELECT count(*) FROM public.user_logins WHERE user_id LIKE %s", [f"{TAG}-%"]
    ).fetchone()
    assert rows == (sum(one.reason is None for one in sent),)
    # Nested, inside jsonb, and in a field that nobody declared.
    keys = warehouse.execute(
        "SELECT count(*) FROM public.orders WHERE order_id LIKE %s", [f"{TAG}-%"]
    ).fetchone()
    assert keys == (len({one.key for one in orders if one.reason is None}),)
    assert canaries.in_files([officers_file]) != {}
    assert searched(began, caplog, capfd) == {}


def send(bodies: list[bytes], url: str) -> None:
    client = boto3.client("sqs")
    for start in range(0, len(bodies), 10):
        entries = [
            {"Id": str(number), "MessageBody": body.decode()}
            for number, body in enumerate(bodies[start : start + 10])
        ]
        assert not client.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")


def killed_in_the_middle() -> None:
    """A run without Airflow, killed when it has sealed its first batch."""
    environment = {
        **os.environ,
        "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "4",
        "QUEUE_ETL_RECEIVE_SECONDS": "2",
        "QUEUE_ETL_BATCH_MESSAGES": "100",
    }
    before = set(STATE.glob("staging/*/*.raw"))
    process = subprocess.Popen(
        [sys.executable, "-m", "include.queue_etl", "drain", "-v"], cwd=PROJECT, env=environment
    )
    wait_until(lambda: bool(set(STATE.glob("staging/*/*.raw")) - before) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is loaded, but its task does not hear of it and is tried again."""
    real, failed = steps.load, list[int]()

    def load(*arguments: Any) -> dict[str, Any]:
        result = real(*arguments)
        if not failed:
            failed.append(1)
            raise WarehouseUnavailable("the connection to Postgres was lost")
        return result

    monkeypatch.setattr(steps, "load", load)


def unmasked(warehouse: psycopg.Connection[Any], folder: Path) -> Path:
    """What the command `unmask` writes of 200 tokens."""
    found = warehouse.execute(
        "SELECT DISTINCT masked_device_id FROM public.user_logins WHERE user_id LIKE %s LIMIT 200",
        [f"{TAG}-%"],
    ).fetchall()
    tokens, values = folder / "tokens.txt", folder / "values.csv"
    tokens.write_text("\n".join(token for (token,) in found))
    arguments = ["--field", "device_id", "--file", str(tokens), "--output", str(values)]
    assert command_line.main(["unmask", "--reason", "drill", "--ticket", "DPO-1", *arguments]) == 0
    assert len(values.read_text().splitlines()) == 1 + len(found) == 201
    return values


# The places -------------------------------------------------------------------------------------------------


def searched(
    began: float, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> dict[str, int]:
    """Place -> hits. Not the emulator's own files: the messages are there."""
    with psycopg.connect(os.environ["QUEUE_ETL_OWNER_DSN"], autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        found = connection.execute("SHOW data_directory").fetchone()
    said = capfd.readouterr()
    texts = {"log records": caplog.text, "standard output": said.out, "standard error": said.err}
    folders = [Path(str(found and found[0])), *(STATE / name for name in ("logs", "staging", "secrets"))]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files += [*STATE.glob("*.log"), *PROJECT.glob("core*"), *temporary_files(began)]
    counted = {place: canaries.hits(text.encode()) for place, text in texts.items()}
    counted |= canaries.in_files(path for path in files if "ministack" not in path.name)
    for database in ("warehouse", "airflow"):
        counted |= in_database(make_conninfo(os.environ["QUEUE_ETL_OWNER_DSN"], dbname=database), database)
    counted |= in_api()
    print(f"searched {len(files)} files, {len(counted)} tables and answers of the API")
    return {place: hits for place, hits in counted.items() if hits}


def temporary_files(began: float) -> list[Path]:
    """Those written since, but for the folders of pytest, where the officer's file is."""
    found = []
    for path in Path(tempfile.gettempdir()).glob("*"):
        if path.name.startswith("pytest-") or not path.is_file():
            continue
        if path.stat().st_mtime >= began:
            found.append(path)
    return found


def in_database(dsn: str, name: str) -> dict[str, int]:
    """Every table as text: XCom, rendered templates, task instances and all others."""
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for (table,) in connection.execute(canaries.TABLES).fetchall():
            with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
                found[f"{name} {table}"] = canaries.hits(b"".join(bytes(block) for block in copy))
    return found


@cache
def api() -> Any:
    """Airflow's API; it takes seconds to make."""
    from airflow.api_fastapi.app import create_app

    return create_app(apps="core")


def in_api() -> dict[str, int]:
    """What the browser gets to see of the runs, their tasks, XComs and logs."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = api()
    token = app.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="canary", role="admin"))
    paths = ["/api/v2/dags", "/api/v2/assets/events", "/api/v2/eventLogs"]
    found = {}
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        for dag in ("user_logins", "orders", "queue_etl_redrive"):
            runs = client.get(f"/api/v2/dags/{dag}/dagRuns", params={"order_by": "-id", "limit": 5})
            if runs.status_code == 404:  # never run until now: Airflow does not know it yet
                continue
            for run in runs.json()["dag_runs"]:
                base = f"/api/v2/dags/{dag}/dagRuns/{run['dag_run_id']}"
                tasks = client.get(f"{base}/taskInstances").json()["task_instances"]
                paths += [base, f"{base}/taskInstances"]
                for one in tasks:
                    own = f"{base}/taskInstances/{one['task_id']}"
                    paths += [f"{own}/xcomEntries", f"{own}/xcomEntries/return_value", f"{own}/logs/1"]
        answers = {path: client.get(path) for path in dict.fromkeys(paths)}
        assert answers["/api/v2/dags"].status_code == 200
        assert any(b"accepted" in answer.content for answer in answers.values()) or not tasks_ran(answers)
        found = {f"API {path}": canaries.hits(answer.content) for path, answer in answers.items()}
    return found


def tasks_ran(answers: Mapping[str, Any]) -> bool:
    return any(b'"task_id":"mask"' in answer.content for answer in answers.values())
