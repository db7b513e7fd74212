"""Which partitions of a contract's table rows go to, and which will be needed soon. Pure.

A partition is named by its first day, as ISO text. Dates far from today share one, as the database decides
(etl.partition_range); here every month or day has its own.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from include.queue_etl.contract import Contract, Day, Month
from include.queue_etl.transform.batches import MaskedBatch
from include.queue_etl.transform.copy_text import Facts
from include.queue_etl.transform.parsing import value_getter

DAYS_AHEAD = 3


def of_rows(contract: Contract, events: Sequence[msgspec.Struct], facts: Facts) -> list[str]:
    """The partitions of the rows of these events, sorted; empty without partitions."""
    if not contract.partition_by:
        return []
    column = contract.column(contract.partition_by.column)
    if column is None or not column.attributes:  # the moment of sending
        return first_days(contract.partition_by, facts.days)
    return first_days(contract.partition_by, map(_day, set(map(value_getter(column), events))))


def _day(value: date) -> str:
    """The UTC day of a date or a moment, ISO text."""
    if not isinstance(value, datetime):
        return value.isoformat()
    try:
        return value.astimezone(UTC).date().isoformat()
    except OverflowError:  # within hours of the first or the last day that Python knows
        return value.date().isoformat()


def of_batch(contract: Contract, masked: MaskedBatch) -> list[str]:
    """The partitions that a batch needs; of a file of a version before, by the days it names.

    Such a file is of a contract whose column is the day of sending: there was no other.
    """
    if masked.partitions or not masked.accepted:
        return masked.partitions
    return first_days(contract.partition_by, masked.sent_days) if contract.partition_by else []


def first_days(partition_by: Month | Day, days: Iterable[str]) -> list[str]:
    """The first days of the partitions in which these days lie, each once, sorted."""
    if isinstance(partition_by, Month):
        return sorted({f"{day[:7]}-01" for day in set(days)})
    return sorted(set(days))


def ahead(partition_by: Month | Day, today: date) -> list[str]:
    """The partitions of today and of what comes next: the next month, or DAYS_AHEAD days."""
    if isinstance(partition_by, Month):
        next_month = today.replace(day=1) + timedelta(days=31)
        return first_days(partition_by, [today.isoformat(), next_month.isoformat()])
    return [(today + timedelta(days=number)).isoformat() for number in range(DAYS_AHEAD + 1)]
