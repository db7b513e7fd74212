"""The page's plugin without a running Airflow: what it costs, and that it fails closed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import queue_etl_page_app
from airflow.api_fastapi.core_api import security
from fastapi import FastAPI
from fastapi.testclient import TestClient
from queue_etl_page import LazyApp, PagePlugin
from queue_etl_page_app import make_app

from include.queue_etl.errors import SettingsError, StagingUnavailable
from include.queue_etl.page.staged import Staged
from include.queue_etl.staging.stores import LocalFolder

PROJECT = Path(__file__).resolve().parents[2]
ROUTES = (
    "/",
    "/contracts/user_logins",
    "/quarantine/user_logins",
    "/keys",
    "/storage",
    "/runs/user_logins/x",
    "/docs",
)


def test_where_the_app_cannot_be_made_every_request_is_refused(caplog: Any) -> None:
    def fail() -> FastAPI:
        raise ImportError("no module named fastapi")

    client = TestClient(LazyApp(fail))
    answers = [client.get(path) for path in ROUTES]
    assert {reply.status_code for reply in answers} == {503}
    assert {reply.text for reply in answers} == {"queue-etl: see the log of the api-server\n"}
    assert "no module named fastapi" in caplog.text


def test_no_route_of_the_app_answers_without_a_login() -> None:
    client = TestClient(make_app())
    routes = [path for path in ROUTES if path != "/docs"]
    assert {path: client.get(path).status_code for path in routes} == dict.fromkeys(routes, 401)
    assert client.get("/docs").status_code == 404


def test_staging_is_counted_where_the_process_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = queue_etl_page_app._staging
    monkeypatch.delenv("QUEUE_ETL_STAGING", raising=False)
    with pytest.raises(SettingsError, match="QUEUE_ETL_STAGING is not set"):
        opened("")
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path))
    assert isinstance(opened(""), LocalFolder)
    with pytest.raises(StagingUnavailable, match=r"no folder .*/orders"):
        opened("orders")
    monkeypatch.setenv("QUEUE_ETL_STAGING", "s3://no-such-bucket/x")
    figures = Staged(opened, wait_seconds=30).of(["orders"])
    assert "cannot list s3://no-such-bucket/x/orders" in figures["orders"].problem


class ReadsOrders:
    """An auth manager that lets everybody read the DAG `orders`, and runs of some DAG, and nothing else."""

    def is_authorized_dag(self, *, method: str, details: Any, **_: Any) -> bool:
        return method == "GET" and (details is None or details.id in {None, "orders"})


def test_who_may_read_one_dag_sees_that_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (security, queue_etl_page_app):
        monkeypatch.setattr(module, "get_auth_manager", ReadsOrders)
    app = make_app()
    app.dependency_overrides[security.get_user] = lambda: "somebody"
    client = TestClient(app)
    answers = {path: client.get(path).status_code for path in ROUTES}
    refused = {path for path, status in answers.items() if status == 403}
    assert refused == {path for path in ROUTES if path not in {"/", "/docs"}}
    overview = client.get("/").text
    assert "/contracts/orders" in overview
    assert "user_logins" not in overview
    assert client.get("/contracts/orders").status_code == 200
    assert 'id="redrive"' not in client.get("/quarantine/orders").text


def test_an_app_that_could_not_be_made_is_tried_again() -> None:
    made = []

    def sometimes() -> FastAPI:
        made.append(1)
        if len(made) == 1:
            raise ImportError
        return FastAPI()

    client = TestClient(LazyApp(sometimes))
    assert [client.get("/none").status_code for _ in range(3)] == [503, 404, 404]
    assert len(made) == 2


def test_no_other_process_of_airflow_imports_the_app() -> None:
    """Every process executes the plugins; fastapi and the engine would cost each of them a second."""
    code = (
        "import sys, runpy; import airflow; before = set(sys.modules);"
        "runpy.run_path('plugins/queue_etl_page.py');"
        "print(sorted(name for name in set(sys.modules) - before"
        " if name.split('.')[0] in ('fastapi', 'include', 'boto3', 'jinja2')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_app_of_the_plugin_has_a_view_that_leads_to_it() -> None:
    (app,) = PagePlugin.fastapi_apps
    assert {view["href"].split("/")[0] for view in PagePlugin.external_views} == {app["url_prefix"][1:]}
    assert {view["destination"] for view in PagePlugin.external_views} == {"nav", "dag_run"}
