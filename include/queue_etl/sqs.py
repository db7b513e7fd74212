"""The queue: receive, delete, release, send, depth.

The calls that are made once per ten messages go through `sqs_transport`; the others through boto3.
"""

import hashlib
import itertools
import json
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import boto3
import botocore.config
import botocore.exceptions
import botocore.httpsession
import botocore.session
import msgspec

from include.queue_etl.errors import QueueEtlError, QueueRefused, QueueUnavailable
from include.queue_etl.settings import Settings
from include.queue_etl.sqs_transport import (
    TRANSIENT_CODES,
    BotoTransport,
    Call,
    CurlTransport,
    Exchange,
    Reply,
    Transport,
    error_code,
)

log = logging.getLogger(__name__)

BATCH = 10  # SQS: at most ten messages a call
# Empty answers to short polls in a row that mean "empty": each asks only some of the servers of SQS.
EMPTY_SHORT_POLLS = 5
# Attributes that make a message the same one although SQS gave it a new id, best first.
KEY_ATTRIBUTES = ("dedup-id", "x-origin-message-id")
SENT_ATTRIBUTE = "x-origin-sent-timestamp"
# Never change it: keys of messages loaded earlier would change with it.
KEY_NAMESPACE = UUID("b8a6e6d2-4c38-4b7e-9a55-0d6f0f3f3a51")
# Codes with which SQS refuses a whole batch although one entry may be to blame.
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
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IDS = tuple(str(number) for number in range(BATCH))


