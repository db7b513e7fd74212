"""The page without a server: its words, drawing and states, and what each view makes of what was read."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from include.contracts import LoadedContracts
from include.contracts.user_logins import CONTRACT
from include.queue_etl.errors import (
    SettingsError,
    StagingUnavailable,
    WarehouseRefused,
    WarehouseUnavailable,
)
from include.queue_etl.page import charts, standing, views, wording
from include.queue_etl.page.depths import UNKNOWN, Depths, QueueFigures, queue_figures
from include.queue_etl.page.keys import SampledColumn, newest_key
from include.queue_etl.page.rendering import Place, Renderer, iso, utc
from include.queue_etl.page.staged import Heap, Staged, StagedFigures, staged_figures, staging
from include.queue_etl.page.standing import word_of
from include.queue_etl.page.store import (
    AuditLine,
    BatchLine,
    KeyLine,
    KnownRun,
    PageStore,
    PartitionLine,
    RejectedLine,
    RunLine,
    ShapeLine,
    Slice,
    Standing,
)
from include.queue_etl.page.views import Viewer, Views, dag_run
from include.queue_etl.run_context import Run
from include.queue_etl.settings import Settings
from include.queue_etl.staging.stores import LocalFolder, StoredFile

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAME = CONTRACT.name
STOOD = Standing(NAME, 90, 1, 91, NOW - HOUR / 10, NOW - 9 * HOUR, None, 3, 40)
DEPTH = QueueFigures(5, 1, 0, 30, 345_600)
RUN = RunLine(UUID(int=1), NAME, "manual__1", "queue", "succeeded", NOW, NOW, 10, 7, 1, 1, 1, 9, 0, 8.5)
PLACE = Place("", "/queue-etl")


# Words


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (wording.count(1234.4), "1,234"),
        (wording.count(None), wording.DASH),
        (wording.known(None), "unknown"),
        (wording.known(1234), "1,234"),
        (wording.share(None), wording.DASH),
        (wording.share(0), "0.0 %"),
        (wording.share(0.0001), "< 0.1 %"),
        (wording.share(0.032), "3.2 %"),
        (wording.duration(None), wording.DASH),
        (wording.duration(0.012), "12 ms"),
        (wording.duration(0.34), "0.3 s"),
        (wording.duration(250), "4 min 10 s"),
        (wording.duration(3600), "1 h"),
        (wording.duration(183_600), "2 d 3 h"),
        (wording.duration(86_460), "1 d"),
        (wording.span(timedelta(minutes=2)), "2 min"),
        (wording.size(None), wording.DASH),
        (wording.size(74), "74 B"),
        (wording.size(1_500_000), "1.5 MB"),
        (wording.size(150_000), "150 kB"),
        (wording.size(2_000_000_000_000_000), "2000 TB"),
        (charts.figure(0), "0"),
        (charts.figure(1234.5), "1,234"),
        (charts.figure(12.34), "12.3"),
        (charts.figure(12), "12"),
        (charts.figure(0.0421), "0.042"),
    ],
)
def test_figures_are_told_as_people_read_them(told: str, expected: str) -> None:
    assert told == expected


# Drawing


def test_bars_are_stacked_from_the_bottom_and_fill_the_height() -> None:
    values = {NOW: (3.0, 1.0), NOW + HOUR: (2.0, 0.0)}
    chart = charts.stacked("Messages", "a minute", ("good", "bad"), values, NOW, HOUR, 3)
    assert (chart.peak, len(chart.bars), chart.until) == (4.0, 3, NOW + 3 * HOUR)
    low, high = chart.bars[0].rects
    assert low.y + low.height == charts.HEIGHT
    assert high.y == 0
    assert high.y + high.height == low.y
    assert (low.series, high.series) == (0, 1)
    (half,) = chart.bars[1].rects
    assert half.height == charts.HEIGHT / 2
    assert chart.bars[2].rects == ()
    assert [bar.told for bar in chart.bars] == ["good 3, bad 1 a minute", "good 2 a minute", "nothing"]
    assert chart.in_words == "Messages, 3 steps, at most 4 a minute"


def test_bars_lie_beside_each_other_within_the_width() -> None:
    values = {NOW + number * HOUR: (1.0,) for number in range(4)}
    chart = charts.stacked("M", "s", ("a",), values, NOW, HOUR, 4)
    edges = [(bar.rects[0].x, bar.rects[0].x + bar.rects[0].width) for bar in chart.bars]
    assert all(0 <= left < right <= charts.WIDTH for left, right in edges)
    assert all(one[1] < next_one[0] for one, next_one in pairwise(edges))


def test_a_chart_of_nothing_says_so() -> None:
    chart = charts.stacked("M", "s", ("a",), {}, NOW, HOUR, 4)
    assert chart.is_empty
    assert chart.in_words == "M: nothing"


# States


@pytest.mark.parametrize(
    ("stood", "depth", "word"),
    [
        (STOOD, DEPTH, "good"),
        (STOOD, UNKNOWN, "good"),
        (replace(STOOD, last_failure=NOW), DEPTH, "failing"),
        (replace(STOOD, last_success=None), DEPTH, "failing"),
        (STOOD, replace(DEPTH, oldest_age_seconds=172_801), "late"),
        (replace(STOOD, oldest_age_seconds=172_801), replace(DEPTH, oldest_age_seconds=None), "late"),
        (replace(STOOD, last_success=NOW - HOUR, last_failure=None), DEPTH, "stuck"),
        (replace(STOOD, last_success=NOW - HOUR), replace(DEPTH, visible=0), "good"),
        (replace(STOOD, last_success=NOW - HOUR, running_since=NOW), DEPTH, "running"),
        (STOOD, replace(DEPTH, dead_letters=1), "dead-letters"),
        (replace(STOOD, quarantined_today=6), DEPTH, "rejecting"),
        (replace(STOOD, quarantined_today=5, handled_today=19), DEPTH, "good"),
        (replace(STOOD, running_since=NOW), DEPTH, "running"),
        (Standing(NAME, 0, 0, 0, None, None, None, 0, None), UNKNOWN, "new"),
    ],
)
def test_the_worst_that_is_true_is_the_state(stood: Standing, depth: QueueFigures, word: str) -> None:
    assert word_of(stood, depth, now=NOW).word == word


def test_the_limits_of_alerts_decide_on_the_state_too() -> None:
    waits = replace(STOOD, last_success=NOW - HOUR, last_failure=None)
    assert word_of(waits, DEPTH, now=NOW, limits=standing.Limits(61, 5)).word == "good"
    rejects = replace(STOOD, quarantined_today=6)
    assert word_of(rejects, DEPTH, now=NOW, limits=standing.Limits(30, 50)).word == "good"


def test_an_age_is_told_where_it_is_known() -> None:
    assert standing.oldest_age(STOOD, DEPTH) == 30
    silent = replace(DEPTH, oldest_age_seconds=None)
    assert standing.oldest_age(STOOD, silent) == 40
    assert standing.oldest_age(STOOD, replace(silent, visible=0)) == 0
    assert standing.oldest_age(STOOD, UNKNOWN) is None
    assert standing.share_quarantined(replace(STOOD, handled_today=0)) is None


# Depths


def test_an_answer_is_kept_and_one_that_is_late_is_there_the_next_time() -> None:
    asked, answer = [], threading.Event()

    def ask(contract: Any) -> QueueFigures:
        asked.append(contract.name)
        answer.wait(10)
        return DEPTH

    depths = Depths(ask, wait_seconds=0.05)
    assert depths.of([CONTRACT]) == {NAME: UNKNOWN}
    assert depths.of([CONTRACT]) == {NAME: UNKNOWN}
    answer.set()
    patient = Depths(ask, wait_seconds=10)
    assert patient.of([CONTRACT]) == {NAME: DEPTH}
    assert patient.of([CONTRACT]) == {NAME: DEPTH}
    assert asked == [NAME, NAME]


def test_an_answer_that_is_old_is_asked_for_again() -> None:
    asked = []

    def ask(contract: Any) -> QueueFigures:
        asked.append(contract)
        return DEPTH

    depths = Depths(ask, wait_seconds=10, kept_seconds=-1)
    depths.of([CONTRACT])
    depths.of([CONTRACT])
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ConnectTimeoutError(endpoint_url="canary"), "ConnectTimeoutError"),
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "canary"}}, "x"),
            "ClientError AccessDenied",
        ),
    ],
)
def test_what_sqs_answers_wrong_is_a_problem_without_its_text(error: Exception, problem: str) -> None:
    def ask(_: Any) -> QueueFigures:
        raise error

    assert Depths(ask, wait_seconds=10).of([CONTRACT])[NAME] == QueueFigures(problem=problem)


@dataclass
class Aws:
    """Answers as boto3's clients do; `missing` has no such queue, `silent` no CloudWatch."""

    visible: int = 3
    missing: str = ""
    silent: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    def get_queue_url(self, **asked: Any) -> dict[str, str]:
        self.asked.append(asked)
        if asked["QueueName"] == self.missing:
            raise ClientError({"Error": {"Code": "NonExistentQueue"}}, "GetQueueUrl")
        return {"QueueUrl": asked["QueueName"]}

    def get_queue_attributes(self, **asked: Any) -> dict[str, Any]:
        names = asked["AttributeNames"]
        return {"Attributes": dict(zip(names, (str(self.visible), "1", "345600"), strict=True))}

    def get_metric_statistics(self, **_: Any) -> dict[str, Any]:
        if self.silent:
            raise ConnectTimeoutError(endpoint_url="x")
        points = [{"Timestamp": NOW, "Maximum": 7.0}, {"Timestamp": NOW + HOUR, "Maximum": 9.0}]
        return {"Datapoints": points if self.visible == 3 else []}


