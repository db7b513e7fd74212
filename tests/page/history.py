"""What the page has to show: runs of thirty days, written into the warehouse, and one of Airflow."""

import json
import secrets
import subprocess
from collections.abc import Mapping
from typing import Any

from devstack.demo import DEMOS
from devstack.settings import ROOT
from include.contracts import load_contracts
from tests.page.airflow_page import LONG_SECONDS, RUN, Airflow
from tests.support.wait import wait_until

# Values that no response may hold. The first three are personal in the contract.
CANARY = f"canary{secrets.token_hex(6)}"
CANARY_EVENT = {
    "user_id": CANARY,
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "203.0.113.77",
    "locale": "RU",
    "device_id": f"device-{CANARY}",
}
CANARIES = (CANARY, "203.0.113.77")

RUNS = """
    INSERT INTO etl.runs (run_id, contract, table_name, queue_id, airflow_run_id, state, started_at,
                          finished_at, received, loaded, quarantined, duplicates, deleted, delete_failed,
                          released,
                          quarantined_by_reason, unknown_fields, staged_bytes, oldest_age_seconds,
                          extract_seconds, mask_seconds, load_seconds, finish_seconds,
                          personal_data_checked, personal_data_found)
    SELECT gen_random_uuid(), %(contract)s, %(table)s, queue_id,
           'scheduled__' || to_char(began AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
           CASE WHEN fails THEN 'failed' ELSE 'succeeded' END, began, began + interval '9 seconds',
           size, CASE WHEN fails THEN 0 ELSE size - bad - known END, CASE WHEN fails THEN 0 ELSE bad END,
           CASE WHEN fails THEN 0 ELSE known END, CASE WHEN fails THEN 0 ELSE size END, 0,
           CASE WHEN fails THEN size ELSE 0 END, '{}', '{}', size * 300, size / 9,
           1.5 + size / 900.0, 0.4 + size / 1500.0, 0.6 + size / 1800.0, 0.3 + size / 2600.0, size / 100, '{}'
    FROM etl.queues, (
        SELECT began, n %% %(fails)s = 17 AS fails, size, size * (n %% 7) / 500 AS bad, n %% 3 AS known FROM (
            SELECT n, now() - n * interval '30 minutes' - interval '2 minutes' AS began,
                   (900 + 700 * sin(n / 7.6) + (n * 7919 %% 211))::bigint AS size
            FROM generate_series(0, 1439) AS n
        ) AS sizes
    ) AS given
    WHERE name = %(queue)s
"""


def fill(airflow: Airflow) -> None:
    """Runs of thirty days for two contracts, and one through Airflow with messages that are rejected.

    The newest is two minutes old, so that today has some just after midnight.
    """
    contracts = load_contracts().good
    with airflow.servers.owner() as connection:
        for contract, fails in (("user_logins", 400), ("orders", 90)):
            one = contracts[contract]
            connection.execute(
                "INSERT INTO etl.queues (name) VALUES (%s) ON CONFLICT DO NOTHING", [one.queue]
            )
            given = {"contract": contract, "table": one.table, "queue": one.queue, "fails": fails}
            connection.execute(RUNS, given)
        # A reason may name a person, so the page shows none.
        tokens = json.dumps({"tokens": 4, "canary": CANARY})
        connection.execute("SELECT pii.record('unmask', %s, %s, %s)", [CANARY, CANARY, tokens])
    send(airflow, "login-queue", [*messages("user_logins"), json.dumps(CANARY_EVENT)])
    send(airflow, "login-queue", malformed())
    run(airflow, "user_logins", RUN)
    send(airflow, "orders-queue-dlq", messages("orders")[:2])


def quarantine_by_a_low_limit(airflow: Airflow, event: Mapping[str, str]) -> None:
    """An event that the contract accepts comes to quarantine: the limit of bodies was too low then."""
    send(airflow, "login-queue", [json.dumps(event)])
    command = [str(airflow.servers.settings.python), "-m", "include.queue_etl", "drain"]
    low = {**airflow.servers.environment, "QUEUE_ETL_BODY_LIMIT_BYTES": "10"}
    subprocess.run(command, cwd=ROOT, env=low, check=True, capture_output=True)


def messages(contract: str) -> list[str]:
    """The sample of the demo."""
    return DEMOS[contract].sample.read_text().splitlines()


def malformed() -> list[str]:
    """Bodies that the contract rejects, each with a canary where its values are."""
    return [
        json.dumps({**CANARY_EVENT, "ip": CANARY * 40}),
        json.dumps({**CANARY_EVENT, "app_version": CANARY}),
        json.dumps({name: value for name, value in CANARY_EVENT.items() if name != "locale"}),
        json.dumps({**CANARY_EVENT, "device_type": 7, "extra_field": CANARY}),
        f"not JSON {CANARY}",
    ]


def send(airflow: Airflow, queue: str, bodies: list[str]) -> None:
    sqs: Any = airflow.servers.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    for number in range(0, len(bodies), 10):
        entries = [
            {"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies[number : number + 10])
        ]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)


def run(airflow: Airflow, dag: str, run_id: str, state: str = "success", **conf: Any) -> None:
    """Start a DAG run as an operator does, and wait until it has ended in that state."""
    with airflow.client("op") as client:
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf}
        client.post(f"/api/v2/dags/{dag}/dagRuns", json=body).raise_for_status()
        path = f"/api/v2/dags/{dag}/dagRuns/{run_id}"
        wait_until(lambda: client.get(path).json()["state"] in {"success", "failed"}, LONG_SECONDS)
        assert client.get(path).json()["state"] == state
