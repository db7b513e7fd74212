"""Daily maintenance of warehouse, runs and staging. Wiring only: see operations/maintenance.py."""

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule, task
from queue_etl_connections import in_each_warehouse
from queue_etl_policy import OPERATES

from include.contracts import load_contracts

DOC = """
Keeps the pipelines of all contracts tidy. Every task may run at any time, beside pipelines, and again; each
returns counts (XCom `return_value`).

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `ledger` | SQLSTATE 55P03: a long load kept a partition locked | where it was: nothing is dropped | nothing: it is tried again; pipelines make missing days themselves |
| `partitions` | SQLSTATE 55P03: somebody read or loaded a table for longer than five seconds | where it was: the partitions that are due stay | nothing: it is tried again; pipelines make missing partitions themselves |
| `quarantine` | Postgres failing, or no keyset | still in quarantine, except what had expired | nothing: it is tried again; correct the keyset |
| `runs` | SQS, staging or Postgres failing | orphaned runs stay open; their messages come back by the visibility timeout | correct what the error names; clear the task |
| `staging` | staging or Postgres failing | files stay where they are | correct it; clear the task |
| `verify` | `the numbers do not agree:` with a sentence for each difference, which is an alert too | where it was: nothing is changed | docs/operations.md, `The numbers do not agree` |

`unsettled` above 0 in the result of `runs`: the log says which runs, and why. `unknown` above 0 in that of
`staging`: there are staged runs that the warehouse does not know; if it was restored, run `reconcile`
(docs/operations.md).
"""  # noqa: E501 - a row of a table is a line

with DAG(
    "queue_etl_maintenance",
    description="ledger days, partitions, expired quarantine, unfinished runs, staged files",
    doc_md=DOC,
    schedule="17 3 * * *",  # off the full hour, when everything else starts
    dagrun_timeout=timedelta(hours=2),
    **OPERATES,
    tags=["sqs", "postgres", "operations"],
):

    @task
    def ledger():
        """Make the ledger's days to come, drop those long gone."""
        from include.queue_etl.operations import maintenance

        return in_each_warehouse(
            load_contracts().usable(), lambda resources, _: maintenance.maintain_ledger(resources)
        )

    @task
    def partitions():
        """Make the partitions to come, drop those past their contract's retain_days."""
        from include.queue_etl.operations import maintenance

        return in_each_warehouse(load_contracts().usable(), maintenance.maintain_partitions)

    @task
    def quarantine():
        """Delete what is in quarantine for too long; give what an earlier version quarantined its shape."""
        from include.queue_etl.operations import maintenance

        return in_each_warehouse(load_contracts().usable(), maintenance.maintain_quarantine)

    @task
    def runs():
        """Finish the runs that nobody finished."""
        from include.queue_etl.operations import maintenance

        return in_each_warehouse(load_contracts().usable(), maintenance.settle_runs)

    # After `runs`, which closes runs and so frees their files; but not only if that went well.
    @task(trigger_rule=TriggerRule.ALL_DONE)
    def staging():
        """Remove staged files by the state of their run."""
        from include.queue_etl.operations import maintenance

        loaded = load_contracts()
        return in_each_warehouse(
            loaded.good,
            lambda resources, own: maintenance.clean_staging(resources, own, broken=loaded.broken),
        )

    @task
    def verify():
        """Compare ledger, tables, quarantine and runs of yesterday."""
        from include.queue_etl.operations import maintenance

        return in_each_warehouse(load_contracts().usable(), maintenance.verify_days)

    ledger()
    partitions()
    quarantine()
    runs() >> staging()
    verify()
