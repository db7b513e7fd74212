"""Masked values back, when a second person approves. Wiring only: plugins/queue_etl_privacy.py."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param
from queue_etl_connections import open_officer
from queue_etl_policy import DEFAULT_ARGS, NOT_BLANK
from queue_etl_privacy import UnmaskWhenApproved

from include.contracts import DEFAULT_CONTRACT, contract_names

DOC = """
Recovers the values behind tokens of one field, when **somebody else than who triggered it** approves (Required
Actions). The values go to a file on the worker that its owner alone can read, in the folder that
`QUEUE_ETL_UNMASKED_FOLDER` names: never to XCom, the log or the UI. The request is in the audit before anybody is
asked, and the answer before anything is opened, also a no (then the task is skipped) and no answer. A run asks
once: clearing it opens nothing. Paused until somebody wants it; it needs the connection `postgres_officer`.

| if this task fails | what you see | where your data is | what to do |
|---|---|---|---|
| `unmask` | that one person asked and approved, that nobody answered within a day, that it was cleared, that the hour's allowance is used up, a token that does not open, or no error of its own, and "state mismatch" in Airflow's audit log: the answer came within about a second | nothing but what the file holds was opened; the audit says what was asked for | correct what the error names; trigger it again |
"""  # noqa: E501 - a row of a table is a line


def form() -> dict[str, Param]:
    """What is asked for when it is triggered: tokens, never personal values."""
    return {
        "contract": Param(DEFAULT_CONTRACT, type="string", enum=contract_names(), title="Contract"),
        "field": Param("ip", title="Field", description="The event field the tokens stand for.", **NOT_BLANK),
        "tokens": Param(
            [],
            type="array",
            items=NOT_BLANK,
            title="Tokens",
            description="One a line, as they stand in the table.",
        ),
        "reason": Param(title="Reason", description="Why; kept in the audit.", **NOT_BLANK),
        "ticket": Param(
            title="Ticket", description="Reference of the request; kept in the audit.", **NOT_BLANK
        ),
    }


with DAG(
    "pii_unmask",
    description="tokens -> values, in a private file, when a second person approves",
    doc_md=DOC,
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    is_paused_upon_creation=True,
    allowed_run_types=["manual"],  # a DAG that started it would lend it the name of its own asker
    default_args={**DEFAULT_ARGS, "retries": 0},  # each try is an entry of the audit
    params=form(),
    tags=["personal-data"],
):
    UnmaskWhenApproved(
        task_id="unmask",
        open_officer=open_officer,
        subject="Unmask {{ params.tokens | length }} tokens of {{ params.contract }}.{{ params.field }}?",
        body="Asked for by {{ dag_run.triggering_user_name }}: {{ params.reason }} ({{ params.ticket }})",
        response_timeout=timedelta(days=1),
    )
