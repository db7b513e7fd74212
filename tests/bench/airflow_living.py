"""The DAG with its default settings, as the scheduler runs it by itself: freshness, and a backlog.

Freshness: a sender goes on all the while; a row's time is that of its commit in Postgres. Backlog: all
messages appear on the queue at once and nobody touches anything; from the first receive until as many have
been deleted.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import boto3

from devstack import processes
from devstack.console import Console
from devstack.settings import Settings
from include.contracts.user_logins import CONTRACT
from tests.bench import airflow_race, airflow_servers
from tests.bench.airflow_race import SENDER, Outcome
from tests.bench.airflow_runs import DAG, RunFailed
from tests.bench.airflow_servers import AirflowServers
from tests.bench.feed import Feed, feed
from tests.support.traffic import Sent, traffic

PARSED_WITHIN_SECONDS = 120
DRAINED_WITHIN_SECONDS = 7_200  # cron every five minutes takes 50 minutes for a million
OWN = {"GetQueueAttributes", "ShowHeld", "Statistics", "SendMessageBatch", "GetQueueUrl"}
TIMES = f"""
    SELECT user_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::double precision * 1000
    FROM public.user_logins WHERE user_id LIKE '{SENDER}-%'
"""  # noqa: S608
OF_SENDER = f"""
    SELECT count(*), count(DISTINCT user_id) FROM public.user_logins WHERE user_id LIKE '{SENDER}-%'
"""  # noqa: S608
RUNS = "SELECT count(*) FROM dag_run WHERE dag_id = %s"


@dataclass(frozen=True)
class Freshness:
    """Seconds from just before a message is sent to the commit of its row.

    Attributes:
        rate: messages a second
        dag_runs: that were made meanwhile
        drained_after: seconds from the last message sent to an empty queue
        cpu_seconds: by part, of the whole time
        requests: calls of SQS by action, without those of the sender
    """

    rate: float
    sent: int
    lost: int
    doubled: int
    p50: float
    p95: float
    most: float
    dag_runs: int
    drained_after: float
    cpu_seconds: dict[str, float]
    requests: dict[str, int]


@dataclass(frozen=True)
class Backlog:
    """A backlog that drained by itself: as many messages have been deleted as there were.

    Attributes:
        messages: deleted by then; at least as many as there were
        rate: messages a second that a sender added meanwhile
        sent: those messages
        noticed_after: seconds from the messages' appearance to the first receive
        seconds: from the first receive until then
        outcome: when the queue was empty
    """

    messages: int
    rate: float
    sent: int
    noticed_after: float
    seconds: float
    messages_per_s: float
    outcome: Outcome
    dag_runs: int
    cpu_seconds: dict[str, float]
    requests: dict[str, int]


@dataclass
class Use:
    """What was used while a block ran; filled at its end."""

    dag_runs: int = 0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)


def measure(options: argparse.Namespace, base: Settings, console: Console) -> dict[str, Any]:
    """What the options ask for, on a stack of its own: JSON of `backlog` and of `freshness`, by rate."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    held = feed(options.backlog or 0)
    with airflow_servers.running(
        base, console, held=held, latency_ms=options.latency, schedule=True
    ) as servers:
        ready(servers)
        if options.backlog:
            with console.step(f"a backlog of {options.backlog:,} messages"):
                found["backlog"] = asdict(backlog(servers, held, (options.rates or [0.0])[0]))
            servers.empty()
        for rate in (options.rates or [1.0]) if options.freshness else []:
            with console.step(f"{rate:g} messages a second for {options.seconds} s"):
                found.setdefault("freshness", []).append(asdict(freshness(servers, rate, options.seconds)))
            servers.empty()
    return found


def ready(servers: AirflowServers) -> None:
    """Wait until Airflow knows the DAG, and leave the schedule to it alone: the stub has one queue.

    Raises:
        RunFailed: it does not know it in time
    """
    if not processes.wait_until(servers.airflow.knows, PARSED_WITHIN_SECONDS, every=0.5):
        raise RunFailed(f"Airflow has not parsed {DAG} within {PARSED_WITHIN_SECONDS} s")
    servers.airflow.pause(dag for dag in servers.airflow.dags() if dag != DAG)


def freshness(servers: AirflowServers, rate: float, seconds: float) -> Freshness:
    """Send so many messages a second for so long, then wait until all are rows.

    Raises:
        RunFailed: messages are left after DRAINED_WITHIN_SECONDS
    """
    with _use(servers) as use:
        with _sender(servers, rate) as sent:
            time.sleep(seconds)
        drained_after = _drained(servers)
    found = [(user, float(ms)) for user, ms in servers.database.rows(TIMES)]
    rows = dict(found)
    waits = sorted((rows[user] - ms) / 1000 for user, ms in sent.messages.items() if user in rows)
    return Freshness(
        rate=rate,
        sent=sent.count,
        lost=len(sent.messages.keys() - rows.keys()),
        doubled=len(found) - len(rows),
        p50=_quantile(waits, 0.5),
        p95=_quantile(waits, 0.95),
        most=_quantile(waits, 1),
        drained_after=round(drained_after, 1),
        **asdict(use),
    )


