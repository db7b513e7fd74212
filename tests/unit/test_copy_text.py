"""COPY text says to Postgres exactly what was meant; read back by a decoder written from the manual."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT, LoginEvent
from include.queue_etl.transform import copy_text
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS
from tests.contracts.newsletter_signups import SignupEvent
from tests.unit.copy_decoder import decoded

values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
awkward = st.text(st.sampled_from(list("\\\t\n\r.N\b\f\v\x07\x1b\u0085\u2028é😀x ")), max_size=12)
fields = st.one_of(st.none(), values, awkward)
versions = st.one_of(st.none(), st.integers(0, 2**31 - 1).map(str))
events = st.builds(LoginEvent, st.one_of(values, awkward), fields, fields, fields, fields, versions)


def plainly(masked, column, nothing):
    """In place of tokens, so that the values can be compared."""
    return [nothing if value is None else f"{masked.field}{len(value)}" for value in column]


def facts(*days):
    """Of messages sent on these days."""
    count = len(days)
    return copy_text.Facts(["id"] * count, days, [0] * count, [1] * count)


@given(st.lists(events, max_size=6))
def test_rows_come_back_as_they_were(given_events):
    days = [f"2026-01-{number + 1:02}" for number in range(len(given_events))]
    lines = copy_text.row_lines(CONTRACT, given_events, facts(*days), plainly)
    assert decoded(lines) == [
        [
            event.user_id,
            event.device_type,
            event.ip and f"ip{len(event.ip)}" if event.ip != "" else "ip0",
            event.device_id and f"device_id{len(event.device_id)}" if event.device_id != "" else "device_id0",
            event.locale,
            event.app_version,
            day,
        ]
        for event, day in zip(given_events, days, strict=True)
    ]


@given(st.one_of(values, awkward))
def test_any_text_stays_one_value(text):
    event = LoginEvent(text, text, None, None, None, None)
    (row,) = decoded(copy_text.row_lines(CONTRACT, [event], facts("2026-01-01"), plainly))
    assert row[:2] == [text, text]


@pytest.mark.parametrize("text", [r"\N", r"\.", "\\", "\\\\", "a\\", "\\t", "\t", "\r\n", "\\\n"])
def test_what_means_something_to_copy_is_a_text_all_the_same(text):
    event = LoginEvent(text, None, None, None, text, None)
    lines = copy_text.row_lines(CONTRACT, [event, event], facts("2026-01-01", "2026-01-01"), plainly)
    assert [[row[0], row[4]] for row in decoded(lines)] == [[text, text]] * 2


def test_null_and_the_empty_text_are_two_things():
    event = LoginEvent("u", "", None, None, None, None)
    (row,) = decoded(copy_text.row_lines(CONTRACT, [event], facts("2026-01-01"), plainly))
    assert (row[1], row[4]) == ("", None)


def test_the_columns_stand_in_the_order_of_the_contract():
    event = SignupEvent("ann@example.org", "weekly", "yes")
    lines = copy_text.row_lines(SIGNUPS, [event], facts("2026-01-31"), plainly)
    assert lines == b"email15\tweekly\tTrue\t\\N\t2026-01-31\n"


def test_no_events_make_no_text():
    assert copy_text.row_lines(CONTRACT, [], facts(), plainly) == b""


@pytest.mark.parametrize("days", [[], ["2026-01-01"] * 2])
def test_days_that_do_not_match_the_events_are_an_error_not_a_shift(days):
    with pytest.raises(ValueError, match="zip"):
        copy_text.row_lines(CONTRACT, [LoginEvent("u", None, None, None, None, None)], facts(*days), plainly)


def test_tokens_that_do_not_match_the_events_are_an_error_not_a_shift():
    with pytest.raises(ValueError, match="zip"):
        copy_text.row_lines(
            CONTRACT,
            [LoginEvent("u", None, None, None, None, None)],
            facts("2026-01-01"),
            lambda masked, column, nothing: [],
        )


# Days -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 253_402_300_799_999))
def test_the_sent_day_is_the_utc_date(milliseconds):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert copy_text.sent_days([milliseconds]) == [moment.date().isoformat()]


@pytest.mark.parametrize(
    ("milliseconds", "day"),
    [
        (0, "1970-01-01"),
        (1_769_903_999_999, "2026-01-31"),
        (1_769_904_000_000, "2026-02-01"),
        (1_709_164_800_000, "2024-02-29"),
    ],
)
def test_a_day_ends_at_midnight_utc(milliseconds, day):
    assert copy_text.sent_days([milliseconds]) == [day]


def test_messages_of_several_days_have_each_its_own():
    sent_ms = [1_769_904_000_000, 1_769_903_999_999, 0, 1_769_904_000_001]
    assert copy_text.sent_days(sent_ms) == ["2026-02-01", "2026-01-31", "1970-01-01", "2026-02-01"]
    assert copy_text.sent_days([]) == []
