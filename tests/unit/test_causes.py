"""When somebody is to be told, and what: from what was seen of a contract to alerts and metrics."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.contracts.user_logins import CONTRACT
from include.queue_etl.operations import causes, metrics
from include.queue_etl.operations.causes import Cause, Finding, QueueState, RunFacts, Seen
from include.queue_etl.settings import Settings

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SETTINGS = Settings(staging="/nowhere")
DAY = 86_400
IDLE = QueueState(0, 0, 0, 0, 14 * DAY)
BUSY = replace(IDLE, visible=7)
KINDS = {
    "failed",
    "age",
    "quarantined",
    "dead_letters",
    "stalled",
    "undeclared",
    "personal",
    "expiring",
    "queue",
}


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def found(seen: Seen, contract: Any = CONTRACT) -> dict[str, Cause | None]:
    return {one.kind: one.cause for one in causes.findings(contract, seen, SETTINGS)}


def held(seen: Seen, contract: Any = CONTRACT) -> dict[str, Cause]:
    return {kind: cause for kind, cause in found(seen, contract).items() if cause}


def test_where_all_is_well_each_kind_is_found_not_to_hold() -> None:
    assert found(Seen(NOW, RunFacts(), IDLE)) == dict.fromkeys(KINDS)


def test_of_a_queue_that_cannot_be_asked_nothing_is_said_of_its_messages() -> None:
    seen = found(Seen(NOW, RunFacts(), None, problem="QueueDoesNotExist"))
    assert set(seen) == KINDS - {"age", "dead_letters", "stalled"}
    assert seen["queue"].what == "the queue of user_logins cannot be asked: QueueDoesNotExist"


RUNS = {
    "failed": (
        RunFacts("run__7", ago(minutes=9)),
        "run run__7 of user_logins failed, and none succeeded since",
    ),
    "quarantined": (
        RunFacts(loaded=94, quarantined=6, quarantined_since=ago(hours=2)),
        "6% of the messages of user_logins within a day wait in quarantine (6); the limit is 5%",
    ),
    "expiring": (RunFacts(expiring=3), "3 messages of user_logins wait in quarantine for almost 30 days"),
    "undeclared": (RunFacts(unknown_fields={"os.name": 4}), "fields that nobody declared: os.name 4"),
    "personal": (RunFacts(personal={"note": {"email": 2}}), "nobody declared it: email in note 2"),
}


@pytest.mark.parametrize(("kind", "runs", "what"), [(kind, *case) for kind, case in RUNS.items()])
def test_each_cause_in_the_runs_is_told_alone(kind: str, runs: RunFacts, what: str) -> None:
    told = held(Seen(NOW, runs, IDLE))
    assert set(told) == {kind}
    assert what in told[kind].what
    assert told[kind].place
    assert told[kind].remedy


def test_a_share_at_the_limit_is_not_above_it() -> None:
    assert held(Seen(NOW, RunFacts(loaded=95, quarantined=5), IDLE)) == {}
    strict = replace(CONTRACT, settings={"alert_quarantined_percent": 0})
    assert set(held(Seen(NOW, RunFacts(loaded=95, quarantined=5), IDLE), strict)) == {"quarantined"}
    assert found(Seen(NOW, RunFacts(quarantined=1), IDLE))["quarantined"].since == NOW


def test_where_undeclared_and_personal_fields_are_told() -> None:
    runs = RunFacts(unknown_fields={"a": 1}, personal={"b": {"ip": 1}})
    ignoring = held(Seen(NOW, runs, IDLE))
    assert "nowhere: they are left out" in ignoring["undeclared"].place
    assert ignoring["personal"].place == "in the table, in the clear"
    strict = replace(CONTRACT, unknown_fields="keep", personal_data_check="quarantine")
    keeping = held(Seen(NOW, runs, IDLE), strict)
    assert "encrypted beside their rows" in keeping["undeclared"].place
    assert keeping["personal"].place == "in quarantine"


def test_dead_letters_are_told_with_the_command_that_empties_them() -> None:
    (cause,) = held(Seen(NOW, RunFacts(), replace(IDLE, dead_letters=3))).values()
    assert cause.what == "3 messages of user_logins are dead letters"
    assert cause.place == "on login-queue-dlq"
    assert "`python -m include.queue_etl dead-letters --contract user_logins --apply`" in cause.remedy
    assert held(Seen(NOW, RunFacts(), replace(IDLE, dead_letters=None))) == {}


# Age


@pytest.mark.parametrize(
    ("seen", "age"),
    [
        (Seen(NOW, RunFacts(), None), None),
        (Seen(NOW, RunFacts(failed_age=9), IDLE), None),
        (Seen(NOW, RunFacts(), BUSY), None),
        (Seen(NOW, RunFacts(), BUSY, ago(seconds=30)), 30),
        (Seen(NOW, RunFacts(failed_age=50), BUSY, ago(seconds=30)), 50),
        (Seen(NOW, RunFacts(failed_age=50), replace(BUSY, cloudwatch_age=70), ago(seconds=30)), 70),
        (Seen(NOW, RunFacts(), replace(IDLE, in_flight=1), ago(seconds=30)), 30),
    ],
)
def test_the_age_is_the_most_that_anybody_can_tell(seen: Seen, age: int | None) -> None:
    assert seen.oldest_age == age


def test_an_age_beyond_half_of_the_retention_is_told_with_what_is_left() -> None:
    at_half = replace(BUSY, cloudwatch_age=7 * DAY)
    assert "age" not in held(Seen(NOW, RunFacts(), at_half))
    cause = held(Seen(NOW, RunFacts(), replace(BUSY, cloudwatch_age=7 * DAY + 3_660)))["age"]
    assert cause.what == "the oldest message of user_logins is 7 days old: SQS deletes it in 6 days"
    assert cause.since == ago(seconds=3_660)
    late = held(Seen(NOW, RunFacts(), replace(BUSY, cloudwatch_age=14 * DAY - 4_000)))["age"]
    assert "SQS deletes it in 1 h 6 min" in late.what
    gone = held(Seen(NOW, RunFacts(), replace(BUSY, cloudwatch_age=15 * DAY)))["age"]
    assert "SQS deletes it in 0 h 0 min" in gone.what


# Waiting


@pytest.mark.parametrize(
    ("before", "queue", "moved_at", "since"),
    [
        (ago(hours=1), IDLE, None, None),
        (None, BUSY, None, NOW),
        (ago(hours=1), BUSY, None, ago(hours=1)),
        (ago(hours=1), replace(IDLE, in_flight=2), None, ago(hours=1)),
        (ago(hours=1), BUSY, ago(hours=2), ago(hours=1)),
        (ago(hours=2), BUSY, ago(hours=1), ago(hours=1)),
    ],
)
def test_messages_wait_since_no_run_moved_any(
    before: datetime | None, queue: QueueState, moved_at: datetime | None, since: datetime | None
) -> None:
    assert causes.waiting_since(before, NOW, queue, moved_at) == since


def test_nothing_succeeded_for_long_though_messages_wait() -> None:
    assert "stalled" not in held(Seen(NOW, RunFacts(), BUSY, ago(minutes=30)))
    cause = held(Seen(NOW, RunFacts(), BUSY, ago(minutes=31)))["stalled"]
    assert cause.what == "7 messages of user_logins wait, and no run has succeeded for 30 minutes"
    assert cause.since == ago(minutes=31)
    lately = RunFacts(last_success=ago(minutes=5))
    assert "stalled" not in held(Seen(NOW, lately, BUSY, ago(minutes=31)))
    patient = replace(CONTRACT, settings={"alert_stalled_minutes": 60})
    assert "stalled" not in held(Seen(NOW, RunFacts(), BUSY, ago(minutes=31)), patient)
    hourly = replace(CONTRACT, settings={"freshness_seconds": 3600})
    assert "stalled" not in held(Seen(NOW, RunFacts(), BUSY, ago(minutes=120)), hourly)
    assert "stalled" in held(Seen(NOW, RunFacts(), BUSY, ago(minutes=121)), hourly)


def test_without_a_schedule_nobody_promised_that_it_runs() -> None:
    by_hand = replace(CONTRACT, schedule=None)
    assert held(Seen(NOW, RunFacts(), BUSY, ago(days=3)), by_hand) == {}


# What is about no single contract


def test_a_broken_contract_is_told_until_its_file_is_good() -> None:
    broken = causes.broken_finding("orders", "orders.py, line 3: wrong", NOW)
    assert broken.cause.what == "contract orders cannot be used: orders.py, line 3: wrong"
    assert causes.broken_finding("orders", None, NOW) == Finding("broken", "orders", "orders", None)


def test_a_ledger_without_tomorrow_is_told() -> None:
    assert "maintenance has not run" in causes.ledger_finding(True, NOW).cause.what
    assert causes.ledger_finding(False, NOW).cause is None


@pytest.mark.parametrize(
    ("first_used", "days", "is_told"),
    [(ago(days=366), 365, True), (ago(days=364), 365, False), (None, 365, False), (ago(days=366), 0, False)],
)
def test_a_key_is_told_when_it_is_old(first_used: datetime | None, days: int, is_told: bool) -> None:
    assert bool(causes.key_finding(first_used, NOW, days).cause) == is_told


def test_a_difference_is_told_with_how_many_more_there_are() -> None:
    one = causes.verify_finding("orders", "2026-11-25", ["a is missing"], NOW)
    assert (one.subject, one.contract) == ("orders 2026-11-25", "orders")
    assert one.cause.what == "the numbers of orders on 2026-11-25 do not agree: a is missing"
    assert "verify --contract orders --day 2026-11-25" in one.cause.remedy
    more = causes.verify_finding("orders", "2026-11-25", ["a is missing", "b", "c"], NOW)
    assert more.cause.what.endswith("a is missing, and 2 differences more")
    assert causes.verify_finding("orders", "2026-11-25", [], NOW).cause is None


# Metrics

SUMMARY = {
    "contract": "user_logins", "state": "succeeded", "received": 9, "loaded": 7, "quarantined": 2,
    "duplicates": 0,
    "deleted": 9, "delete_failed": None, "extract_seconds": 1.5, "mask_seconds": 0.25, "load_seconds": 0.5,
    "finish_seconds": None, "total_seconds": 4.0,
}  # fmt: skip


def test_a_closed_run_gives_its_counts_and_its_seconds() -> None:
    given = {one.name: (one.kind, one.value) for one in metrics.of_run(SUMMARY)}
    assert given == {
        "queue_etl.run.succeeded": ("counter", 1),
        "queue_etl.run.received": ("counter", 9),
        "queue_etl.run.loaded": ("counter", 7),
        "queue_etl.run.quarantined": ("counter", 2),
        "queue_etl.run.duplicates": ("counter", 0),
        "queue_etl.run.deleted": ("counter", 9),
        "queue_etl.run.delete_failed": ("counter", 0),
        "queue_etl.run.extract_seconds": ("gauge", 1.5),
        "queue_etl.run.mask_seconds": ("gauge", 0.25),
        "queue_etl.run.load_seconds": ("gauge", 0.5),
        "queue_etl.run.total_seconds": ("gauge", 4.0),
    }
    assert {one.contract for one in metrics.of_run(SUMMARY)} == {"user_logins"}


def test_a_look_at_a_queue_gives_depth_age_and_dead_letters() -> None:
    seen = Seen(NOW, RunFacts(quarantined=4), replace(BUSY, cloudwatch_age=70, dead_letters=None))
    given = {one.name.removeprefix("queue_etl."): one.value for one in metrics.of_queue("orders", seen)}
    assert given == {
        "queue.up": 1, "quarantine.waiting_1d": 4, "queue.visible": 7, "queue.in_flight": 0,
        "queue.delayed": 0,
        "queue.retention_seconds": 14 * DAY, "queue.oldest_age_seconds": 70,
    }  # fmt: skip
    nothing = {one.name: one.value for one in metrics.of_queue("orders", Seen(NOW, RunFacts(), IDLE))}
    assert nothing["queue_etl.queue.oldest_age_seconds"] == 0
    assert nothing["queue_etl.queue.dead_letters"] == 0


def test_of_a_queue_that_cannot_be_asked_the_metrics_say_that_alone() -> None:
    names = [(one.name, one.value) for one in metrics.of_queue("orders", Seen(NOW, RunFacts(), None))]
    assert names == [("queue_etl.queue.up", 0), ("queue_etl.quarantine.waiting_1d", 0)]


def test_open_alerts_are_counted_by_warehouse() -> None:
    assert metrics.open_alerts("", 2) == ("queue_etl.alerts.open", "gauge", 2, "default")
    assert metrics.open_alerts("orders", 0).contract == "orders"
