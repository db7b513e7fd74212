"""The page's plugin without a running Airflow: what it costs, and that it fails closed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from queue_etl_page import LazyApp, PagePlugin

PROJECT = Path(__file__).resolve().parents[2]
ROUTES = ("/", "/contracts/user_logins", "/keys", "/storage", "/runs/user_logins/x", "/docs")


def test_where_the_app_cannot_be_made_every_request_is_refused(caplog: Any) -> None:
    def fail() -> FastAPI:
        raise ImportError("no module named fastapi")

    client = TestClient(LazyApp(fail))
    answers = [client.get(path) for path in ROUTES]
    assert {reply.status_code for reply in answers} == {503}
    assert {reply.text for reply in answers} == {"queue-etl: see the log of the api-server\n"}
    assert "no module named fastapi" in caplog.text


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