class Message(msgspec.Struct, gc=False):
    """A message as received.

    Attributes:
        message_id: key of the ledger, a lower-case UUID: attribute `dedup-id`, else `x-origin-message-id`,
            else the id SQS gave; what is no UUID is turned into one, always the same
        receipt: for delete and release; good until the message is received again
        body: UTF-8 (lone surrogates as three bytes)
        sent_ms: Unix milliseconds of sending; of the first sending if `x-origin-sent-timestamp` says so
        receive_count: 1 the first time
    """

    message_id: str
    receipt: str
    body: bytes
    sent_ms: int
    receive_count: int


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
        done: entries SQS reported as done
        failed: AWS error code -> entries; such a message returns when its visibility timeout is over
    """

    done: int
    failed: Mapping[str, int] = field(default_factory=dict)


class _Attributes(msgspec.Struct, gc=False, rename="pascal"):
    sent_timestamp: int = 0
    approximate_receive_count: int = 1


class _AttributeValue(msgspec.Struct, gc=False, rename="pascal"):
    string_value: str | None = None


class _Received(msgspec.Struct, gc=False, rename="pascal"):
    message_id: str
    receipt_handle: str
    attributes: _Attributes
    body: str = ""
    md5_of_body: str = msgspec.field(name="MD5OfBody", default="")
    message_attributes: dict[str, _AttributeValue] | None = None


class _ReceiveReply(msgspec.Struct, gc=False, rename="pascal"):
    messages: list[_Received] = []


class _Done(msgspec.Struct, gc=False, rename="pascal"):
    id: str


class _Failed(msgspec.Struct, gc=False, rename="pascal"):
    id: str
    code: str = ""
    sender_fault: bool = False


class _BatchReply(msgspec.Struct, gc=False, rename="pascal"):
    successful: list[_Done] = []
    failed: list[_Failed] = []


class _Entry(msgspec.Struct, gc=False, rename="pascal", omit_defaults=True):
    id: str
    receipt_handle: str
    visibility_timeout: int | None = None


class _BatchRequest(msgspec.Struct, gc=False, rename="pascal"):
    queue_url: str
    entries: list[_Entry]


# strict=False: SQS writes numbers as strings.
_receive_reply = msgspec.json.Decoder(_ReceiveReply, strict=False)
_batch_reply = msgspec.json.Decoder(_BatchReply)
_encoder = msgspec.json.Encoder()


class SqsQueue:
    """One queue. Not for use by several threads at once."""

    def __init__(self, client: Any, credentials: Any, ca_bundle: str, name: str, settings: Settings) -> None:
        self.name = name
        self._client = client
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._settings = settings
        self._batches: Exchange | None = None
        self._url = str(self._ask("GetQueueUrl", client.get_queue_url, QueueName=name)["QueueUrl"])

    @classmethod
    def connect(
        cls, session: boto3.Session, name: str, settings: Settings, endpoint_url: str | None = None
    ) -> "SqsQueue":
        """The queue of that name.

        Raises:
            QueueRefused: no such queue, access denied, no credentials, no region
            QueueUnavailable: SQS does not answer
        """
        try:
            client = session.client("sqs", endpoint_url=endpoint_url, config=_patient(settings))
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise QueueRefused(f"queue {name!r}: no client for SQS: {type(error).__name__}") from None
        credentials = session.get_credentials()
        if credentials is None:
            raise QueueRefused(f"queue {name!r}: no AWS credentials found for {client.meta.endpoint_url}")
        return cls(client, credentials, _ca_bundle(), name, settings)

    def depth(self) -> Depth:
        """How many messages there are now.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        ask = self._client.get_queue_attributes
        reply = self._ask("GetQueueAttributes", ask, QueueUrl=self._url, AttributeNames=names)
        found = reply.get("Attributes", {})
        return Depth(*(int(found.get(name, 0)) for name in names))

    def receive(self, max_messages: int) -> Iterator[list[Message]]:
        """Takes messages off the queue, up to ten a list, until one long poll brings nothing.

        With a long poll of 0 seconds it ends after EMPTY_SHORT_POLLS empty answers in a row. At the limit of
        messages in flight (about 120,000) SQS answers as if the queue were empty. When the generator is
        closed early or fails, messages it holds but has not handed out are released.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`
        """
        polls = _Polls(self._exchange(self._settings.wait_seconds), self._url, self._settings, max_messages)
        replies: deque[Reply] = deque()
        damaged: list[str] = []
        try:
            polls.fill()
            while replies or polls.exchange.under_way:
                replies.extend([] if replies else polls.exchange.finished())
                if messages := self._taken(polls, replies.popleft(), damaged):
                    yield messages
        finally:
            self._give_back(polls.exchange, replies, damaged)

    def delete(self, receipts: Sequence[str]) -> Outcome:
        """Deletes messages; a second time changes nothing.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`; some may have been deleted
        """
        return self._change("DeleteMessageBatch", receipts, None)

    def release(self, receipts: Sequence[str]) -> Outcome:
        """Makes messages visible again at once.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`; some may have been released
        """
        return self._change("ChangeMessageVisibilityBatch", receipts, 0)

    def send(self, bodies: Iterable[bytes]) -> int:
        """Puts messages on the queue and returns how many; a second time sends them again.

        Raises:
            QueueRefused, QueueUnavailable: as for `connect`, or SQS refused a body; earlier ones were sent
        """
        sent, waiting = 0, iter(bodies)
        while ten := list(itertools.islice(waiting, BATCH)):
            entries = [
                {"Id": id_, "MessageBody": body.decode()} for id_, body in zip(_IDS, ten, strict=False)
            ]
            reply = self._ask(
                "SendMessageBatch", self._client.send_message_batch, QueueUrl=self._url, Entries=entries
            )
            if failed := reply.get("Failed"):
                raise self._error("SendMessageBatch", str(failed[0].get("Code")), transient=False)
            sent += len(ten)
        return sent

    def close(self) -> None:
        """Drops the connections; the queue can still be used and opens new ones."""
        if self._batches:
            self._batches.close()
        self._batches = None

    def _exchange(self, wait_seconds: int = 0) -> Exchange:
        return Exchange(self._transport(wait_seconds), self._settings.transfers)

    def _transport(self, wait_seconds: int) -> Transport:
        settings = self._settings
        if settings.sqs_client == "boto3":
            return BotoTransport(self._client, settings.transfers)
        return CurlTransport(
            self._client.meta.endpoint_url,
            self._client.meta.region_name,
            self._credentials,
            self._ca_bundle,
            settings.request_timeout_seconds + wait_seconds,
        )

    def _taken(self, polls: "_Polls", reply: Reply, damaged: list[str]) -> list[Message]:
        """The messages of one answer; the next polls are started before they are handed out."""
        if reply.code and reply.code != "OverLimit":
            raise self._error(reply.call.action, reply.code, reply.is_transient)
        try:
            received = [] if reply.code else _received(reply.body)
        except ValueError:
            raise QueueUnavailable(self._at("ReceiveMessage", "the answer is not one of SQS")) from None
        polls.answered(reply.call.asked, len(received))
        polls.fill()
        return [message for one in received if (message := _message(one, damaged))]

    def _give_back(self, exchange: Exchange, replies: deque[Reply], damaged: list[str]) -> None:
        """Releases what was received and not handed out; what fails here comes back by itself."""
        receipts = list(damaged)
        if damaged:
            log.warning("%d messages did not match their MD5 and were released", len(damaged))
        try:
            exchange.stop_repeating()
            while exchange.under_way:
                replies.extend(exchange.finished())
            for reply in replies:
                receipts += [one.receipt_handle for one in _received(reply.body)] if not reply.code else []
            if receipts:
                released = self.release(receipts)
                log.info("released %d of %d messages not handed out", released.done, len(receipts))
        except (QueueEtlError, ValueError):
            log.warning("could not release all messages not handed out; they return by themselves")
        finally:
            exchange.close()

    def _change(self, action: str, receipts: Sequence[str], visibility_timeout: int | None) -> Outcome:
        if self._batches is None:
            self._batches = self._exchange()
        try:
            return _Batches(self, self._batches, action, visibility_timeout).run(receipts)
        except BaseException:
            # Calls may still be under way: their answers must not be taken for those of the next action.
            self.close()
            raise

    def _ask(self, action: str, method: Any, **parameters: Any) -> dict[str, Any]:
        """One call through boto3, which repeats it by itself."""
        try:
            answer: dict[str, Any] = method(**parameters)
            return answer
        except botocore.exceptions.ClientError as error:
            code = error_code(error)
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            raise self._error(action, code, status >= 500 or code in TRANSIENT_CODES) from None
        except (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError) as error:
            trusted = not isinstance(error, botocore.exceptions.SSLError)
            raise self._error(action, type(error).__name__, trusted) from None
        except botocore.exceptions.BotoCoreError as error:
            raise self._error(action, type(error).__name__, transient=False) from None

    def _error(self, action: str, code: str, transient: bool) -> QueueEtlError:
        return (QueueUnavailable if transient else QueueRefused)(self._at(action, code))

    def _at(self, action: str, what: str) -> str:
        meta = self._client.meta
        return f"queue {self.name!r} in {meta.region_name} at {meta.endpoint_url}: {action}: {what}"


