"""When the next run of a continuous DAG begins, also after a history that another schedule has left."""

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import timezone
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable
from queue_etl_timetable import BackToBack


def at(*parts: int) -> Any:
    """A moment, as Airflow passes it on."""
    return timezone.coerce_datetime(timezone.datetime(*parts))


NOW = at(2026, 11, 26, 12, 3, 20)
ALWAYS = TimeRestriction(earliest=at(2025, 1, 1), latest=None, catchup=False)
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "utcnow", lambda: NOW)


def next_run(last: DataInterval | None, restriction: TimeRestriction = ALWAYS) -> Any:
    return BackToBack().next_dagrun_info(last_automated_data_interval=last, restriction=restriction)


@pytest.mark.parametrize(
    "last",
    [
        None,
        DataInterval.exact(NOW - SECOND),
        # As `schedule="*/5 * * * *"` leaves it, with and without intervals.
        DataInterval.exact(at(2026, 11, 26, 12, 0)),
        DataInterval(at(2026, 11, 26, 11, 55), at(2026, 11, 26, 12, 0)),
    ],
)
def test_the_next_run_begins_now_whatever_was_before(last: DataInterval | None) -> None:
    found = next_run(last)
    assert found == DagRunInfo.exact(NOW)
    assert last is None or found.logical_date not in last


def test_the_last_run_of_cron_is_not_made_again() -> None:
    """Airflow's own continuous timetable takes its date for the next run, which then exists already."""
    cron = CronTriggerTimetable("*/5 * * * *", timezone="UTC")
    last = cron.next_dagrun_info(last_automated_data_interval=None, restriction=ALWAYS)
    assert next_run(last.data_interval).logical_date != last.logical_date


@pytest.mark.parametrize("ahead", [timedelta(0), SECOND, timedelta(hours=1)])
def test_a_clock_that_was_set_back_makes_no_date_twice(ahead: timedelta) -> None:
    last = DataInterval.exact(NOW + ahead)
    assert next_run(last).logical_date > last.end


def test_nothing_runs_before_the_start_date_or_after_the_end_date() -> None:
    later = NOW + timedelta(days=1)
    assert next_run(None, TimeRestriction(later, None, False)) == DagRunInfo.exact(later)
    assert next_run(None, TimeRestriction(None, NOW - SECOND, False)) is None
    assert next_run(None, TimeRestriction(None, None, False)) == DagRunInfo.exact(NOW)


def test_airflow_stores_it_and_finds_it_again() -> None:
    stored: dict[str, Any] = encode_timetable(BackToBack())
    assert stored == {"__type": "queue_etl_timetable.BackToBack", "__var": {}}
    assert decode_timetable(stored).summary == "@continuous"
