"""What became of the messages of any contender, and what they cost, beside ours."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.airflow_runs import DAG, TaskTimes
from tests.bench.feed import Feed
from tests.bench.scratch import Database

DAGS = {
    "ours": DAG,
    "before": DAG,
    "sensible": "bench_sensible",
    "naive": "bench_naive",
    "stock": "bench_stock",
}
LABELS = {"before": "ours, code before", "stock": "SqsSensor and a task"}
# Contenders that take long get one message of so many: what they take for one does not change.
PARTS = {"naive": 5, "stock": 10}
SENDER = "fresh"  # user ids of a sender beside the feed begin with it
# Personal values are masked in each contender's own way, and so are not compared.
ROWS = f"""
    SELECT user_id, device_type, locale, app_version, count(*) FROM public.user_logins
    WHERE user_id NOT LIKE '{SENDER}-%' GROUP BY 1, 2, 3, 4
"""  # noqa: S608
QUARANTINED = "SELECT count(*) FROM etl.quarantine"


@dataclass(frozen=True)
class Outcome:
    """Where the messages are.

    Attributes:
        lost: neither a row nor in quarantine, nor on the queue
        doubled: rows more than there should be
        left: on the queue
    """

    lost: int
    doubled: int
    left: int


@dataclass(frozen=True)
class DagRun:
    """One run of a contender's DAG.

    Attributes:
        seconds: from trigger to success
        cpu_seconds: until then, by part: Airflow's, of which the scheduler has the tasks, and Postgres
        requests: calls of SQS, by action
        tasks: in order of their start
    """

    contender: str
    messages: int
    seconds: float
    cpu_seconds: dict[str, float]
    requests: dict[str, int]
    outcome: Outcome
    tasks: dict[str, TaskTimes]

    @property
    def cpu(self) -> float:
        """All parts together, per message."""
        return sum(self.cpu_seconds.values()) / self.messages


def share(contender: str, messages: int) -> int:
    """How many of the messages a contender gets."""
    return max(1, messages // PARTS.get(contender, 1))


def outcome(database: Database, feed: Feed, left: int) -> Outcome:
    """Compare the table with what was sent; a row counts for the event that it shows."""
    expected: Counter[tuple[Any, ...]] = Counter()
    for event, times in feed.events:
        major = int(event["app_version"].split(".")[0])
        expected[event["user_id"], event["device_type"], event["locale"], major] += times
    found = Counter({tuple(row): int(count) for *row, count in database.rows(ROWS)})
    missing = (expected - found).total() + feed.rejected - int(database.rows(QUARANTINED)[0][0])
    return Outcome(lost=missing - left, doubled=(found - expected).total(), left=left)


def as_json(runs: Sequence[DagRun]) -> dict[str, Any]:
    """What each contender takes for a million messages, and how many times ours; medians of the rounds.

    Only of the runs with most messages: in small ones Airflow's start of a task is all there is.
    """
    most = max(run.messages for run in runs)
    by_contender: dict[str, list[DagRun]] = {}
    for run in runs:
        if run.messages == share(run.contender, most):
            by_contender.setdefault(run.contender, []).append(run)
    figures = {name: _figures(of_one) for name, of_one in by_contender.items()}
    ours = figures["ours"]
    for one in figures.values():
        one["cpu_ratio"] = round(one["cpu_s_per_million"] / ours["cpu_s_per_million"], 2)
        one["wall_ratio"] = round(ours["messages_per_s"] / one["messages_per_s"], 2)
    return figures


def table(runs: Sequence[DagRun]) -> str:
    """The same for people."""
    line = "{:<22}{:>9}{:>10}{:>10}{:>10}{:>12}{:>7}{:>9}{:>7}".format
    names = ("messages", "Airflow", "Postgres", "/ ours", "messages/s", "lost", "doubled", "left")
    head = line("CPU s per 1M messages", *names)
    rows = [
        line(
            LABELS.get(name, name),
            f"{one['messages']:,}",
            f"{one['airflow_cpu_s_per_million']:.1f}",
            f"{one['postgres_cpu_s_per_million']:.1f}",
            f"{one['cpu_ratio']:.2f}",
            f"{one['messages_per_s']:,.0f}",
            one["lost"],
            one["doubled"],
            one["left"],
        )
        for name, one in as_json(runs).items()
    ]
    return "\n".join(["As DAGs under one scheduler, with all of Airflow's processes", head, *rows])


def _figures(runs: Sequence[DagRun]) -> dict[str, Any]:
    million = 1e6 / runs[0].messages
    postgres = _median(run.cpu_seconds["postgres"] for run in runs) * million
    whole = _median(run.cpu for run in runs) * 1e6
    return {
        "messages": runs[0].messages,
        "cpu_s_per_million": round(whole, 1),
        "airflow_cpu_s_per_million": round(whole - postgres, 1),
        "postgres_cpu_s_per_million": round(postgres, 1),
        "messages_per_s": round(runs[0].messages / _median(run.seconds for run in runs), 1),
        "requests_per_million": round(_median(sum(run.requests.values()) for run in runs) * million),
        "lost": sum(run.outcome.lost for run in runs),
        "doubled": sum(run.outcome.doubled for run in runs),
        "left": sum(run.outcome.left for run in runs),
    }


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
