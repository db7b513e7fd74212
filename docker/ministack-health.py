"""Health of the container ministack: it answers and has its queues; a lost queue is made again.

MiniStack saves its queues only when it ends in good order. After a kill it comes back without them, and every
run of the DAG would fail. The marks in STATE_DIR tell such a loss from the first start, which has no queues
either.

Exit code 0: all is well, nothing is said. 1: one line says what is not; on stdout, which Docker keeps of the
last five checks, and in the file of --log. Needs Python's standard library only, and MiniStack's variables.
"""

import argparse
import json
import os
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

ENDPOINT = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '4566')}/"
MARKS = Path(os.environ["STATE_DIR"], "queues-made")
# As `python -m include.queue_etl create-queue` makes them.
RETENTION = {"MessageRetentionPeriod": str(14 * 86_400)}
MAX_RECEIVES_BEFORE_DEAD_LETTER = 100


def main() -> int:
    """Check the queues of the arguments, each with its dead-letter queue."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, help="file that gets the line of a lost queue, too")
    parser.add_argument("queues", nargs="+")
    options = parser.parse_args()
    lost: list[str] = []
    try:
        for queue in options.queues:
            lost += recreate(queue)
    except (OSError, HTTPException, ValueError) as error:
        print(f"ministack: {error}")
        return 1
    finally:
        if lost:
            say(f"ministack had lost its queues {', '.join(lost)}: made again, empty", options.log)
    return 1 if lost else 0


def recreate(queue: str) -> list[str]:
    """Make the queue and its dead-letter queue where they are missing; return those that were lost."""
    dead = f"{queue}-dlq"
    missing = [name for name in (queue, dead) if url(name) is None]
    if dead in missing:
        ask("CreateQueue", QueueName=dead, Attributes=RETENTION)
    if queue in missing:
        found = ask("GetQueueAttributes", QueueUrl=url(dead), AttributeNames=["QueueArn"])
        redrive = {
            "deadLetterTargetArn": found["Attributes"]["QueueArn"],
            "maxReceiveCount": MAX_RECEIVES_BEFORE_DEAD_LETTER,
        }
        ask("CreateQueue", QueueName=queue, Attributes={**RETENTION, "RedrivePolicy": json.dumps(redrive)})
    lost = [name for name in missing if (MARKS / name).exists()]
    MARKS.mkdir(parents=True, exist_ok=True)
    for name in (queue, dead):
        (MARKS / name).touch()
    return lost


def url(queue: str) -> str | None:
    """URL of the queue; None where it does not exist."""
    try:
        return str(ask("GetQueueUrl", QueueName=queue)["QueueUrl"])
    except HTTPError as error:
        if b"QueueDoesNotExist" in error.read():
            return None
        raise


def ask(action: str, **parameters: object) -> dict[str, Any]:
    """Do one action of SQS: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/."""
    request = urllib.request.Request(
        ENDPOINT,
        data=json.dumps(parameters).encode(),
        headers={"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"},
    )
    # Without a proxy: one set in the environment cannot reach this container's 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=3) as answer:
        return dict(json.load(answer))


def say(line: str, log: Path | None) -> None:
    """Print the line, and write it to the log where that can be opened."""
    print(line)
    try:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{line}\n")
    except OSError as error:
        print(f"{log}: {error.strerror}")


if __name__ == "__main__":
    sys.exit(main())
