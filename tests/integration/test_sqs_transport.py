"""The two transports against a server that behaves as none should."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import certifi
import pytest

from include.queue_etl.sqs.credentials import Credentials
from include.queue_etl.sqs.transport import TIMEOUT, UNREADABLE, BotoTransport, Call, CurlTransport

CALL = Call("ReceiveMessage", b"{}")


@pytest.fixture
def dripping() -> Iterator[str]:
    """URL of a server that answers with one byte every tenth of a second, for as long as one listens."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as request:
            request.readline()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.1)
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    thread.join(timeout=5)


def test_an_answer_that_drips_is_given_up_in_time(dripping):
    credentials = Credentials("key", "secret", None)
    transport = CurlTransport(dripping, "us-east-1", credentials, certifi.where(), timeout_seconds=1)
    with closing(transport):
        transport.start(CALL)
        started = time.monotonic()
        (reply,) = transport.wait(60)
    assert reply.code == TIMEOUT
    assert time.monotonic() - started < 30


class Client:
    """Stands for boto3's; its answers are given."""

    def __init__(self, answer):
        self.receive_message = answer
        for name in (
            "get_queue_url",
            "get_queue_attributes",
            "send_message_batch",
            "delete_message_batch",
            "change_message_visibility_batch",
        ):
            setattr(self, name, None)


def received_through_boto3(answer):
    transport = BotoTransport(Client(answer), 1)
    with closing(transport):
        transport.start(CALL)
        return transport.wait(10)


def test_binary_attributes_do_not_keep_an_answer_back():
    (reply,) = received_through_boto3(lambda: {"Messages": [{"Body": "x", "Value": b"\xff"}]})
    assert (reply.status, reply.code) == (200, "")


def test_whatever_boto3_raises_there_is_an_answer():
    def broken():
        raise RuntimeError("anything")

    (reply,) = received_through_boto3(broken)
    assert reply.code == UNREADABLE
