"""Which calls are repeated, and when."""

import pytest

from include.queue_etl.sqs_transport import (
    ATTEMPTS,
    BAD_CERTIFICATE,
    LONGEST_PAUSE_SECONDS,
    NO_CONNECTION,
    TIMEOUT,
    Call,
    Exchange,
    Reply,
)


class Clock:
    """Stands still unless somebody waits."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Script:
    """A transport that answers at once with the next of the (status, code) it was given."""

    def __init__(self, clock, *answers):
        self.clock, self.answers = clock, list(answers)
        self.replies, self.sent_at, self.closed = [], [], False

    def start(self, call):
        self.sent_at.append(self.clock.now)
        self.replies.append(Reply(call, self.answers[0][0], b"", self.answers.pop(0)[1]))

    def wait(self, timeout_seconds):
        if not self.replies:
            self.clock.now += timeout_seconds
        replies, self.replies = self.replies, []
        return replies

    def close(self):
        self.closed = True


DONE = (200, "")


def run(*answers):
    clock = Clock()
    script = Script(clock, *answers)
    exchange = Exchange(script, 4, clock)
    exchange.start(Call("ReceiveMessage", b"{}"))
    return exchange.finished(), script, exchange


@pytest.mark.parametrize(
    "answer",
    [
        (500, "InternalError"),
        (503, "HTTP 503"),
        (429, "HTTP 429"),
        (400, "RequestThrottled"),
        (400, "ThrottlingException"),
        (0, TIMEOUT),
        (0, NO_CONNECTION),
    ],
)
def test_what_may_succeed_later_is_sent_again(answer):
    (reply,), script, exchange = run(answer, answer, DONE)
    assert (reply.code, reply.call.attempts, len(script.sent_at)) == ("", 3, 3)
    assert exchange.under_way == 0


@pytest.mark.parametrize(
    "answer", [(403, "AccessDeniedException"), (400, "QueueDoesNotExist"), (0, BAD_CERTIFICATE)]
)
def test_a_refusal_is_final_at_once(answer):
    (reply,), script, _ = run(answer)
    assert (reply.code, len(script.sent_at)) == (answer[1], 1)


def test_a_call_is_given_up_after_so_many_attempts():
    (reply,), script, exchange = run(*[(500, "InternalError")] * (ATTEMPTS + 1))
    assert reply.is_transient
    assert len(script.sent_at) == ATTEMPTS
    assert exchange.under_way == 0


def test_repeats_are_counted_by_code_once():
    _, _, exchange = run((503, "SlowDown"), (0, TIMEOUT), (503, "SlowDown"), DONE)
    assert exchange.take_repeats() == {"SlowDown": 2, TIMEOUT: 1}
    assert exchange.take_repeats() == {}


def test_pauses_grow_but_not_for_ever():
    _, script, _ = run(*[(500, "InternalError")] * ATTEMPTS)
    pauses = [later - sooner for sooner, later in zip(script.sent_at, script.sent_at[1:], strict=False)]
    assert all(0 < pause <= LONGEST_PAUSE_SECONDS for pause in pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_pauses_differ_lest_all_clients_return_together():
    first_pauses = {run((500, "InternalError"), DONE)[1].sent_at[1] for _ in range(20)}
    assert len(first_pauses) > 10


def test_nothing_under_way_means_no_answers_and_no_wait():
    clock = Clock()
    assert Exchange(Script(clock), 4, clock).finished() == []
    assert clock.now == 0


def test_a_call_in_its_pause_still_takes_room():
    clock = Clock()
    exchange = Exchange(Script(clock), 4, clock)
    assert exchange.repeat(Call("ReceiveMessage", b"{}", attempts=1), "InternalError")
    assert (exchange.under_way, exchange.free) == (1, 3)


def test_after_stop_every_answer_is_final_and_pauses_are_forgotten():
    clock = Clock()
    exchange = Exchange(Script(clock, (500, "InternalError")), 4, clock)
    exchange.repeat(Call("ReceiveMessage", b"{}", attempts=1), "InternalError")
    exchange.start(Call("ReceiveMessage", b"{}"))
    exchange.stop()
    assert [reply.code for reply in exchange.finished()] == ["InternalError"]
    assert exchange.under_way == 0
