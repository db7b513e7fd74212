"""A stand-in for SQS, in memory. NOT SQS and no emulator of it: it exists to be fast and to misbehave.

It speaks just enough of the JSON protocol over plain HTTP for tests and for the benchmark, checks no
signature and knows one queue. ReceiptHandles are valid for ever; any change of visibility shows the message.

    python tests/bench/sqs_stub.py --messages FILE --count 200000     # prints its URL, serves until killed
    with serving([b'{"a": 1}'], count=25) as stub: ...                # in a thread of a test
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import re
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUEUE = "stub-queue"
JSON_TYPE = "application/x-amz-json-1.0"
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 500: "Internal Server Error", 503: "Slow Down"}
# AWS receipt handles are some 350 characters of base64.
RECEIPT_PADDING = "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a" * 10
# SQS also tells the code of its older protocol, and boto3 shows that one.
OLD_CODE = b"x-amzn-query-error: AWS.SimpleQueueService.OldCode;Sender\r\n"
_RECEIPT = re.compile(rb'"ReceiptHandle":\s*"(\d+)\.')
_ENTRY_ID = re.compile(rb'"Id":\s*("[^"]*")')


@dataclass(frozen=True)
class Fault:
    """What happens to one call. The default does nothing special.

    Attributes:
        status: answer with this HTTP status and `code` instead of doing the call
        code: AWS error code of the answer, or of the failed entries
        seconds: wait so long first
        reset: drop the connection; `"before"` doing the call or `"after"` it (the answer is lost)
        fail_entries: so many entries of the batch fail with `code`
        sender_fault: of the failed entries
        raw: answer 200 with these bytes instead of doing the call
    """

    status: int = 200
    code: str = "InternalError"
    seconds: float = 0.0
    reset: str = ""
    fail_entries: int = 0
    sender_fault: bool = False
    raw: bytes | None = None


SERVER_ERROR = Fault(status=500, code="InternalError")
UNAVAILABLE = Fault(status=503, code="ServiceUnavailable")
THROTTLED = Fault(status=400, code="RequestThrottled")
DENIED = Fault(status=403, code="AccessDeniedException")
RESET = Fault(reset="before")


@dataclass(frozen=True)
class Stored:
    """The part of a message that does not change from one receive to the next, as JSON."""

    body_json: str
    md5: str
    attributes_json: str = ""

    @classmethod
    def of(cls, body: bytes, attributes: dict[str, Any] | None = None) -> "Stored":
        text = body.decode("utf-8", "surrogatepass")
        extra = f',"MessageAttributes":{json.dumps(attributes)}' if attributes else ""
        # Not for security: SQS itself answers with an MD5 of the body.
        return cls(json.dumps(text), hashlib.md5(body, usedforsecurity=False).hexdigest(), extra)


class Queue:
    """The one queue: numbers 0..count-1 are preloaded (bodies in turn), later ones were sent."""

    def __init__(self, bodies: Sequence[bytes] = (), count: int | None = None, seed: int = 1) -> None:
        self.preloaded = [Stored.of(body) for body in bodies]
        self.count = (len(bodies) if count is None else count) if bodies else 0
        self.seed = seed
        self.sent: list[Stored] = []
        self.next_fresh = 0
        self.waiting: deque[int] = deque()
        self.in_flight: dict[int, float] = {}
        self.receives: Counter[int] = Counter()
        self.deleted: set[int] = set()

    def stored(self, number: int) -> Stored:
        """The message of that number."""
        if number < self.count:
            return self.preloaded[number % len(self.preloaded)]
        return self.sent[number - self.count]

    def message_id(self, number: int) -> str:
        """A UUID for the number; looks random and differs with the seed."""
        digits = (
            f"{(number + 1 + (self.seed << 40)) * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1:032x}"
        )
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def take(self, most: int, visibility_seconds: float) -> list[int]:
        """Up to `most` visible messages, hidden from now on."""
        self.return_expired()
        taken = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        fresh = range(self.next_fresh, min(self.next_fresh + most - len(taken), self.count))
        self.next_fresh = max(self.next_fresh, fresh.stop)
        taken.extend(fresh)
        self.in_flight.update(dict.fromkeys(taken, time.monotonic() + visibility_seconds))
        return taken

    def return_expired(self) -> None:
        """Makes messages visible whose time has passed, once there are no others."""
        if self.visible:
            return
        # In order of receiving, which is the order of expiry if all ask for the same timeout.
        while self.in_flight:
            number, until = next(iter(self.in_flight.items()))
            if until > time.monotonic():
                return
            self.release(number)

    def release(self, number: int) -> None:
        """Makes a message in flight visible again."""
        if self.in_flight.pop(number, None) is not None:
            self.receives[number] += 1
            self.waiting.append(number)

    def delete(self, number: int) -> None:
        """Forgets the message; a second time does nothing, as on AWS."""
        if self.in_flight.pop(number, None) is not None:
            self.deleted.add(number)

    def send(self, body: bytes, attributes: dict[str, Any] | None = None) -> int:
        """Adds a message and returns its number."""
        self.sent.append(Stored.of(body, attributes))
        number = self.count + len(self.sent) - 1
        self.waiting.append(number)
        return number

    @property
    def visible(self) -> int:
        """Messages that could be received now, but those whose time has passed since the last `take`."""
        return self.count - self.next_fresh + len(self.waiting)

    def as_json(self, number: int, sent_ms: int) -> str:
        """The message as ReceiveMessage shows it."""
        stored = self.stored(number)
        return (
            f'{{"MessageId":"{self.message_id(number)}","ReceiptHandle":"{number}.{RECEIPT_PADDING}",'
            f'"MD5OfBody":"{stored.md5}","Body":{stored.body_json},"Attributes":{{"SentTimestamp":"{sent_ms}",'
            f'"ApproximateReceiveCount":"{self.receives.get(number, 0) + 1}"}}{stored.attributes_json}}}'
        )


@dataclass
class Stub:
    """State of the server, shared with the test that runs it.

    Attributes:
        faults: per action, consumed one a call; then `always`, if the action is there
        latency_seconds: added to every call
        calls: number of calls per action
        busiest: most calls that were under way at once, per action
        empty: receives that brought nothing
        held: so many preloaded messages appear on the queue with the call `ShowHeld`
        first_receive: Unix time of the first receive that brought something
        last_delete: Unix time of the last delete
        requests: raw (head, body) of each call, if `record`
        uneven: a receive brings a random number of messages, at least one if there are any
        tls: of the server, for https
        name: of the queue
    """

    queue: Queue
    latency_seconds: float = 0.0
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    always: dict[str, Fault] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    under_way: Counter[str] = field(default_factory=Counter)
    busiest: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    held: int = 0
    first_receive: float | None = None
    last_delete: float | None = None
    record: bool = False
    uneven: bool = False
    tls: ssl.SSLContext | None = None
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    port: int = 0
    name: str = QUEUE

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def plan(self, action: str, *faults: Fault) -> None:
        """The next calls of `action` go this way, one fault each."""
        self.faults.setdefault(action, deque()).extend(faults)

    def fault(self, action: str) -> Fault | None:
        """What is planned for the call that has just come."""
        planned = self.faults.get(action)
        return planned.popleft() if planned else self.always.get(action)


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time, as the clients do it."""

    def __init__(self, stub: Stub) -> None:
        self.stub, self.buffer = stub, b""
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        split = self.buffer.find(b"\r\n\r\n")
        if split < 0:
            return
        head = self.buffer[:split]
        length = int(_header(head, b"content-length") or 0)
        if len(self.buffer) < split + 4 + length:
            return
        body, self.buffer = self.buffer[split + 4 : split + 4 + length], self.buffer[split + 4 + length :]
        self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        action = _header(head, b"x-amz-target").decode().rpartition(".")[2]
        stub = self.stub
        stub.calls[action] += 1
        stub.under_way[action] += 1
        stub.busiest[action] = max(stub.busiest[action], stub.under_way[action])
        if stub.record:
            stub.requests.append((head, body))
        fault = stub.fault(action)
        delay = stub.latency_seconds + (fault.seconds if fault else 0.0)
        if delay:
            self.loop.call_later(delay, self._act, action, body, fault)
        else:
            self._act(action, body, fault)

    def _act(self, action: str, body: bytes, fault: Fault | None) -> None:
        if fault is not None and self._misbehave(action, body, fault):
            return
        if action == "ReceiveMessage":
            self._receive(json.loads(body))
        elif action in ("DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
            self._answer(action, self._batch(action, body, fault))
        else:
            self._answer(action, *self._other(action, json.loads(body)))

    def _misbehave(self, action: str, body: bytes, fault: Fault) -> bool:
        """Whether the fault took the place of the call."""
        if fault.reset:
            if fault.reset == "after":
                self._do_in_silence(action, body)
            self.stub.under_way[action] -= 1
            self.transport.abort()
        elif fault.raw is not None:
            self._answer(action, fault.raw)
        elif fault.status != 200:
            self._answer(action, _error(fault.code), fault.status)
        else:
            return False
        return True

    def _do_in_silence(self, action: str, body: bytes) -> None:
        if action == "ReceiveMessage":
            asked = json.loads(body)
            self.stub.queue.take(asked["MaxNumberOfMessages"], asked.get("VisibilityTimeout", 30))
        else:
            self._batch(action, body, None)

    def _receive(self, asked: dict[str, Any], deadline: float | None = None) -> None:
        queue, now = self.stub.queue, self.loop.time()
        deadline = now + asked.get("WaitTimeSeconds", 0) if deadline is None else deadline
        most = asked.get("MaxNumberOfMessages", 1)
        most = random.randint(1, most) if self.stub.uneven else most
        numbers = queue.take(most, asked.get("VisibilityTimeout", 30))
        if not numbers and now < deadline:
            # A long poll looks again every 5 ms.
            self.loop.call_later(min(0.005, deadline - now), self._receive, asked, deadline)
        elif numbers:
            sent_ms = int(time.time() * 1000)
            self.stub.first_receive = self.stub.first_receive or time.time()
            shown = ",".join([queue.as_json(number, sent_ms) for number in numbers])
            self._answer("ReceiveMessage", f'{{"Messages":[{shown}]}}'.encode())
        else:
            self.stub.empty += 1
            self._answer("ReceiveMessage", b"{}")

    def _batch(self, action: str, body: bytes, fault: Fault | None) -> bytes:
        queue = self.stub.queue
        ids, numbers = _ENTRY_ID.findall(body), [int(number) for number in _RECEIPT.findall(body)]
        failed = fault.fail_entries if fault else 0
        act = queue.delete if action == "DeleteMessageBatch" else queue.release
        if act == queue.delete:
            self.stub.last_delete = time.time()
        for number in numbers[failed:]:
            act(number)
        reply = b'{"Successful":[' + b",".join([b'{"Id":%s}' % id_ for id_ in ids[failed:]]) + b"]"
        if failed and fault:
            entry = {"SenderFault": fault.sender_fault, "Code": fault.code, "Message": "planned"}
            entries = [{"Id": json.loads(id_), **entry} for id_ in ids[:failed]]
            reply += b',"Failed":' + json.dumps(entries).encode()
        return reply + b"}"

    def _other(self, action: str, asked: dict[str, Any]) -> tuple[bytes, int]:
        queue = self.stub.queue
        if action == "GetQueueUrl" and asked["QueueName"] == self.stub.name:
            return json.dumps({"QueueUrl": f"{self.stub.url}/000000000000/{self.stub.name}"}).encode(), 200
        if action == "GetQueueAttributes":
            queue.return_expired()
            counts = {"": queue.visible, "NotVisible": len(queue.in_flight), "Delayed": 0}
            shown = {f"ApproximateNumberOfMessages{name}": str(n) for name, n in counts.items()}
            return json.dumps({"Attributes": shown}).encode(), 200
        if action == "SendMessageBatch":
            return self._send(asked["Entries"]), 200
        if action == "DeleteMessage":
            queue.delete(int(asked["ReceiptHandle"].partition(".")[0]))
            self.stub.last_delete = time.time()
            return b"{}", 200
        if action in ("ShowHeld", "Statistics"):
            return self._control(action), 200
        return _error("QueueDoesNotExist" if action == "GetQueueUrl" else "UnsupportedOperation"), 400

    def _control(self, action: str) -> bytes:
        """What SQS has not: the benchmark's own calls."""
        stub = self.stub
        if action == "ShowHeld":
            stub.queue.count, stub.held = stub.held, 0
        shown = {"calls": stub.calls, "first_receive": stub.first_receive, "last_delete": stub.last_delete}
        return json.dumps(shown).encode()

    def _send(self, entries: list[dict[str, Any]]) -> bytes:
        done = []
        for entry in entries:
            body = entry["MessageBody"].encode("utf-8", "surrogatepass")
            number = self.stub.queue.send(body, entry.get("MessageAttributes"))
            md5 = self.stub.queue.stored(number).md5
            done.append(
                {"Id": entry["Id"], "MessageId": self.stub.queue.message_id(number), "MD5OfMessageBody": md5}
            )
        return json.dumps({"Successful": done}).encode()

    def _answer(self, action: str, body: bytes, status: int = 200) -> None:
        self.stub.under_way[action] -= 1
        more = OLD_CODE if status != 200 else b""
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\n%sx-amzn-RequestId: stub\r\nContent-Length: %d\r\n\r\n%s"
            % (status, REASONS.get(status, "Status").encode(), JSON_TYPE.encode(), more, len(body), body)
        )


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?i)\r\n" + name + rb":[ \t]*([^\r]*)", head)
    return found[1] if found else b""


