"""Calls to SQS, many at once in one thread: through libcurl, or through boto3 where libcurl is not wanted.

A `Transport` sends each call once; an `Exchange` repeats those that may succeed the next time. Neither raises
when SQS says no: the answer is a value, and the caller decides what it means.
"""

import binascii
import contextlib
import heapq
import json
import queue
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pycurl

from include.queue_etl.sqs.signature import Signer

# At run time botocore is imported by those who have one of its objects already: it takes 0.15 s of CPU.
if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html, and what SQS adds of its own.
TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "KmsThrottled",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
TIMEOUT, NO_CONNECTION = "no answer in time", "no connection"
BAD_CERTIFICATE, NO_CREDENTIALS = "certificate not accepted", "no credentials"
UNREADABLE = "an answer that cannot be read"
ATTEMPTS = 6
QUIET_SECONDS = 0.5
UPLOAD_BYTES = 16_384  # more than most requests, and a quarter of what libcurl would keep for each by itself
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
FIRST_TRANSFERS = 32
# Of its time, that a caller may wait for answers before more calls may be under way. Less would be met by a
# server that is only busy, where more calls bring nothing and take 5 % more CPU.
IDLE_SHARE = 0.5


class Call:
    """One request.

    Attributes:
        action: of the SQS API
        body: its JSON
        asked: messages asked for (ReceiveMessage)
        wait_seconds: of the long poll (ReceiveMessage)
        receipt_handles: in the order of the entries (batch actions), whose ids are their positions
        attempts: how often it has been sent
    """

    __slots__ = ("action", "asked", "attempts", "body", "receipt_handles", "wait_seconds")

    def __init__(
        self,
        action: str,
        body: bytes,
        *,
        asked: int = 0,
        wait_seconds: int = 0,
        receipt_handles: Sequence[str] = (),
        attempts: int = 0,
    ) -> None:
        self.action = action
        self.body = body
        self.asked = asked
        self.wait_seconds = wait_seconds
        self.receipt_handles = receipt_handles
        self.attempts = attempts


