"""A whole Airflow with the page, a person of each role, and a browser: for tests and for the screenshots."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from devstack import environment, ports, stack
from devstack.console import Console
from include.contracts import contract_names
from tests.faults.servers import Servers, running
from tests.support.airflow_settings import LEAN
from tests.support.wait import wait_until

ROLES = ("viewer", "user", "op", "admin")
# Without the runs of the schedule, which would take messages between two looks of a test.
SETTINGS = {**LEAN, "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}
CHROMIUM = shutil.which("chromium")
WIDE, NARROW = ViewportSize(width=1280, height=900), ViewportSize(width=400, height=800)
RUN = "manual__with-malformed-messages"
VIEWS = {
    "overview": "/queue-etl/",
    "contract": "/queue-etl/contracts/user_logins?range=7d",
    "quarantine": "/queue-etl/quarantine/user_logins",
    "keys": "/queue-etl/keys",
    "storage": "/queue-etl/storage",
    "run": f"/queue-etl/runs/user_logins/{RUN}",
}
LONG_SECONDS = 300
DAGS = len(contract_names()) + 5


@dataclass(frozen=True)
class Airflow:
    """The stack, and its address."""

    servers: Servers

    @property
    def base(self) -> str:
        return f"http://{ports.HOST}:{self.servers.settings.ui_port}"

    def token(self, role: str) -> str:
        """Of the person who has that role, and its name."""
        passwords = json.loads(environment.password_file(self.servers.settings).read_text())
        who = {"username": role, "password": passwords[role]}
        reply = httpx.post(f"{self.base}/auth/token", json=who, timeout=60).raise_for_status()
        return str(reply.json()["access_token"])

    def client(self, role: str | None) -> httpx.Client:
        """As a person, or as nobody."""
        headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
        return httpx.Client(base_url=self.base, headers=headers, timeout=60)

    def context(self, browser: Browser, role: str, **options: Any) -> BrowserContext:
        """A browser in which that person has logged in: with the cookie that Airflow's UI gives."""
        context = browser.new_context(**{"viewport": WIDE, "locale": "en-GB", **options})
        context.add_cookies([{"name": "_token", "value": self.token(role), "url": self.base}])
        return context


def settled(page: Page) -> None:
    """Wait until the script of a view has its answers; Airflow's own pages go on asking."""
    expect(page.get_by_text("Asking Airflow")).to_have_count(0, timeout=60_000)


@contextlib.contextmanager
def airflow(folder: Path) -> Iterator[Airflow]:
    """A stack with Airflow in this folder, on free ports; stopped and removed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        ours = environment._airflow
        people = ",".join(f"{role}:{role}" for role in ROLES)
        # Airflow makes a password for each of them at its start.
        patch.setattr(
            environment,
            "_airflow",
            lambda settings: {**ours(settings), "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": people},
        )
        with running(folder) as servers:
            console = Console(sys.stderr)
            stack.ensure(servers.settings, console, airflow_database=True)
            stack.ensure_airflow(servers.settings, console)
            found = Airflow(servers)
            with found.client("admin") as client:
                wait_until(lambda: client.get("/api/v2/dags").json()["total_entries"] >= DAGS, LONG_SECONDS)
            yield found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, without a window; its sandbox takes rights that a container has not."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
