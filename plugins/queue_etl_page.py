"""The page of queue_etl_page_app.py in Airflow's UI: its place in the menu, and a tab of each DAG run.

Plugins are executed in each process of Airflow, and the app is needed in the api-server alone: it is imported
at the first request. Where that fails, every request is answered with 503, and nobody gets in.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/queue-etl"  # as in queue_etl_page_app.py

Message = MutableMapping[str, Any]
log = logging.getLogger(__name__)


def _make() -> "FastAPI":
    from queue_etl_page_app import make_app

    return make_app()


class LazyApp:
    """An ASGI app that makes the real one at the first request, and refuses all requests where that fails."""

    def __init__(self, make: "Callable[[], FastAPI]" = _make) -> None:
        self._make = make
        self._lock = Lock()
        self._app: FastAPI | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        app = self._made()
        if app is not None:
            await app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": b"queue-etl: see the log of the api-server\n"})

    def _made(self) -> "FastAPI | None":
        with self._lock:
            if self._app is None:
                try:
                    self._app = self._make()
                except Exception:  # whatever it is, nobody gets in
                    log.exception("the page of queue-etl is not there")
            return self._app


class PagePlugin(AirflowPlugin):
    """Tells Airflow of the page."""

    name = "queue_etl_page"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {"app": LazyApp(), "url_prefix": PREFIX, "name": "queue-etl"}
    ]
    # Relative: Airflow may be served under a path.
    external_views = [  # noqa: RUF012
        {
            "name": "Queues",
            "href": f"{PREFIX[1:]}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "queue-etl",
        },
        {
            "name": "Batches",
            "href": f"{PREFIX[1:]}/runs/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "queue-etl-batches",
        },
    ]
