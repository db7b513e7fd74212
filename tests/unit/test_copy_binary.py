"""Ledger entries say to Postgres what was meant; read back by a decoder written from the manual."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.transform import copy_binary
from tests.unit.copy_decoder import decoded_entries

RUN = UUID("00000000-0000-4000-8000-00000000000a")
ID = "11111111-2222-4333-8444-555555555555"
queues = st.integers(1, 32_767)
messages = st.lists(st.tuples(st.dates().map(str), st.uuids().map(str), st.sampled_from("LQ")), max_size=6)


def made(queue_id: int, given_messages) -> bytes:
    days, ids, statuses = ([message[at] for message in given_messages] for at in range(3))
    return copy_binary.entries(queue_id, RUN, days, ids, statuses)


@given(queues, messages)
def test_an_entry_says_queue_day_message_run_and_status(queue_id, given_messages):
    expected = [[str(queue_id), day, id_, str(RUN), status] for day, id_, status in given_messages]
    assert decoded_entries(made(queue_id, given_messages)) == expected


@given(messages)
def test_the_statuses_are_read_back_in_their_order(given_messages):
    assert list(copy_binary.statuses(made(7, given_messages))) == [status for _, _, status in given_messages]


@given(queues, queues, messages)
def test_entries_of_another_queue_differ_in_nothing_else(before, after, given_messages):
    assert copy_binary.of_queue(after, made(before, given_messages)) == made(after, given_messages)


@given(messages, st.sampled_from("LQ"))
def test_the_entries_of_a_status_are_those_and_in_their_order(given_messages, status):
    of_status = [message for message in given_messages if message[2] == status]
    assert copy_binary.of_status(status, made(7, given_messages)) == made(7, of_status)


@pytest.mark.parametrize(("days", "statuses"), [(["2026-01-31"], ""), (["2026-01-31"] * 2, "L")])
def test_entries_that_do_not_fit_together_are_an_error(days, statuses):
    with pytest.raises(ValueError, match="not one value for each entry"):
        copy_binary.entries(7, RUN, days, [ID], statuses)


def test_a_stream_has_the_signature_and_the_trailer_of_the_manual():
    sent = copy_binary.stream(b"entries")
    assert sent == b"PGCOPY\n\xff\r\n\0" + b"\0\0\0\0" * 2 + b"entries" + b"\xff\xff"
