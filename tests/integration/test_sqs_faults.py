"""The client against a server that misbehaves: the stand-in of tests/bench, which is not SQS.

All run through libcurl. What a client sees for itself (refusals, time-outs, dead connections, certificates)
and what must never be logged run through boto3 too. All else is decided above the clients, by their answers;
that both give the same answers is what test_sqs_endpoint.py shows.
"""

import dataclasses
import datetime
import ipaddress
import itertools
import json
import logging
import random
import socket
import ssl
import string
import time
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import get_cert_path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from include.queue_etl.errors import QueueRefused, QueueUnavailable
from include.queue_etl.settings import Settings
from include.queue_etl.sqs import transport as sqs_transport
from include.queue_etl.sqs.client import EMPTY_SHORT_POLLS, SqsQueue
from include.queue_etl.sqs.transport import ATTEMPTS, Call, CurlTransport
from tests.bench.sqs_stub import (
    DENIED,
    QUEUE,
    RESET,
    SERVER_ERROR,
    THROTTLED,
    UNAVAILABLE,
    Fault,
    serving,
)

RECEIVE, DELETE, RELEASE = "ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"
SECONDS = 60  # longer than any test receives
SECRET_BODY = b'{"ip": "203.0.113.77"}'


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sqs_transport, "FIRST_PAUSE_SECONDS", 0.005)


both_clients = pytest.mark.parametrize("client", ["pycurl", "boto3"])


@pytest.fixture
def client():
    """The one in use unless settings say otherwise."""
    return "pycurl"


def session():
    return boto3.Session(aws_access_key_id="id", aws_secret_access_key="secret", region_name="eu-west-1")


def connect(stub, client, **changes):
    defaults = {"wait_seconds": 1, "transfers": 8, "request_timeout_seconds": 5, "sqs_client": client}
    settings = Settings(staging="/nowhere", **(defaults | changes))
    return SqsQueue.connect(session(), QUEUE, settings, stub.url)


def bodies(count):
    return [b'{"number": %d}' % number for number in range(count)]


def received(queue, most=None):
    """By default as many as there are, so that no test waits for the long poll that finds nothing."""
    allowed = queue.depth().visible if most is None else most
    return list(itertools.chain.from_iterable(queue.receive(allowed, SECONDS)))


def receipts(queue):
    return [message.receipt_handle for message in received(queue)]


@both_clients
def test_every_message_is_received_once_and_deleted(client):
    with serving(bodies(333)) as stub:
        queue = connect(stub, client)
        messages = received(queue)
        assert sorted(message.body for message in messages) == sorted(bodies(333))
        outcome = queue.delete([message.receipt_handle for message in messages])
        assert (outcome.done, outcome.failed, len(stub.queue.deleted)) == (333, {}, 333)
        assert queue.depth().total == 0


def test_released_messages_come_back_at_once_and_say_so(client):
    with serving(bodies(25)) as stub:
        queue = connect(stub, client)
        assert queue.release(receipts(queue)).done == 25
        assert queue.depth().visible == 25
        assert [message.receive_count for message in received(queue)] == [2] * 25


@pytest.mark.parametrize("most", [1, 7, 10, 25, 99])
def test_no_more_messages_are_taken_than_allowed(client, most):
    with serving(bodies(150), uneven=True) as stub:
        assert len(received(connect(stub, client), most)) == most
        assert len(stub.queue.in_flight) == most


@both_clients
def test_the_settings_choose_the_client(client):
    with serving(bodies(1), record=True) as stub:
        received(connect(stub, client))
        head = next(head for head, _ in stub.requests if b"AmazonSQS.ReceiveMessage" in head)
        assert (b"Boto3" in head) == (client == "boto3")


def test_an_empty_queue_costs_one_long_poll(client):
    with serving() as stub:
        assert received(connect(stub, client), 50) == []
        assert stub.calls[RECEIVE] == 1


def test_a_long_wait_is_made_of_polls_of_two_seconds(client):
    with serving(record=True) as stub:
        started = time.monotonic()
        assert received(connect(stub, client, wait_seconds=5), 50) == []
        assert 4.5 <= time.monotonic() - started < 30
        asked = [json.loads(body) for head, body in stub.requests if b"ReceiveMessage" in head]
        assert [request["WaitTimeSeconds"] for request in asked] == [2, 2, 1]


