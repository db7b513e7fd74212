"""A trickle of messages for a stack that somebody looks at: lines of the demo's samples, some malformed."""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from devstack import engine
from devstack.console import Console
from devstack.demo import DEMOS
from devstack.settings import Settings

MESSAGES = (2, 12)  # of a contract at once: at least, at most
SECONDS = 20.0  # between two times


def run(settings: Settings, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Send until somebody presses Ctrl-C; what was sent stays on the queues."""
    console.note("traffic:  a few messages of each sample every 20 s; Ctrl-C ends it, the stack goes on")
    console.note("          those of `orders` wait until you start its DAG, which has no schedule")
    try:
        while True:
            for contract in DEMOS:
                send_some(settings, contract)
            pause(SECONDS)
    except KeyboardInterrupt:
        console.note("\nno more messages; ./dev down stops the stack")


def send_some(settings: Settings, contract: str) -> int:
    """Send some lines of the contract's sample; return how many."""
    lines = DEMOS[contract].sample.read_text(encoding="utf-8").splitlines()
    chosen = random.sample(lines, random.randint(*MESSAGES))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "messages.jsonl")
        file.write_text("\n".join([*chosen, ""]), encoding="utf-8")
        engine.output(settings, "send", "--contract", contract, str(file))
    return len(chosen)
