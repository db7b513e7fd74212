"""Erase, unmask, remask and keys in the warehouses of all contracts.

Each warehouse has an audit and an hour's allowance of its own. All that is not ready in any of them is listed
before anything is done in one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from include.queue_etl.contract import Contract
from include.queue_etl.errors import PreflightError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy import erase as erasure
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy import unmask as recovery
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.subjects import Search
from include.queue_etl.resources import Resources

Found = TypeVar("Found")


class Part(NamedTuple):
    """One warehouse with the contracts that load it, and its audit."""

    resources: Resources
    contracts: Mapping[str, Contract]
    audit: AuditLog

    @classmethod
    def of(cls, opened: tuple[Resources, Mapping[str, Contract]]) -> "Part":
        """A warehouse that is open, with its audit."""
        resources, contracts = opened
        return cls(resources, contracts, AuditLog(resources.database))

    def searches(self, kind: str, value: str) -> list[Search]:
        """For a value of that kind, one in each contract."""
        return [Search.of_kind(contract, kind, value) for contract in self.contracts.values()]


def erase(
    parts: Sequence[Part], kind: str, value: str, purpose: Purpose, *, dry_run: bool = True
) -> dict[str, dict[str, int]]:
    """As `erase_everywhere`, in one warehouse after the other.

    Raises:
        PreflightError: with the problems of all warehouses; nothing was done
        WarehouseUnavailable, WarehouseRefused, StagingUnavailable: a repetition does the rest
    """
    parts = [part for part in parts if part.contracts]
    _in_all(parts, lambda part: erasure.ready(part.resources, part.searches(kind, value)))
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        searches = part.searches(kind, value)
        counts |= erasure.erase_everywhere(part.resources, part.audit, searches, purpose, dry_run=dry_run)
    return counts


def unmask(
    parts: Sequence[Part], kind: str, value: str, purpose: Purpose
) -> Iterator[recovery.ValueAnywhere]:
    """All values in the rows that hold a value of that kind; put on record everywhere before one is opened.

    Raises:
        PreflightError: with the problems of all warehouses; nothing was read
        RateExceeded: more tokens than the hour of one warehouse has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was opened
    """
    parts = [part for part in parts if part.contracts]
    _in_all(parts, lambda part: part.resources.require_schema())
    found = _in_all(parts, lambda part: recovery.find(part.resources, part.searches(kind, value)))
    opened = [
        recovery.unmask_everywhere(part.resources, part.audit, kind, own, purpose)
        for part, own in zip(parts, found, strict=True)
    ]
    return chain.from_iterable(opened)


def remask(parts: Sequence[Part], purpose: Purpose) -> dict[str, int]:
    """As `rotation.remask`, in one warehouse after the other; the counts of all, added up."""
    _in_all(parts, lambda part: part.resources.require_schema())
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(rotation.remask(part.resources, part.audit, part.contracts, purpose))
    return dict(counts)


def status(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """As `rotation.status`: each key once, with what uses it in every warehouse."""
    keys: dict[int, dict[str, Any]] = {}
    for part in parts:
        for key in rotation.status(part.resources, part.contracts):
            keys[key["key_id"]] = _merged(keys.get(key["key_id"]), key)
    return list(keys.values())


def _merged(known: dict[str, Any] | None, key: dict[str, Any]) -> dict[str, Any]:
    if known is None:
        return key
    first = [one["first_used_at"] for one in (known, key) if one["first_used_at"]]
    return {
        **known,
        "first_used_at": min(first, default=None),
        "retired_at": known["retired_at"] or key["retired_at"],
        "in_use": {**known["in_use"], **key["in_use"]},
    }


def retire(
    parts: Sequence[Part], key_id: int, purpose: Purpose, abandon_one_way: bool = False
) -> KeysetDocument:
    """As `rotation.retire`: refused where one warehouse uses the key, or cannot be asked.

    The key is then retired in none of them.
    """
    _in_all(parts, lambda part: part.resources.require_schema())
    with ExitStack() as held:
        documents = [
            held.enter_context(
                rotation.retiring(part.resources, part.contracts, key_id, abandon_one_way=abandon_one_way)
            )
            for part in parts
        ]
        for part in parts:
            part.audit.record("destroy key", purpose, {"key_id": key_id})
    return documents[0]


def _in_all(parts: Sequence[Part], check: Callable[[Part], Found]) -> list[Found]:
    """What each check returns; raises PreflightError with the problems of all."""
    found, problems = [], list[str]()
    for part in parts:
        try:
            found.append(check(part))
        except PreflightError as error:
            where = f"warehouse {part.resources.warehouse}: " if part.resources.warehouse else ""
            problems += [f"{where}{problem}" for problem in error.problems]
    if problems:
        raise PreflightError(problems)
    return found
