"""Quarantined messages through the current contract again. Wiring only: see operations/redrive.py."""

from datetime import timedelta

from airflow.sdk import DAG, Param, task
from queue_etl_connections import open_redrive
from queue_etl_policy import OPERATES

from include.contracts import DEFAULT_CONTRACT, contract_names

DOC = """
Takes messages out of quarantine that the current contract accepts: each becomes a row, once. What is rejected
again stays, with its new reason. **A dry run unless you say otherwise**: it changes nothing, and its result
(XCom `return_value`) counts messages by old reason, then by what would become of them.

Mend the contract, deploy it, run dry, look, run with **dry_run** off. Run it again at any time; nothing comes
twice, also beside the pipeline or a second redrive. A run that is done does nothing when it is cleared: trigger a
new one.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `redrive` | `not started:` with a list, a filter that cannot be meant (no time, no time between the two, a reason never met), or Postgres failing | each batch is in the table wholly, or still in quarantine | correct what the error names; clear the task: it goes on with what is left |
"""  # noqa: E501 - a row of a table is a line
A_TIME = {"type": ["null", "string"], "format": "date-time"}

with DAG(
    "queue_etl_redrive",
    description="quarantine -> table, for what the current contract accepts",
    doc_md=DOC,
    schedule=None,
    dagrun_timeout=timedelta(hours=2),
    **OPERATES,
    params={
        "dry_run": Param(
            True, type="boolean", title="Dry run", description="Only say what would become of them."
        ),
        "contract": Param(
            DEFAULT_CONTRACT,
            type="string",
            enum=contract_names(),
            title="Contract",
            description="Whose messages.",
        ),
        "reason": Param(
            None,
            type=["null", "string"],
            title="Reason",
            description="Only those rejected for it; empty: all but too_many_receives (may kill a worker).",
        ),
        "since": Param(None, title="Since", description="Only those quarantined then or later.", **A_TIME),
        "until": Param(None, title="Until", description="Only those quarantined before.", **A_TIME),
    },
    tags=["sqs", "postgres", "personal-data", "operations"],
):

    @task
    def redrive(params=None):
        """Replay the selected messages; the result counts them."""
        from include.queue_etl.operations import redrive as engine

        with open_redrive(params["contract"]) as context:
            selection = engine.selection(context.contract, params["reason"], params["since"], params["until"])
            return engine.redrive(context, selection, dry_run=params["dry_run"])

    redrive()
