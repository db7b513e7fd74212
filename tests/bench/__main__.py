"""The benchmark: our pipeline against two baselines, on the same messages. `./dev bench` runs it.

    QUEUE_ETL_OWNER_DSN=... python -m tests.bench --help

SQS is an in-memory stub in a process of its own (sqs_stub.py: not SQS, and far faster); Postgres is real.
Nothing is printed on standard output before the rows of every contender have been found right.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg

from devstack.bench import add_arguments
from include.queue_etl.errors import QueueEtlError
from tests.bench import contenders, drains, mask_cost, partitions, results, stub_process
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import CONTENDERS, OURS, ContenderFailed, Race, Used
from tests.bench.feed import Feed, feed
from tests.bench.results import LABELS, Result
from tests.bench.scratch import Database, Server
from tests.bench.stub_process import StubProcess

NAIVE_LEAST = 5_000
NAIVE_PART = 40  # The naive baseline gets one message of so many: what it takes for one does not change.
EXTRACT_SECONDS = "SELECT coalesce(sum(extract_seconds), 0) FROM etl.run_summary"


@dataclass(frozen=True)
class Conditions:
    """What is the same for all contenders.

    Attributes:
        earlier: messages in table and ledger before, of earlier days
        today: the same, of today, whose part of the ledger is the one that is written
        baseline: another checkout of this project, whose code `before` runs
    """

    server: Server
    latency_ms: float
    earlier: int
    today: int
    baseline: Path | None


def main() -> int:
    """Runs it; 0 the rows are right, 1 they are not or something failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args()
    found = {name: Result() for name in [*options.only, *(["before"] if options.baseline else [])]}
    try:
        server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
        if options.drains:
            return drains.run(server, options.drains, options.messages, options.latency, as_json=options.json)
        if options.partitions:
            return partitions.run(
                server, options.partitions, options.messages, options.rounds, as_json=options.json
            )
        conditions = Conditions(
            server, options.latency, options.preload, options.preload_today, options.baseline
        )
        for _ in range(options.rounds):
            for name in found:
                run_once(name, feed(share(name, options.messages)), conditions, found[name])
        _say("  mask by itself ...\n")
        mask = mask_cost.measure(options.messages, options.baseline)
    except (ContenderFailed, QueueEtlError, psycopg.Error) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    if options.json:
        shown = {**results.as_json(options.messages, found), "mask": mask.as_json()}
        print(json.dumps(shown, indent=2))
    else:
        print(results.table(found, options.latency), mask.table(), sep="\n\n")
    return 0


def share(name: str, messages: int) -> int:
    """How many of the messages a contender gets."""
    return min(messages, max(NAIVE_LEAST, messages // NAIVE_PART)) if name == "naive" else messages


def run_once(name: str, messages: Feed, conditions: Conditions, result: Result) -> None:
    """Runs one contender on a fresh queue and a fresh database, checks its rows and adds what it used.

    Raises:
        ContenderFailed: it failed, or its rows are wrong
    """
    _say(f"  {LABELS.get(name, name)}, {messages.count:,} messages ...")
    code = conditions.baseline if name == "before" and conditions.baseline else contenders.ROOT
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as path,
        conditions.server.database(conditions.earlier, conditions.today, code) as database,
        stub_process.serving(messages, Path(path), conditions.latency_ms) as stub,
    ):
        env = contenders.environment(Path(path), stub.url, database.owner_dsn, database.loader_dsn)
        race = Race(messages.count, env, lambda text: _say(f" {text},"), code)
        _race(name, race, conditions.server, stub, result)
        _check(name, database, messages, Path(env["QUEUE_ETL_KEYSET_FILE"]), stub)
        result.extract_seconds += float(database.rows(EXTRACT_SECONDS)[0][0])
    _say(f" rows are right, {sum(used.wall_seconds for used in race.stages.values()):.1f} s\n")


def _race(name: str, race: Race, server: Server, stub: StubProcess, result: Result) -> None:
    server.checkpoint()
    postgres_before, stub_before = server.cpu_seconds(), stub.cpu_seconds()
    CONTENDERS[name](race)
    result.postgres_cpu_seconds += server.cpu_seconds() - postgres_before
    result.stub_cpu_seconds += stub.cpu_seconds() - stub_before
    result.messages += race.messages
    for stage, used in race.stages.items():
        result.stages.setdefault(stage, Used()).add(used)


def _check(name: str, database: Database, messages: Feed, keyset_file: Path, stub: StubProcess) -> None:
    problems = problems_of_rows(database, messages)
    if name in OURS:
        problems += problems_of_bookkeeping(database, messages, keyset_file)
    if left := stub.messages_left():
        problems.append(f"{left} messages are left on the queue")
    if problems:
        raise ContenderFailed(f"{name}: wrong rows: {'; '.join(problems)}")


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
