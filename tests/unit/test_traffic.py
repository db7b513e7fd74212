"""The pace of the tests' sender: no drift, no message twice, a late sender catches up."""

import pytest

from tests.support.traffic import TICK_SECONDS, Pace, traffic


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def sent_until(pace, clock, seconds):
    """What a sender that wakes as the pace says sends within so many seconds."""
    end, total = clock.now + seconds, pace.due()
    while (wait := pace.seconds_to_next()) + clock.now < end - 1e-6:
        clock.now += wait
        total += pace.due()
    clock.now = end
    return total


@pytest.mark.parametrize("rate", [0.5, 1, 10, 300, 1000])
def test_a_steady_pace_keeps_its_rate_without_drift(rate):
    clock = Clock()
    assert sent_until(Pace.steady(rate, clock), clock, 60) == pytest.approx(
        60 * rate, abs=max(1, rate * TICK_SECONDS)
    )


def test_bursts_come_whole_and_at_their_times():
    clock = Clock()
    pace = Pace(500, 2.0, clock)
    assert (pace.due(), pace.due(), pace.seconds_to_next()) == (500, 0, 2.0)
    clock.now += 2.0
    assert pace.due() == 500


def test_a_late_sender_catches_up():
    clock = Clock()
    pace = Pace.steady(10, clock)
    assert pace.due() == 1
    clock.now += 5.0
    assert pace.due() == 50
    assert 0 < pace.seconds_to_next() <= 0.1


def test_messages_that_fall_due_within_a_tick_go_together():
    clock = Clock()
    pace = Pace.steady(1000, clock)
    assert pace.due() == 1
    assert pace.seconds_to_next() == pytest.approx(TICK_SECONDS)
    clock.now += pace.seconds_to_next()
    assert pace.due() == 1000 * TICK_SECONDS


class Refusing:
    def send_message_batch(self, **_asked):
        raise ConnectionError("refused")


def test_what_stopped_the_sender_is_raised_even_if_the_block_fails():
    with pytest.raises(ConnectionError), traffic(Refusing(), "url", "tag"):
        raise TimeoutError("waited for rows in vain")
