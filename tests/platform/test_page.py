"""The page in Airflow's UI: a real Airflow, a person of each role, and Chromium.

One Airflow and one browser serve all tests of this module: their start takes longer than any of them.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.page import history
from tests.page.airflow_page import (
    CHROMIUM,
    NARROW,
    ROLES,
    RUN,
    VIEWS,
    Airflow,
    airflow,
    chromium,
    settled,
)
from tests.support.wait import wait_until

expect.set_options(timeout=60_000)  # of a busy machine; it costs nothing when all is well
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed")
ROUTES = [*VIEWS.values(), "/queue-etl/contracts/orders", "/queue-etl/runs/queue_etl_redrive/x"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    with airflow(tmp_path_factory.mktemp("page") / "s") as found:
        history.fill(found)
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def look(served: Airflow, browser: Browser) -> Iterator[Any]:
    """Opens a view as a person; what the script says wrong fails the test."""
    opened, errors = [], list[str]()

    def open_view(view: str, role: str = "op", **options: Any) -> Page:
        context = served.context(browser, role, **options)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(view if ":" in view else f"{served.base}{VIEWS.get(view, view)}")
        return page

    yield open_view
    for context in opened:
        context.close()
    assert errors == []


# Who may


@pytest.mark.parametrize("path", ROUTES)
def test_nobody_sees_a_view_without_a_login(served: Airflow, path: str) -> None:
    with served.client(None) as client:
        reply = client.get(path)
    assert reply.status_code == 401
    assert "user_logins" not in reply.text


@pytest.mark.parametrize("role", ROLES)
def test_every_role_that_reads_dags_sees_every_view(served: Airflow, role: str) -> None:
    with served.client(role) as client:
        assert {path: client.get(path).status_code for path in ROUTES} == dict.fromkeys(ROUTES, 200)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/style.css", "/contracts/none"])
def test_there_is_nothing_beside_the_views(served: Airflow, path: str) -> None:
    with served.client("admin") as client:
        assert client.get(f"/queue-etl{path}").status_code == 404


@pytest.mark.parametrize("role", [None, *ROLES])
def test_the_page_has_no_route_that_changes_anything(served: Airflow, role: str | None) -> None:
    with served.client(role) as client:
        methods = ("POST", "PUT", "PATCH", "DELETE")
        answers = {client.request(method, path).status_code for method in methods for path in ROUTES}
    assert answers == {405}


def test_nobody_redrives_without_a_login(served: Airflow) -> None:
    with served.client(None) as client:
        assert client.post("/api/v2/dags/queue_etl_redrive/dagRuns", json={}).status_code == 401


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 200), ("op", 200), ("admin", 200)])
def test_who_may_redrive_follows_from_airflows_rights(served: Airflow, role: str, status: int) -> None:
    body = {"logical_date": None, "conf": {"contract": "orders", "dry_run": True}}
    with served.client(role) as client:
        reply = client.post("/api/v2/dags/queue_etl_redrive/dagRuns", json=body)
        shown = client.get(VIEWS["quarantine"]).text
    assert reply.status_code == status
    assert ('id="redrive"' in shown) == (status == 200)
    assert ("You may look and not redrive" in shown) == (status == 403)


# What is in it


def test_the_overview_has_a_line_for_each_contract_the_worst_first(look: Any) -> None:
    page = look("overview")
    lines = page.locator("tbody tr:not(.why)")
    expect(lines).to_have_count(2)
    expect(lines.nth(0)).to_contain_text("orders")
    expect(lines.nth(0)).to_contain_text("dead-letters")
    expect(lines.nth(0).locator("td[data-label='Dead letters']")).to_have_text("2")
    expect(lines.nth(1)).to_contain_text("user_logins")
    expect(lines.nth(1).locator("td[data-label='In quarantine']")).to_have_text(re.compile(r"^\d+$"))
    page.get_by_role("link", name="orders").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("orders")


def test_a_contract_has_charts_and_a_balance_for_each_run(look: Any) -> None:
    page = look("contract")
    expect(page.get_by_role("img")).to_have_count(3)
    for title in ("Messages a minute", "Quarantined", "Seconds of a run by stage"):
        expect(page.get_by_role("img", name=title).first.locator("rect").nth(20)).to_be_attached()
    line = page.get_by_role("row", name=RUN)
    expect(line.locator("td[data-label='Balance']")).to_have_text("agrees")
    expect(line.locator("td[data-label='Received']")).to_have_text("70")
    page.get_by_role("link", name="30d").click()
    expect(page.get_by_role("link", name="30d")).to_have_attribute("aria-current", "true")


def test_the_quarantine_is_shown_by_reason_day_and_shape(look: Any) -> None:
    page = look("quarantine")
    reasons = page.get_by_role("region", name="By reason")
    expect(reasons.get_by_role("row", name="bad_json")).to_be_visible()
    shapes = page.get_by_role("region", name="By shape")
    expect(shapes.get_by_role("row", name="missing_field locale")).to_contain_text("lacks locale")
    expect(page.get_by_role("img", name="Quarantined by day")).to_be_visible()


def test_keys_and_storage_tell_what_is_kept(look: Any, served: Airflow) -> None:
    key = served.servers.rows("SELECT key_id::text FROM etl.keys")[0][0]
    page = look("keys")
    expect(page.get_by_role("region", name="Keys")).to_contain_text(key)
    line = page.get_by_role("row", name="public.user_logins.masked_ip")
    expect(line.locator("td[data-label='Key']")).to_have_text(f"{key} 100.0 %")
    expect(line.locator("td[data-label='With an older key']")).to_have_text("0")
    expect(page.get_by_text("No token has an older key than")).to_contain_text(key)
    expect(page.get_by_role("region", name="Audit")).to_contain_text("unmask")
    with served.client("op") as client:  # the first answer of staging may be late
        wait_until(lambda: "not answered yet" not in client.get(VIEWS["storage"]).text)
    page = look("storage")
    kept = page.get_by_role("row", name="closed: kept for reconcile and replay")
    expect(kept.locator("td[data-label='Files']")).to_have_text(re.compile(r"^[1-9]\d*$"))
    expect(page.get_by_text("No run is open")).to_be_visible()
    page.get_by_text("etl.ledger", exact=True).click()
    expect(page.get_by_text(re.compile(r"^ledger_\d{8}$")).first).to_be_visible()


def test_a_dag_run_has_a_tab_with_its_batches(look: Any) -> None:
    page = look(f"/dags/user_logins/runs/{RUN}")
    page.get_by_role("link", name="Batches").click()
    frame = page.frame_locator("iframe[title='Batches']")
    expect(frame.get_by_role("region", name="Batches")).to_contain_text("0000-")
    expect(frame.get_by_text("agrees")).to_be_visible()


def test_the_page_is_in_airflows_menu_and_links_to_dag_runs(look: Any) -> None:
    page = look("/plugin/queue-etl")
    frame = page.frame_locator("iframe[title='Queues']")
    frame.get_by_role("link", name="user_logins").click()
    frame.get_by_role("link", name=RUN).click()
    expect(page).to_have_url(re.compile(rf"/dags/user_logins/runs/{RUN}"))
    expect(page.get_by_role("heading", name=RUN)).to_be_visible()


def test_times_are_in_the_zone_of_who_looks(look: Any) -> None:
    shown = [
        look("overview", timezone_id=zone).locator("footer time").text_content()
        for zone in ("UTC", "Asia/Kolkata")
    ]
    minutes = [int(text[-2:]) for text in shown]
    assert (minutes[1] - minutes[0]) % 60 in {30, 31}  # half an hour apart, and a minute may have passed


# Redrive


def test_a_redrive_starts_from_the_page_and_the_row_appears(look: Any, served: Airflow) -> None:
    event = {**history.CANARY_EVENT, "user_id": f"returning-{secrets.token_hex(4)}"}
    history.quarantine_by_a_low_limit(served, event)
    page = look("quarantine")
    page.get_by_label("Which").select_option("missing_field locale")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#outcome")).to_contain_text("missing_field locale → missing_field locale: 1")
    page.get_by_label("Which").select_option("too_large")
    page.get_by_role("button", name="Redrive …").click()
    expect(page.get_by_role("dialog")).to_be_hidden()  # it takes a reason
    page.get_by_label("Why").fill("the contract was corrected")
    page.get_by_role("button", name="Redrive …").click()
    page.get_by_role("button", name="Leave them").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Redrive …").click()
    expect(page.get_by_role("dialog")).to_contain_text("the contract was corrected")
    page.get_by_role("dialog").get_by_role("button", name="Redrive", exact=True).click()
    expect(page.locator("#outcome")).to_contain_text("Done:")
    rows = "SELECT device_type FROM public.user_logins WHERE user_id = %s"
    assert served.servers.rows(rows, event["user_id"]) == [("android",)]
    expect(
        look("quarantine").get_by_role("row", name="too_large").locator("td[data-label='Redriven']")
    ).to_have_text("1")


def test_what_a_failed_dag_run_said_is_shown(look: Any, served: Airflow) -> None:
    """A redrive that cannot be meant fails at once; the browser is told that the contract's DAG did so."""
    conf = {"contract": "user_logins", "reason": "never_met"}
    history.run(served, "queue_etl_redrive", "manual__in-vain", "failed", **conf)
    page = look("about:blank")
    page.route(
        re.compile(r"/api/v2/dags/user_logins/dagRuns"),
        lambda route: route.continue_(url=route.request.url.replace("user_logins", "queue_etl_redrive")),
    )
    page.goto(f"{served.base}{VIEWS['contract']}")
    failures = page.locator("#failures")
    expect(failures).to_contain_text("manual__in-vain")
    expect(failures).to_contain_text("redrive: SettingsError:")
    expect(failures).to_contain_text("no message of login-queue was ever rejected for 'never_met'")