def test_empty_answers_that_do_not_wait_are_not_asked_for_in_a_hurry(client):
    with serving() as stub:
        stub.always[RECEIVE] = Fault(raw=b"{}")
        assert received(connect(stub, client, wait_seconds=3), 50) == []
        assert stub.calls[RECEIVE] <= 12


def test_a_nearly_empty_queue_costs_few_polls(client):
    with serving(bodies(30)) as stub:
        assert len(received(connect(stub, client, transfers=32), 100_000)) == 30
        assert stub.calls[RECEIVE] <= 8


def test_a_deep_queue_uses_every_transfer_and_never_more(client):
    with serving(bodies(10), count=2_000, latency_seconds=0.005) as stub:
        received(connect(stub, client, transfers=6))
        assert stub.busiest[RECEIVE] == 6


def test_an_empty_short_poll_is_not_taken_for_an_empty_queue(client):
    with serving(bodies(45)) as stub:
        stub.plan(RECEIVE, *[Fault(raw=b"{}")] * (EMPTY_SHORT_POLLS - 1))
        assert len(received(connect(stub, client, wait_seconds=0), 100_000)) == 45


def test_short_polls_come_to_an_end(client):
    with serving() as stub:
        assert received(connect(stub, client, wait_seconds=0), 50) == []
        assert stub.calls[RECEIVE] == EMPTY_SHORT_POLLS


def test_too_many_in_flight_looks_like_an_empty_queue(client):
    with serving(bodies(3)) as stub:
        stub.always[RECEIVE] = Fault(status=403, code="OverLimit")
        assert received(connect(stub, client), 50) == []


@both_clients
def test_closed_early_it_releases_what_it_has_not_handed_out(client):
    with serving(bodies(400), latency_seconds=0.01) as stub:
        queue = connect(stub, client)
        arriving = queue.receive(400, SECONDS)
        taken = [message.receipt_handle for _ in range(12) for message in next(arriving)]
        arriving.close()
        assert {receipt.partition(".")[0] for receipt in taken} == set(map(str, stub.queue.in_flight))
        assert stub.queue.visible == 400 - len(taken)
        assert stub.queue.receives.total() > 0  # Some had arrived and were released.


def take_all(queue, taken, until=-1):
    for number, messages in enumerate(queue.receive(400, SECONDS)):
        taken += messages
        if number == until:
            raise ArithmeticError


@both_clients
def test_a_failure_half_way_releases_what_was_not_handed_out(client):
    with serving(bodies(400), latency_seconds=0.01) as stub:
        stub.plan(RECEIVE, *[Fault()] * 20, DENIED)
        queue, taken = connect(stub, client), list[Any]()
        with pytest.raises(QueueRefused):
            take_all(queue, taken)
        assert len(taken) == len(stub.queue.in_flight) > 0


def test_a_failure_in_the_caller_releases_what_it_did_not_get(client):
    with serving(bodies(400), latency_seconds=0.01) as stub:
        queue, taken = connect(stub, client), list[Any]()
        with pytest.raises(ArithmeticError):
            take_all(queue, taken, until=12)
        assert len(taken) == len(stub.queue.in_flight) == 130


def test_a_caller_slower_than_the_time_out_loses_nothing(client):
    with serving(bodies(10), count=300) as stub:
        # During the pause some calls are under way, some answers unread, some calls not yet sent; after it
        # the server takes its time.
        stub.plan(RECEIVE, *[Fault(seconds=0.02 * (number % 8)) for number in range(18)])
        stub.plan(RECEIVE, *[Fault(seconds=0.9)] * 12)
        queue = connect(stub, client, request_timeout_seconds=2)
        taken = []
        for number, messages in enumerate(queue.receive(300, SECONDS)):
            taken += messages
            if number == 12:
                time.sleep(2.5)  # Longer than time-out and long poll: the pause is what is tested.
        assert len({message.message_id for message in taken}) == len(taken) == 300
        assert stub.calls[RECEIVE] == 30


@both_clients
@pytest.mark.parametrize("fault", [SERVER_ERROR, UNAVAILABLE, THROTTLED, RESET], ids=lambda fault: fault.code)
def test_passing_faults_are_not_noticed_but_logged(client, fault, caplog):
    with serving(bodies(100)) as stub, caplog.at_level(logging.WARNING):
        queue = connect(stub, client)
        for action in (RECEIVE, DELETE, RELEASE):
            stub.plan(action, *[fault] * 4)
        found = receipts(queue)
        assert len(found) == 100
        assert queue.release(found[:50]).done == 50
        assert queue.delete(found[50:]).done == 50
        code = "no connection" if fault.reset else fault.code
        # A connection that dies when it is used again libcurl replaces by itself, so not every reset shows.
        for action in (RECEIVE,) if fault.reset else (RECEIVE, DELETE, RELEASE):
            assert f"{QUEUE}: {action} had to be repeated: {code} " in caplog.text


