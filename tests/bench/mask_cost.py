"""What mask takes by itself: of `user_logins`, of a typed contract, and of `user_logins` by another checkout.

Each is a process of its own that masks one batch; they take turns (turns.py).
"""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from include.contracts import user_logins
from tests.bench import feed, typed
from tests.bench.contenders import HERE, ROOT, ContenderFailed
from tests.bench.feed import Feed
from tests.bench.turns import Turns

BATCH = 10_000
TURNS = 25
NAMES = {"user_logins": user_logins.__name__, "typed": typed.__name__, "before": user_logins.__name__}


def measure(messages: int, baseline: Path | None, turns: int = TURNS) -> Turns:
    """Mask a batch of at most so many messages by each contract, in turn.

    Raises:
        ContenderFailed: a process failed, or did not accept what it should
    """
    count = min(messages, BATCH)
    feeds = {"user_logins": feed.feed(count), "typed": typed.feed(count)}
    if baseline:
        feeds["before"] = feeds["user_logins"]
    seconds: dict[str, list[float]] = {name: [] for name in feeds}
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="bench-mask-")))
        masks = {
            name: ends.enter_context(
                _Mask(name, sent, folder, (baseline if name == "before" else None) or ROOT)
            )
            for name, sent in feeds.items()
        }
        for turn in range(turns):
            for name in list(masks) if turn % 2 else reversed(masks):
                seconds[name].append(masks[name].turn())
    return Turns("mask by itself", "cpu_us_a_message", 1e6 / count, seconds)


class _Mask:
    """A process that masks when it is told to."""

    def __init__(self, name: str, messages: Feed, folder: Path, code: Path) -> None:
        file = folder / name
        file.write_bytes(b"\n".join(messages.bodies))
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "mask_process.py"), NAMES[name], str(file)],
            cwd=code,
            env={**os.environ, "PYTHONPATH": str(code)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        good = sum(times for _, times in messages.events)
        if (accepted := self._answer()) != good:
            raise ContenderFailed(f"mask of {name} accepted {accepted:g} messages, not {good}")

    def __enter__(self) -> "_Mask":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self) -> float:
        """Mask the batch; CPU seconds."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return float(line)
        raise ContenderFailed(f"mask of {self._name} failed with exit status {self._process.wait()}")