def test_queues_are_asked_for_depth_dead_letters_and_age() -> None:
    assert queue_figures(CONTRACT, lambda *_: Aws()) == QueueFigures(3, 1, 3, 9, 345_600)
    assert queue_figures(CONTRACT, lambda *_: Aws(visible=4)).oldest_age_seconds is None
    assert queue_figures(CONTRACT, lambda *_: Aws(visible=0)).oldest_age_seconds == 0
    assert queue_figures(CONTRACT, lambda *_: Aws(silent=True)).oldest_age_seconds is None
    without = Aws(missing=CONTRACT.dead_letter_queue)
    assert queue_figures(CONTRACT, lambda *_: without).dead_letters is None
    theirs = Aws()
    queue_figures(replace(CONTRACT, queue_account="123456789012"), lambda *_: theirs)
    assert {asked["QueueOwnerAWSAccountId"] for asked in theirs.asked} == {"123456789012"}


# Views


class Store(PageStore):
    """What a warehouse would tell, each answer as given; it knows one run, and day and time of today."""

    def __init__(self, **told: Any) -> None:
        self.told = told

    def standings(self, contracts: Any) -> dict[str, Standing]:
        return {name: replace(STOOD, contract=name, last_success=datetime.now(UTC)) for name, _ in contracts}

    def slices(self, contract: str, since: datetime, step: timedelta) -> list[Slice]:
        return self.told.get("slices", [Slice(since, 10, 8, 1, 1, 1.0, 0.5, 0.5, 0.2)])

    def runs(self, contract: str, limit: int) -> list[RunLine]:
        return self.told.get("runs", [RUN, replace_run(kind="redrive", name="queue_etl_redrive__m")])

    def run(self, run_ids: Any) -> RunLine | None:
        known = self.told.get("run", {Run(NAME, "manual__1").id: RUN})
        return next((known[one] for one in run_ids if one in known), None)

    def batches(self, run_id: UUID) -> list[BatchLine]:
        return [BatchLine("0000-x", 7, 1, 1, 2048, 0.01, 0.02, NOW)]

    def rejected(self, queue: str) -> list[RejectedLine]:
        today = datetime.now(UTC).date()
        return self.told.get("rejected", [RejectedLine("bad_json", today, 3, 2, 74, 1, NOW, NOW)])

    def shapes(self, queue: str) -> list[ShapeLine]:
        found = [
            ShapeLine("bad_json", "not JSON", 1, NOW, NOW),
            ShapeLine("missing_field locale", "$: object, user_id: string", 1, NOW, NOW),
            ShapeLine("bad_type x", None, 1, NOW, NOW),
        ]
        return self.told.get("shapes", found)

    def used_keys(self) -> list[KeyLine]:
        return self.told.get("keys", [KeyLine(7, NOW, None), KeyLine(8, NOW - HOUR, None)])

    def sampled_keys(self, table: str, column: str) -> dict[int, int]:
        if "refusal" in self.told:
            raise self.told["refusal"]
        return self.told.get("sample", {7: 3, 8: 1})

    def last_remask(self) -> AuditLine | None:
        return self.told.get("remask")

    def known_runs(self, run_ids: Any) -> list[KnownRun]:
        return self.told.get("runs_of_files", [])

    def audit(self, limit: int) -> list[AuditLine]:
        return self.told.get("audit", [AuditLine(1, NOW, "officer", "unmask", 4)])

    def oldest_waiting(self, queues: Any) -> dict[str, datetime]:
        return self.told.get("oldest", {CONTRACT.queue: NOW})

    def sizes(self, tables: Any) -> list[PartitionLine]:
        found = [
            PartitionLine("etl.ledger", "ledger_20261126", "FOR VALUES", 10, 4096, 1),
            PartitionLine("etl.ledger", "ledger_20261125", "FOR VALUES", None, 4096, 1),
            PartitionLine("etl.runs", "runs", None, None, 4096, 1),
        ]
        return self.told.get("sizes", found)