class Reply(msgspec.Struct, gc=False):
    """The answer to one call.

    Attributes:
        status: of HTTP; 0 when there was no answer
        body: JSON; only of use when `code` is empty
        code: AWS error code, or one of the codes of this module; empty when the call was done
    """

    call: Call
    status: int
    body: bytes
    code: str

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed later."""
        return (
            self.status >= 500
            or self.status == 429
            or self.code in TRANSIENT_CODES
            or self.code in (TIMEOUT, NO_CONNECTION)
        )


class Transport(Protocol):
    """Sends calls, each once."""

    def start(self, call: Call) -> None:
        """Begins the call and returns at once."""

    def wait(self, timeout_seconds: float) -> list[Reply]:
        """The answers that have come, at least one unless the time is over."""

    def close(self) -> None:
        """Drops what is under way and every connection."""


class Exchange:
    """Calls under way together, each repeated with growing pauses until its answer is final.

    How many may be under way follows from how long the server takes to answer: FIRST_TRANSFERS, and a quarter
    more after each round in which the caller, with all of them under way, did nothing but wait for too long.
    So one process is kept at work at any latency, and makes no connections that it does not need.

    Args:
        transport: sends them
        transfers: how many may be under way at once, at most
        clock: seconds, monotonic
    """

    def __init__(
        self, transport: Transport, transfers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._most = transfers
        self._transfers = min(FIRST_TRANSFERS, transfers)
        self._clock = clock
        self._round_began = clock()
        self._idle_seconds = 0.0
        self._answers = 0
        self._sent = 0
        self._paused: list[tuple[float, int, Call]] = []
        self._numbers = 0
        self._repeats_until = inf
        self._repeats: Counter[str] = Counter()

    @property
    def under_way(self) -> int:
        """Calls without a final answer."""
        return self._sent + len(self._paused)

    @property
    def free(self) -> int:
        """Calls that may be started now."""
        return self._transfers - self.under_way

    def start(self, call: Call, after_seconds: float = 0.0) -> None:
        """Begins a call, now or after a pause in which it counts as under way; there must be room for it."""
        if after_seconds:
            self._pause(call, self._clock() + after_seconds)
            return
        call.attempts += 1
        self._sent += 1
        self._transport.start(call)

    def repeat(self, call: Call, code: str) -> bool:
        """Sends the call again after a pause because of `code`.

        False if it has been sent often enough, or may be sent no more: see `repeat_until`.
        """
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (call.attempts - 1))
        # Not for security: the jitter keeps throttled clients from coming back together.
        due = self._clock() + longest * random.uniform(0.5, 1.0)
        if call.attempts >= ATTEMPTS or due > self._repeats_until:
            return False
        self._repeats[code] += 1
        self._pause(call, due)
        return True

    def take_repeats(self) -> dict[str, int]:
        """How many calls had to be repeated, by code, since this was last asked."""
        repeats, self._repeats = dict(self._repeats), Counter()
        return repeats

    def repeat_until(self, moment: float) -> None:
        """After that moment of the clock no call is repeated: every answer is final."""
        self._repeats_until = moment

    def stop(self) -> None:
        """From now on every answer is final, and calls that are in a pause are forgotten."""
        self._repeats_until = -inf
        self._paused.clear()

    def finished(self, within_seconds: float = inf) -> list[Reply]:
        """Waits for final answers and returns them: at least one, unless nothing is under way.

        After `within_seconds` it returns without.
        """
        until = self._clock() + within_seconds
        while self.under_way:
            replies = self._transport.wait(0.0) or self._waited_for(until)
            self._sent -= len(replies)
            self._adapt(replies)
            final = [
                reply
                for reply in replies
                if not (reply.code and reply.is_transient and self.repeat(reply.call, reply.code))
            ]
            if self._paused:
                self._start_due()
            if final or self._clock() >= until:
                return final
        return []

    def close(self) -> None:
        """Drops every call."""
        self._paused.clear()
        self._sent = 0
        self._transport.close()

    def _waited_for(self, until: float) -> list[Reply]:
        """The answers that come before a moment, or before a call is due."""
        is_full, began = self.free <= 0, self._clock()
        replies = self._transport.wait(min(max(0.0, until - began), self._until_next_pause_ends()))
        if is_full:
            self._idle_seconds += self._clock() - began
        return replies

    def _adapt(self, replies: Sequence[Reply]) -> None:
        """Let more calls be under way, where the last round of them left too much time."""
        self._answers += sum(not reply.code for reply in replies)  # who is throttled is in no hurry
        if self._answers < self._transfers:
            return
        now = self._clock()
        if self._idle_seconds > IDLE_SHARE * (now - self._round_began):
            self._transfers = min(self._most, self._transfers + max(1, self._transfers // 4))
        self._round_began, self._idle_seconds, self._answers = now, 0.0, 0

    def _pause(self, call: Call, due: float) -> None:
        self._numbers += 1
        heapq.heappush(self._paused, (due, self._numbers, call))

    def _until_next_pause_ends(self) -> float:
        return max(0.0, self._paused[0][0] - self._clock()) if self._paused else 60.0

    def _start_due(self) -> None:
        while self._paused and self._paused[0][0] <= self._clock():
            self.start(heapq.heappop(self._paused)[2])


class _Transfer:
    """A libcurl handle and what it is busy with."""

    __slots__ = ("call", "chunks", "handle", "headers", "started")

    def __init__(self, handle: pycurl.Curl) -> None:
        self.handle = handle
        self.call = Call("", b"")
        self.chunks: list[bytes] = []
        handle.setopt(pycurl.WRITEFUNCTION, self.chunks.append)
        self.headers: list[bytes] = []
        self.started = 0.0


class CurlTransport:
    """libcurl: about a tenth of boto3's CPU.

    Args:
        endpoint: URL of SQS
        region: for the signature
        credentials: of botocore; asked again every second, so that refreshed ones are used
        ca_bundle: file of the certificates to trust
        timeout_seconds: longest wait for one answer, long poll included
        clock: seconds, monotonic
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Any,
        ca_bundle: str,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = endpoint.rstrip("/") + "/"
        self._signer = Signer(self._url, region)
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._multi = pycurl.CurlMulti()
        self._idle: list[_Transfer] = []
        self._busy: dict[pycurl.Curl, _Transfer] = {}
        self._unsent: deque[Reply] = deque()
        self._frozen: Any = None
        self._frozen_until = 0.0
        self._seconds = 0.0  # spent in `wait`
        self._looked = 0.0  # of these seconds: when transfers were last held against their time

    def start(self, call: Call) -> None:
        """Begins the call and returns at once."""
        transfer = self._idle.pop() if self._idle else _Transfer(self._new_handle())
        try:
            self._prepare(transfer, call)
        except _refresh_failure():
            self._idle.append(transfer)
            self._unsent.append(Reply(call, 0, b"", NO_CREDENTIALS))
            return
        self._busy[transfer.handle] = transfer
        self._multi.add_handle(transfer.handle)

    def wait(self, timeout_seconds: float) -> list[Reply]:
        """The answers that have come, at least one unless the time is over."""
        replies = list(self._unsent)
        self._unsent.clear()
        last = self._clock()
        until = last + timeout_seconds
        while not replies:
            self._multi.perform()
            replies = self._answered()
            now = self._clock()
            self._seconds += now - last
            last = now
            if replies or now >= until:
                break
            # Not only when it is quiet: an answer that comes a byte at a time is never quiet.
            if self._is_quiet(until - now) or self._seconds - self._looked >= QUIET_SECONDS:
                self._looked = self._seconds
                replies = self._overdue()
        return replies

    def close(self) -> None:
        """Drops what is under way and every connection."""
        for handle in self._busy:
            self._multi.remove_handle(handle)
        self._busy.clear()
        self._idle.clear()
        self._multi.close()

    def _new_handle(self) -> pycurl.Curl:
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, self._url)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.UPLOAD_BUFFERSIZE, UPLOAD_BYTES)
        handle.setopt(pycurl.CAINFO, self._ca_bundle)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.TCP_KEEPALIVE, 1)
        # No TIMEOUT: see _overdue.
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(self._timeout_seconds * 1000))
        return handle

    def _prepare(self, transfer: _Transfer, call: Call) -> None:
        """Sets what differs from the handle's last call."""
        now = self._clock()
        if now >= self._frozen_until:
            self._frozen = self._credentials.get_frozen_credentials()
            self._frozen_until = now + 1.0
        headers = self._signer.headers(call.action, call.body, self._frozen)
        if transfer.headers is not headers:
            # Bytes: pycurl takes only ASCII text, and its error would show what it did not take.
            transfer.handle.setopt(pycurl.HTTPHEADER, headers)
            transfer.headers = headers
        if transfer.call.body is not call.body:
            transfer.handle.setopt(pycurl.POSTFIELDS, call.body)
        transfer.call = call
        transfer.chunks.clear()
        transfer.started = self._seconds

    def _is_quiet(self, seconds: float) -> bool:
        """Waits for traffic, not longer than that; True if there was none for QUIET_SECONDS."""
        ready = self._multi.select(min(QUIET_SECONDS, seconds))
        if ready < 0:  # No socket yet, as while a name is being resolved.
            time.sleep(0.005)
        return bool(ready == 0 and seconds >= QUIET_SECONDS)

    def _answered(self) -> list[Reply]:
        more, replies = 1, []
        while more:
            more, done, failed = self._multi.info_read()
            replies += [self._reply(self._release(handle)) for handle in done]
            replies += [
                Reply(self._release(handle).call, 0, b"", _curl_code(number)) for handle, number, _ in failed
            ]
        return replies

    def _release(self, handle: pycurl.Curl) -> _Transfer:
        transfer = self._busy.pop(handle)
        self._multi.remove_handle(handle)
        self._idle.append(transfer)
        return transfer

    def _reply(self, transfer: _Transfer) -> Reply:
        status = transfer.handle.getinfo(pycurl.RESPONSE_CODE)
        body = b"".join(transfer.chunks)
        return Reply(transfer.call, status, body, "" if status == 200 else _error_code(status, body))

    def _overdue(self) -> list[Reply]:
        """Gives up transfers past their time; to be called after what has come is read.

        Only time spent in `wait` counts. While the caller works on what it got, answers lie in the sockets
        unread; libcurl's own TIMEOUT would throw them away, and the messages in them would stay hidden.
        """
        oldest = self._seconds - self._timeout_seconds
        late = [transfer for transfer in self._busy.values() if transfer.started < oldest]
        for transfer in late:
            self._release(transfer.handle)
        return [Reply(transfer.call, 0, b"", TIMEOUT) for transfer in late]


