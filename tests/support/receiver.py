"""A receiver of alerts: an HTTP server on 127.0.0.1 that Apprise's json:// sends to."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest


class Inbox:
    """What came, and how each path answers.

    Attributes:
        answers: path -> status; 200 where there is none
        delays: path -> seconds until it answers
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.came: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, int] = {}
        self.delays: dict[str, float] = {}

    def address(self, path: str = "") -> str:
        """For QUEUE_ETL_ALERT_URLS."""
        return f"json://127.0.0.1:{self.port}/{path}"

    def titles(self, path: str = "/") -> list[str]:
        """In the order in which they came."""
        return [body["title"] for at, body in self.came if at == path]

    def messages(self, path: str = "/") -> list[str]:
        """The same of the texts."""
        return [body["message"] for at, body in self.came if at == path]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = "/" + self.path.strip("/")
            made.came.append((path, body))
            time.sleep(made.delays.get(path, 0))
            self.send_response(made.answers.get(path, 200))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made = Inbox(server.server_port)
    Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()
