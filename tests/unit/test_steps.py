"""What of the steps needs neither queue nor database: batches in groups, and when a batch is due."""

from types import SimpleNamespace

import pytest

from include.queue_etl import steps
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.client import Message
from include.queue_etl.steps import SEAL_SECONDS, grouped

SETTINGS = Settings(staging="/x", batch_messages=10, batch_bytes=1_000)


def batches(*sizes):
    return [{"batch": f"{number:04d}-abcdef", "messages": size} for number, size in enumerate(sizes)]


def sizes(groups):
    return [group["messages"] for group in groups]


def test_no_batches_make_no_group():
    assert grouped([], 10) == []


def test_a_full_batch_is_a_group_of_its_own_and_has_its_name():
    found = grouped(batches(10, 10), 10)
    assert found == [
        {"name": "0000-abcdef", "batches": ["0000-abcdef"], "messages": 10},
        {"name": "0001-abcdef", "batches": ["0001-abcdef"], "messages": 10},
    ]


def test_small_batches_share_a_group_whose_name_counts_them():
    (group,) = grouped(batches(3, 3, 4), 10)
    assert group["name"] == "0000-abcdef and 2 more"
    assert group["batches"] == ["0000-abcdef", "0001-abcdef", "0002-abcdef"]


def test_a_group_is_never_larger_than_a_full_batch():
    assert sizes(grouped(batches(4, 4, 4, 4, 4), 10)) == [8, 8, 4]


def test_a_batch_larger_than_a_full_one_stands_alone():
    # One reply too many, or the setting was changed between two attempts.
    assert sizes(grouped(batches(2, 19, 2), 10)) == [2, 19, 2]


@pytest.mark.parametrize("given", [(1,) * 30, (10, 1, 9, 5, 5, 6), (7, 7, 7)])
def test_every_batch_is_in_one_group_and_the_order_is_kept(given):
    found = [batch for group in grouped(batches(*given), 10) for batch in group["batches"]]
    assert found == [batch["batch"] for batch in batches(*given)]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def messages(count, body=b"{}"):
    return [Message(f"id-{number}", f"receipt-{number}", body, 0, 1) for number in range(count)]


def test_messages_are_due_when_they_fill_a_batch(clock):
    intake = steps._Intake({})
    intake.add(messages(9))
    assert not intake.is_due(SETTINGS)
    intake.add(messages(1))
    assert intake.is_due(SETTINGS)


def test_messages_are_due_when_their_bodies_fill_a_batch(clock):
    intake = steps._Intake({})
    intake.add(messages(2, body=b"x" * 499))
    assert not intake.is_due(SETTINGS)
    intake.add(messages(1))
    assert intake.is_due(SETTINGS)


def test_messages_are_due_when_the_first_of_them_is_old(clock):
    intake = steps._Intake({})
    intake.add(messages(1))
    clock.now += SEAL_SECONDS - 0.1
    intake.add(messages(1))
    intake.add([])
    assert not intake.is_due(SETTINGS)
    clock.now += 0.2
    assert intake.is_due(SETTINGS)


def test_nothing_is_never_due(clock):
    intake = steps._Intake({})
    intake.add([])
    clock.now += 10 * SEAL_SECONDS
    assert not intake.is_due(SETTINGS)
