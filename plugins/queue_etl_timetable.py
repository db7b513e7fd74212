"""The schedule of continuous DAGs of an earlier version: a run began as soon as the one before it had ended.

Airflow keeps the versions of a DAG, each with its schedule, and reads them: the scheduler until the DAG is
parsed anew, the UI for ever. No DAG of this version uses it, so it makes no run any more.
"""

from airflow.plugins_manager import AirflowPlugin
from airflow.timetables.simple import NullTimetable


class BackToBack(NullTimetable):
    """Shown for the runs of before; the next run is made by the DAG of this version."""

    description = "A run began as soon as the one before it had ended"

    @property
    def summary(self) -> str:
        """As Airflow's UI showed it."""
        return "@continuous"


class TimetablePlugin(AirflowPlugin):
    """Tells Airflow of the timetable."""

    name = "queue_etl_timetable"
    timetables = [BackToBack]  # noqa: RUF012 - as Airflow declares it