class Counted(Staged):
    """Staged files as given, of each warehouse."""

    def __init__(self, figures: StagedFigures | None = None) -> None:
        self.figures = figures or StagedFigures()

    def of(self, warehouses: Any) -> dict[str, StagedFigures]:
        return dict.fromkeys(warehouses, self.figures)


def replace_run(**changed: Any) -> RunLine:
    return RUN._replace(**changed)


def made(
    store: PageStore | Exception | None = None,
    good: Any = (CONTRACT,),
    broken: Any = None,
    depth: QueueFigures = DEPTH,
    staged: StagedFigures | None = None,
) -> Views:
    loaded = LoadedContracts({one.name: one for one in good}, broken or {})

    def store_of(_warehouse: str) -> PageStore:
        if isinstance(store, Exception):
            raise store
        return store or Store()

    depths = Depths(lambda _: depth, wait_seconds=10)
    return Views(lambda: loaded, store_of, depths, lambda: Settings(staging="/"), Counted(staged))


EVERYTHING = Viewer(lambda _: True, may_redrive=True)
NOTHING = Viewer(lambda _: False)
DRAWN = Renderer()


def html(view: str, read: Any, status: int = 200) -> str:
    document = DRAWN.document(view, PLACE, read)
    assert document.status == status
    return document.html


