"""Figures for monitoring: names, kinds and units, as docs/operations.md lists them. Pure.

Who emits them is given from outside: Airflow's own metrics, or nobody.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from include.queue_etl.operations.causes import Seen

STAGES = ("extract_seconds", "mask_seconds", "load_seconds", "finish_seconds", "total_seconds")
COUNTED = ("received", "loaded", "quarantined", "duplicates", "deleted", "delete_failed")


class Metric(NamedTuple):
    """One figure.

    Attributes:
        name: such as `queue_etl.run.loaded`; its unit is messages where it does not end in another
        kind: a `counter` is added to what was before, a `gauge` replaces it
        contract: whose figure it is; of `queue_etl.alerts.open` the warehouse
    """

    name: str
    kind: Literal["counter", "gauge"]
    value: float
    contract: str


def of_run(summary: Mapping[str, Any]) -> Iterator[Metric]:
    """The figures of a closed run.

    Args:
        summary: its line of etl.run_summary
    """
    contract = summary["contract"]
    yield Metric(f"queue_etl.run.{summary['state']}", "counter", 1, contract)
    for name in COUNTED:
        yield Metric(f"queue_etl.run.{name}", "counter", summary[name] or 0, contract)
    for name in STAGES:
        if summary[name] is not None:
            yield Metric(f"queue_etl.run.{name}", "gauge", summary[name], contract)


def of_queue(contract: str, seen: Seen) -> Iterator[Metric]:
    """What the watch saw of a contract; of a queue that could not be asked only that."""
    queue = seen.queue
    yield Metric("queue_etl.queue.up", "gauge", 0 if queue is None else 1, contract)
    yield Metric("queue_etl.quarantine.waiting_1d", "gauge", seen.runs.quarantined, contract)
    if queue is None:
        return
    for name in ("visible", "in_flight", "delayed", "dead_letters", "retention_seconds"):
        value = getattr(queue, name)
        if value is not None:
            yield Metric(f"queue_etl.queue.{name}", "gauge", value, contract)
    # 0 where nothing waits: the age of before would stay on the screen.
    yield Metric("queue_etl.queue.oldest_age_seconds", "gauge", seen.oldest_age or 0, contract)


def open_alerts(warehouse: str, count: int) -> Metric:
    """How many alerts are open in a warehouse; the default one is called so."""
    return Metric("queue_etl.alerts.open", "gauge", count, warehouse or "default")
