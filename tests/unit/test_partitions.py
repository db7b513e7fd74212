"""Which partitions rows go to: by month or by day."""

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import Contract, Day, Month, SentAt
from include.queue_etl.transform import partitions
from include.queue_etl.transform.batches import MaskedBatch
from include.queue_etl.transform.copy_text import Facts

DAYS = st.lists(st.dates().map(date.isoformat), max_size=20)
MONTH, DAY = Month("create_date"), Day("create_date")


def masked(*, accepted: int = 1, found: list[str] | None = None) -> MaskedBatch:
    days = ["2026-11-30", "2026-12-01"]
    return MaskedBatch(b"", b"", b"", accepted, {}, {}, days, 7, partitions=found or [])


@given(DAYS)
def test_every_day_lies_in_one_of_the_months(days: list[str]) -> None:
    found = partitions.first_days(MONTH, days)
    assert {day[:7] for day in days} == {first[:7] for first in found}
    assert all(first.endswith("-01") for first in found)
    assert found == sorted(set(found))


@given(DAYS)
def test_a_day_is_its_own_partition(days: list[str]) -> None:
    assert partitions.first_days(DAY, days) == sorted(set(days))


def sent_on(*days: str) -> Facts:
    return Facts([], days, [], [])


def test_rows_of_a_table_without_partitions_need_none() -> None:
    plain = replace(CONTRACT, partition_by=None)
    assert partitions.of_rows(plain, [], sent_on("2026-11-30")) == []
    assert partitions.of_rows(CONTRACT, [], sent_on("2026-11-30", "2026-11-01")) == ["2026-11-01"]


class Visit(msgspec.Struct):
    day: date
    moment: datetime


def test_rows_go_to_the_partition_of_their_own_day_or_moment_in_utc() -> None:
    visits = Contract("visits", "visits", "public.visits", Visit, (SentAt("sent_at"),))
    late = datetime(2026, 11, 30, 23, tzinfo=timezone(timedelta(hours=-2)))
    events = [Visit(date(2026, 1, 31), late), Visit(date(2026, 1, 2), late)]
    found = {
        column: partitions.of_rows(replace(visits, partition_by=kind(column)), events, sent_on("2025-05-05"))
        for column, kind in (("day", Month), ("moment", Day), ("sent_at", Month))
    }
    assert found == {"day": ["2026-01-01"], "moment": ["2026-12-01"], "sent_at": ["2025-05-01"]}


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])
def test_the_first_and_the_last_moment_have_a_day_too(moment: datetime) -> None:
    visits = Contract("visits", "visits", "public.visits", Visit, partition_by=Day("moment"))
    offset = timezone(timedelta(hours=14 if moment == datetime.min else -12))
    events = [Visit(date(2026, 1, 1), moment.replace(tzinfo=offset))]
    assert partitions.of_rows(visits, events, sent_on()) == [moment.date().isoformat()]


def test_a_batch_needs_what_it_says() -> None:
    assert partitions.of_batch(CONTRACT, masked(found=["2020-01-01"])) == ["2020-01-01"]


def test_a_batch_of_a_version_before_needs_the_months_it_was_sent_in() -> None:
    assert partitions.of_batch(CONTRACT, masked()) == ["2026-11-01", "2026-12-01"]
    assert partitions.of_batch(replace(CONTRACT, partition_by=None), masked()) == []


def test_a_batch_without_rows_needs_no_partition() -> None:
    assert partitions.of_batch(CONTRACT, masked(accepted=0)) == []


def test_a_masked_file_of_a_version_before_opens_as_new() -> None:
    fields = msgspec.to_builtins(masked(found=["2020-01-01"]))
    del fields["partitions"]
    assert msgspec.convert(fields, MaskedBatch) == masked()


@given(st.dates(max_value=date(9998, 12, 1)))
def test_this_month_and_the_next_are_made_ahead(today: date) -> None:
    first = today.replace(day=1)
    next_first = (first + timedelta(days=31)).replace(day=1)
    assert partitions.ahead(MONTH, today) == [str(first), str(next_first)]


def test_today_and_three_days_are_made_ahead() -> None:
    expected = ["2026-12-30", "2026-12-31", "2027-01-01", "2027-01-02"]
    assert partitions.ahead(DAY, date(2026, 12, 30)) == expected