def test_the_overview_has_broken_contracts_first_and_says_why() -> None:
    page = made(broken={"orders": "orders.py, line 3: <b>wrong</b>"})
    found = page.overview(EVERYTHING)
    assert [(line.name, line.word.word) for line in found["lines"]] == [("orders", "broken"), (NAME, "good")]
    text = html("overview", lambda: page.overview(EVERYTHING))
    assert "line 3: &lt;b&gt;wrong" in text
    assert "90" in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WarehouseUnavailable("Postgres at h: cannot connect"), "cannot connect"),
        (SettingsError(["no connection postgres_on_call: add it"]), "no connection postgres_on_call"),
        (WarehouseRefused("wrong password", "28P01"), "wrong password"),
    ],
)
def test_a_warehouse_that_does_not_answer_is_said_in_each_view(error: Exception, said: str) -> None:
    page = made(error)
    assert page.overview(EVERYTHING)["lines"][0].word.word == "unreachable"
    reads = {
        "overview": lambda: page.overview(EVERYTHING),
        "contract": lambda: page.contract(EVERYTHING, NAME),
        "quarantine": lambda: page.quarantine(EVERYTHING, NAME),
        "keys": lambda: page.keys(EVERYTHING),
        "storage": lambda: page.storage(EVERYTHING),
        "run": lambda: page.run(EVERYTHING, NAME, "manual__1"),
    }
    assert [view for view, read in reads.items() if said not in html(view, read)] == []


