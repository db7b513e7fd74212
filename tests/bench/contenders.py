"""Who runs the race, and how: each as processes of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.contracts.user_logins import CONTRACT
from include.queue_etl.keys.keyset_document import KeysetDocument

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_WAIT = {"QUEUE_ETL_WAIT_SECONDS": "0"}


class ContenderFailed(RuntimeError):
    """A process of a contender ended with an error, or its rows are wrong."""


@dataclass
class Used:
    """What processes used, one after another."""

    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    processes: int = 0

    def add(self, more: "Used") -> None:
        """Sums, and the higher peak."""
        self.cpu_seconds += more.cpu_seconds
        self.wall_seconds += more.wall_seconds
        self.peak_rss_mb = max(self.peak_rss_mb, more.peak_rss_mb)
        self.processes += more.processes


@dataclass
class Race:
    """One contender's run: where it finds things, and what its processes have used so far.

    Attributes:
        messages: how many there are
        env: of its processes
        say: reports progress
        code: the checkout whose code runs
        stages: in order of their first process
    """

    messages: int
    env: dict[str, str]
    say: Callable[[str], None]
    code: Path = ROOT
    stages: dict[str, Used] = field(default_factory=dict)

    def process(self, stage: str, *arguments: str) -> str:
        """Runs one Python process and returns its output.

        Raises:
            ContenderFailed: it failed
        """
        command = [sys.executable, *arguments]
        run = subprocess.run(
            [sys.executable, "-S", str(HERE / "metered.py"), *command],
            cwd=self.code,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise ContenderFailed(f"{stage} failed: {run.stderr.strip()[-2000:]}")
        output, _, report = run.stdout.rstrip("\n").rpartition("\n")
        self.stages.setdefault(stage, Used()).add(Used(**json.loads(report), processes=1))
        return output

    def step(self, run: int, stage: str) -> Any:
        """One step of our pipeline in a process of its own; returns its JSON."""
        command = ("-m", "include.queue_etl", "step", stage, "--run-id", f"bench-{run}")
        return json.loads(self.process(stage, *command))


def ours(race: Race) -> None:
    """Each stage of a run one process over all its batches, staged files between them."""
    _runs(race, lambda run, _batches: [race.step(run, stage) for stage in ("mask", "load")])


def ours_by_batch(race: Race) -> None:
    """As Airflow's mapped tasks: mask and load are one process a batch."""

    def each(run: int, batches: list[str]) -> None:
        for stage in ("mask", "load"):
            for batch in batches:
                race.process(stage, "-m", "tests.support.one_batch", stage, f"bench-{run}", batch)

    _runs(race, each)


def ours_drain(race: Race) -> None:
    """All stages of all runs in one process: `drain --until-empty`."""
    runs = race.process("drain", "-m", "include.queue_etl", "drain", "--until-empty", "--json")
    received = sum(json.loads(run)["received"] for run in runs.splitlines())
    race.say(f"{received:,}")


def naive(race: Race) -> None:
    """The naive baseline."""
    race.process("task", str(HERE / "baselines" / "naive.py"), CONTRACT.queue)


def sensible(race: Race) -> None:
    """The sensible baseline."""
    race.process("task", str(HERE / "baselines" / "sensible.py"), CONTRACT.queue)


def at_least_once(race: Race) -> None:
    """The sensible baseline without its memory of message ids."""
    race.process("task", str(HERE / "baselines" / "sensible.py"), CONTRACT.queue, "--at-least-once")


def _runs(race: Race, mask_and_load: Callable[[int, list[str]], Any]) -> None:
    """Runs of at most 100,000 messages, which is what SQS allows, until all messages are through."""
    received = run = 0
    while received < race.messages:
        batches = race.step(run, "extract")
        received += sum(batch["messages"] for batch in batches)
        race.say(f"{received:,} extracted")
        mask_and_load(run, [batch["batch"] for batch in batches])
        race.step(run, "finish")
        run += 1


def environment(folder: Path, sqs_url: str, owner_dsn: str, loader_dsn: str) -> dict[str, str]:
    """The variables of a contender's processes: nothing of the caller's but what Python needs."""
    keyset = folder / "keyset.json"
    keyset.write_text(KeysetDocument.new().text)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        **NO_WAIT,
        "AWS_ENDPOINT_URL": sqs_url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "BENCH_DSN": owner_dsn,
        "QUEUE_ETL_WAREHOUSE_DSN": loader_dsn,
        "QUEUE_ETL_KEYSET_FILE": str(keyset),
        "QUEUE_ETL_STAGING": str(folder / "staging"),
    }


OURS: dict[str, Callable[[Race], None]] = {
    "ours": ours,
    "before": ours,  # with the code of --baseline
    "by-batch": ours_by_batch,
    "drain": ours_drain,
}
BASELINES: dict[str, Callable[[Race], None]] = {
    "sensible": sensible,
    "naive": naive,
    "at-least-once": at_least_once,
}
CONTENDERS = {**OURS, **BASELINES}
