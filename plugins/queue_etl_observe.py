"""The engine's figures through Airflow's own metrics, and what a pass of the watch has from Airflow.

Nothing is emitted where the deployment has no metrics configured. Imports wait until a task needs them.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.contracts import LoadedContracts
    from include.queue_etl.contract import Contract
    from include.queue_etl.operations.metrics import Metric
    from include.queue_etl.operations.watch import Outside
    from include.queue_etl.run_context import RunContext

FLUSH_MILLISECONDS = 5_000  # a collector that is away holds a task no longer


def report_run(context: "RunContext", summary: Mapping[str, Any]) -> None:
    """Emit the figures of a closed run, given its line of etl.run_summary, and tell OpenLineage of it."""
    from queue_etl_lineage import tell_lineage

    from include.queue_etl.operations.metrics import of_run

    emit_all(of_run(summary))
    tell_lineage(context, summary)


def watch_from_airflow(loaded: "LoadedContracts") -> "Outside":
    """What a pass of the watch has from outside; raises SettingsError for a wrong QUEUE_ETL_ALERT_URLS."""
    from include.queue_etl.operations.notices import receivers
    from include.queue_etl.operations.watch import Outside

    return Outside(loaded.broken, receivers(os.environ), _cloudwatch_age, emit)


def emit_all(metrics: "Iterable[Metric]") -> None:
    """Emit each of them and send them off."""
    for metric in metrics:
        emit(metric)
    flush()


def emit(metric: "Metric") -> None:
    """Hand a figure to Airflow's metrics.

    StatsD without tags has no place for the contract but the name: `queue_etl.run.loaded.user_logins`.
    """
    from airflow.sdk.observability.stats import Stats

    record: Callable[..., None] = Stats.incr if metric.kind == "counter" else Stats.gauge
    value = int(metric.value) if metric.kind == "counter" else metric.value
    if _has_tags():
        record(metric.name, value, tags={"contract": metric.contract})
    else:
        record(f"{metric.name}.{metric.contract}", value)


def flush() -> None:
    """Send off what OpenTelemetry holds back: a task's process ends without its hooks at exit."""
    from airflow.sdk.configuration import conf

    if conf.getboolean("metrics", "otel_on", fallback=False):
        from opentelemetry import metrics

        force_flush = getattr(metrics.get_meter_provider(), "force_flush", None)
        if force_flush:
            force_flush(FLUSH_MILLISECONDS)


@cache
def _has_tags() -> bool:
    from airflow.sdk.configuration import conf

    def is_on(name: str) -> bool:
        return bool(conf.getboolean("metrics", name, fallback=False))

    plain = is_on("statsd_on") and not is_on("statsd_datadog_enabled")
    return not plain or is_on("statsd_influxdb_enabled")


def _cloudwatch_age(contract: "Contract") -> int | None:
    from queue_etl_connections import AWS, aws_session, cloudwatch_endpoint

    from include.queue_etl.sqs.age import oldest_age_seconds

    session = aws_session(contract.aws or AWS, contract.region)
    return oldest_age_seconds(session, contract.queue, cloudwatch_endpoint(contract.aws or AWS))
