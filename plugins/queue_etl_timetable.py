"""The schedule of continuous DAGs of an earlier version: a run began as soon as the one before it had ended.

Airflow keeps the versions of a DAG, each with its schedule, and reads them: the scheduler until the DAG is
parsed anew, the UI for ever. No DAG of this version uses it.
"""

from datetime import timedelta

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import timezone
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.simple import ContinuousTimetable


class BackToBack(ContinuousTimetable):
    """Runs one after the other; `max_active_runs` of the DAG says how many wait or work at once."""

    description = "A run begins as soon as the one before it has ended"
    active_runs_limit = None  # type: ignore[assignment]  # as Timetable declares it

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Now, or just behind the last run where a clock was set back; not before the DAG's start date."""
        start = timezone.coerce_datetime(timezone.utcnow())
        if restriction.earliest:
            start = max(start, restriction.earliest)
        if last_automated_data_interval:
            start = max(start, last_automated_data_interval.end + timedelta(microseconds=1))
        return None if restriction.latest and start > restriction.latest else DagRunInfo.exact(start)


class TimetablePlugin(AirflowPlugin):
    """Tells Airflow of the timetable."""

    name = "queue_etl_timetable"
    timetables = [BackToBack]  # noqa: RUF012 - as Airflow declares it
