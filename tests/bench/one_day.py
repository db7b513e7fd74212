"""What a day of many messages takes: bytes a message, and Postgres's CPU and log for some more of that day.

    .venv/bin/python -m tests.bench.one_day [--today 10000000] [--messages 100000] [--rounds 3] > day.json

It starts a Postgres of its own, fills the ledger and user_logins with messages of today, and lets `drain`
load further ones: into an empty database; into the full one with `shared_buffers` of 1 GB; and with the
default. Each load begins after a checkpoint, as at this rate nearly every load does. 10 million messages take
some 8 GB of disk with the log, and some minutes. A re-run starts anew.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from devstack import ports, postgres, processes, settings, stack
from devstack.console import Console
from devstack.settings import DEFAULT_PORTS, Settings
from tests.bench import contenders, stub_process
from tests.bench.contenders import ContenderFailed, Race
from tests.bench.feed import feed
from tests.bench.scratch import Database, Server

LARGE, DEFAULT = "1GB", "128MB"
SIZES = """
    SELECT (SELECT sum(pg_table_size(relid)) FROM pg_partition_tree('etl.ledger')),
           (SELECT sum(pg_indexes_size(relid)) FROM pg_partition_tree('etl.ledger') WHERE isleaf),
           (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('public.user_logins'))
"""
LOADED = "SELECT count(*) FROM etl.ledger"
LOG = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


@dataclass(frozen=True)
class Loads:
    """How loads are made.

    Attributes:
        seeds: of the message ids, which no two loads may share
    """

    messages: int
    rounds: int
    seeds: Iterator[int]


@dataclass(frozen=True)
class Warehouse:
    """A database, and the environment of processes that load into it: one keyset belongs to it.

    Attributes:
        folder: of the keyset, staged files and messages
    """

    database: Database
    env: dict[str, str]
    folder: Path


def main() -> int:
    """Runs it, and prints JSON; 0, for a message that is missing is an error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.one_day", description=__doc__)
    parser.add_argument(
        "--today", type=int, default=10_000_000, help="messages of today that are there before"
    )
    parser.add_argument("--messages", type=int, default=100_000, help="of each load, at most 100000")
    parser.add_argument("--rounds", type=int, default=3, help="loads into each")
    options = parser.parse_args()
    console = Console(sys.stderr)
    base = settings.from_environment(os.environ)
    own = replace(base, state=base.state / "one-day", postgres_dsn=None)
    own = own.with_ports(ports.free_ports(list(DEFAULT_PORTS)))
    own.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        found = measure(own, options.today, Loads(options.messages, options.rounds, count(1)), console)
    finally:
        stack.reset(own, console)
    print(json.dumps(found, indent=2))
    return 0


def measure(own: Settings, today: int, loads: Loads, console: Console) -> dict[str, Any]:
    """Sizes of a message of today, and what loads cost by what is there before.

    Raises:
        ContenderFailed: a drain failed, or messages are missing
    """
    postgres.start(own, console)
    server = Server(postgres.superuser(own).url("postgres"))
    found: dict[str, Any] = {"today": today, "messages": loads.messages, "load": {}}
    with console.step("loads into an empty database"), _warehouse(server) as warehouse:
        found["load"]["empty"] = _loads(server, warehouse, loads)
    _restart(own, server, LARGE, console)
    with console.step(f"{today:,} messages of today, and loads"), _warehouse(server, today) as warehouse:
        found["bytes_a_message"] = _sizes(warehouse.database, today)
        found["load"][LARGE] = _loads(server, warehouse, loads)
        _restart(own, server, DEFAULT, console)
        found["load"][DEFAULT] = _loads(server, warehouse, loads)
    return found


@contextmanager
def _warehouse(server: Server, today: int = 0) -> Iterator[Warehouse]:
    with server.database(today=today) as database, tempfile.TemporaryDirectory(prefix="bench-") as path:
        env = contenders.environment(Path(path), "", database.owner_dsn, database.loader_dsn)
        yield Warehouse(database, env, Path(path))


def _restart(own: Settings, server: Server, shared_buffers: str, console: Console) -> None:
    postgres.query(own, f"ALTER SYSTEM SET shared_buffers = '{shared_buffers}'", database="postgres")
    processes.stop([postgres.part(own)], signal.SIGINT)
    postgres.start(own, console)
    server.reconnect()


def _sizes(database: Database, today: int) -> dict[str, float]:
    names = ("ledger_table", "ledger_index", "user_logins")
    sizes = zip(names, database.rows(SIZES)[0], strict=True)
    return {name: round(float(size) / today, 1) for name, size in sizes}


def _loads(server: Server, warehouse: Warehouse, loads: Loads) -> dict[str, Any]:
    """Median of the rounds, for a million messages and for one."""
    before = warehouse.database.rows(LOADED)[0][0]
    rounds = [_load(server, warehouse, loads) for _ in range(loads.rounds)]
    if warehouse.database.rows(LOADED)[0][0] - before != loads.messages * loads.rounds:
        raise ContenderFailed("the ledger has not all messages")
    cpu_seconds, log_bytes = zip(*rounds, strict=True)
    return {
        "postgres_cpu_s_per_million": round(statistics.median(cpu_seconds) * 1e6 / loads.messages, 2),
        "log_bytes_a_message": round(statistics.median(log_bytes) / loads.messages),
        "rounds_cpu_s": [round(seconds, 2) for seconds in cpu_seconds],
    }


def _load(server: Server, warehouse: Warehouse, loads: Loads) -> tuple[float, float]:
    """CPU seconds of the whole server, and bytes of its write-ahead log."""
    database, folder = warehouse.database, warehouse.folder
    with stub_process.serving(feed(loads.messages), folder, 0, seed=next(loads.seeds)) as stub:
        race = Race(loads.messages, {**warehouse.env, "AWS_ENDPOINT_URL": stub.url}, lambda _: None)
        server.checkpoint()
        cpu_seconds, log_bytes = server.cpu_seconds(), float(database.rows(LOG)[0][0])
        contenders.ours_drain(race)
        return server.cpu_seconds() - cpu_seconds, float(database.rows(LOG)[0][0]) - log_bytes


if __name__ == "__main__":
    sys.exit(main())