def backlog(servers: AirflowServers, held: Feed, rate: float = 0.0) -> Backlog:
    """Show the messages that the stub holds, and wait until as many are gone, then until all are.

    With a rate, a sender goes on until the first of these: what it sent last may wait for its freshness.

    Raises:
        RunFailed: messages are left after DRAINED_WITHIN_SECONDS
    """
    with _use(servers) as use:
        shown_at = time.time()
        servers.stub.show_held()
        with _sender(servers, rate) if rate else nullcontext(Sent()) as sender:
            _drained(servers, lambda: sender.count)
            times, messages = servers.stub.statistics(), held.count + sender.count
            messages -= servers.stub.messages_left()
        _drained(servers)
    lasted = times["last_delete"] - times["first_receive"]
    return Backlog(
        messages=messages,
        rate=rate,
        sent=sender.count,
        noticed_after=round(times["first_receive"] - shown_at, 1),
        seconds=round(lasted, 1),
        messages_per_s=round(messages / lasted, 1),
        outcome=_outcome(servers, held, sender.count),
        **asdict(use),
    )


def _outcome(servers: AirflowServers, held: Feed, sent: int) -> Outcome:
    """Of the backlog and of the sender's messages."""
    found = airflow_race.outcome(servers.database, held, servers.stub.messages_left())
    count, distinct = servers.database.rows(OF_SENDER)[0]
    return Outcome(found.lost + sent - distinct, found.doubled + count - distinct, found.left)


def requests(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Calls of SQS between two statistics of the stub, without those of the benchmark itself.

    The sensor's question for the depth is among those left out: the benchmark asks it too.
    """
    done = {name: count - before.get(name, 0) for name, count in after.items() if name not in OWN}
    return {name: count for name, count in done.items() if count}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """For people."""
    lines = []
    for name, of_one in found.items():
        lines.append(f"{name}: {of_one['cores']} cores, load {of_one['load']} before")
        lines += [_backlog_line(of_one["backlog"])] if "backlog" in of_one else []
        lines += [_freshness_line(one) for one in of_one.get("freshness", [])]
    return "\n".join(lines)


def _backlog_line(one: Mapping[str, Any]) -> str:
    outcome = ", ".join(f"{count} {name}" for name, count in one["outcome"].items())
    return (
        f"backlog of {one['messages']:,}: {one['messages_per_s']:,.0f} messages/s, {one['seconds']:.1f} s in "
        f"{one['dag_runs']} runs, first receive after {one['noticed_after']:.1f} s; {outcome}; {_costs(one)}"
    )


def _freshness_line(one: Mapping[str, Any]) -> str:
    waits = f"p50 {one['p50']:.1f} s, p95 {one['p95']:.1f} s, at most {one['most']:.1f} s"
    outcome = f"{one['sent']:,} sent, {one['lost']} lost, {one['doubled']} doubled"
    return f"{one['rate']:g} messages/s: {waits}; {outcome}, {one['dag_runs']} runs; {_costs(one)}"


def _costs(one: Mapping[str, Any]) -> str:
    cpu = ", ".join(f"{part} {seconds:.1f}" for part, seconds in one["cpu_seconds"].items())
    return f"CPU s: {cpu}; {sum(one['requests'].values()):,} SQS requests"


@contextmanager
def _use(servers: AirflowServers) -> Iterator[Use]:
    use = Use()
    cpu, calls, runs = servers.cpu_seconds(), servers.stub.statistics()["calls"], _runs(servers)
    yield use
    use.cpu_seconds = {part: round(now - cpu[part], 1) for part, now in servers.cpu_seconds().items()}
    use.requests = requests(calls, servers.stub.statistics()["calls"])
    use.dag_runs = _runs(servers) - runs


@contextmanager
def _sender(servers: AirflowServers, rate: float) -> Iterator[Sent]:
    client = boto3.client(
        "sqs",
        endpoint_url=servers.stub.url,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )
    with traffic(client, f"{servers.stub.url}/000000000000/{CONTRACT.queue}", SENDER, rate=rate) as sent:
        yield sent


def _drained(servers: AirflowServers, to: Callable[[], int] = int) -> float:
    """Wait until no more than so many messages are on the queue, none by default; for how long."""
    started = time.monotonic()
    if not processes.wait_until(
        lambda: servers.stub.messages_left() <= to(), DRAINED_WITHIN_SECONDS, every=0.2
    ):
        raise RunFailed(f"{servers.stub.messages_left():,} messages left after {DRAINED_WITHIN_SECONDS} s")
    return time.monotonic() - started


def _runs(servers: AirflowServers) -> int:
    return int(servers.airflow.rows(RUNS, DAG)[0][0])


def _quantile(ordered: list[float], share: float) -> float:
    """Of ordered values: the least that is no less than such a share of them; 0 of none."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else 0.0
