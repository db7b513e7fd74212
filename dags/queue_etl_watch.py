"""Looks at all queues and runs, and tells people. Wiring only: see operations/watch.py."""

from datetime import timedelta

from airflow.sdk import DAG, task
from queue_etl_connections import in_each_warehouse
from queue_etl_observe import flush, watch_from_airflow
from queue_etl_policy import OPERATES

from include.contracts import load_contracts

DOC = """
Looks at the queue, the dead letters and the runs of every contract, also when nothing runs. It raises and ends
alerts (`etl.alerts`), tells the receivers of `QUEUE_ETL_ALERT_URLS` once of each, and emits metrics. It receives no
message. docs/operations.md lists alerts and metrics.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `watch` | Postgres failing, or `invalid settings:` | where it was: the watch changes nothing but its own tables | correct what the error names; the next run tells what it could not tell now |

`unseen` above 0: the queue of a contract could not be asked, which is an alert itself. `unsent` above 0: a receiver
is down or slow, and the next run tells it.
"""  # noqa: E501 - a row of a table is a line

with DAG(
    "queue_etl_watch",
    description="depth, age and dead letters of every queue; alerts and metrics",
    doc_md=DOC,
    schedule="*/5 * * * *",
    dagrun_timeout=timedelta(minutes=15),
    **OPERATES,
    tags=["sqs", "postgres", "operations"],
):

    @task
    def watch():
        """One pass; the result counts."""
        from include.queue_etl.operations.watch import watch as look

        loaded = load_contracts()
        outside = watch_from_airflow(loaded)
        try:
            return in_each_warehouse(loaded.good, lambda resources, own: look(resources, own, outside))
        finally:
            flush()

    watch()
