"""Views as HTML documents, with the headers that they are to be sent with."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.queue_etl.errors import QueueEtlError
from include.queue_etl.page import charts, wording
from include.queue_etl.page.views import NotThere

TEMPLATES = Path(__file__).parent / "templates"
# Nothing is loaded from anywhere: style and script are in the document, and known by a number used once. The
# script asks Airflow's REST API. Only Airflow's own UI frames the page.
POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Document:
    """What is sent: an HTML document, its status and headers."""

    html: str
    headers: Mapping[str, str]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where the page is served.

    Attributes:
        root: path under which Airflow is served; empty at the top of a host
        base: path of the page itself
    """

    root: str
    base: str


class Renderer:
    """Draws views; it keeps the compiled templates."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        told = {name: getattr(wording, name) for name in ("count", "known", "share", "duration", "size")}
        self._environment.globals.update(told, figure=charts.figure, iso=iso, utc=utc)

    def document(self, view: str, place: Place, read: Callable[[], Mapping[str, Any]]) -> Document:
        """The view with what `read` returns; a page that says why where that cannot be had."""
        try:
            return self._document(f"{view}.html", 200, place, {**read(), "active": view})
        except NotThere:
            advice = "There is no such contract, or you may not read its DAG. The overview lists all others."
            return self.problem("Not found", advice, 404, place)
        except QueueEtlError as error:
            return self.problem("Nothing can be shown", str(error), 503, place)

    def problem(self, heading: str, advice: str, status: int, place: Place) -> Document:
        """A page that says one thing."""
        values = {"heading": heading, "advice": advice, "active": "problem"}
        return self._document("problem.html", status, place, values)

    def _document(self, template: str, status: int, place: Place, values: Mapping[str, Any]) -> Document:
        nonce = secrets.token_urlsafe(16)
        html = self._environment.get_template(template).render(
            {"panel": False, "problems": [], **values},
            nonce=nonce,
            root=place.root,
            base=place.base,
            now=datetime.now(UTC),
        )
        return Document(html, {**HEADERS, "Content-Security-Policy": POLICY.format(nonce=nonce)}, status)


def iso(moment: datetime) -> str:
    """A moment for the script, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def utc(moment: datetime) -> str:
    """A moment for who has no script."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