def test_the_overview_of_nothing_says_what_to_do() -> None:
    assert "There is no contract that you may see" in html("overview", lambda: made().overview(NOTHING))
    assert "There is no contract" in html("overview", lambda: made(good=()).overview(EVERYTHING))


def test_unknown_depths_are_said_and_the_rest_is_shown() -> None:
    text = html("overview", lambda: made(depth=QueueFigures(problem="Timeout")).overview(EVERYTHING))
    assert "Depths are unknown" in text
    assert "Timeout" in text
    assert text.count(">unknown<") == 4


@pytest.mark.parametrize("view", ["contract", "quarantine"])
def test_a_contract_that_one_may_not_see_is_not_there(view: str) -> None:
    page = made()
    read = getattr(page, view)
    for viewer, name in ((NOTHING, NAME), (EVERYTHING, "none")):
        text = html(view, lambda viewer=viewer, name=name: read(viewer, name), 404)
        assert "Not found" in text
        assert "bad_json" not in text


@pytest.mark.parametrize("view", ["contract", "quarantine"])
def test_a_broken_contract_says_so_in_its_views(view: str) -> None:
    page = made(broken={"orders": "orders.py: wrong"})
    assert "orders.py: wrong" in html(view, lambda: getattr(page, view)(EVERYTHING, "orders"))


@pytest.mark.parametrize("name", [*views.RANGES, "forever"])
def test_a_contract_is_drawn_over_each_range(name: str) -> None:
    page = made()
    found = page.contract(EVERYTHING, NAME, name)
    assert found["range"] == (name if name in views.RANGES else "24h")
    chosen = views.RANGES[found["range"]]
    assert {len(chart.bars) for chart in found["charts"]} == {round(chosen.length / chosen.step)}
    assert all(not chart.is_empty for chart in found["charts"])
    assert all(chart.until >= datetime.now(UTC) for chart in found["charts"])
    text = html("contract", lambda: page.contract(EVERYTHING, NAME, name))
    assert '<a href="/dags/user_logins/runs/manual__1" data-airflow>' in text
    assert '<a href="/dags/queue_etl_redrive/runs/m" data-airflow>' in text
    assert "agrees" in text


def test_a_run_whose_counts_differ_says_how_many_come_back() -> None:
    store = Store(runs=[replace_run(loaded=4), replace_run(state="running")])
    text = html("contract", lambda: made(store).contract(EVERYTHING, NAME))
    assert "3 come back" in text
    assert "under way" in text
    assert replace_run(kind="replay").difference is None


def test_a_contract_without_runs_says_what_to_do() -> None:
    store = Store(runs=[], slices=[])
    text = html("contract", lambda: made(store).contract(EVERYTHING, NAME))
    assert "No run has received a message yet" in text
    assert text.count("Nothing in this time") == 3


def test_names_of_runs_lead_to_their_dag() -> None:
    assert dag_run(RUN) == (NAME, "manual__1")
    assert dag_run(replace_run(kind="redrive", name="queue_etl_redrive__a__b")) == (
        "queue_etl_redrive",
        "a__b",
    )
    assert dag_run(replace_run(kind="redrive", name="by hand")) is None
    assert dag_run(replace_run(kind="replay", name="replay__x")) is None


