"""The queue: receive, delete, release, send, depth.

Every call goes through `transport`; those made once per ten messages many at once.
"""

import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, inf
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from include.queue_etl.counts import in_words
from include.queue_etl.errors import QueueEtlError, QueueMissing, QueueRefused, QueueUnavailable
from include.queue_etl.settings import Settings
from include.queue_etl.sqs import copies, wire
from include.queue_etl.sqs.credentials import Access, ca_bundle
from include.queue_etl.sqs.polling import PollController
from include.queue_etl.sqs.transport import (
    TRANSIENT_CODES,
    BotoTransport,
    Call,
    CurlTransport,
    Exchange,
    Reply,
    Transport,
)
from include.queue_etl.sqs.wire import Message

if TYPE_CHECKING:
    from boto3 import Session
    from botocore.config import Config

__all__ = ["Depth", "Message", "Outcome", "SqsQueue"]

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

BATCH = 10  # SQS: at most ten messages a call
# SQS takes 1 MiB a batch, older servers 256 KiB. A longer body travels alone.
SEND_BYTES = 262_144
# Empty answers to short polls, one after another, that mean "empty": each asks only some of SQS's servers.
EMPTY_SHORT_POLLS = 5
# A longer wait is made of several polls: a process that is told to stop waits for those under way, and
# Airflow kills a task five seconds after SIGTERM.
LONGEST_POLL_SECONDS = 2
SILENT_SHARE = 0.9  # of the wait; a server, or a poll begun a little earlier, may answer a little early
# The receiver is called at least so often, to do what is due while nothing comes.
TURN_SECONDS = 1.0
# SQS refuses a whole batch with these although one entry may be to blame.
ENTRY_CODES = frozenset(
    {
        "InvalidMessageContents",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "InvalidParameterValueException",
        "MessageNotInflight",
        "MissingParameter",
        "MissingRequiredParameterException",
        "ReceiptHandleIsInvalid",
        "SerializationException",
        "ValidationException",
    }
)
_IDS = tuple(str(number) for number in range(BATCH))
_RETENTION = "MessageRetentionPeriod"
_USUAL_RETENTION_SECONDS = 345_600  # four days, where a queue says nothing
_DEPTHS = tuple(f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed"))


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages SQS believes to have; approximate, up to a minute late."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """All three together."""
        return self.visible + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch action.

    Attributes:
        done: entries SQS reported as done; of a delete with an old receipt handle it says so without doing it
        failed: AWS error code -> entries; such a message returns when its visibility timeout is over
    """

    done: int
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the queue is: for requests, and for people reading an error."""

    name: str
    region: str
    endpoint: str
    url: str = ""

    def error(self, action: str, what: str, transient: bool) -> QueueEtlError:
        """The error to raise; `what` is a code, never a text of the server."""
        where = f"queue {self.name!r} in {self.region} at {self.endpoint}"
        refused = QueueMissing if what == "QueueDoesNotExist" else QueueRefused
        return (QueueUnavailable if transient else refused)(f"{where}: {action}: {what}")

    def no_answer(self, action: str) -> QueueEtlError:
        """The error to raise when something answered that is not SQS."""
        return self.error(action, "the answer is not one of SQS", transient=True)


class SqsQueue:
    """One queue. Not for several threads at once.

    Args:
        access: where it is
        open_transport: given the long poll in seconds, a transport
        name: of the queue
        settings: see Settings
        account: that owns the queue; "": that of the credentials

    Raises:
        QueueRefused, QueueUnavailable: as for `connect`
    """

    def __init__(
        self,
        access: Access,
        open_transport: Callable[[int], Transport],
        name: str,
        settings: Settings,
        account: str = "",
    ) -> None:
        self.name = name
        self._open_transport = open_transport
        self._settings = settings
        self._batches: Exchange | None = None
        self._place = _Place(name, access.region, access.endpoint)
        owner = {"QueueOwnerAWSAccountId": account} if account else {}
        url = self._ask("GetQueueUrl", wire.UrlReply, {"QueueName": name, **owner}).queue_url
        self._place = _Place(name, access.region, access.endpoint, url)

    @classmethod
    def connect(
        cls,
        session: "Session",
        name: str,
        settings: Settings,
        endpoint_url: str | None = None,
        account: str = "",
    ) -> "SqsQueue":
        """The queue of that name, by the credentials and region of a boto3 session.

        Raises:
            QueueRefused: no such queue, access denied, no credentials, no region
            QueueUnavailable: SQS does not answer
        """
        from botocore.exceptions import BotoCoreError

        _keep_bodies_out_of_logs()
        try:
            client = session.client("sqs", endpoint_url=endpoint_url, config=_patience(settings))
            credentials = session.get_credentials()
        except (BotoCoreError, ValueError) as error:
            raise QueueRefused(f"queue {name!r}: no client for SQS: {type(error).__name__}") from None
        meta = client.meta
        if credentials is None:
            raise QueueRefused(f"queue {name!r} at {meta.endpoint_url}: no AWS credentials found")
        access = Access(meta.endpoint_url, meta.region_name, credentials, _ca_bundle())
        if settings.sqs_client == "boto3":
            return cls(
                access,
                lambda _wait_seconds: BotoTransport(client, settings.transfers),
                name,
                settings,
                account,
            )
        return cls.at(access, name, settings, account)

    @classmethod
    def at(cls, access: Access, name: str, settings: Settings, account: str = "") -> "SqsQueue":
        """The queue of that name, through libcurl, without boto3.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """

        def open_transport(wait_seconds: int) -> Transport:
            longest = settings.request_timeout_seconds + wait_seconds
            return CurlTransport(
                access.endpoint, access.region, access.credentials, access.ca_bundle, longest
            )

        return cls(access, open_transport, name, settings, account)

    @property
    def url(self) -> str:
        """Where it is, as SQS names it."""
        return self._place.url

    def depth(self) -> Depth:
        """How many messages there are now.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """
        asked = {"QueueUrl": self._place.url, "AttributeNames": _DEPTHS}
        found = self._ask("GetQueueAttributes", wire.AttributesReply, asked).attributes
        return Depth(*(int(found.get(name, 0)) for name in _DEPTHS))

    def retention_seconds(self) -> int:
        """How long SQS keeps a message.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """
        asked = {"QueueUrl": self._place.url, "AttributeNames": [_RETENTION]}
        found = self._ask("GetQueueAttributes", wire.AttributesReply, asked).attributes
        return int(found.get(_RETENTION, _USUAL_RETENTION_SECONDS))

    def receive(
        self,
        max_messages: int,
        seconds: float,
        asked: wire.Asked = wire.USUAL,
        caught_up_seconds: float = inf,
    ) -> Generator[list[Message], None, None]:
        """Takes messages off the queue, up to ten a list, until long polls bring nothing for `wait_seconds`.

        With a wait of 0 seconds, until EMPTY_SHORT_POLLS polls bring nothing. At the limit of messages
        in flight (about 120,000) SQS answers as if the queue were empty. When the generator is closed early
        or fails, messages it holds but has not handed out are released.

        Args:
            max_messages: it takes no more
            seconds: after the first message; then no more calls are begun. Answers that are still on their
                way are waited for, the request timeout at most: the messages in them are hidden already.
            asked: what comes with each message
            caught_up_seconds: after the first message; then no more calls are begun either, once answers
                are as full as those of a queue that was caught up with

        Yields:
            messages; an empty list each TURN_SECONDS in which none came

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """
        exchange = Exchange(self._open_transport(self._settings.wait_seconds), self._settings.transfers)
        polls = _Polls(exchange, self._place, self._settings, max_messages, seconds, asked, caught_up_seconds)
        replies: deque[Reply] = deque()
        try:
            polls.fill()
            while replies or exchange.under_way:
                replies.extend(() if replies else exchange.finished(TURN_SECONDS))
                yield polls.messages(replies.popleft()) if replies else []
        finally:
            self._release_held(polls, replies)

    def delete(self, receipt_handles: Sequence[str]) -> Outcome:
        """Deletes messages; a second time changes nothing.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`; some may have been deleted
        """
        return self._change("DeleteMessageBatch", receipt_handles)

    def release(self, receipt_handles: Sequence[str]) -> Outcome:
        """Makes messages visible again at once.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`; some may have been released
        """
        return self._change("ChangeMessageVisibilityBatch", receipt_handles, visibility_timeout=0)

    def send(self, bodies: Iterable[bytes]) -> int:
        """Puts messages on the queue and returns how many; a second time sends them again.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`, or a body was refused; earlier ones were sent
        """
        sent = 0
        for group in _sendable(bodies):
            try:
                texts = [body.decode() for body in group]
            except UnicodeDecodeError:
                raise QueueRefused(
                    f"not UTF-8: one of the messages {sent + 1} to {sent + len(group)}"
                ) from None
            entries = [{"Id": id_, "MessageBody": text} for id_, text in zip(_IDS, texts, strict=False)]
            for failed in self._send(entries).failed:
                raise self._place.error("SendMessageBatch", failed.code, not failed.sender_fault)
            sent += len(group)
        return sent

    def resend(self, messages: Sequence[Message], needed: Collection[str] = ()) -> list[Message]:
        """Puts up to ten messages, received from another queue, on this one under their ledger ids.

        They keep their day of sending too, so that the ledger knows them however often they are sent; and
        their attributes, as far as there is room. A body of more than 1 MiB with its attributes is refused.

        Args:
            messages: received with EVERYTHING
            needed: names of attributes without which a message is not sent

        Returns:
            those that SQS took

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`; some may have been sent
        """
        sendable = [message for message in messages if copies.has_room(message, needed)]
        if len(sendable) < len(messages):
            stay = len(messages) - len(sendable)
            log.warning("%s: %d messages could not be sent: %s", self.name, stay, copies.NO_ROOM)
        fits = sum(map(copies.size, sendable)) <= SEND_BYTES
        taken: list[Message] = []
        for group in [sendable] if fits else [[message] for message in sendable]:
            entries = [copies.entry(id_, message, needed) for id_, message in zip(_IDS, group, strict=False)]
            reply = self._send(entries)
            taken += [group[int(one.id)] for one in reply.successful]
            for failed in reply.failed:
                log.warning("%s: a message could not be sent: %s", self.name, failed.code)
        return taken

    def close(self) -> None:
        """Drops the connections; the queue opens new ones when it is used again."""
        if self._batches:
            self._batches.close()
        self._batches = None

    def _release_held(self, polls: "_Polls", replies: deque[Reply]) -> None:
        """Releases what was received and not handed out; what fails here returns by itself."""
        receipt_handles, exchange = polls.damaged, polls.exchange
        if receipt_handles:
            log.warning("%s: %d messages do not match their MD5: released", self.name, len(receipt_handles))
        try:
            exchange.stop()
            while exchange.under_way:
                replies.extend(exchange.finished())
            receipt_handles += _receipt_handles_in(replies)
            if receipt_handles:
                outcome = self.release(receipt_handles)
                log.info(
                    "%s: %d of %d messages not handed out are released",
                    self.name,
                    outcome.done,
                    len(receipt_handles),
                )
        except QueueEtlError:
            log.warning(
                "%s: could not release %d messages, they return later", self.name, len(receipt_handles)
            )
        finally:
            self._log_repeats("ReceiveMessage", exchange)
            exchange.close()

    def _change(
        self, action: str, receipt_handles: Sequence[str], visibility_timeout: int | None = None
    ) -> Outcome:
        with self._exchange(action) as exchange:
            outcome = _Batches(exchange, self._place, action, visibility_timeout).run(receipt_handles)
        if outcome.failed:
            log.warning(
                "%s: %s: %d done, failed: %s", self.name, action, outcome.done, in_words(outcome.failed)
            )
        return outcome

    def _log_repeats(self, action: str, exchange: Exchange) -> None:
        if repeats := exchange.take_repeats():
            log.warning("%s: %s had to be repeated: %s", self.name, action, in_words(repeats))

    def _send(self, entries: list[dict[str, Any]]) -> wire.BatchReply:
        asked = {"QueueUrl": self._place.url, "Entries": entries}
        return self._ask("SendMessageBatch", wire.BatchReply, asked)

    def _ask(self, action: str, answer: type[Answer], asked: Mapping[str, Any]) -> Answer:
        """One call, alone."""
        with self._exchange(action) as exchange:
            # Not by msgspec: a body may hold a lone surrogate, which only json writes.
            exchange.start(Call(action, json.dumps(asked).encode()))
            (reply,) = exchange.finished()
            if reply.code:
                raise self._place.error(action, reply.code, reply.is_transient)
            try:
                return msgspec.json.decode(reply.body, type=answer)
            except ValueError:
                raise self._place.no_answer(action) from None

    @contextmanager
    def _exchange(self, action: str) -> Iterator[Exchange]:
        """Calls of one action; their connections are kept for the next."""
        if self._batches is None:
            self._batches = Exchange(self._open_transport(0), self._settings.transfers)
        try:
            yield self._batches
        except BaseException:
            # Calls may still be under way: their answers must not be taken for those of the next action.
            self.close()
            raise
        self._log_repeats(action, self._batches)


class _Polls:
    """The receive calls: as many as the controller wants, until the queue is empty or time is up."""

    def __init__(
        self,
        exchange: Exchange,
        place: _Place,
        settings: Settings,
        max_messages: int,
        seconds: float,
        asked: wire.Asked,
        caught_up_seconds: float,
    ) -> None:
        self.exchange = exchange
        self.damaged: list[str] = []
        self._asked = asked
        self._place = place
        self._settings = settings
        self._allowance = max_messages  # neither received nor asked for
        self._seconds = seconds
        self._caught_up_seconds = caught_up_seconds
        self._deadline: float | None = None  # set by the first message
        self._controller = PollController(settings.transfers)
        self._silent_since = time.monotonic()
        self._empty_polls = 0
        self._over = False
        self._bodies: dict[tuple[int, int], bytes] = {}

    def fill(self) -> None:
        """Starts as many as are wanted and possible, never for more messages than are still allowed."""
        while not self._over and self._allowance > 0 and self._has_room():
            # Whether a queue is empty is asked at once: the answers to come say more than a pause.
            pause = 0.0 if self._empty_polls else self._controller.pause_seconds
            left = self._seconds_left() - pause
            if left <= 0:
                self._over = True
                return
            asked = min(BATCH, self._allowance)
            self._allowance -= asked
            self.exchange.start(self._call(asked, left), pause)

    def _has_room(self) -> bool:
        return self.exchange.free > 0 and self.exchange.under_way < self._controller.calls

    def messages(self, reply: Reply) -> list[Message]:
        """The messages in an answer; the next calls are under way when it returns.

        Raises:
            QueueRefused, QueueUnavailable: as for `SqsQueue.connect`
        """
        # OverLimit: too many messages in flight. A long poll answers with nothing instead.
        if reply.code and reply.code != "OverLimit":
            raise self._place.error(reply.call.action, reply.code, reply.is_transient)
        try:
            received = [] if reply.code else wire.received(reply.body, self._asked)
        except ValueError:
            raise self._place.no_answer(reply.call.action) from None
        self._count(reply.call, len(received))
        self.fill()
        messages = [message for one in received if (message := wire.message(one))]
        if len(messages) < len(received):
            # Released at the end and not now, lest the same message come round again and again.
            good = {message.receipt_handle for message in messages}
            self.damaged += [one.receipt_handle for one in received if one.receipt_handle not in good]
        return messages

    def _count(self, call: Call, received: int) -> None:
        self._allowance += call.asked - received
        self._controller.answered(call.asked, received)
        self._over |= self._controller.has_caught_up and self._seconds_passed() >= self._caught_up_seconds
        if received:
            self._empty_polls = 0
            self._silent_since = time.monotonic()
            self._set_deadline()
        elif call.wait_seconds:
            self._over |= self._silent_seconds() >= SILENT_SHARE * self._settings.wait_seconds
        elif self.exchange.under_way == 0:  # a short poll proves little, and beside others nothing
            self._empty_polls += 1
            self._over |= self._empty_polls >= EMPTY_SHORT_POLLS

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds
            self.exchange.repeat_until(self._deadline)

    def _seconds_left(self) -> float:
        return self._seconds if self._deadline is None else self._deadline - time.monotonic()

    def _seconds_passed(self) -> float:
        """Since the first message."""
        return self._seconds - self._seconds_left()

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._silent_since

    def _call(self, asked: int, seconds_left: float) -> Call:
        """Its long poll ends before the time is up; in the last second it is a short one."""
        silence_left = max(1, ceil(self._settings.wait_seconds - self._silent_seconds()))
        wait = min(self._settings.wait_seconds, LONGEST_POLL_SECONDS, silence_left, int(seconds_left))
        if (asked, wait) not in self._bodies:
            hidden = self._settings.visibility_timeout_seconds
            names = (self._asked.system, self._asked.attributes)
            request = wire.ReceiveRequest(self._place.url, asked, hidden, wait, *names)
            self._bodies[asked, wait] = wire.encode(request)
        return Call("ReceiveMessage", self._bodies[asked, wait], asked=asked, wait_seconds=wait)


class _Batches:
    """One batch action on any number of receipt handles, ten a call."""

    def __init__(
        self, exchange: Exchange, place: _Place, action: str, visibility_timeout: int | None
    ) -> None:
        self._exchange = exchange
        self._place = place
        self._action = action
        self._visibility_timeout = visibility_timeout
        self._done = 0
        self._failed: Counter[str] = Counter()
        self._alone: deque[str] = deque()

    def run(self, receipt_handles: Sequence[str]) -> Outcome:
        """Does it; entries that fail are counted by code.

        Raises:
            QueueRefused, QueueUnavailable: as for `SqsQueue.connect`
        """
        tens = (receipt_handles[first : first + BATCH] for first in range(0, len(receipt_handles), BATCH))
        while True:
            while self._exchange.free > 0 and (group := self._next(tens)):
                self._exchange.start(self._call(group))
            replies = self._exchange.finished()
            if not replies:
                return Outcome(self._done, dict(self._failed))
            for reply in replies:
                self._settle(reply)

    def _next(self, tens: Iterator[Sequence[str]]) -> Sequence[str]:
        return [self._alone.popleft()] if self._alone else next(tens, [])

    def _call(self, receipt_handles: Sequence[str], attempts: int = 0) -> Call:
        hidden = self._visibility_timeout
        entries = [
            wire.Entry(id_, receipt_handle, hidden)
            for id_, receipt_handle in zip(_IDS, receipt_handles, strict=False)
        ]
        body = wire.encode(wire.BatchRequest(self._place.url, entries))
        return Call(self._action, body, receipt_handles=receipt_handles, attempts=attempts)

    def _settle(self, reply: Reply) -> None:
        if reply.code:
            self._refused(reply)
            return
        try:
            answer = wire.batch_reply(reply.body)
        except ValueError:
            raise self._place.no_answer(self._action) from None
        self._done += len(answer.successful)
        if len(answer.successful) < len(reply.call.receipt_handles):
            self._partial(reply.call, answer)

    def _refused(self, reply: Reply) -> None:
        """The whole call failed: one entry may be to blame, so each is tried alone."""
        if reply.code not in ENTRY_CODES:
            raise self._place.error(self._action, reply.code, reply.is_transient)
        if len(reply.call.receipt_handles) > 1:
            self._alone.extend(reply.call.receipt_handles)
        else:
            self._failed[reply.code] += 1

    def _partial(self, call: Call, answer: wire.BatchReply) -> None:
        """Some entries failed: those that may succeed the next time are repeated, the others counted."""
        hopeful = [one for one in answer.failed if not one.sender_fault or one.code in TRANSIENT_CODES]
        hopeless = [one for one in answer.failed if one not in hopeful]
        if hopeful:
            again = self._call([call.receipt_handles[int(one.id)] for one in hopeful], call.attempts)
            if not self._exchange.repeat(again, hopeful[0].code):
                hopeless += hopeful
        self._failed.update(one.code or "unnamed" for one in hopeless)
        if missing := len(call.receipt_handles) - len(answer.successful) - len(answer.failed):
            self._failed["not in the answer"] += missing


def _receipt_handles_in(replies: Iterable[Reply]) -> list[str]:
    """The receipt handles in answers to ReceiveMessage; an answer that is none of SQS has none."""
    found: list[str] = []
    for reply in replies:
        if reply.code:
            continue
        try:
            found += [one.receipt_handle for one in wire.received(reply.body)]
        except ValueError:
            log.warning("an answer to ReceiveMessage was not one of SQS")
    return found


def _sendable(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The bodies in groups of at most BATCH and SEND_BYTES."""
    group: list[bytes] = []
    for body in bodies:
        if group and (len(group) == BATCH or sum(map(len, group)) + len(body) > SEND_BYTES):
            yield group
            group = []
        group.append(body)
    if group:
        yield group


def _keep_bodies_out_of_logs() -> None:
    """DEBUG for everything must not show messages: these two print requests and answers."""
    for name in ("botocore.endpoint", "botocore.parsers"):
        logging.getLogger(name).setLevel(logging.INFO)


def _patience(settings: Settings) -> "Config":
    """Bounded waits for calls of boto3, without repeats of its own: the exchange repeats."""
    from botocore.config import Config

    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=settings.request_timeout_seconds,
        read_timeout=settings.request_timeout_seconds + settings.wait_seconds,
        max_pool_connections=settings.transfers,
    )


def _ca_bundle() -> str:
    """The certificates boto3 itself would trust: AWS_CA_BUNDLE, `ca_bundle` of the profile, else its own."""
    from botocore.session import Session

    chosen = Session().get_config_variable("ca_bundle")
    return str(chosen) if chosen else ca_bundle(os.environ)
