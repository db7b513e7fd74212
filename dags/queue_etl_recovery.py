"""Closes runs that Airflow ended before `finish`. Wiring only: see operations/maintenance.py."""

from datetime import timedelta

from airflow.sdk import DAG, task
from queue_etl_connections import in_each_warehouse, run_has_ended
from queue_etl_policy import OPERATES

from include.contracts import load_contracts

DOC = """
A run whose time is over (`dagrun_timeout`), or that somebody marks as failed or success, ends without its task
`finish`. This DAG asks Airflow for each open run of a pipeline whether it has ended, and then does what
`finish` would have done: messages that are proven loaded are deleted, all others are visible again at once,
and the run is closed as failed. Runs that Airflow does not know are left to `queue_etl_maintenance`.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `runs` | Postgres failing | hidden on the queue until the visibility timeout; sealed batches stay staged | correct what the error names; the next run does it |

`unsettled` above 0: SQS or staging failed for some; the log says for which, and the next run tries them again.
"""  # noqa: E501 - a row of a table is a line

with DAG(
    "queue_etl_recovery",
    description="close runs that Airflow ended, give their messages back",
    doc_md=DOC,
    schedule="*/5 * * * *",
    dagrun_timeout=timedelta(hours=1),
    **OPERATES,
    tags=["sqs", "postgres", "operations"],
):

    @task
    def runs():
        """Close the runs that Airflow ended."""
        from include.queue_etl.operations import maintenance

        has_ended = run_has_ended()
        return in_each_warehouse(
            load_contracts().usable(),
            lambda resources, own: maintenance.close_ended_runs(resources, own, has_ended),
        )

    runs()