def test_a_delete_whose_answer_is_lost_is_repeated(client):
    with serving(bodies(30)) as stub:
        queue = connect(stub, client)
        stub.plan(DELETE, Fault(reset="after"), Fault(reset="after"))
        assert queue.delete(receipts(queue)).done == 30
        assert len(stub.queue.deleted) == 30
        assert stub.calls[DELETE] == 5


@both_clients
def test_a_slow_answer_is_given_up_and_asked_for_again(client):
    with serving(bodies(20)) as stub:
        queue = connect(stub, client, request_timeout_seconds=1)
        stub.plan(DELETE, Fault(seconds=600))
        began = time.monotonic()
        assert queue.delete(receipts(queue)).done == 20
        assert time.monotonic() - began < 60
        assert stub.calls[DELETE] == 3


@both_clients
@pytest.mark.parametrize("fault", [SERVER_ERROR, THROTTLED, RESET], ids=lambda fault: fault.code)
def test_lasting_faults_are_unavailable_and_one_clear_line(client, fault):
    with serving([SECRET_BODY]) as stub:
        queue = connect(stub, client)
        stub.always = {RECEIVE: fault, DELETE: fault}
        code = "no connection" if fault.reset else fault.code
        with pytest.raises(QueueUnavailable) as error:
            received(queue)
        assert str(error.value) == f"queue 'stub-queue' in eu-west-1 at {stub.url}: {RECEIVE}: {code}"
        with pytest.raises(QueueUnavailable):
            queue.delete(["0.x"])
        # A connection kept from an earlier call may be dead: libcurl itself then sends the call once more.
        again = client == "pycurl" and bool(fault.reset)
        assert (stub.calls[RECEIVE], stub.calls[DELETE]) == (ATTEMPTS, ATTEMPTS + again)


@both_clients
def test_a_refusal_is_not_repeated(client):
    with serving(bodies(5)) as stub:
        queue = connect(stub, client)
        stub.always = {RECEIVE: DENIED, DELETE: DENIED}
        with pytest.raises(QueueRefused, match=rf"{RECEIVE}: AccessDeniedException$"):
            received(queue)
        with pytest.raises(QueueRefused, match=rf"{DELETE}: AccessDeniedException$"):
            queue.delete(["0.x"])
        assert (stub.calls[RECEIVE], stub.calls[DELETE]) == (1, 1)


def test_after_a_refused_delete_the_next_one_starts_afresh(client):
    with serving(bodies(300), latency_seconds=0.01) as stub:
        queue = connect(stub, client)
        found = receipts(queue)
        stub.plan(DELETE, Fault(), DENIED)
        with pytest.raises(QueueRefused):
            queue.delete(found)
        assert queue.delete(found[:10]).done == 10


@pytest.mark.parametrize("answer", [b"<html>203.0.113.77</html>", b'{"Messages": "203.0.113.77"}'])
def test_an_answer_of_something_else_is_unavailable_and_not_shown(answer):
    with serving([SECRET_BODY]) as stub:
        stub.always[RECEIVE] = Fault(raw=answer)
        with pytest.raises(QueueUnavailable, match="not one of SQS") as error:
            received(connect(stub, "pycurl"))
        assert "203" not in str(error.value).replace(stub.url, "")
        assert error.value.__cause__ is None


def test_entries_that_failed_for_no_fault_of_ours_are_repeated(client):
    with serving(bodies(40)) as stub:
        queue = connect(stub, client)
        stub.plan(DELETE, *[Fault(fail_entries=3)] * 5)
        outcome = queue.delete(receipts(queue))
        assert (outcome.done, outcome.failed, len(stub.queue.deleted)) == (40, {}, 40)


def test_entries_that_go_on_failing_are_counted(client):
    with serving(bodies(10)) as stub:
        queue = connect(stub, client)
        stub.always[DELETE] = Fault(fail_entries=2)
        outcome = queue.delete(receipts(queue))
        assert (outcome.done, outcome.failed) == (8, {"InternalError": 2})
        assert stub.calls[DELETE] == ATTEMPTS