class BotoTransport:
    """The same calls through boto3, in threads.

    Args:
        client: of boto3, for SQS, without retries of its own
        transfers: threads
    """

    def __init__(self, client: Any, transfers: int) -> None:
        self._methods: dict[str, Callable[..., dict[str, Any]]] = {
            "GetQueueUrl": client.get_queue_url,
            "GetQueueAttributes": client.get_queue_attributes,
            "SendMessageBatch": client.send_message_batch,
            "ReceiveMessage": client.receive_message,
            "DeleteMessageBatch": client.delete_message_batch,
            "ChangeMessageVisibilityBatch": client.change_message_visibility_batch,
        }
        self._threads = ThreadPoolExecutor(transfers, thread_name_prefix="sqs")
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def start(self, call: Call) -> None:
        """Begins the call and returns at once."""
        self._threads.submit(self._send, call)

    def wait(self, timeout_seconds: float) -> list[Reply]:
        """The answers that have come, at least one unless the time is over."""
        replies = []
        with contextlib.suppress(queue.Empty):
            replies.append(self._replies.get(timeout=timeout_seconds))
            while True:
                replies.append(self._replies.get_nowait())
        return replies

    def close(self) -> None:
        """Drops what has not begun; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _send(self, call: Call) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        reply = Reply(call, 0, b"", UNREADABLE)
        try:
            answer = self._methods[call.action](**json.loads(call.body, object_hook=_with_bytes))
            answer.pop("ResponseMetadata", None)
            reply = Reply(call, 200, json.dumps(answer, default=_base64).encode(), "")
        except ClientError as error:
            status, code = _client_error(error)
            reply = Reply(call, status, b"", code)
        except BotoCoreError as error:
            reply = Reply(call, 0, b"", _boto_code(error))
        finally:  # whatever happened: without a reply, its receiver waits for ever
            self._replies.put(reply)


# Binary attributes of messages: bytes for boto3, base64 in the JSON of SQS.
def _with_bytes(found: dict[str, Any]) -> dict[str, Any]:
    value = found.get("BinaryValue")
    return found if value is None else {**found, "BinaryValue": binascii.a2b_base64(value)}


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


def _refresh_failure() -> "type[BotoCoreError]":
    """What botocore's credentials raise; looked up only when something is raised."""
    from botocore.exceptions import BotoCoreError

    failure: type[BotoCoreError] = BotoCoreError
    return failure


