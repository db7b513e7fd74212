"""Two loaders that meet: `python -m tests.faults.loaders --rounds 500`.

In each round both load a batch at once, of ids that overlap and were drawn in any order. Exit code 0 when no
transaction was a deadlock's victim, every message is in one place once, and the counts add up; 1 otherwise.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from include.queue_etl.postgres.loading import BatchCounts
from include.queue_etl.postgres.runs import RunStore
from tests.faults.servers import Servers, running
from tests.integration.scratch import TODAY, Message, load, new_messages, open_run
from tests.support.resources import open_store

BATCH = 1_100  # so many that the two are at work at the same time: unsorted, two rounds of three deadlock
WRONG = ("deadlocks", "lost", "duplicate", "miscounted")
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'warehouse'"
# The row of a message has its id in place of a token: see tests.integration.scratch.
PLACES = """
    SELECT masked_ip FROM public.user_logins WHERE user_id = %(tag)s
    UNION ALL
    SELECT message_id::text FROM etl.quarantine JOIN etl.ledger USING (queue_id, sent_day, message_id)
    WHERE reason = 'bad ' || %(tag)s
"""


@dataclass
class Result:
    """What the rounds came to; the four of WRONG should be 0.

    Attributes:
        deadlocks: transactions that Postgres ended, also those that were then repeated
        miscounted: rounds whose counts do not say what was new
    """

    rounds: int
    messages: int = 0
    deadlocks: int = 0
    lost: int = 0
    duplicate: int = 0
    miscounted: int = 0
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not any(getattr(self, name) for name in WRONG)


def meet(servers: Servers, rounds: int, seed: int) -> Result:
    """Let two loaders meet so often."""
    dice, result, started = random.Random(seed), Result(rounds), time.monotonic()
    before, tag = servers.rows(DEADLOCKS)[0][0], f"meet {seed} {started}"
    everything: set[Message] = set()
    with open_store(servers.warehouse_dsn) as one, open_store(servers.warehouse_dsn) as other:
        runs = [(one, open_run(one)), (other, open_run(other))]
        for number in range(rounds):
            shares = _shares(dice, tag)
            everything.update(*shares)
            result.miscounted += not _are_right(_load_both(runs, shares, number), shares)
    result.deadlocks = servers.rows(DEADLOCKS)[0][0] - before  # both sessions have ended and reported
    result.messages = len(everything)
    _find(servers, tag, everything, result)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _shares(dice: random.Random, tag: str) -> list[list[Message]]:
    """Two batches that have two thirds of their messages in common, of two days, some of them bad."""
    yesterday = TODAY - timedelta(days=1)
    good = [*new_messages(750, user=tag), *new_messages(750, yesterday, user=tag)]
    pool = [*good, *new_messages(150, user=f"bad {tag}")]
    return [dice.sample(pool, BATCH), dice.sample(pool, BATCH)]


def _load_both(
    runs: list[tuple[RunStore, UUID]], shares: list[list[Message]], number: int
) -> list[BatchCounts]:
    start = threading.Barrier(len(runs))

    def attempt(run: tuple[RunStore, UUID], share: list[Message]) -> BatchCounts:
        start.wait()
        return load(*run, share, f"{number:04}")

    with ThreadPoolExecutor(len(runs)) as threads:
        return list(threads.map(attempt, runs, shares))


def _are_right(counts: list[BatchCounts], shares: list[list[Message]]) -> bool:
    new = sum(one.loaded + one.quarantined for one in counts)
    each = [one.loaded + one.quarantined + one.duplicates for one in counts]
    return new == len(set().union(*shares)) and each == [len(share) for share in shares]


def _find(servers: Servers, tag: str, everything: set[Message], result: Result) -> None:
    with servers.owner() as connection:
        found = [message_id for (message_id,) in connection.execute(PLACES, {"tag": tag})]
    result.lost = len({message_id for _, message_id, _ in everything} - set(found))
    result.duplicate = len(found) - len(set(found))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.loaders", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="how often they meet (default: 500)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: 1)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-loaders-") as folder,
        running(Path(folder, "s")) as servers,
    ):
        result = meet(servers, options.rounds, options.seed)
    for name, value in asdict(result).items():
        print(f"{name:<12}{value:>10}{'   <- should be 0' if name in WRONG and value else ''}")
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