def test_entries_refused_for_their_receipt_are_counted_and_not_repeated(client):
    with serving(bodies(20)) as stub:
        queue = connect(stub, client)
        stub.plan(DELETE, Fault(fail_entries=2, code="ReceiptHandleIsInvalid", sender_fault=True))
        outcome = queue.delete(receipts(queue))
        assert (outcome.done, outcome.failed) == (18, {"ReceiptHandleIsInvalid": 2})
        assert stub.calls[DELETE] == 2


@both_clients
def test_one_bad_entry_does_not_cost_the_other_nine(client):
    refused = Fault(status=400, code="ReceiptHandleIsInvalid")
    with serving(bodies(10)) as stub:
        queue = connect(stub, client)
        stub.plan(DELETE, refused, refused)  # All ten together, then one of them alone.
        outcome = queue.delete(receipts(queue))
        assert (outcome.done, outcome.failed) == (9, {"ReceiptHandleIsInvalid": 1})
        assert len(stub.queue.deleted) == 9


def test_an_entry_the_answer_forgets_is_not_counted_as_done(client):
    with serving(bodies(10)) as stub:
        queue = connect(stub, client)
        stub.plan(DELETE, Fault(raw=b'{"Successful":[{"Id":"0"}]}'))
        assert queue.delete(receipts(queue)).failed == {"not in the answer": 9}


def test_a_damaged_body_is_left_out_released_and_counted_once(client, caplog):
    with serving(bodies(30)) as stub, caplog.at_level(logging.WARNING):
        stub.queue.preloaded[7] = dataclasses.replace(stub.queue.preloaded[7], md5="0" * 32)
        messages = received(connect(stub, client), 100_000)
        assert len(messages) == 29
        assert bodies(30)[7] not in {message.body for message in messages}
        assert stub.queue.visible == 1
        assert "1 messages do not match their MD5" in caplog.text


@both_clients
def test_lone_surrogates_do_not_stop_the_others(client):
    with serving([b"{}", b"\xed\xa0\x80", b"[]"]) as stub:
        assert {message.body for message in received(connect(stub, client))} == {
            b"{}",
            b"\xed\xa0\x80",
            b"[]",
        }


def test_sent_messages_arrive_in_groups_that_sqs_takes(client):
    with serving() as stub:
        queue = connect(stub, client)
        large = [b"a" * 200_000, b"b" * 200_000, b"c" * 300_000]
        assert queue.send([*bodies(23), *large]) == 26
        assert stub.calls["SendMessageBatch"] == 5
        assert sorted(message.body for message in received(queue)) == sorted([*bodies(23), *large])


@both_clients
def test_a_body_that_is_not_utf_8_is_named_by_number_and_not_shown(client):
    with serving() as stub, pytest.raises(QueueRefused, match=r"one of the messages 11 to 12$") as error:
        connect(stub, client).send([*bodies(11), b"\xff203.0.113.77"])
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@both_clients
def test_logs_hold_neither_bodies_nor_receipt_handles(client, caplog):
    with serving([SECRET_BODY] * 60, latency_seconds=0.005) as stub, caplog.at_level(logging.INFO):
        queue = connect(stub, client)
        arriving = queue.receive(60, SECONDS)
        found = [message.receipt_handle for message in next(arriving)]
        arriving.close()
        stub.always[DELETE] = Fault(fail_entries=10, code="ReceiptHandleIsInvalid", sender_fault=True)
        queue.delete(found)
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("include.")]
        assert ours
        assert not any("203.0.113" in line or found[0] in line for line in ours)


def test_a_missing_queue_is_named(client):
    with serving() as stub, pytest.raises(QueueRefused) as error:
        SqsQueue.connect(session(), "nowhere", Settings(staging="/x", sqs_client=client), stub.url)
    assert str(error.value) == (f"queue 'nowhere' in eu-west-1 at {stub.url}: GetQueueUrl: QueueDoesNotExist")


@both_clients
def test_no_server_is_unavailable_and_named(client):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, not listening: refuses.
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(QueueUnavailable, match=f"'{QUEUE}' in eu-west-1 at {url}: GetQueueUrl"):
            SqsQueue.connect(session(), QUEUE, Settings(staging="/x", sqs_client=client), url)


