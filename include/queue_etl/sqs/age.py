"""How old the oldest message on a queue is, as CloudWatch has it: SQS itself does not tell."""

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boto3 import Session

# CloudWatch has one point a minute, some minutes late.
WINDOW = timedelta(minutes=15)
SECONDS = 5  # nobody waits for it for longer
# What comes of an answer that is none: an endpoint may be a proxy, or an emulator.
ODD = (ValueError, KeyError, TypeError, OverflowError)
log = logging.getLogger(__name__)


def oldest_age_seconds(session: "Session", queue: str, endpoint_url: str | None = None) -> int | None:
    """As `newest_age`, with a client that waits for nobody; None too where none can be made."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    bounded = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 1})
    try:
        client = session.client("cloudwatch", endpoint_url=endpoint_url, config=bounded)
    except (BotoCoreError, ValueError) as error:
        log.info("age of the oldest message on %s: %s", queue, type(error).__name__)
        return None
    return newest_age(client, queue)


def newest_age(cloudwatch: Any, queue: str) -> int | None:
    """The newest point of ApproximateAgeOfOldestMessage, in seconds.

    None where there is none, as for a queue that was idle for hours and with most emulators, or where
    CloudWatch does not answer, or not as it should: then the age is told by what runs and the watch saw.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    now = datetime.now(UTC)
    try:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": queue}],
            StartTime=now - WINDOW,
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        ).get("Datapoints", [])
        return int(max(points, key=lambda point: point["Timestamp"])["Maximum"]) if points else None
    except ClientError as error:
        log.info("age of the oldest message on %s: %s", queue, error.response["Error"]["Code"])
    except (BotoCoreError, *ODD) as error:
        log.info("age of the oldest message on %s: %s", queue, type(error).__name__)
    return None