# How it looks


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_view_has_a_serious_finding_of_axe(look: Any, view: str, theme: str) -> None:
    page = look(view, color_scheme=theme)
    settled(page)
    found = Axe().run(page).response["violations"]
    bad = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}]
    assert bad == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_has_the_theme_of_the_system_or_of_airflow(look: Any, served: Airflow, theme: str) -> None:
    def is_dark(color: str) -> bool:
        return sum(map(int, re.findall(r"\d+", color)[:3])) < 200

    background = "getComputedStyle(document.body).backgroundColor"
    assert is_dark(look("overview", color_scheme=theme).evaluate(background)) == (theme == "dark")
    # Airflow's own setting wins over that of the system.
    page = look("overview", color_scheme="light" if theme == "dark" else "dark")
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    page.goto(f"{served.base}/plugin/queue-etl")
    page.frame_locator("iframe").get_by_role("heading", name="Queues").wait_for()
    frame = next(frame for frame in page.frames if frame != page.main_frame)
    assert is_dark(frame.evaluate(background)) == (theme == "dark")


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_sticks_out_at_400_pixels(look: Any, view: str) -> None:
    page = look(view, viewport=NARROW)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_everything_is_reached_by_the_keyboard(look: Any) -> None:
    page = look("overview")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 40)"))
    assert reached[:4] == ["Skip to the content", "Overview", "Keys and privacy", "Storage"]
    assert "user_logins" in reached
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.get_by_role("link", name="Storage").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(outline) == "solid"
    page.get_by_role("link", name="orders").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("orders")