class _Polls:
    """Decides how many receive calls are under way: one at first, one more for each full answer."""

    def __init__(self, exchange: Exchange, url: str, settings: Settings, max_messages: int) -> None:
        self.exchange = exchange
        self._transfers = settings.transfers
        self._empty_polls_left = 1 if settings.wait_seconds else EMPTY_SHORT_POLLS
        self._empty_polls_allowed = self._empty_polls_left
        self._allowance = max_messages  # not yet received and not asked for
        self._wanted = 1
        self._bodies = [_poll(url, settings, asked) for asked in range(BATCH + 1)]

    def fill(self) -> None:
        """Starts polls up to the wanted number; never asks for more messages than are still allowed."""
        while self._empty_polls_left > 0 and self._allowance > 0 and self.exchange.under_way < self._wanted:
            asked = min(BATCH, self._allowance)
            self._allowance -= asked
            self.exchange.start(Call("ReceiveMessage", self._bodies[asked], asked))

    def answered(self, asked: int, received: int) -> None:
        """A poll for `asked` messages brought `received`."""
        self._allowance += asked - received
        if received == asked:
            self._wanted = min(self._wanted + 1, self._transfers)
        elif received < asked / 2:
            self._wanted = max(self._wanted - 1, 1)
        if received:
            self._empty_polls_left = self._empty_polls_left and self._empty_polls_allowed
        else:
            self._empty_polls_left -= 1


class _Batches:
    """One batch action over any number of receipts, ten a call."""

    def __init__(self, queue: SqsQueue, exchange: Exchange, action: str, timeout: int | None) -> None:
        self._queue = queue
        self._exchange = exchange
        self._action = action
        self._timeout = timeout
        self._done = 0
        self._failed: Counter[str] = Counter()
        self._singles: deque[str] = deque()

    def run(self, receipts: Sequence[str]) -> Outcome:
        """Does it; entries that fail are counted by code."""
        tens = (list(receipts[first : first + BATCH]) for first in range(0, len(receipts), BATCH))
        while True:
            while self._exchange.free > 0 and (group := self._next(tens)):
                self._exchange.start(self._call(group))
            if not (replies := self._exchange.finished()):
                return Outcome(self._done, dict(self._failed))
            for reply in replies:
                self._settle(reply)

    def _next(self, tens: Iterator[list[str]]) -> list[str]:
        return [self._singles.popleft()] if self._singles else next(tens, [])

    def _call(self, receipts: list[str], attempts: int = 0) -> Call:
        timeout = self._timeout
        entries = [_Entry(id_, receipt, timeout) for id_, receipt in zip(_IDS, receipts, strict=False)]
        body = _encoder.encode(_BatchRequest(self._queue._url, entries))
        return Call(self._action, body, receipts=receipts, attempts=attempts)

    def _settle(self, reply: Reply) -> None:
        call = reply.call
        if reply.code:
            self._refused(reply)
            return
        try:
            result = _batch_reply.decode(reply.body)
        except ValueError:
            raise QueueUnavailable(self._queue._at(self._action, "the answer is not one of SQS")) from None
        self._done += len(result.successful)
        if len(result.successful) < len(call.receipts):
            self._partial(call, result)

    def _refused(self, reply: Reply) -> None:
        """The whole call failed: one entry may be to blame, so each is tried alone."""
        if reply.code not in ENTRY_CODES:
            raise self._queue._error(self._action, reply.code, reply.is_transient)
        if len(reply.call.receipts) > 1:
            self._singles.extend(reply.call.receipts)
        else:
            self._failed[reply.code] += 1

    def _partial(self, call: Call, result: _BatchReply) -> None:
        """Some entries failed: those that may succeed the next time are sent again, the others counted."""
        again = [one for one in result.failed if not one.sender_fault or one.code in TRANSIENT_CODES]
        retried = self._call([call.receipts[int(one.id)] for one in again], call.attempts)
        waiting = bool(again) and self._exchange.repeat(retried)
        for one in result.failed:
            if not (waiting and one in again):
                self._failed[one.code or "unnamed"] += 1
        if missing := len(call.receipts) - len(result.successful) - len(result.failed):
            self._failed["not in the answer"] += missing