def test_the_quarantine_compares_shapes_with_the_contract() -> None:
    page = made()
    text = html("quarantine", lambda: page.quarantine(EVERYTHING, NAME))
    assert "lacks <code>app_version, device_id" in text
    assert "not looked at yet" in text
    assert 'id="redrive"' in text
    assert "You may look" in html("quarantine", lambda: page.quarantine(Viewer(lambda _: True), NAME))


def test_days_of_a_reason_are_added_up_and_what_waits_comes_first() -> None:
    later = NOW + timedelta(days=1)
    lines = [
        RejectedLine("a", NOW.date(), 5, 0, 10, 1, NOW, NOW),
        RejectedLine("b", NOW.date(), 3, 2, 10, 1, NOW, NOW),
        RejectedLine("b", later.date(), 1, 1, 10, 4, later, later),
    ]
    assert views.by_reason(lines) == [
        views.Reason("b", 4, 3, 20, 4, NOW, later),
        views.Reason("a", 5, 0, 10, 1, NOW, NOW),
    ]


def test_an_empty_quarantine_says_that_there_is_nothing_to_do() -> None:
    empty = Store(rejected=[], shapes=[])
    assert "There is nothing to do" in html("quarantine", lambda: made(empty).quarantine(EVERYTHING, NAME))
    done = Store(rejected=[RejectedLine("bad_json", NOW.date(), 3, 0, 74, 1, NOW, NOW)], shapes=[])
    assert "nothing to redrive" in html("quarantine", lambda: made(done).quarantine(EVERYTHING, NAME))


def test_keys_have_their_share_and_the_audit_has_no_reason() -> None:
    text = html("keys", lambda: made().keys(EVERYTHING))
    assert "75.0 %" in text
    assert "25.0 %" in text
    assert "officer" in text
    assert "35 days" in text


def test_a_remask_that_is_not_done_says_how_many_tokens_are_left() -> None:
    columns = sum(column.is_token for column in CONTRACT.columns)
    text = html("keys", lambda: made().keys(EVERYTHING))
    assert f"{columns} tokens have an older key than <code>7</code>" in " ".join(text.split())
    assert "The audit has no remask" in text
    remask = AuditLine(9, NOW, "etl_remasker", "remask", None)
    done = Store(sample={7: 4}, remask=remask)
    text = html("keys", lambda: made(done).keys(EVERYTHING))
    assert "No token has an older key than <code>7</code>" in " ".join(text.split())
    assert "by etl_remasker" in text
    assert "100.0 %" in text
    gone = Store(keys=[KeyLine(7, NOW, NOW)])
    assert "Every key that ever masked is retired" in html("keys", lambda: made(gone).keys(EVERYTHING))


def test_the_tokens_of_a_large_table_are_estimated() -> None:
    line = PartitionLine(CONTRACT.table, "user_logins", "FOR VALUES FROM (A) TO (B)", 10, 4096, 2_000)
    found = made(Store(sizes=[line])).keys(EVERYTHING)["parts"][0]
    assert {place.older for place in found["columns"]} == {10}
    assert found["is_estimate"]
    text = html("keys", lambda: made(Store(sizes=[line])).keys(EVERYTHING))
    assert "About" in text
    assert "about 10" in text


def test_the_key_that_came_last_and_is_in_use_masks_now() -> None:
    keys = [KeyLine(1, NOW - HOUR, None), KeyLine(2, NOW, None), KeyLine(3, NOW + HOUR, NOW + HOUR)]
    assert newest_key(keys) == 2
    assert newest_key([]) is None
    place = SampledColumn("t.c", {1: 3, 9: 1}, 2, 1.0)
    assert (place.older, place.done) == (4, 0.0)
    assert SampledColumn("t.c", {}, None, 1.0).done is None


