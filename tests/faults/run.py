"""The kill run: `python -m tests.faults.run --kills 1000 --messages 20000 --restarts 50`.

Sends messages of three contracts (flows.py), runs their pipelines as processes that are killed at random
points while Postgres is stopped without warning, then counts where every message is. Exit code 0 when none is
lost, loaded twice, in the wrong place, left on the queue or readable where it must not be, and every key has
its newest value; 1 otherwise.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults import bodies, canaries, flows, reconciliation
from tests.faults.chaos import Chaos, Plan
from tests.faults.flows import FLOWS
from tests.faults.reconciliation import Balance
from tests.faults.servers import Servers, running

WRONG = ("lost", "duplicate", "wrong_kind", "stale", "pii_hits", "left_on_queue")


@dataclass(frozen=True)
class Result:
    """What a kill run came to; those in WRONG should be 0."""

    lost: int
    duplicate: int
    wrong_kind: int
    stale: int
    pii_hits: int
    left_on_queue: int
    kills: int
    restarts: int
    messages: int
    seconds: float

    @property
    def is_good(self) -> bool:
        return not any(getattr(self, name) for name in WRONG)


def kill_run(servers: Servers, plan: Plan) -> tuple[Result, Chaos, dict[str, int]]:
    """One kill run on queues of its own; also the places where personal values were found."""
    started = time.monotonic()
    flows.make_tables(servers)
    tested = [servers.new_queue(contract=flow.contract) for flow in FLOWS]
    if plan.staging == "s3":
        tested = [one.in_bucket() for one in tested]
    # The first gets what does not divide, so that all of them are sent.
    shares = [plan.messages - 2 * (plan.messages // 3), plan.messages // 3, plan.messages // 3]
    sent = [flow.some(one.tag, share) for flow, one, share in zip(FLOWS, tested, shares, strict=True)]
    chaos = Chaos(tested, plan)
    chaos.rage([bodies.texts(messages) for messages in sent])
    chaos.calm()
    found = canaries.everywhere(servers)
    parts = [flow.balance(one, messages) for flow, one, messages in zip(FLOWS, tested, sent, strict=True)]
    balance = sum(parts, Balance(0, 0, 0, 0))
    reconciliation.balances.append((plan.messages, balance))
    result = Result(
        **asdict(balance),
        pii_hits=sum(found.values()),
        kills=chaos.killed,
        restarts=chaos.restarts,
        messages=plan.messages,
        seconds=round(time.monotonic() - started, 1),
    )
    return result, chaos, found


def main() -> int:
    options = _options()
    plan = Plan(options.kills, options.messages, options.restarts, options.seed, options.staging)
    with (
        tempfile.TemporaryDirectory(prefix="queue-etl-faults-") as folder,
        running(Path(folder, "s")) as servers,
    ):
        result, chaos, found = kill_run(servers, plan)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        _show(result, chaos)
    for place, count in found.items():
        print(f"personal values: {count} forms in {place}", file=sys.stderr)
    return 0 if result.is_good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="processes to kill (default: 100)")
    parser.add_argument("--messages", type=int, default=2000, help="messages to send (default: 2000)")
    parser.add_argument("--restarts", type=int, default=5, help="immediate stops of Postgres (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: 1)")
    parser.add_argument(
        "--staging",
        choices=("folder", "s3"),
        default="folder",
        help="where batch files are (default: folder)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def _show(result: Result, chaos: Chaos) -> None:
    for name, value in asdict(result).items():
        print(f"{name:<15}{value:>10}{'   <- should be 0' if name in WRONG and value else ''}")
    print("\nkilled at")
    for step, count in sorted(chaos.kills.items()):
        print(f"  {step:<13}{count:>10}")
    print("\nattempts that failed of themselves")
    for error, count in chaos.failures.most_common(12):
        print(f"{count:>6}  {error}")


if __name__ == "__main__":
    sys.exit(main())
