"""The other pipelines of the benchmark as DAGs under the same Airflow.

`bench_sensible` and `bench_naive` are the baselines, each in one task. `bench_stock` has the SqsSensor of the
Amazon provider, which deletes what it receives and pushes the bodies to XCom, and a task that inserts them.
"""

import os
import time
from datetime import timedelta

from airflow.providers.amazon.aws.sensors.sqs import SqsSensor
from airflow.sdk import DAG, task

QUEUE = "login-queue"
ARGS = {"retries": 0, "execution_timeout": timedelta(hours=1)}


@task
def sensible() -> None:
    """Takes all there is, until a receive brings nothing."""
    from tests.bench.baselines import sensible

    sensible.main(QUEUE)


@task
def naive() -> None:
    """The same, in the way that is often written."""
    from tests.bench.baselines import naive

    naive.main(QUEUE)


@task
def insert(messages) -> None:
    """Insert what the sensor pushed; it did not ask SQS when a message was sent."""
    import psycopg2

    from tests.bench.baselines.naive import INSERT, parsed

    now = {"Attributes": {"SentTimestamp": str(int(time.time() * 1000))}}
    rows = [row for message in messages if (row := parsed({**message, **now}))]
    with psycopg2.connect(os.environ["BENCH_DSN"]) as connection, connection.cursor() as cursor:
        cursor.executemany(INSERT, rows)


with DAG("bench_sensible", schedule=None, is_paused_upon_creation=False, default_args=ARGS):
    sensible()

with DAG("bench_naive", schedule=None, is_paused_upon_creation=False, default_args=ARGS):
    naive()

with DAG("bench_stock", schedule=None, is_paused_upon_creation=False, default_args=ARGS):
    receive = SqsSensor(
        task_id="receive",
        sqs_queue=f"{os.environ['AWS_ENDPOINT_URL']}/000000000000/{QUEUE}",
        max_messages=10,
        num_batches=int(os.environ["BENCH_STOCK_BATCHES"]),
        deferrable=False,
    )
    insert(receive.output["messages"])
