"""Several `drain`s at once on one queue: what more workers bring when SQS takes its time to answer.

All of them together take 100,000 messages at most, since SQS lets about 120,000 be in flight.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench import contenders, stub_process
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import ContenderFailed, Race, Used
from tests.bench.feed import feed
from tests.bench.scratch import Server

IN_FLIGHT = 100_000
LINE = "{:>7}{:>12}{:>10}{:>12}{:>20}".format
COMMAND = ("-m", "include.queue_etl", "drain", "--json")


def run(server: Server, counts: Sequence[int], messages: int, latency_ms: float, *, as_json: bool) -> int:
    """Measure each number of drains, and print it; 0, for wrong rows are an error.

    Raises:
        ContenderFailed: a drain failed, or the rows are wrong
    """
    found = {count: _measure(server, count, min(messages, IN_FLIGHT), latency_ms) for count in counts}
    shown = {"latency_ms": latency_ms, "drains": found}
    print(json.dumps(shown, indent=2) if as_json else _table(found))
    return 0


def _measure(server: Server, count: int, messages: int, latency_ms: float) -> dict[str, Any]:
    """So many drains at once, each of which takes its share of the messages."""
    each = -(-messages // count)
    sent = feed(messages)
    print(f"  {count} drains of {each:,} messages", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as path,
        server.database() as database,
        stub_process.serving(sent, Path(path), latency_ms) as stub,
        ThreadPoolExecutor(count) as together,
    ):
        env = contenders.environment(Path(path), stub.url, database.owner_dsn, database.loader_dsn)
        env["QUEUE_ETL_MAX_MESSAGES"] = str(each)
        races = [Race(each, env, lambda _: None) for _ in range(count)]
        server.checkpoint()
        postgres, started = server.cpu_seconds(), time.perf_counter()
        for done in [together.submit(race.process, "drain", *COMMAND) for race in races]:
            done.result()
        seconds = time.perf_counter() - started
        postgres = server.cpu_seconds() - postgres
        problems = problems_of_rows(database, sent)
        problems += problems_of_bookkeeping(database, sent, Path(env["QUEUE_ETL_KEYSET_FILE"]))
        if problems or stub.messages_left():
            raise ContenderFailed(f"{count} drains: {problems}, {stub.messages_left()} messages left")
    used = Used()
    for race in races:
        used.add(race.stages["drain"])
    return {
        "messages": messages,
        "seconds": round(seconds, 2),
        "messages_per_s": round(messages / seconds),
        "client_cpu_s": round(used.cpu_seconds, 2),
        "postgres_cpu_s": round(postgres, 2),
    }


def _table(found: dict[int, dict[str, Any]]) -> str:
    head = LINE("drains", "messages/s", "seconds", "client CPU", "Postgres CPU")
    rows = [
        LINE(count, f"{one['messages_per_s']:,}", one["seconds"], one["client_cpu_s"], one["postgres_cpu_s"])
        for count, one in found.items()
    ]
    return "\n".join([head, *rows])
