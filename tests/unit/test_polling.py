"""The controller of receive calls against simulated queues: it keeps up, and it does not waste calls."""

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from include.queue_etl.sqs.polling import LONGEST_PAUSE_SECONDS, PollController

MOST = 32
SECONDS = 30.0


@dataclass
class Simulation:
    """A queue that gets messages at random moments, and long polls on it as the controller wants them.

    Attributes:
        rate: messages a second
        round_trip: seconds of a call apart from the waiting
        uneven: answers hold one to ten messages at random, whatever waits
        waiting: messages on the queue
    """

    rate: float
    round_trip: float
    uneven: bool = False
    waiting: int = 0
    wait_seconds: float = 2.0
    controller: PollController = field(default_factory=lambda: PollController(MOST))
    received: int = 0
    calls: int = 0
    empty: int = 0
    most_under_way: int = 0

    def run(self, seconds: float = SECONDS, seed: int = 1) -> "Simulation":
        self.dice, self.numbers, self.under_way = random.Random(seed), itertools.count(), 0
        self.events: list[Any] = []
        self.blocked: list[Any] = []
        if self.rate:
            self._at(self.dice.expovariate(self.rate), self._message)
        self._fill(0.0)
        while self.events and self.events[0][0] <= seconds:
            moment, _, what = heapq.heappop(self.events)
            what(moment)
        return self

    def _at(self, moment, what):
        heapq.heappush(self.events, (moment, next(self.numbers), what))

    def _message(self, now):
        self.waiting += 1
        self._at(now + self.dice.expovariate(self.rate), self._message)
        if self.blocked:
            self.blocked.pop(0)
            self._answer(now)

    def _fill(self, now):
        while self.under_way < self.controller.calls:
            self.under_way += 1
            self.calls += 1
            self._at(now + self.controller.pause_seconds + self.round_trip / 2, self._poll)
        self.most_under_way = max(self.most_under_way, self.under_way)

    def _poll(self, now):
        if self.waiting:
            self._answer(now)
            return
        poll = object()
        self.blocked.append(poll)
        self._at(now + self.wait_seconds, lambda later: self._give_up(poll, later))

    def _give_up(self, poll, now):
        if poll in self.blocked:
            self.blocked.remove(poll)
            self._at(now + self.round_trip / 2, lambda later: self._answered(0, later))

    def _answer(self, now):
        taken = min(10, self.waiting, self.dice.randint(1, 10) if self.uneven else 10)
        self.waiting -= taken
        self._at(now + self.round_trip / 2, lambda later: self._answered(taken, later))

    def _answered(self, messages, now):
        self.under_way -= 1
        self.received += messages
        self.empty += not messages
        self.controller.answered(10, messages)
        self._fill(now)


ROUND_TRIPS = (0.003, 0.015, 0.1)


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("rate", [1, 3, 10, 30, 100, 300, 1000])
def test_it_keeps_up_with_what_arrives(rate, round_trip):
    run = Simulation(rate, round_trip).run()
    assert run.waiting <= max(10, rate * 0.5)


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("rate", [10, 30, 100, 300, 1000])
def test_it_keeps_up_although_answers_hold_less_than_there_is(rate, round_trip):
    run = Simulation(rate, round_trip, uneven=True).run()
    assert run.waiting <= 5 * rate


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("rate", [0.2, 1, 3])
def test_a_trickle_costs_about_two_calls_a_second(rate, round_trip):
    run = Simulation(rate, round_trip).run()
    assert run.calls <= 2.1 * SECONDS + 5
    assert run.empty <= 2 * SECONDS
    assert run.most_under_way <= 2


@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("rate", [10, 30, 100, 300, 1000])
def test_a_call_brings_three_messages_or_more_on_average(rate, round_trip):
    run = Simulation(rate, round_trip).run()
    assert run.received >= 3 * run.calls


def test_a_long_round_trip_takes_many_calls_at_once_and_a_short_one_few():
    assert Simulation(300, 0.1).run().most_under_way >= 6
    assert Simulation(300, 0.003).run().most_under_way <= 6


@pytest.mark.parametrize("uneven", [False, True])
def test_a_deep_queue_gets_every_call_allowed_within_a_second(uneven):
    run = Simulation(0, 0.015, uneven=uneven, waiting=1_000_000).run(seconds=1)
    assert run.controller.calls == MOST


def test_an_empty_queue_gets_one_call_at_a_time():
    run = Simulation(0, 0.015, waiting=5_000).run()
    assert run.controller.calls == 1


def test_a_burst_after_a_trickle_is_met_within_two_seconds():
    run = Simulation(1, 0.015).run()
    burst = Simulation(0, 0.015, waiting=1_000_000, controller=run.controller).run(seconds=2)
    assert burst.controller.calls == MOST


@pytest.mark.parametrize("rate", [0.2, 1, 10, 100])
def test_no_pause_is_longer_than_half_a_second(rate):
    run = Simulation(rate, 0.015).run()
    assert run.controller.pause_seconds <= LONGEST_PAUSE_SECONDS


def test_never_more_calls_than_allowed_and_never_none():
    dice = random.Random(1)
    controller = PollController(3)
    for _ in range(2_000):
        controller.answered(10, dice.randint(0, 10))
        assert 1 <= controller.calls <= 3
        assert controller.calls == 1 or controller.pause_seconds == 0


@pytest.mark.parametrize("rate", [0.5, 5, 300])
def test_it_knows_that_it_has_caught_up_with_senders(rate):
    assert Simulation(rate, 0.02).run().controller.has_caught_up


@pytest.mark.parametrize("uneven", [False, True])
def test_a_deep_queue_is_not_caught_up_with(uneven):
    assert not Simulation(0, 0.02, uneven, waiting=1_000_000).run().controller.has_caught_up
