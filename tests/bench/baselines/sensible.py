"""Baseline "sensible": what an engineer who cares about speed writes with boto3 and psycopg2.

Four threads, HMAC with a key, execute_values of 1,000 rows a transaction, deletes in batches of ten. A table
of the message ids seen keeps a message that SQS delivers twice from being loaded twice; with --at-least-once
it does without. Messages that are no events are lost.

    BENCH_DSN=... AWS_ENDPOINT_URL=... python tests/bench/baselines/sensible.py QUEUE [--at-least-once]
"""

import hmac
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import boto3
import psycopg2
from botocore.config import Config
from psycopg2.extras import execute_values

THREADS = 4
ROWS = 1_000
KEY = b"a key of thirty-two bytes length"
CREATE = "CREATE TABLE IF NOT EXISTS seen (message_id uuid PRIMARY KEY)"
REMEMBER = "INSERT INTO seen VALUES %s ON CONFLICT DO NOTHING RETURNING message_id"
INSERT = "INSERT INTO user_logins VALUES %s"
ONCE = "--at-least-once" not in sys.argv


def main(queue: str) -> None:
    if ONCE:
        with psycopg2.connect(os.environ["BENCH_DSN"]) as connection, connection.cursor() as cursor:
            cursor.execute(CREATE)
    sqs = boto3.client("sqs", config=Config(max_pool_connections=THREADS))
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    with ThreadPoolExecutor(THREADS) as pool:
        for worker in [pool.submit(work, sqs, url) for _ in range(THREADS)]:
            worker.result()


def work(sqs, url):
    connection = psycopg2.connect(os.environ["BENCH_DSN"])
    held = []
    while messages := receive(sqs, url):
        held += messages
        if len(held) >= ROWS:
            settle(sqs, url, connection, held)
            held = []
    settle(sqs, url, connection, held)
    connection.close()


def receive(sqs, url):
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["SentTimestamp"])
    return answer.get("Messages", [])


def settle(sqs, url, connection, messages):
    rows = {message["MessageId"]: row for message in messages if (row := parsed(message))}
    if rows:
        with connection, connection.cursor() as cursor:
            new = unseen(cursor, rows) if ONCE else rows
            execute_values(cursor, INSERT, [rows[message_id] for message_id in new], page_size=ROWS)
    for first in range(0, len(messages), 10):
        entries = [
            {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
            for index, message in enumerate(messages[first : first + 10])
        ]
        sqs.delete_message_batch(QueueUrl=url, Entries=entries)


def unseen(cursor, rows):
    ids = [(message_id,) for message_id in sorted(rows)]
    return [found for (found,) in execute_values(cursor, REMEMBER, ids, page_size=len(ids), fetch=True)]


def parsed(message):
    try:
        event = json.loads(message["Body"])
        sent = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
        version = int(event["app_version"].split(".")[0])
        ip, device = masked(event["ip"]), masked(event["device_id"])
        return event["user_id"], event["device_type"], ip, device, event["locale"], version, sent.date()
    except (ValueError, KeyError):
        return None


def masked(value):
    return hmac.digest(KEY, value.encode(), "sha256").hex()


if __name__ == "__main__":
    main(sys.argv[1])
