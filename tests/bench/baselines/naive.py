"""Baseline "naive": what is often written into one Airflow task.

boto3 in one thread, json, sha256 without a key, executemany, a commit and single deletes for each answer of
SQS. It loses messages that are no events and loads a message twice when it crashes before the delete. All it
does is counted, but not the import of Airflow that such a task pays on top.

    BENCH_DSN=... AWS_ENDPOINT_URL=... python tests/bench/baselines/naive.py QUEUE
"""

import hashlib
import json
import os
import sys
from datetime import UTC, datetime

import boto3
import psycopg2

INSERT = "INSERT INTO user_logins VALUES (%s, %s, %s, %s, %s, %s, %s)"


def main(queue: str) -> None:
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    connection = psycopg2.connect(os.environ["BENCH_DSN"])
    while messages := receive(sqs, url):
        rows = [row for message in messages if (row := parsed(message))]
        with connection, connection.cursor() as cursor:
            cursor.executemany(INSERT, rows)
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def receive(sqs, url):
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["SentTimestamp"])
    return answer.get("Messages", [])


def parsed(message):
    try:
        event = json.loads(message["Body"])
        return (
            event["user_id"],
            event["device_type"],
            masked(event["ip"]),
            masked(event["device_id"]),
            event["locale"],
            int(event["app_version"].split(".")[0]),
            datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC).date(),
        )
    except (ValueError, KeyError):
        return None


def masked(value):
    return hashlib.sha256(value.encode()).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1])