def _client_error(error: "ClientError") -> tuple[int, str]:
    """HTTP status and AWS code: the code of the JSON protocol, not the older one boto3 shows."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    found = error.response.get("Error", {})
    return status, _plain(found.get("QueryErrorCode") or found.get("Code") or "") or f"HTTP {status}"


def _boto_code(error: "BotoCoreError") -> str:
    """Why boto3 got no answer."""
    from botocore import exceptions as kinds

    if isinstance(error, kinds.SSLError):
        return BAD_CERTIFICATE
    if isinstance(error, (kinds.ReadTimeoutError, kinds.ConnectTimeoutError)):
        return TIMEOUT
    return (
        NO_CONNECTION if isinstance(error, (kinds.HTTPClientError, kinds.ConnectionError)) else NO_CREDENTIALS
    )


def _curl_code(number: int) -> str:
    if number in (pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR):
        return BAD_CERTIFICATE
    return TIMEOUT if number == pycurl.E_OPERATION_TIMEDOUT else NO_CONNECTION


def _error_code(status: int, body: bytes) -> str:
    """The AWS code of an error reply: {"__type": "com.amazonaws.sqs#QueueDoesNotExist", ...}."""
    try:
        found = json.loads(body)
    except ValueError:  # A proxy's page, not SQS.
        return f"HTTP {status}"
    kind = found.get("__type") if isinstance(found, dict) else None
    return _plain(kind if isinstance(kind, str) else "") or f"HTTP {status}"


def _plain(code: str) -> str:
    """The code without its namespace; empty if it does not look like one, for it goes into messages."""
    last = re.fullmatch(r"(?:[^#]*#)?([A-Za-z0-9._-]{1,80})(?::.*)?", code)
    name = last[1] if last else ""
    return "QueueDoesNotExist" if name == "AWS.SimpleQueueService.NonExistentQueue" else name
