"""One job for the contracts of all warehouses: it runs once in each, with the contracts that load it.

A warehouse has connections and a staging folder of its own, so that a job in it sees nothing of another one.
The default warehouse has no name, and is always there.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueEtlError, SettingsError
from include.queue_etl.resources import Resources
from include.queue_etl.settings import Settings, read_all

Contracts = Mapping[str, Contract]
# Given the name of a warehouse and its contracts; raises SettingsError.
Opening = Callable[[str, Contracts], Resources]
Job = Callable[[Resources, Contracts], dict[str, int]]
log = logging.getLogger(__name__)


def of_warehouse(name: str, warehouse: str) -> str:
    """The connection of that name for a warehouse: `postgres_default__orders`, `..._DSN__ORDERS`."""
    if not warehouse:
        return name
    return f"{name}__{warehouse.upper() if name.isupper() else warehouse}"


def staging_of(settings: Settings, warehouse: str) -> Settings:
    """The settings with the warehouse's own folder below that of the default one."""
    return replace(settings, staging=f"{settings.staging.rstrip('/')}/{warehouse}") if warehouse else settings


def named(warehouse: str, contracts: Iterable[str]) -> str:
    """Which warehouse, and who needs it, for people; nothing for the default one."""
    return f" of warehouse {warehouse} (contract {', '.join(contracts)})" if warehouse else ""


def by_warehouse(contracts: Contracts) -> dict[str, Contracts]:
    """Each warehouse with its contracts, the default one first."""
    names = ["", *sorted({contract.warehouse for contract in contracts.values()} - {""})]
    return {
        warehouse: {name: one for name, one in contracts.items() if one.warehouse == warehouse}
        for warehouse in names
    }


@contextmanager
def all_open(contracts: Contracts, opening: Opening) -> Iterator[list[tuple[Resources, Contracts]]]:
    """The resources of every warehouse, with its contracts; raises SettingsError with all that they lack."""
    groups = by_warehouse(contracts)
    opened = _read_all(partial(opening, warehouse, own) for warehouse, own in groups.items())
    with ExitStack() as stack:
        for resources in opened:
            stack.enter_context(resources)
        yield list(zip(opened, groups.values(), strict=True))


def _read_all(readers: Iterable[Callable[[], Resources]]) -> list[Resources]:
    try:
        return read_all(*readers)
    except SettingsError as error:
        # What they share, such as the keyset, is missing for each.
        raise SettingsError(list(dict.fromkeys(error.problems))) from None


def in_each(contracts: Contracts, opening: Opening, job: Job) -> dict[str, int]:
    """Do a job in every warehouse; one that fails does not keep the others from it.

    Returns:
        the counts of all, added up

    Raises:
        SettingsError: what any warehouse lacks, where that is all that went wrong
        QueueEtlError: of the first warehouse that failed, after the last
    """
    counts: Counter[str] = Counter()
    failures: list[QueueEtlError] = []
    groups = by_warehouse(contracts)
    for warehouse, own in groups.items():
        try:
            with opening(warehouse, own) as resources:
                counts.update(job(resources, own))
        except QueueEtlError as error:
            failures.append(error)
            if len(groups) > 1:  # one of them is raised, and would name no warehouse
                log.error("warehouse %s: %s", warehouse or "(default)", error)
    if failures:
        raise _of_all(failures)
    return dict(counts)


def _of_all(failures: Sequence[QueueEtlError]) -> QueueEtlError:
    problems = [
        problem for error in failures if isinstance(error, SettingsError) for problem in error.problems
    ]
    if all(isinstance(error, SettingsError) for error in failures):
        return SettingsError(list(dict.fromkeys(problems)))
    return failures[0]