def test_partitions_that_expire_are_told_with_the_oldest() -> None:
    kept = replace(CONTRACT, retain_days=30)
    table = CONTRACT.table
    lines = [
        PartitionLine(table, f"user_logins_2026{month}", f"FOR VALUES FROM {month}", 1, 4096, 1)
        for month in ("11", "10")
    ]
    text = html("keys", lambda: made(Store(sizes=lines), good=[kept]).keys(EVERYTHING))
    assert "30 days ago. The oldest is <code>user_logins_202610</code>, for values from 10." in text
    assert "rows are kept for good" in html("keys", lambda: made(Store(sizes=lines)).keys(EVERYTHING))


def test_a_column_that_cannot_be_sampled_leaves_the_keys_shown() -> None:
    refusal = WarehouseRefused("the column holds no tokens")
    found = made(Store(refusal=refusal)).keys(EVERYTHING)["parts"][0]
    assert found["columns"] == []
    assert len(found["keys"]) == 2


def test_nothing_to_show_of_keys_is_said() -> None:
    empty = Store(keys=[], audit=[], oldest={}, sizes=[])
    text = html("keys", lambda: made(empty).keys(EVERYTHING))
    for said in ("No key has masked", "Nobody has unmasked", "There is none yet", "Nothing waits"):
        assert said in text
    assert "run <code>migrate</code>" in html("storage", lambda: made(empty).storage(EVERYTHING))


def test_storage_sums_up_partitions() -> None:
    found = made().storage(EVERYTHING)["parts"][0]["tables"]
    assert [(table["name"], table["rows"], table["size"]) for table in found] == [
        ("etl.ledger", 10, 8192),
        ("etl.runs", None, 4096),
    ]
    assert "rows not counted yet" in html("storage", lambda: made().storage(EVERYTHING))


def test_staged_files_are_told_by_the_state_of_their_run() -> None:
    ids = [UUID(int=number) for number in range(4)]
    heaps = {run_id: Heap(1, 2, 1_000 * 10**number, NOW) for number, run_id in enumerate(ids[:3])}
    runs = [KnownRun(ids[0], True, NOW), KnownRun(ids[1], False, NOW), KnownRun(ids[3], True, NOW - HOUR)]
    found = staging(StagedFigures(heaps), runs)
    sizes = [(heap.runs, heap.files, heap.size) for _, heap in found["lines"]]
    assert sizes == [(1, 2, 1_000), (1, 2, 10_000), (1, 2, 100_000), (3, 6, 111_000)]
    assert (found["open_runs"], found["open_since"]) == (2, NOW - HOUR)


def test_the_storage_tells_of_staging_what_is_known() -> None:
    def shown(staged: StagedFigures, runs: Any = ()) -> str:
        return html("storage", lambda: made(Store(runs_of_files=runs), staged=staged).storage(EVERYTHING))

    part = StagedFigures({UUID(int=1): Heap(1, 2, 1_500_000, NOW)}, is_whole=False)
    text = shown(part, [KnownRun(UUID(int=1), True, NOW - HOUR)])
    assert "Open runs: 1, the oldest since" in text
    assert "1.5 MB" in text
    assert "no more than 2,000 files" in text
    text = shown(StagedFigures(problem="QUEUE_ETL_STAGING is not set"))
    assert "cannot be counted here: QUEUE_ETL_STAGING is not set" in text
    assert "No run is open" in text


def test_no_more_staged_files_are_looked_at_than_the_limit() -> None:
    looked_at = []

    class Many(LocalFolder):
        def everything(self) -> Iterator[StoredFile]:
            for number in range(1_000_000):
                looked_at.append(number)
                yield StoredFile(f"{UUID(int=number // 4)}/{number}.raw", number, 10)
                yield StoredFile("orders/elsewhere", 0, 10)

    found = staged_figures(Many(Path("/nowhere")), most_files=10)
    assert len(looked_at) == 6
    assert not found.is_whole
    assert found.by_run[UUID(int=0)] == Heap(1, 4, 40, datetime.fromtimestamp(0, UTC))
    assert sum(heap.files for heap in found.by_run.values()) == 5
    assert staged_figures(Many(Path("/nowhere")), look_seconds=-1).by_run == {}


