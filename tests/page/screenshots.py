"""Pictures of the page for the documents: `python -m tests.page.screenshots docs/page`.

Starts an Airflow of its own, with the samples of the demo and made-up runs of thirty days. Each view in both
themes; in a frame of Airflow's UI where that is how people see it.
"""

import re
import sys
import tempfile
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from tests.page import history
from tests.page.airflow_page import NARROW, RUN, VIEWS, Airflow, airflow, chromium, settled
from tests.support.wait import wait_until

SCREEN = ViewportSize(width=1180, height=420)
FRAMED = ViewportSize(width=1180, height=640)
SECOND = 1_000  # in milliseconds, for Airflow's own parts
LATE = re.compile("unknown$|not answered yet")
MOST_HEIGHT = 1000  # of a picture: its file stays small


def take(airflow: Airflow, browser: Browser, folder: Path) -> None:
    """Every picture, into that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        context = airflow.context(browser, "op", color_scheme=theme, viewport=SCREEN)
        page = context.new_page()
        for view in ("overview", "storage"):
            wait_until(partial(_answers, page, f"{airflow.base}{VIEWS[view]}"))
        for name, path in VIEWS.items():
            page.goto(f"{airflow.base}{path}")
            settled(page)
            _picture(page, folder / f"{name}-{theme}.png", full_page=True)
        page.set_viewport_size(NARROW)
        page.goto(f"{airflow.base}{VIEWS['overview']}")
        _picture(page, folder / f"narrow-{theme}.png")
        page.set_viewport_size(FRAMED)
        page.goto(f"{airflow.base}/plugin/queue-etl")
        page.frame_locator("iframe").get_by_role("heading", name="Queues").wait_for()
        page.wait_for_timeout(SECOND)
        _picture(page, folder / f"airflow-{theme}.png")
        page.goto(f"{airflow.base}/dags/user_logins/runs/{RUN}/plugin/queue-etl-batches")
        page.frame_locator("iframe").get_by_role("heading", name="Batches of this run").wait_for()
        page.wait_for_timeout(SECOND)
        _picture(page, folder / f"tab-{theme}.png")
        context.close()


def _answers(page: Page, address: str) -> bool:
    """Whether queues and staging have answered: the first time the api-server imports what asks them."""
    page.goto(address)
    return not page.get_by_text(LATE).count()


def _picture(page: Page, path: Path, *, full_page: bool = False) -> None:
    size = page.viewport_size or SCREEN
    height = page.evaluate("document.documentElement.scrollHeight") if full_page else size["height"]
    page.screenshot(
        path=path,
        animations="disabled",
        full_page=full_page,
        clip={"x": 0, "y": 0, "width": size["width"], "height": min(height, MOST_HEIGHT)},
    )


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/page")
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-page-") as state,
        airflow(Path(state, "s")) as found,
        chromium() as browser,
    ):
        history.fill(found)
        take(found, browser, folder)


if __name__ == "__main__":
    main()
