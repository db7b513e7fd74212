"""When the next run of a continuous DAG is made by the clock, also after the history of another schedule."""

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import timezone
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import DataInterval, TimeRestriction
from queue_etl_policy import pace
from queue_etl_timetable import BackToBack

from include.contracts import load_contract


def at(*parts: int) -> Any:
    """A moment, as Airflow passes it on."""
    return timezone.coerce_datetime(timezone.datetime(*parts))


NOW = at(2026, 11, 26, 12, 3, 20)
RESTRICTION = TimeRestriction(earliest=at(2025, 1, 1), latest=None, catchup=False)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("last", "soonest"),
    [
        (None, NOW - HOUR),
        # As `schedule="*/5 * * * *"` leaves it, with and without intervals.
        (DataInterval.exact(at(2026, 11, 26, 12, 0)), at(2026, 11, 26, 13, 0)),
        (DataInterval(at(2026, 11, 26, 11, 55), at(2026, 11, 26, 12, 0)), at(2026, 11, 26, 12, 0)),
        # As a waiting run of an earlier version leaves it.
        (DataInterval.exact(NOW), NOW + HOUR),
        # Long ago: no run for each hour since then.
        (DataInterval.exact(at(2026, 1, 1)), NOW - HOUR),
    ],
)
def test_a_run_looks_within_an_hour_whatever_was_before(
    last: DataInterval | None, soonest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow.timetables.trigger.utcnow", lambda: NOW)
    schedule: Any = decode_timetable(encode_timetable(pace(load_contract("user_logins"))["schedule"]))
    found = schedule.next_dagrun_info(last_automated_data_interval=last, restriction=RESTRICTION)
    assert soonest <= found.run_after <= NOW + HOUR
    assert last is None or found.logical_date > last.start


def test_airflow_reads_a_dag_that_an_earlier_version_has_stored() -> None:
    """With the name by which Airflow knew its timetable; the next run is that of the DAG parsed anew."""
    stored: dict[str, Any] = {"__type": "queue_etl_timetable.BackToBack", "__var": {}}
    assert encode_timetable(BackToBack()) == stored
    found: Any = decode_timetable(stored)
    assert found.summary == "@continuous"
    last = DataInterval.exact(NOW)
    assert found.next_dagrun_info(last_automated_data_interval=last, restriction=RESTRICTION) is None
