"""What can go wrong while messages are moved, and what must hold all the same: a test for each fault."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from include.queue_etl import steps
from include.queue_etl.errors import (
    PreflightError,
    QueueEtlError,
    QueueUnavailable,
    RunFailed,
    WarehouseRefused,
    WarehouseUnavailable,
)
from tests.bench import sqs_stub
from tests.faults import worker
from tests.faults.bodies import Sent, login, some, texts
from tests.faults.kill_points import KillPoint
from tests.faults.reconciliation import GOOD, balance, ledger_entries
from tests.faults.runs import (
    LONG,
    NAME,
    empty_the_queue,
    extract,
    files,
    finish,
    flip,
    folder,
    kinds,
    load,
    mask,
    up_to_load,
    whole,
)
from tests.faults.servers import QueueUnderTest


def die_at(tested: QueueUnderTest, arguments: list[str], kill_point: KillPoint, **environment: str) -> None:
    """Run a process that dies there."""
    ended = worker.start(tested, arguments, kill_point, **environment).wait()
    assert ended.was_killed, f"it survived: {ended}"


def step(tested: QueueUnderTest, name: str, *options: str) -> list[str]:
    """A process that does a step of the run NAME."""
    return worker.step(name, tested.run(NAME).name, *options)


def step_of_batch(tested: QueueUnderTest, name: str, batch: str) -> list[str]:
    """A process that masks or loads one batch of the run NAME."""
    return worker.step_of_batch(name, tested.run(NAME).name, batch)


# extract ------------------------------------------------------------------------------------------


def test_messages_of_an_extract_killed_before_it_sealed_them_come_back(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    # The first write is the probe of preflight. Long enough that a slow machine sees them hidden.
    hidden = {"QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "15"}
    die_at(tested, step(tested, "extract"), KillPoint("file write", 2, "half"), **hidden)

    assert kinds(tested) == []
    assert tested.queue().depth().in_flight > 0
    assert empty_the_queue(tested) == 0
    assert balance(tested, sent) == GOOD


def test_an_extract_killed_between_two_batches_goes_on_where_it_was(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    # The probe, then receipts and raw of two batches.
    die_at(tested, step(tested, "extract"), KillPoint("file rename", 5, "after"))
    sealed = files(tested)
    assert kinds(tested) == ["raw", "raw", "receipts", "receipts"]
    worker.wait_until_visible(tested)

    batches = extract(tested, **LONG)

    assert {name.partition(".")[0] for name in sealed} < set(batches)
    assert {name: files(tested)[name] for name in sealed} == sealed
    for batch in batches:
        mask(tested, batch)
        load(tested, batch)
    finish(tested)
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_retry_releases_messages_whose_receipt_handles_alone_are_sealed(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    hidden = {"QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "300", "QUEUE_ETL_MAX_MESSAGES": "10"}
    die_at(tested, step(tested, "extract"), KillPoint("file rename", 2, "after"), **hidden)
    assert kinds(tested) == ["receipts"]

    batches = extract(tested, **LONG)

    assert len(batches) == 3
    assert kinds(tested) == ["raw"] * 3 + ["receipts"] * 3
    for batch in batches:
        mask(tested, batch)
        load(tested, batch)
    finish(tested)
    assert balance(tested, sent) == GOOD


def test_a_stopped_extract_releases_its_messages_at_once(tested: QueueUnderTest, sent: list[Sent]) -> None:
    # SIGTERM, which the command line turns into SystemExit.
    with (
        mock.patch.object(steps, "_seal", side_effect=SystemExit(143)),
        pytest.raises(SystemExit),
    ):
        extract(tested, **LONG)

    assert tested.queue().depth().visible == len(sent)


def test_two_attempts_of_every_task_at_once_do_not_disturb_each_other(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    def twice(arguments: list[str]) -> list[int]:
        return [attempt.wait().code for attempt in [worker.start(tested, arguments) for _ in range(2)]]

    assert twice(step(tested, "extract")) == [0, 0]
    for batch in sorted({name.partition(".")[0] for name in files(tested)}):
        for name in ("mask", "load"):
            assert twice(step_of_batch(tested, name, batch)) == [0, 0]
    assert twice(step(tested, "finish")) == [0, 0]

    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


# mask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kill_point",
    [
        KillPoint("file write", 1, "half"),
        KillPoint("file rename", 1, "after"),
        KillPoint("file rename", 2, "before"),
        KillPoint("file rename", 2, "after"),
    ],
    ids=str,
)
def test_a_mask_that_was_killed_is_done_again_and_gives_one_output(
    tested: QueueUnderTest, sent: list[Sent], kill_point: KillPoint
) -> None:
    batches = extract(tested, **LONG)
    die_at(tested, step_of_batch(tested, "mask", batches[0]), kill_point)
    survived = {name: text for name, text in files(tested).items() if name.endswith("masked")}

    counts = mask(tested, batches[0])

    once = files(tested)
    assert kinds(tested).count("masked") == 1
    assert {name: once[name] for name in survived} == survived
    assert mask(tested, batches[0]) == counts
    assert files(tested) == once, "a re-run wrote a sealed file again"
    for batch in batches:
        mask(tested, batch)
        load(tested, batch)
    finish(tested)
    assert balance(tested, sent) == GOOD


# load ---------------------------------------------------------------------------------------------

# After those of `is_closed`, of the ledger's days, of the partitions that are missing, and two of the key.
LOADS_COMMIT = 6


@pytest.fixture
def this_month(tested: QueueUnderTest) -> None:
    """The partition is there: to make it is one commit more."""
    tested.servers.rows("SELECT etl.ensure_partition('public.user_logins', (now() AT TIME ZONE 'UTC')::date)")


@pytest.mark.usefixtures("this_month")
def test_a_load_killed_before_its_commit_leaves_nothing(tested: QueueUnderTest, sent: list[Sent]) -> None:
    batches = extract(tested, **LONG)
    for batch in batches:
        mask(tested, batch)
        die_at(tested, step_of_batch(tested, "load", batch), KillPoint("commit", LOADS_COMMIT, "before"))
    assert ledger_entries(tested) == 0
    assert balance(tested, sent).lost == len(sent)

    assert sum(load(tested, batch)["duplicates"] for batch in batches) == 0
    finish(tested)
    assert balance(tested, sent) == GOOD


def _kill_server(tested: QueueUnderTest) -> None:
    tested.servers.stop_postgres()


def _kill_session(tested: QueueUnderTest) -> None:
    tested.servers.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(query, 'COPY')"
    )


@pytest.mark.parametrize("kill", [_kill_server, _kill_session], ids=["the server", "the session"])
def test_postgres_killed_in_the_middle_of_a_copy_leaves_nothing(
    tested: QueueUnderTest, sent: list[Sent], kill: Callable[[QueueUnderTest], None]
) -> None:
    batches = extract(tested, **LONG)
    for batch in batches:
        mask(tested, batch)
    original = psycopg.Copy.write

    def cut_off(copy: psycopg.Copy, lines: bytes) -> None:
        original(copy, lines[: len(lines) // 2])
        kill(tested)
        original(copy, lines[len(lines) // 2 :])

    with (
        mock.patch.object(psycopg.Copy, "write", cut_off),
        pytest.raises(WarehouseUnavailable) as raised,
    ):
        load(tested, batches[0])
    tested.servers.start_postgres()

    assert raised.value.__cause__ is raised.value.__context__ is None
    assert ledger_entries(tested) == 0
    assert balance(tested, sent).lost == len(sent)
    for batch in batches:
        assert load(tested, batch)["duplicates"] == 0
    finish(tested)
    assert balance(tested, sent) == GOOD


@pytest.mark.usefixtures("this_month")
def test_a_load_killed_between_commit_and_answer_loads_nothing_twice(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = extract(tested, **LONG)
    for batch in batches:
        mask(tested, batch)
        die_at(tested, step_of_batch(tested, "load", batch), KillPoint("commit", LOADS_COMMIT, "after"))
    assert ledger_entries(tested) == len(sent)

    again = [load(tested, batch) for batch in batches]

    assert sum(one["loaded"] + one["quarantined"] for one in again) == len(sent)  # counts of the first time
    assert ledger_entries(tested) == len(sent)
    assert finish(tested)["duplicates"] == 0
    assert balance(tested, sent) == GOOD


def test_a_commit_whose_answer_is_lost_is_retried_without_effect(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = extract(tested, **LONG)
    for batch in batches:
        mask(tested, batch)
    original = psycopg.Transaction.__exit__

    def answer_lost(transaction: psycopg.Transaction, *error: Any) -> None:
        wrote = transaction.connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        writes_rows = wrote.fetchone() == (True,)
        original(transaction, *error)
        if writes_rows:
            transaction.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    with mock.patch.object(psycopg.Transaction, "__exit__", answer_lost):
        for batch in batches:
            with pytest.raises(WarehouseUnavailable):
                load(tested, batch)
    assert ledger_entries(tested) > 0

    for batch in batches:
        load(tested, batch)
    finish(tested)
    assert balance(tested, sent) == GOOD
    assert ledger_entries(tested) == len(sent)


# finish -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kill_point",
    [
        KillPoint("request", 1, "before"),
        KillPoint("answer", 1, "after"),
        KillPoint("answer", 2, "before"),
        KillPoint("commit", 3, "before"),  # the deletes are done, the run is still open
        KillPoint("commit", 3, "after"),
        KillPoint("file removal", 1, "before"),
        KillPoint("file removal", 3, "after"),
    ],
    ids=str,
)
def test_a_finish_that_was_killed_is_finished_by_its_retry(
    tested: QueueUnderTest, sent: list[Sent], kill_point: KillPoint
) -> None:
    up_to_load(tested, **LONG)
    die_at(tested, step(tested, "finish"), kill_point)

    summary = finish(tested)

    assert summary["state"] == "succeeded"
    assert summary["loaded"] + summary["quarantined"] == len(sent)
    assert set(kinds(tested)) == {"masked", "rejected"}
    assert balance(tested, sent) == GOOD


def test_a_failed_run_whose_finish_was_killed_does_not_look_successful(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    extract(tested, **LONG)
    die_at(tested, step(tested, "finish", "--upstream-failed"), KillPoint("file removal", 1, "before"))

    with pytest.raises(RunFailed):
        finish(tested, upstream_failed=True)

    assert kinds(tested) == []
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_run_that_a_killed_finish_closed_as_failed_fails_its_retry_too(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = up_to_load(tested)
    flip(folder(tested) / f"{batches[0]}.receipts")
    die_at(tested, step(tested, "finish"), KillPoint("file removal", 1, "before"))

    with pytest.raises(RunFailed, match="the run failed"):
        finish(tested)

    assert empty_the_queue(tested) == 10
    assert balance(tested, sent) == GOOD


def test_messages_that_sqs_did_not_delete_are_deleted_later_as_duplicates(
    tested: QueueUnderTest,
) -> None:
    sent = some(tested.tag, 10)
    with _stub(sent) as stub:
        fault = sqs_stub.Fault(fail_entries=3, code="InvalidReceipt", sender_fault=True)
        stub.plan("DeleteMessageBatch", fault)
        options: dict[str, Any] = {"endpoint_url": stub.url, "queue": sqs_stub.QUEUE, **LONG}

        first = whole(tested, "first", **options)
        _let_expire(stub)
        second = whole(tested, "second", **options)

        assert (first["deleted"], first["delete_failed"], first["duplicates"]) == (7, 3, 0)
        assert (second["received"], second["duplicates"], second["deleted"]) == (3, 3, 3)
        assert len(stub.queue.deleted) == 10
    assert _on_table(tested) == sum(one.reason is None for one in sent)


def test_a_run_that_may_not_delete_fails_and_its_messages_come_back(
    tested: QueueUnderTest,
) -> None:
    sent = some(tested.tag, 30)
    with _stub(sent) as stub:
        stub.always["DeleteMessageBatch"] = sqs_stub.DENIED
        options: dict[str, Any] = {"endpoint_url": stub.url, "queue": sqs_stub.QUEUE, **LONG}
        up_to_load(tested, **options)

        with pytest.raises(RunFailed):
            finish(tested, **options)

        assert "raw" not in kinds(tested)
        stub.always.clear()
        _let_expire(stub)
        assert whole(tested, "second", **options)["duplicates"] == 30
        assert len(stub.queue.deleted) == 30
    assert _on_table(tested) == sum(one.reason is None for one in sent)


def test_without_sqs_finish_is_retried_and_then_closes_the_run_as_failed(
    tested: QueueUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    sent = some(tested.tag, 20)
    with _stub(sent) as stub:
        options: dict[str, Any] = {"endpoint_url": stub.url, "queue": sqs_stub.QUEUE, **LONG}
        up_to_load(tested, **options)
        stub.always["DeleteMessageBatch"] = sqs_stub.UNAVAILABLE
        with mock.patch("include.queue_etl.sqs.transport.ATTEMPTS", 2):
            with pytest.raises(QueueUnavailable):
                finish(tested, last_attempt=False, **options)
            with pytest.raises(RunFailed):
                finish(tested, last_attempt=True, **options)
        # It does not wait for SQS once a batch.
        assert "and 1 after it: queue" in caplog.text
        assert caplog.text.count("messages come back by") == 1
        stub.always.clear()
        _let_expire(stub)

        assert whole(tested, "second", **options)["duplicates"] == 20
        assert len(stub.queue.deleted) == 20


# Messages that come back, and runs that meet -------------------------------------------------------


@pytest.mark.parametrize("late", ["before the other run loads", "after the other run has loaded"])
def test_a_message_that_another_run_took_meanwhile_is_one_row(
    tested: QueueUnderTest, sent: list[Sent], late: str
) -> None:
    slow = extract(tested, "slow", visibility_timeout_seconds=2)
    worker.wait_until_visible(tested)
    quick = extract(tested, "quick", **LONG)  # the receipts of the slow run are superseded from now on
    order = [("slow", slow), ("quick", quick)]
    for name, batches in order if late.startswith("before") else reversed(order):
        for batch in batches:
            mask(tested, batch, name)
            load(tested, batch, name)
    # As on AWS: deleting with a superseded receipt may fail, or seem to succeed without effect.
    summaries = [finish(tested, name) for name in ("slow", "quick")]

    assert sum(one["duplicates"] for one in summaries) == len(sent)
    assert {one["state"] for one in summaries} == {"succeeded"}
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_slow_run_whose_messages_came_back_gives_nothing_away_twice(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    extract(tested, "slow", visibility_timeout_seconds=2)
    worker.wait_until_visible(tested)
    up_to_load(tested, "quick", **LONG)
    with pytest.raises(RunFailed):
        finish(tested, "slow", upstream_failed=True)  # it releases messages that are another run's now
    finish(tested, "quick")

    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_message_that_sqs_returns_after_its_deletion_is_one_row(tested: QueueUnderTest) -> None:
    sent = some(tested.tag, 10)
    with _stub(sent) as stub:
        options: dict[str, Any] = {"endpoint_url": stub.url, "queue": sqs_stub.QUEUE}
        whole(tested, "first", **options)
        stub.queue.waiting.extend(sorted(stub.queue.deleted))

        again = whole(tested, "second", **options)

        assert (again["received"], again["loaded"], again["duplicates"]) == (10, 0, 10)
        assert (again["deleted"], stub.queue.visible, len(stub.queue.in_flight)) == (10, 0, 0)
    assert _on_table(tested) == sum(one.reason is None for one in sent)


@pytest.mark.parametrize("attribute", ["dedup-id", "x-origin-message-id"])
def test_a_copy_that_names_its_original_is_one_row(tested: QueueUnderTest, attribute: str) -> None:
    sent = [login(tested.tag, number) for number in range(3)]
    client, url = tested.client(), _url(tested)
    original = {"DataType": "String", "StringValue": f"order {tested.tag}"}
    for one in sent[:1] * 3:
        client.send_message(
            QueueUrl=url, MessageBody=one.body.decode(), MessageAttributes={attribute: original}
        )
    tested.send(texts(sent[1:]))

    summary = whole(tested)

    assert (summary["received"], summary["loaded"], summary["duplicates"]) == (5, 3, 2)
    assert balance(tested, sent) == GOOD


@pytest.mark.parametrize("moment", ["1", "0", "-5", "99999999999999", "999999999999999", "x", "946684800000"])
def test_a_forged_time_of_origin_does_not_keep_a_batch_out(tested: QueueUnderTest, moment: str) -> None:
    sent = some(tested.tag, 9)
    tested.send(texts(sent))
    forged = login(tested.tag, 9)
    attributes = {"x-origin-sent-timestamp": {"DataType": "String", "StringValue": moment}}
    tested.client().send_message(
        QueueUrl=_url(tested), MessageBody=forged.body.decode(), MessageAttributes=attributes
    )

    whole(tested)

    assert balance(tested, [*sent, forged]) == GOOD


def test_tasks_of_a_closed_run_change_nothing_even_without_its_files(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = up_to_load(tested)
    summary = finish(tested)
    shutil.rmtree(tested.staging)
    more = some(tested.tag, 10, first=100)
    tested.send(texts(more))

    assert extract(tested) == []
    for batch in batches:
        assert mask(tested, batch)["accepted"] == 0
        assert load(tested, batch)["loaded"] == 0
    assert finish(tested) == summary

    assert tested.queue().depth().visible == len(more)
    empty_the_queue(tested)
    assert balance(tested, [*sent, *more]) == GOOD


def test_what_an_extract_that_outlives_its_run_takes_is_released(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    original = steps._seal

    def seal_late(*arguments: Any) -> None:
        finish(tested)  # the run is closed, and this attempt does not know it
        steps._seal = original
        original(*arguments)

    with mock.patch.object(steps, "_seal", seal_late):
        late = extract(tested, **LONG)
    assert [load(tested, batch)["loaded"] for batch in late] == [0] * len(late)
    finish(tested)

    assert tested.queue().depth().visible == len(sent)
    assert kinds(tested) == []
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_producers_copy_is_known_on_the_same_day_and_new_on_the_next(
    tested: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"dedup-id": {"DataType": "String", "StringValue": tested.tag}}
    one = login(tested.tag, 0)
    with _stub([]) as stub:
        for name, days in (("first", 0), ("same day", 0), ("next day", 1)):
            clock = SimpleNamespace(
                time=lambda days=days: 1_700_000_000 + 86_400 * days, monotonic=time.monotonic
            )
            monkeypatch.setattr(sqs_stub, "time", clock)
            stub.queue.send(one.body, named)
            whole(tested, name, endpoint_url=stub.url, queue=sqs_stub.QUEUE)
    assert _on_table(tested) == 2  # the key of the ledger holds the day: a limit that ARCHITECTURE.md states


# Postgres away ------------------------------------------------------------------------------------


def test_without_postgres_a_run_does_not_start_and_receives_nothing(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    with tested.servers.without_postgres(), pytest.raises(PreflightError, match="nothing received"):
        extract(tested)

    depth = tested.queue().depth()
    assert (depth.visible, depth.in_flight) == (len(sent), 0)
    assert set(_receive_counts(tested)) == {1}, "somebody received them before"
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_a_finish_that_postgres_refuses_releases_the_messages_at_once(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    extract(tested, **LONG)
    refused = make_conninfo(tested.servers.warehouse_dsn, password="not the password")

    with pytest.raises(WarehouseRefused), tested.open_run(NAME, dsn=refused, **LONG) as context:
        steps.finish(context, upstream_failed=True, last_attempt=False)

    depth = tested.queue().depth()
    assert (depth.visible, depth.in_flight) == (len(sent), 0)
    empty_the_queue(tested)
    assert balance(tested, sent) == GOOD


def test_without_postgres_later_on_the_last_attempt_releases_the_messages(
    tested: QueueUnderTest, sent: list[Sent]
) -> None:
    batches = extract(tested, **LONG)
    mask(tested, batches[0])
    load(tested, batches[0])
    mask(tested, batches[1])
    with tested.servers.without_postgres():
        for attempt in (lambda: load(tested, batches[1]), lambda: finish(tested, last_attempt=False)):
            with pytest.raises(WarehouseUnavailable):
                attempt()
        assert tested.queue().depth().in_flight == len(sent), "released although there are retries"
        with pytest.raises(WarehouseUnavailable):
            finish(tested, last_attempt=True)
        assert tested.queue().depth().visible == len(sent)

    assert empty_the_queue(tested) == 10
    assert balance(tested, sent) == GOOD


# Messages that harm, and none ---------------------------------------------------------------------


def test_a_message_that_kills_every_worker_is_quarantined_unparsed(tested: QueueUnderTest) -> None:
    poison = login(tested.tag, 0)
    tested.send([poison.body])
    for _ in range(3):
        ended = worker.start(
            tested, ["drain"], KillPoint("parse", 1, "before"), QUEUE_ETL_MAX_RECEIVES="3"
        ).wait()
        assert ended.was_killed
        worker.wait_until_visible(tested)

    ended = worker.start(
        tested, ["drain"], KillPoint("parse", 1, "before"), QUEUE_ETL_MAX_RECEIVES="3"
    ).wait()

    assert ended.code == 0, ended.errors
    reasons = tested.servers.rows(
        "SELECT reason, receive_count FROM etl.quarantine JOIN etl.queues USING (queue_id) WHERE name = %s",
        tested.contract.queue,
    )
    assert reasons == [("too_many_receives", 4)]
    assert tested.on_queue() == 0


@pytest.mark.parametrize("wait_seconds", [0, 1])
def test_a_run_on_an_empty_queue_ends_and_is_not_recorded(tested: QueueUnderTest, wait_seconds: int) -> None:
    assert extract(tested, wait_seconds=wait_seconds) == []
    assert not known(tested)


@pytest.mark.parametrize("code", ["OverLimit", ""], ids=["refused", "answered with nothing"])
def test_a_queue_without_room_in_flight_is_not_taken_for_empty(tested: QueueUnderTest, code: str) -> None:
    sent = some(tested.tag, 10)
    with _stub(sent) as stub:
        no_room = sqs_stub.Fault(status=403, code=code) if code else sqs_stub.Fault(raw=b"{}")
        stub.always["ReceiveMessage"] = no_room
        options: dict[str, Any] = {"endpoint_url": stub.url, "queue": sqs_stub.QUEUE}

        assert extract(tested, "no room", **options) == []
        assert not known(tested, "no room")
        assert stub.queue.visible == 10
        stub.always.clear()
        assert whole(tested, "room", **options)["received"] == 10


def test_no_failure_leaves_a_task_with_an_error_that_is_none_of_ours(tested: QueueUnderTest) -> None:
    with _stub(some(tested.tag, 10)) as stub:
        stub.always["ReceiveMessage"] = sqs_stub.Fault(raw=b"<html>not SQS</html>")
        with pytest.raises(QueueEtlError) as raised:
            whole(tested, endpoint_url=stub.url, queue=sqs_stub.QUEUE)
    assert raised.value.__cause__ is None


def known(tested: QueueUnderTest, name: str = NAME) -> bool:
    """Whether the warehouse knows the run."""
    with tested.open_run(name) as context:
        return context.store.run_state(context.run.id) is not None


def _url(tested: QueueUnderTest) -> str:
    return str(tested.client().get_queue_url(QueueName=tested.contract.queue)["QueueUrl"])


@contextlib.contextmanager
def _stub(sent: list[Sent]) -> Iterator[sqs_stub.Stub]:
    """A queue that misbehaves on demand, with message ids of its own."""
    with sqs_stub.serving(texts(sent)) as stub:
        stub.queue.seed = secrets.randbits(40)
        yield stub


def _let_expire(stub: sqs_stub.Stub) -> None:
    """The visibility timeout of all messages in flight is over."""
    for number in list(stub.queue.in_flight):
        stub.queue.release(number)


def _on_table(tested: QueueUnderTest) -> int:
    statement = "SELECT count(*) FROM public.user_logins WHERE user_id LIKE %s"
    return int(tested.servers.rows(statement, f"{tested.tag}-%")[0][0])


def _receive_counts(tested: QueueUnderTest) -> list[int]:
    """Receives every message once and gives it back; how often each has been received by now."""
    with contextlib.closing(tested.queue(**LONG)) as queue:
        messages = [message for ten in queue.receive(1_000, 60) for message in ten]
        queue.release([message.receipt_handle for message in messages])
    return [message.receive_count for message in messages]
