"""The SQS stub in a process of its own."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from include.contracts.user_logins import CONTRACT
from tests.bench.contenders import ROOT, ContenderFailed
from tests.bench.feed import Feed
from tests.bench.scratch import process_stat


class StubProcess:
    """A queue that answers at `url`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._pid = process.pid
        self.url = process.stdout.readline().strip()
        if not self.url:
            raise ContenderFailed("the SQS stub does not start")

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return sum(map(int, process_stat(self._pid)[11:13])) / os.sysconf("SC_CLK_TCK")

    def messages_left(self) -> int:
        """Visible or in flight."""
        return sum(int(number) for number in self._ask("GetQueueAttributes")["Attributes"].values())

    def show_held(self) -> None:
        """The messages that were held back are on the queue now, all at once."""
        self._ask("ShowHeld")

    def statistics(self) -> dict[str, Any]:
        """Calls by action; Unix times of the first receive that brought something and the last delete."""
        return self._ask("Statistics")

    def _ask(self, action: str) -> dict[str, Any]:
        headers = {"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": "text/plain"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url, b"{}", headers)) as answer:
            return dict(json.load(answer))


@contextmanager
def serving(
    feed: Feed,
    folder: Path,
    latency_ms: float,
    queue: str = CONTRACT.queue,
    seed: int = 1,
    *,
    held: bool = False,
) -> Iterator[StubProcess]:
    """A stub that has the feed; stopped at the end. Another seed gives other message ids.

    With `held` the queue is empty until `show_held`.
    """
    file = folder / "messages"
    file.write_bytes(b"\n".join(feed.bodies) + b"\n")
    options = ["--messages", file, "--count", feed.count, "--latency-ms", latency_ms, "--seed", seed]
    command = [sys.executable, "-m", "tests.bench.sqs_stub", "--queue", queue, *map(str, options)]
    command += ["--held"] if held else []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield StubProcess(process)
        finally:
            process.kill()