def _poll(url: str, settings: Settings, asked: int) -> bytes:
    return _encoder.encode(
        {
            "QueueUrl": url,
            "MaxNumberOfMessages": asked,
            "VisibilityTimeout": settings.visibility_timeout_seconds,
            "WaitTimeSeconds": settings.wait_seconds,
            "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
            "MessageAttributeNames": [*KEY_ATTRIBUTES, SENT_ATTRIBUTE],
        }
    )


def _received(body: bytes) -> list[_Received]:
    """The messages of a reply; there is no "Messages" when there are none.

    Raises:
        ValueError: it is no reply of SQS
    """
    try:
        return _receive_reply.decode(body).messages
    except ValueError:
        # msgspec refuses lone surrogates, which json lets pass.
        found = json.loads(body.decode("utf-8", "replace"))
        return msgspec.convert(found, _ReceiveReply, strict=False).messages


def _message(one: _Received, damaged: list[str]) -> Message | None:
    """The message, or None and its receipt in `damaged` if the body is not what was sent."""
    try:
        body = one.body.encode()
        # Not for security: SQS itself answers with an MD5 of the body.
        if hashlib.md5(body, usedforsecurity=False).hexdigest() != one.md5_of_body:
            damaged.append(one.receipt_handle)
            return None
    except UnicodeEncodeError:  # A lone surrogate: no two servers agree on its bytes, so nothing to check.
        body = one.body.encode("utf-8", "surrogatepass")
    key, attributes = one.message_id, one.attributes
    sent_ms = attributes.sent_timestamp
    if one.message_attributes:
        key = _key(one.message_attributes) or key
        sent_ms = _first_sent_ms(one.message_attributes, sent_ms)
    if not _UUID.fullmatch(key):
        key = _as_uuid(key)
    return Message(key, one.receipt_handle, body, sent_ms, attributes.approximate_receive_count)


def _key(attributes: Mapping[str, _AttributeValue]) -> str | None:
    found = (attributes[name].string_value for name in KEY_ATTRIBUTES if name in attributes)
    return next((value for value in found if value), None)


def _as_uuid(key: str) -> str:
    lower = key.lower()
    return lower if _UUID.fullmatch(lower) else str(uuid5(KEY_NAMESPACE, key))


def _first_sent_ms(attributes: Mapping[str, _AttributeValue], sent_ms: int) -> int:
    """The origin's time of sending, if it is one: not in the future of this sending."""
    value = attributes[SENT_ATTRIBUTE].string_value if SENT_ATTRIBUTE in attributes else None
    if value and re.fullmatch(r"[0-9]{1,15}", value) and 0 < int(value) <= sent_ms:
        return int(value)
    return sent_ms


def _patient(settings: Settings) -> botocore.config.Config:
    """Bounded retries and waits for the calls boto3 makes."""
    return botocore.config.Config(
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=settings.request_timeout_seconds,
        read_timeout=settings.request_timeout_seconds + settings.wait_seconds,
        max_pool_connections=settings.transfers,
    )


def _ca_bundle() -> str:
    """The certificates boto3 itself would trust: AWS_CA_BUNDLE, `ca_bundle` of the profile, else its own."""
    chosen = botocore.session.Session().get_config_variable("ca_bundle")
    return str(chosen or os.environ.get("REQUESTS_CA_BUNDLE") or botocore.httpsession.get_cert_path(True))
