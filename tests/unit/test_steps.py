"""What of the steps needs neither queue nor database: batches in groups, and when a batch is due."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl import steps
from include.queue_etl.settings import Settings
from include.queue_etl.sqs.client import Message
from include.queue_etl.steps import SEAL_SECONDS, grouped

SETTINGS = Settings(staging="/x", batch_messages=10, batch_bytes=1_000)


def batches(*sizes):
    return [{"batch": f"{number:04d}-abcdef", "messages": size} for number, size in enumerate(sizes)]


def sizes(groups):
    return [group["messages"] for group in groups]


def of(groups):
    return replace(SETTINGS, groups=groups)


def test_no_batches_make_no_group():
    assert grouped([], of(4)) == []


def test_a_group_has_the_name_of_its_batch():
    assert grouped(batches(10, 10), of(2)) == [
        {"name": "0000-abcdef", "batches": ["0000-abcdef"], "messages": 10},
        {"name": "0001-abcdef", "batches": ["0001-abcdef"], "messages": 10},
    ]


def test_small_batches_share_a_group_whose_name_counts_them():
    (group,) = grouped(batches(3, 3, 4), of(4))
    assert group["name"] == "0000-abcdef and 2 more"
    assert group["batches"] == ["0000-abcdef", "0001-abcdef", "0002-abcdef"]


@pytest.mark.parametrize(
    ("messages", "groups", "expected"),
    [
        ((10,) * 10, 4, [20, 30, 20, 30]),
        ((10,) * 10, 2, [50, 50]),
        ((10,) * 10, 1, [100]),
        ((10, 10, 10), 4, [10, 10, 10]),
        ((4, 4, 4, 4, 4), 4, [8, 12]),  # no more groups than full batches
        ((2, 19, 2), 2, [2, 21]),
    ],
)
def test_groups_are_of_about_one_size(messages, groups, expected):
    assert sizes(grouped(batches(*messages), of(groups))) == expected


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 8))
def test_every_batch_is_in_one_group_and_the_order_is_kept(messages, groups):
    found = grouped(batches(*messages), of(groups))
    assert [batch for group in found for batch in group["batches"]] == [
        batch["batch"] for batch in batches(*messages)
    ]
    assert len(found) <= min(groups, math.ceil(sum(messages) / 10))


def test_without_a_setting_there_are_as_many_groups_as_cores(monkeypatch):
    for cores, expected in ((1, 1), (2, 2), (64, 4), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert len(grouped(batches(*(10,) * 10), of(0))) == expected


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
