"""Which partitions of a contract's table rows go to, and which will be needed soon. Pure.

A partition is named by its first day, as ISO text. Dates far from today share one, as the database decides
(etl.partition_range); here every month or day has its own.
"""

from collections.abc import Iterable
from datetime import date, timedelta

from include.queue_etl.contract import Contract, Day, Month
from include.queue_etl.transform.batches import MaskedBatch

DAYS_AHEAD = 3


def of_rows(contract: Contract, sent_days: Iterable[str]) -> list[str]:
    """The partitions of rows whose messages were sent on these days, sorted; empty without partitions."""
    return first_days(contract.partition_by, sent_days) if contract.partition_by else []


def of_batch(contract: Contract, masked: MaskedBatch) -> list[str]:
    """The partitions that a batch needs; of a file of a version before, by the days it names.

    Such a file is of a contract whose column is the day of sending: there was no other.
    """
    if masked.partitions or not masked.accepted:
        return masked.partitions
    return of_rows(contract, masked.sent_days)


def first_days(partition_by: Month | Day, days: Iterable[str]) -> list[str]:
    """The first days of the partitions in which these days lie, each once, sorted."""
    if isinstance(partition_by, Month):
        return sorted({f"{day[:7]}-01" for day in days})
    return sorted(set(days))


def ahead(partition_by: Month | Day, today: date) -> list[str]:
    """The partitions of today and of what comes next: the next month, or DAYS_AHEAD days."""
    if isinstance(partition_by, Month):
        next_month = today.replace(day=1) + timedelta(days=31)
        return first_days(partition_by, [today.isoformat(), next_month.isoformat()])
    return [(today + timedelta(days=number)).isoformat() for number in range(DAYS_AHEAD + 1)]
