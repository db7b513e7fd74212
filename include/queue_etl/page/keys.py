"""How far a remask has come, by a sample of each column; what of the tables expires."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError
from include.queue_etl.page.store import SAMPLED_PAGES, KeyLine, PageStore, PartitionLine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampledColumn:
    """Tokens of a column, as far as they were looked at.

    Attributes:
        sampled: key id -> tokens of the sample
        newest_key: the key that masks now
        scale: how many times larger the table is than its sample; 1: all was looked at
    """

    name: str
    sampled: Mapping[int, int]
    newest_key: int | None
    scale: float

    @property
    def looked_at(self) -> int:
        """Tokens of the sample."""
        return sum(self.sampled.values())

    @property
    def older(self) -> int:
        """Tokens of the whole column that another key made: estimated where `scale` is above 1."""
        others = (count for key, count in self.sampled.items() if key != self.newest_key)
        return round(sum(others) * self.scale)

    @property
    def done(self) -> float | None:
        """Share of the tokens that the newest key made; None where there are none."""
        if not self.looked_at:
            return None
        return self.sampled.get(self.newest_key or 0, 0) / self.looked_at


def newest_key(keys: Sequence[KeyLine]) -> int | None:
    """The key that masks now: the one in use that came last. None where no key ever masked.

    The page has no keyset to ask. A key that was promoted is known with the first run that masks with it.
    """
    used = [key for key in keys if key.retired_at is None]
    return max(used, key=lambda key: key.first_used_at).key_id if used else None


def scale_of(pages: int) -> float:
    """How many times larger a table of so many pages is than its sample."""
    return max(1.0, pages / SAMPLED_PAGES)


def older(columns: Iterable[SampledColumn]) -> int:
    """Tokens of all columns that still have an older key."""
    return sum(column.older for column in columns)


def sampled_columns(
    store: PageStore, contracts: Iterable[Contract], sizes: Sequence[PartitionLine], key_id: int | None
) -> list[SampledColumn]:
    """The columns of tokens with a sample of each; those that cannot be sampled are left out."""
    found = []
    for contract in contracts:
        scale = scale_of(sum(line.pages for line in sizes if line.table == contract.table))
        for column in contract.columns:
            if not column.is_token:
                continue
            place = f"{contract.table}.{column.name}"
            try:
                sample = store.sampled_keys(contract.table, column.name)
            except QueueEtlError as error:
                log.info("no sample of %s: %s", place, error)
            else:
                found.append(SampledColumn(place, sample, key_id, scale))
    return found


def expiring(contracts: Iterable[Contract], sizes: Sequence[PartitionLine]) -> list[dict[str, Any]]:
    """Each table whose partitions are dropped some day, with the oldest of them."""
    found = []
    for contract in contracts:
        parts = [line for line in sizes if line.table == contract.table and line.bounds]
        if contract.retain_days and parts:
            oldest = min(parts, key=lambda line: line.name)
            found.append({"table": contract.table, "days": contract.retain_days, "oldest": oldest})
    return found