@pytest.mark.parametrize("region", [None, "eu-west-1"])
def test_missing_region_or_credentials_are_a_refusal(monkeypatch, region, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(QueueRefused, match=r"NoRegionError|no AWS credentials"):
        SqsQueue.connect(
            boto3.Session(region_name=region), QUEUE, Settings(staging="/x"), "http://127.0.0.1:1"
        )


def expected_authorization(head, body, credentials):
    """The Authorization header botocore computes for the very request that was sent."""
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    given = {name.lower(): value for name, value in headers.items()}
    signed = given["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    request = AWSRequest("POST", f"http://{given['host']}/", {n: given[n] for n in signed}, body)
    request.context["timestamp"] = given["x-amz-date"]
    signer = SigV4Auth(credentials, "sqs", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    scope = signer.scope(request)
    return (
        f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(signed)}, Signature={signature}",
        given,
    )


@pytest.mark.parametrize("seed", range(20))
def test_requests_are_signed_as_botocore_does(seed):
    draw = random.Random(seed)
    unusual = string.ascii_letters + string.digits + "+/=:@%&?#' \\\""
    secret = "".join(draw.choices(unusual, k=draw.randint(8, 60))).strip() + "é" * draw.randint(0, 1)
    token = "".join(draw.choices(string.ascii_letters + "+/=", k=900)) if draw.random() < 0.6 else None
    credentials = Credentials("AKIA" + "".join(draw.choices(string.ascii_uppercase, k=16)), secret, token)
    with serving(record=True) as stub:
        transport = CurlTransport(stub.url, "eu-west-1", credentials, "/none", 5)
        body = f'{{"QueueUrl":"{stub.url}","Entries":[],"x":"ü{draw.random()}"}}'.encode()
        transport.start(Call(draw.choice([DELETE, RELEASE]), body))
        assert [reply.status for reply in transport.wait(5)] == [200]
        head, sent = stub.requests[0]
    assert sent == body
    expected, headers = expected_authorization(head, body, credentials)
    assert headers["authorization"] == expected
    assert headers.get("x-amz-security-token") == token
    assert ("x-amz-security-token" in expected) == (token is not None)
    assert {"host", "x-amz-date", "x-amz-target", "content-type"} <= set(
        expected.split("SignedHeaders=")[1].split(",")[0].split(";")
    )


def test_refreshed_credentials_are_used_within_a_second():
    now = itertools.count()
    credentials = Credentials("AKIAFIRST", "one", "token-one")
    with serving(record=True) as stub:
        transport = CurlTransport(
            stub.url, "eu-west-1", credentials, "/none", 5, clock=lambda: float(next(now))
        )
        for access_key, token in (("AKIAFIRST", "token-one"), ("AKIASECOND", "token-two")):
            credentials.access_key, credentials.token = access_key, token
            transport.start(Call(DELETE, b'{"Entries":[]}'))
            while not transport.wait(5):
                pass
        headers = [head.decode() for head, _ in stub.requests]
    assert "AKIAFIRST" in headers[0]
    assert "token-one" in headers[0]
    assert "AKIASECOND" in headers[1]
    assert "token-two" in headers[1]
    assert "token-one" not in headers[1]


@pytest.fixture
def certificate(tmp_path):
    """A server's TLS context for 127.0.0.1 and the file with its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "stub.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, file


@both_clients
def test_a_certificate_named_in_aws_ca_bundle_is_trusted(client, certificate, monkeypatch):
    context, file = certificate
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with serving(bodies(25), tls=context) as stub:
        queue = connect(stub, client)
        assert queue.delete(receipts(queue)).done == 25


@both_clients
def test_another_certificate_is_refused_at_once(client, certificate, monkeypatch):
    context, _ = certificate
    with serving(bodies(25), tls=context) as stub:
        with pytest.raises(QueueRefused, match=r"GetQueueUrl: certificate not accepted$"):
            connect(stub, client)
        assert stub.calls.total() == 0


def test_libcurl_refuses_another_certificate_too(certificate):
    context, _ = certificate
    with serving(tls=context) as stub:
        bundle = get_cert_path(True)
        transport = CurlTransport(stub.url, "eu-west-1", Credentials("id", "secret"), bundle, 5)
        transport.start(Call(RECEIVE, b"{}"))
        (reply,) = transport.wait(5)
        assert (reply.status, reply.code, reply.is_transient) == (0, "certificate not accepted", False)
