"""What SQS says of the queues, within a second or not at all: the page is drawn without it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.page.answers import Answers
from include.queue_etl.sqs.age import newest_age

WAIT_SECONDS = 1.0
KEPT_SECONDS = 10.0
ASKED_AT_ONCE = 8
DEPTHS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "MessageRetentionPeriod")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What is known of a contract's queues; None is unknown.

    Attributes:
        problem: why nothing is known, in a few words
    """

    visible: int | None = None
    in_flight: int | None = None
    dead_letters: int | None = None
    oldest_age_seconds: int | None = None
    retention_seconds: int | None = None
    problem: str = ""


UNKNOWN = QueueFigures(problem="SQS has not answered yet")
# Given a contract and a service, "sqs" or "cloudwatch": a boto3 client with short time limits.
Clients = Callable[[Contract, str], Any]
Ask = Callable[[Contract], QueueFigures]


class Depths:
    """Asks for the figures of queues side by side, and keeps each answer for some seconds."""

    def __init__(
        self, ask: Ask, *, wait_seconds: float = WAIT_SECONDS, kept_seconds: float = KEPT_SECONDS
    ) -> None:
        """Ask nothing yet.

        Args:
            ask: has time limits of its own; what it raises becomes the problem that the page shows
            wait_seconds: as for `Answers`
            kept_seconds: as for `Answers`
        """
        self._ask = ask
        self._answers = Answers(
            UNKNOWN, wait_seconds=wait_seconds, kept_seconds=kept_seconds, asked_at_once=ASKED_AT_ONCE
        )

    def of(self, contracts: Iterable[Contract]) -> dict[str, QueueFigures]:
        """The figures by contract, as far as they are known in time."""
        return self._answers.to({one.name: partial(self._figures, one) for one in contracts})

    def _figures(self, contract: Contract) -> QueueFigures:
        try:
            return self._ask(contract)
        except Exception as error:  # the page is drawn whatever AWS says; its text may quote a request
            problem = f"{type(error).__name__} {_code(error)}".strip()
            log.warning("contract %s: the depth of %s is unknown: %s", contract.name, contract.queue, problem)
            return QueueFigures(problem=problem)


def queue_figures(contract: Contract, clients: Clients) -> QueueFigures:
    """Ask SQS and CloudWatch; raises what boto3 raises where the queue itself does not answer."""
    sqs = clients(contract, "sqs")
    found = _attributes(sqs, contract, contract.queue)
    visible = int(found[DEPTHS[0]])
    return QueueFigures(
        visible,
        int(found[DEPTHS[1]]),
        _dead_letters(sqs, contract),
        newest_age(clients(contract, "cloudwatch"), contract.queue) if visible else 0,
        int(found[DEPTHS[2]]),
    )


def _attributes(sqs: Any, contract: Contract, queue: str) -> dict[str, str]:
    owner = {"QueueOwnerAWSAccountId": contract.queue_account} if contract.queue_account else {}
    url = sqs.get_queue_url(QueueName=queue, **owner)["QueueUrl"]
    found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(DEPTHS))["Attributes"]
    return found


def _dead_letters(sqs: Any, contract: Contract) -> int | None:
    """None where there is no such queue, or this role may not ask."""
    from botocore.exceptions import ClientError

    try:
        return int(_attributes(sqs, contract, contract.dead_letter_queue)[DEPTHS[0]])
    except ClientError as error:
        log.info("dead letters of %s are unknown: %s", contract.queue, _code(error))
        return None


def _code(error: Exception) -> str:
    """AWS's code of an error, empty where it is none of AWS's."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
