"""A sender that goes on all the while: what queues in use get, and preloaded ones do not."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.faults.bodies import login

BATCH = 10  # SQS: at most ten messages a call
# What falls due within it goes together: at 1,000 messages a second calls are full, for a fifth of the CPU.
TICK_SECONDS = 0.02


class Pace:
    """How many messages are due: `size` at once, every `seconds`. A late sender catches up.

    Args:
        size: messages at once
        seconds: from one time to the next
        clock: seconds, monotonic
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._started = self._asked = clock()
        self._given = 0

    @classmethod
    def steady(cls, rate: float, clock: Callable[[], float] = time.monotonic) -> "Pace":
        """So many messages a second, evenly."""
        return cls(1, 1 / rate, clock)

    def due(self) -> int:
        """Messages to send now; each is due once."""
        self._asked = self._clock()
        times = int((self._asked - self._started) / self._seconds + 1e-9) + 1
        due = times * self._size - self._given
        self._given += due
        return due

    def seconds_to_next(self) -> float:
        """Until something is due again, and a tick has passed since `due` was asked."""
        next_at = self._started + self._given / self._size * self._seconds
        return max(0.0, max(next_at, self._asked + TICK_SECONDS) - self._clock())


@dataclass
class Sent:
    """What has been sent so far.

    Attributes:
        messages: user id -> time just before it was sent, milliseconds since 1970
    """

    messages: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.messages)


@contextmanager
def traffic(
    client: Any,
    queue_url: str,
    tag: str,
    *,
    rate: float = 10.0,
    burst: tuple[int, float] | None = None,
) -> Iterator[Sent]:
    """Send logins in a thread until the block ends; what went wrong there is raised then.

    Args:
        client: of boto3, for SQS
        queue_url: of the queue
        tag: every user id begins with it
        rate: messages a second
        burst: in place of a rate, so many messages at once, every so many seconds
    """
    sent, stop, failures = Sent(), threading.Event(), list[Exception]()
    pace = Pace(*burst) if burst else Pace.steady(rate)

    def send() -> None:
        try:
            while not stop.is_set():
                _send(client, queue_url, tag, sent, pace.due())
                stop.wait(pace.seconds_to_next())
        except Exception as error:  # raised where the block ends
            failures.append(error)

    thread = threading.Thread(target=send, name=f"traffic {tag}")
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
        if failures:  # also when the block failed: it may have waited for messages that were never sent
            raise failures[0]


def _send(client: Any, queue_url: str, tag: str, sent: Sent, count: int) -> None:
    for first in range(0, count, BATCH):
        numbers = range(sent.count, sent.count + min(BATCH, count - first))
        logins = [login(tag, number) for number in numbers]
        entries = [{"Id": one.user_id, "MessageBody": one.body.decode()} for one in logins]
        now_ms = time.time_ns() // 1_000_000
        reply = client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        assert not reply.get("Failed"), reply["Failed"]
        sent.messages.update({one.user_id: now_ms for one in logins})
