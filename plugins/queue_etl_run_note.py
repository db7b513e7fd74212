"""A listener that gives a DAG run its note in Airflow's UI: the line with the figures of the run.

Airflow calls it in the scheduler when a run has ended. The Task SDK lets no task write a note, so `finish`
leaves the line as an XCom (`push_note`), and it is set here, in the transaction that ends the run. It imports
nothing of the project: the scheduler loads no bundle.
"""

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

XCOM_KEY = "run_note"  # as in queue_etl_connections.py


class RunNotes:
    """Listens to the ends of DAG runs; those without the XCom keep the note they have."""

    @hookimpl
    def on_dag_run_success(self, dag_run: "DagRun") -> None:
        """Called before the scheduler commits."""
        set_note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: "DagRun") -> None:
        """Called before the scheduler commits."""
        set_note(dag_run)


def set_note(dag_run: "DagRun") -> None:
    """Set the note, unless somebody has written one; nothing is committed here.

    `airflow dags test` gives a run without a session: it gets no note.
    """
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None or dag_run.note:
        return
    found = session.scalar(
        XComModel.get_many(dag_ids=dag_run.dag_id, run_id=dag_run.run_id, task_ids="finish", key=XCOM_KEY)
    )
    if found:
        dag_run.note = XComModel.deserialize_value(found)


class RunNotePlugin(AirflowPlugin):
    """Tells Airflow of the listener."""

    name = "queue_etl_run_note"
    listeners = [RunNotes()]  # noqa: RUF012 - as Airflow declares it