def _error(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "planned by the stub"}).encode()


async def _listen(stub: Stub) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(stub), "127.0.0.1", stub.port, backlog=1024, ssl=stub.tls
    )
    stub.port = server.sockets[0].getsockname()[1]
    return server


@contextlib.contextmanager
def serving(bodies: Sequence[bytes] = (), count: int | None = None, **knobs: Any) -> Iterator[Stub]:
    """A stub in a thread of this process, on a free port; `knobs` are fields of Stub."""
    stub = Stub(Queue(bodies, count), **knobs)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(_listen(stub))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def main() -> None:
    """Serves until killed."""
    parser = argparse.ArgumentParser(description="In-memory stand-in for SQS, for tests and benchmarks.")
    parser.add_argument("--messages", type=Path, required=True, help="one body a line")
    parser.add_argument("--count", type=int, help="messages on the queue (default: the lines of the file)")
    parser.add_argument("--held", action="store_true", help="the messages appear with the call `ShowHeld`")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every call")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other message ids")
    parser.add_argument("--queue", default=QUEUE, help="name of the queue")
    chosen = parser.parse_args()
    queue = Queue(chosen.messages.read_bytes().splitlines(), chosen.count, chosen.seed)
    stub = Stub(queue, latency_seconds=chosen.latency_ms / 1000, port=chosen.port, name=chosen.queue)
    if chosen.held:
        stub.held, queue.count = queue.count, 0

    async def serve() -> None:
        server = await _listen(stub)
        print(stub.url, flush=True)
        await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
