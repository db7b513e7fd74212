"""Many messages in runs of 100,000: `python -m tests.faults.volume --messages 1000000`.

Each run is a process of its own, `drain` of the command line; SQS is the benchmark's stub. Says what each run
took of memory and time, how much of the disk staging used at the worst moment, and what was left of it.
Exit code 0 when every message is in its place and nothing is left but masked and rejected files; 1 otherwise.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from include.queue_etl.staging.area import RETAINED, BatchFile
from tests.bench import contenders, stub_process
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import Race
from tests.bench.feed import Feed, feed
from tests.bench.scratch import Database, Server
from tests.faults.servers import running

LOOK_EVERY_SECONDS = 0.1


@dataclass
class Watch:
    """Looks at a folder again and again, from a thread of its own.

    Attributes:
        peak_bytes: most that its files held, also those of a single kind that `kinds` counts
    """

    folder: Path
    peak_bytes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Until `stop`."""
        while not self._over.wait(LOOK_EVERY_SECONDS):
            sizes = by_kind(self.folder)
            self.peak_bytes = max(self.peak_bytes, sizes.total())
            for kind, size in sizes.items():
                self.kinds[kind] = max(self.kinds.get(kind, 0), size)

    def stop(self) -> None:
        self._over.set()


def by_kind(folder: Path) -> Counter[str]:
    """Bytes of the staged files of each kind; `other` for files that are none of ours."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        file = BatchFile.parse(path.name)
        try:
            sizes[str(file.kind) if file else "other"] += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed or removed just now
            continue
    return +sizes


@dataclass(frozen=True)
class Result:
    """What the runs came to.

    Attributes:
        rss_mb: peak of each run's process, in order
        seconds: of each run
        peak_bytes: of staging, of all runs so far
        peaks: the same for each kind of file
        left: bytes of staged files by kind, at the end
        problems: with what is in the tables, on the queue and in staging; empty when all is well
    """

    messages: int
    rss_mb: list[float]
    seconds: list[float]
    peak_bytes: int
    peaks: dict[str, int]
    left: dict[str, int]
    problems: list[str]


def drain_all(messages: Feed, owner_dsn: str) -> Result:
    """Send them through, run after run."""
    server = Server(owner_dsn)
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-volume-") as path,
        server.database() as database,
        stub_process.serving(messages, Path(path), 0.0) as stub,
    ):
        folder = Path(path)
        env = contenders.environment(folder, stub.url, database.owner_dsn, database.loader_dsn)
        staging = Path(env["QUEUE_ETL_STAGING"])
        watch, runs = Watch(staging), []
        watcher = threading.Thread(target=watch.look)
        watcher.start()
        try:
            runs = list(_runs(messages.count, env))
        finally:
            watch.stop()
            watcher.join()
        left = by_kind(staging)
        problems = [*_problems(database, messages, env, left), *_left_on_queue(stub.messages_left())]
    used = [race.stages["drain"] for race in runs]
    return Result(
        messages.count,
        [one.peak_rss_mb for one in used],
        [one.wall_seconds for one in used],
        watch.peak_bytes,
        watch.kinds,
        dict(left),
        problems,
    )


def _runs(messages: int, env: dict[str, str]) -> list[Race]:
    runs, received = [], 0
    while received < messages:
        race = Race(messages, env, lambda text: None)
        summary = json.loads(race.process("drain", "-m", "include.queue_etl", "drain", "--json"))
        received += summary["received"]
        used = race.stages["drain"]
        print(
            f"{received:>10,} messages  {used.peak_rss_mb:6.0f} MB  {used.wall_seconds:5.1f} s",
            file=sys.stderr,
        )
        runs.append(race)
    return runs


def _problems(database: Database, messages: Feed, env: dict[str, str], left: Counter[str]) -> list[str]:
    kept = {str(kind) for kind in RETAINED}
    found = problems_of_rows(database, messages)
    found += problems_of_bookkeeping(database, messages, Path(env["QUEUE_ETL_KEYSET_FILE"]))
    return found + [
        f"{size} bytes of {kind} files are left" for kind, size in left.items() if kind not in kept
    ]


def _left_on_queue(count: int) -> list[str]:
    return [f"{count} messages are left on the queue"] if count else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.volume", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-volume-stack-") as folder,
        running(Path(folder, "s")) as servers,
    ):
        result = drain_all(feed(options.messages), servers.environment["QUEUE_ETL_OWNER_DSN"])
    _show(result)
    return 1 if result.problems else 0


def _show(result: Result) -> None:
    mb = 1_000_000
    print(f"messages        {result.messages:>12,}  in {len(result.seconds)} runs")
    print(f"seconds         {sum(result.seconds):>12.1f}")
    print(f"memory, MB      {min(result.rss_mb):>12.0f}  to {max(result.rss_mb):.0f}, the peak of each run")
    print(f"staging, MB     {result.peak_bytes / mb:>12.1f}  at the worst moment")
    for kind, size in sorted(result.peaks.items()):
        print(f"  {kind:<14}{size / mb:>12.1f}  at its worst, left {result.left.get(kind, 0) / mb:.1f}")
    for problem in result.problems:
        print(f"wrong: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