def test_a_folder_is_counted_as_it_is(tmp_path: Path) -> None:
    store, run_id = LocalFolder(tmp_path), UUID(int=7)
    store.write(f"{run_id}/0000-abc.raw", b"12345")
    store.write(f"{run_id}/0000-abc.receipts", b"123")
    (tmp_path / "note.txt").write_text("not ours")
    figures = Staged(lambda _: store, wait_seconds=10).of(["", "orders"])
    assert {name: one.by_run[run_id].size for name, one in figures.items()} == {"": 8, "orders": 8}
    assert figures[""].is_whole


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (StagingUnavailable("no folder /x"), "no folder /x"),
        (SettingsError(["QUEUE_ETL_STAGING is not set", "b"]), "QUEUE_ETL_STAGING is not set; b"),
        (ConnectTimeoutError(endpoint_url="canary"), "ConnectTimeoutError"),
    ],
)
def test_staging_that_cannot_be_opened_is_a_problem(error: Exception, problem: str) -> None:
    def open_store(_: str) -> LocalFolder:
        raise error

    assert Staged(open_store, wait_seconds=10).of([""])[""] == StagedFigures(problem=problem)


def test_a_dag_run_shows_its_batches() -> None:
    page = made()
    assert "0000-x" in html("run", lambda: page.run(EVERYTHING, NAME, "manual__1"))
    assert "does not know this run" in html("run", lambda: page.run(EVERYTHING, NAME, "other"))
    assert "does not know this run" in html("run", lambda: page.run(EVERYTHING, "queue_etl_redrive", "x"))
    assert "moves no messages" in html("run", lambda: page.run(EVERYTHING, "queue_etl_maintenance", "x"))
    broken = made(broken={"orders": "orders.py: wrong"})
    assert "orders.py: wrong" in html("run", lambda: broken.run(EVERYTHING, "orders", "x"))


def test_a_redrive_is_found_under_its_contract() -> None:
    wanted = Run(NAME, "queue_etl_redrive__m").id
    store = Store(run={wanted: replace_run(kind="redrive")})
    assert made(store).run(EVERYTHING, "queue_etl_redrive", "m")["run"].kind == "redrive"


# Documents


def test_settings_that_cannot_be_read_are_said() -> None:
    def wrong() -> Settings:
        raise SettingsError(["QUEUE_ETL_LEDGER_DAYS: give a number"])

    page = Views(
        lambda: LoadedContracts({}, {}), lambda _: Store(), Depths(lambda _: DEPTH), wrong, Counted()
    )
    assert "QUEUE_ETL_LEDGER_DAYS" in html("keys", lambda: page.keys(EVERYTHING), 503)


def test_every_document_has_a_policy_with_a_number_of_its_own() -> None:
    first, second = (DRAWN.problem("Not found", "x", 404, PLACE) for _ in range(2))
    assert first.headers["Content-Security-Policy"] != second.headers["Content-Security-Policy"]
    assert first.headers["Cache-Control"] == "no-store"


def test_links_lead_to_where_airflow_is_served() -> None:
    text = DRAWN.document(
        "contract", Place("/af", "/af/queue-etl"), lambda: made().contract(EVERYTHING, NAME)
    ).html
    assert 'data-root="/af"' in text
    assert '<a href="/af/dags/user_logins/runs/manual__1"' in text
    assert '<a href="/af/queue-etl/quarantine/user_logins"' in text


def test_a_moment_is_utc_until_the_script_moves_it() -> None:
    berlin = datetime.fromisoformat("2026-11-26T13:00:00+01:00")
    assert iso(berlin) == "2026-11-26T12:00:00+00:00"
    assert utc(berlin) == "2026-11-26 12:00 UTC"
    text = html("overview", lambda: made().overview(EVERYTHING))
    assert re.search(r'<time datetime="[-0-9T:]+\+00:00">[-0-9: ]+ UTC</time>', text)
