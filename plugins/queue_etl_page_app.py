"""The page of include/queue_etl/page behind Airflow's login and its rights on each DAG; read-only.

Airflow mounts the apps of plugins without authentication. So every route here depends on the right to read
runs, of the DAG that the path names; nothing is mounted inside, which would be outside of that. What changes
something is done by Airflow's own REST API, from the browser of who looks.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse
from queue_etl_connections import (
    AWS,
    ON_CALL,
    aws_connection,
    aws_session,
    endpoint_urls,
    warehouse_dsn,
)

from include.contracts import load_contracts
from include.queue_etl.errors import StagingUnavailable
from include.queue_etl.page.depths import Depths, queue_figures
from include.queue_etl.page.rendering import Place, Renderer
from include.queue_etl.page.staged import Staged
from include.queue_etl.page.views import (
    DEFAULT_RANGE,
    MAINTENANCE_DAG,
    REDRIVE_DAG,
    REMASK_DAG,
    Viewer,
    Views,
)
from include.queue_etl.settings import Settings

if TYPE_CHECKING:
    from include.queue_etl.contract import Contract
    from include.queue_etl.page.store import PageStore
    from include.queue_etl.staging.stores import Store

PREFIX = "/queue-etl"
# The page shows what it has after a second; a call that takes longer must not hold a thread for a minute.
CONNECT_SECONDS, READ_SECONDS = 2, 3
SILENCE_SECONDS = 10.0  # of the warehouse


def make_app() -> FastAPI:
    """The app. Its documentation is switched off, as its routes would ask for no login."""
    app = FastAPI(dependencies=[_reads()], docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(_views(), Renderer())
    router = APIRouter(default_response_class=HTMLResponse)
    router.add_api_route("/", pages.overview)
    router.add_api_route("/contracts/{dag_id}", pages.contract)
    router.add_api_route("/quarantine/{dag_id}", pages.quarantine)
    router.add_api_route("/keys", pages.keys, dependencies=[_reads(REMASK_DAG)])
    router.add_api_route("/storage", pages.storage, dependencies=[_reads(MAINTENANCE_DAG)])
    router.add_api_route("/runs/{dag_id}/{run_id:path}", pages.run)
    app.include_router(router)
    return app


def _reads(dag_id: str | None = None) -> Any:
    """The right to read runs: of the DAG, else of that in the path, else of any."""
    return Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=dag_id))


class Pages:
    """The routes. Each is a plain function, which FastAPI runs in a thread: the stores wait."""

    def __init__(self, views: Views, renderer: Renderer) -> None:
        self._views = views
        self._renderer = renderer

    def overview(self, request: Request, user: GetUserDep) -> HTMLResponse:
        """All contracts that the person may see."""
        return self._shown(request, "overview", lambda: self._views.overview(_viewer(user)))

    def contract(
        self, request: Request, user: GetUserDep, dag_id: str, range: str = DEFAULT_RANGE
    ) -> HTMLResponse:
        """Charts and runs of one contract."""
        return self._shown(request, "contract", lambda: self._views.contract(_viewer(user), dag_id, range))

    def quarantine(self, request: Request, user: GetUserDep, dag_id: str) -> HTMLResponse:
        """What of a contract waits in quarantine."""
        return self._shown(request, "quarantine", lambda: self._views.quarantine(_viewer(user), dag_id))

    def keys(self, request: Request, user: GetUserDep) -> HTMLResponse:
        """Keys, audit and expiry."""
        return self._shown(request, "keys", lambda: self._views.keys(_viewer(user)))

    def storage(self, request: Request, user: GetUserDep) -> HTMLResponse:
        """Sizes of tables and partitions."""
        return self._shown(request, "storage", lambda: self._views.storage(_viewer(user)))

    def run(self, request: Request, user: GetUserDep, dag_id: str, run_id: str) -> HTMLResponse:
        """The batches of one DAG run."""
        return self._shown(request, "run", lambda: self._views.run(_viewer(user), dag_id, run_id))

    def _shown(self, request: Request, view: str, read: Callable[[], Mapping[str, Any]]) -> HTMLResponse:
        base = str(request.scope.get("root_path") or PREFIX)
        document = self._renderer.document(view, Place(base.removesuffix(PREFIX), base), read)
        return HTMLResponse(document.html, document.status, dict(document.headers))


def _viewer(user: Any) -> Viewer:
    def may(method: Any, dag_id: str) -> bool:
        details, entity = DagDetails(id=dag_id), DagAccessEntity.RUN
        manager = get_auth_manager()
        return bool(
            manager.is_authorized_dag(method=method, access_entity=entity, details=details, user=user)
        )

    return Viewer(lambda dag_id: may("GET", dag_id), may("POST", REDRIVE_DAG))


def _views() -> Views:
    clients: dict[tuple[str, str, str], Any] = {}

    def client(contract: "Contract", service: str) -> Any:
        key = (contract.aws, contract.region, service)
        if key not in clients:
            clients[key] = _client(contract, service)
        return clients[key]

    return Views(
        load_contracts,
        _stores(),
        Depths(lambda contract: queue_figures(contract, client)),
        # Two numbers of the settings are shown; staging is none of them, and has no default.
        lambda: Settings.from_environment(os.environ, staging="/"),
        Staged(_staging),
    )


def _staging(warehouse: str) -> "Store":
    """Where the staged files of a warehouse lie.

    Raises:
        SettingsError: this process has no QUEUE_ETL_STAGING
        StagingUnavailable: it has no such folder
    """
    from include.queue_etl.resources import Aws
    from include.queue_etl.staging.stores import LocalFolder
    from include.queue_etl.warehouses import staging_of

    place = staging_of(Settings.from_environment(os.environ), warehouse).staging
    if place.startswith("s3://"):
        return Aws(aws_session, endpoint_urls(aws_connection())).bucket(place)
    if not Path(place).is_dir():
        raise StagingUnavailable(f"the api-server has no folder {place}, or nothing was staged yet")
    return LocalFolder(Path(place))


def _stores() -> "Callable[[str], PageStore]":
    """Opens each warehouse once; one whose connection is missing is tried again at the next request."""
    from include.queue_etl.page.store import PageStore
    from include.queue_etl.postgres.connection import Database
    from include.queue_etl.warehouses import of_warehouse

    opened: dict[str, PageStore] = {}

    def store(warehouse: str) -> PageStore:
        if warehouse not in opened:
            dsn = warehouse_dsn(of_warehouse(ON_CALL, warehouse))
            opened[warehouse] = PageStore(Database(dsn, SILENCE_SECONDS))
        return opened[warehouse]

    return store


def _client(contract: "Contract", service: str) -> Any:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from botocore.config import Config

    quick = Config(
        connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 1}
    )
    hook: AwsGenericHook[Any] = AwsGenericHook(
        aws_conn_id=contract.aws or AWS,
        client_type=service,
        region_name=contract.region or None,
        config=quick,
    )
    return hook.get_conn()