# What is not in it


def test_no_response_holds_a_personal_value(served: Airflow) -> None:
    assert served.servers.rows("SELECT count(*) FROM etl.quarantine")[0][0] >= 5
    with served.client("admin") as client:
        texts = {path: client.get(path).text for path in ROUTES}
    found = [(path, canary) for path, text in texts.items() for canary in history.CANARIES if canary in text]
    assert found == []
    assert [path for path, text in texts.items() if re.search(r"A[Q-Za-f][\w-]{30,}", text)] == []  # tokens


@pytest.mark.parametrize("path", ROUTES)
def test_the_policy_allows_what_is_in_the_document_alone(served: Airflow, path: str) -> None:
    with served.client("admin") as client:
        reply = client.get(path)
    policy = reply.headers["content-security-policy"]
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    tags = re.findall(r"<(?:script|style)\b[^>]*>", reply.text)
    assert tags
    assert {tag for tag in tags if f'nonce="{nonce}"' not in tag} == set()
    assert re.findall(r"\s(?:on\w+|style)=", re.sub(r"(?s)<(script|style).*?</\1>", "", reply.text)) == []
    assert nonce != re.findall(r"'nonce-([^']+)'", client_policy(served, path))[0]


def client_policy(served: Airflow, path: str) -> str:
    with served.client("admin") as client:
        return client.get(path).headers["content-security-policy"]


# When something is gone: last, as they stop what the others need


def test_the_page_is_drawn_when_sqs_does_not_answer(served: Airflow, look: Any) -> None:
    """The last answer is kept for ten seconds; then the depths are unknown, and the rest is there."""
    from devstack import emulator, processes

    processes.stop([emulator.part(served.servers.settings)])
    with served.client("viewer") as client:
        wait_until(lambda: "unknown" in client.get(VIEWS["overview"]).text)
        reply = client.get(VIEWS["overview"])
    assert reply.elapsed.total_seconds() < 5
    assert "user_logins" in reply.text
    assert "Depths are unknown" in reply.text


def test_the_page_says_so_when_the_warehouse_does_not_answer(served: Airflow) -> None:
    owner = served.servers.owner()
    owner.execute("ALTER ROLE ops_ro NOLOGIN")
    owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ops_ro'")
    with served.client("viewer") as client:
        text = client.get(VIEWS["overview"]).text
        assert client.get(VIEWS["contract"]).status_code == 200
    owner.execute("ALTER ROLE ops_ro LOGIN")
    assert text.count("unreachable") == 2
    assert "the role may not log in" in text
    assert httpx.get(f"{served.base}{VIEWS['overview']}").status_code == 401
