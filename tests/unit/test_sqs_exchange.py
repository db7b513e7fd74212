"""Which calls are repeated, and when."""

import pytest

from include.queue_etl.sqs.transport import (
    ATTEMPTS,
    BAD_CERTIFICATE,
    FIRST_TRANSFERS,
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
def test_what_may_succeed_later_is_repeated(answer):
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


def test_a_call_that_begins_later_takes_room_at_once_and_is_sent_then():
    clock = Clock()
    script = Script(clock, DONE)
    exchange = Exchange(script, 4, clock)
    exchange.start(Call("ReceiveMessage", b"{}"), 0.5)
    assert (exchange.under_way, exchange.free, script.sent_at) == (1, 3, [])
    (reply,) = exchange.finished()
    assert (reply.code, reply.call.attempts, script.sent_at) == ("", 1, [0.5])
    assert exchange.take_repeats() == {}


def test_calls_in_a_pause_begin_in_the_order_of_their_times():
    clock = Clock()
    script = Script(clock, DONE, DONE)
    exchange = Exchange(script, 4, clock)
    for name, pause in (("late", 0.7), ("soon", 0.2)):
        exchange.start(Call(name, b"{}"), pause)
    assert [reply.call.action for _ in range(2) for reply in exchange.finished()] == ["soon", "late"]
    assert script.sent_at == [0.2, 0.7]


def test_waiting_ends_without_answers_when_its_time_is_over():
    clock = Clock()
    exchange = Exchange(Script(clock, DONE), 4, clock)
    exchange.start(Call("ReceiveMessage", b"{}"), 5.0)
    assert exchange.finished(1.0) == []
    assert (clock.now, exchange.under_way) == (1.0, 1)
    assert len(exchange.finished(10.0)) == 1
    assert clock.now == 5.0


def test_an_answer_that_is_there_is_returned_although_no_time_is_left():
    clock = Clock()
    exchange = Exchange(Script(clock, DONE), 4, clock)
    exchange.start(Call("ReceiveMessage", b"{}"))
    assert len(exchange.finished(0.0)) == 1


def test_waiting_for_a_time_does_not_wait_when_nothing_is_under_way():
    clock = Clock()
    assert Exchange(Script(clock), 4, clock).finished(60.0) == []
    assert clock.now == 0


def test_no_call_is_repeated_after_the_moment_given():
    clock = Clock()
    script = Script(clock, *[(500, "InternalError")] * ATTEMPTS)
    exchange = Exchange(script, 4, clock)
    exchange.repeat_until(0.3)
    exchange.start(Call("ReceiveMessage", b"{}"))
    (reply,) = exchange.finished()
    assert (reply.code, exchange.under_way) == ("InternalError", 0)
    assert 1 <= len(script.sent_at) < ATTEMPTS
    assert max(script.sent_at) <= 0.3


def test_a_call_whose_pause_ends_before_that_moment_is_repeated():
    clock = Clock()
    script = Script(clock, (500, "InternalError"), DONE)
    exchange = Exchange(script, 4, clock)
    exchange.repeat_until(10.0)
    exchange.start(Call("ReceiveMessage", b"{}"))
    (reply,) = exchange.finished()
    assert (reply.code, len(script.sent_at)) == ("", 2)


# How many are under way -------------------------------------------------------------------------------------


class Far:
    """A transport whose answers come `seconds` after their calls."""

    def __init__(self, clock, seconds, code=""):
        self.clock, self.seconds, self.code = clock, seconds, code
        self.due = []

    def start(self, call):
        self.due.append((self.clock.now + self.seconds, call))

    def wait(self, timeout_seconds):
        next_due = min((due for due, _ in self.due), default=self.clock.now + timeout_seconds)
        self.clock.now = max(self.clock.now, min(next_due, self.clock.now + timeout_seconds))
        come = [(due, call) for due, call in self.due if due <= self.clock.now]
        self.due = [one for one in self.due if one not in come]
        return [Reply(call, 400 if self.code else 200, b"", self.code) for _, call in come]

    def close(self):
        self.due = []


def under_way_after(seconds, *, work, most=128, calls=5_000, at_once=1_000, code=""):
    """Calls that may be under way in the end, for a caller who takes `work` seconds for each answer."""
    clock = Clock()
    exchange = Exchange(Far(clock, seconds, code), most, clock)
    while calls > 0:
        while exchange.free > 0 and exchange.under_way < at_once:
            exchange.start(Call("DeleteMessageBatch", b"{}"))
        for _ in exchange.finished():
            clock.now += work
            calls -= 1
            if exchange.free > 0 and exchange.under_way < at_once:
                exchange.start(Call("DeleteMessageBatch", b"{}"))
    return exchange.free + exchange.under_way


@pytest.mark.parametrize(
    ("seconds", "least", "most"),
    [(0.0, 32, 32), (0.001, 32, 40), (0.005, 32, 50), (0.010, 50, 80), (0.015, 75, 120), (0.030, 128, 128)],
)
def test_as_many_are_under_way_as_keep_the_caller_at_work(seconds, least, most):
    assert least <= under_way_after(seconds, work=0.0001) <= most


def test_a_slow_caller_gets_at_most_the_room_of_the_first_round():
    assert under_way_after(0.010, work=0.002) <= FIRST_TRANSFERS * 5 // 4


@pytest.mark.parametrize("most", [1, 8, 40])
def test_never_more_are_under_way_than_allowed(most):
    assert under_way_after(0.1, work=0.0001, most=most) == most


def test_who_starts_few_calls_gets_no_room_for_more():
    assert under_way_after(0.1, work=0.0001, calls=1_000, at_once=10) == FIRST_TRANSFERS


def test_answers_that_refuse_make_no_room():
    assert under_way_after(0.1, work=0.0001, code="AccessDenied") == FIRST_TRANSFERS
