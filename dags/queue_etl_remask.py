"""Everything masked moves to the keyset's primary key. Wiring only: include/queue_etl/privacy/rotation.py."""

from datetime import timedelta

from airflow.sdk import DAG, Param, task
from queue_etl_connections import open_remask
from queue_etl_policy import NOT_BLANK, OPERATES

from include.contracts import load_contracts

DOC = """
After `keys promote`: moves tokens, quarantined payloads and retained staged files of all contracts to the new
primary key, in small transactions, while pipelines run. The result (XCom `return_value`) counts what moved.
`left` 0 means that nothing is encrypted with an older key: it can be destroyed (docs/privacy.md). **Pseudonyms change with
the key**: tokens stored elsewhere have to be fetched again.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `remask` | `not started:` with a list, or Postgres or staging failing | every row is encrypted with one key or the other, and opens with the keyset | correct what the error names; clear the task: it goes on with what is left |
"""  # noqa: E501 - a row of a table is a line
FOR_THE_AUDIT = {**NOT_BLANK, "description": "For the audit."}

with DAG(
    "queue_etl_remask",
    description="tokens, quarantine and staged files -> the keyset's primary key",
    doc_md=DOC,
    schedule=None,
    dagrun_timeout=timedelta(hours=12),
    **OPERATES,
    params={
        "reason": Param("rotation of keys", title="Reason", **FOR_THE_AUDIT),
        "ticket": Param(title="Ticket", **FOR_THE_AUDIT),
    },
    tags=["postgres", "personal-data"],
):

    @task(execution_timeout=timedelta(hours=4))
    def remask(params=None):
        """Move what is encrypted with an older key."""
        from include.queue_etl.privacy import everywhere
        from include.queue_etl.privacy.audit import Purpose

        with open_remask(load_contracts().usable()) as parts:
            return everywhere.remask(parts, Purpose(params["reason"], params["ticket"]))

    remask()
