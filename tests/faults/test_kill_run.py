"""Processes of the engine are killed at random points: every message must still be in one place, once."""

import random
import subprocess
import sys
from collections import Counter

from devstack.settings import ROOT
from include.contracts.user_logins import CONTRACT
from tests.faults import bodies, reconciliation, worker
from tests.faults.chaos import STEP_SECONDS, Plan
from tests.faults.run import WRONG, kill_run
from tests.faults.servers import QueueUnderTest, Servers


def test_kills_at_random_points_lose_nothing_and_load_nothing_twice(servers: Servers) -> None:
    result, chaos, found = kill_run(servers, Plan(kills=32, messages=300, restarts=2, seed=7))

    assert {name: getattr(result, name) for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert result.kills >= 32
    assert result.restarts == 2
    assert set(+chaos.kills) == set(STEP_SECONDS)


def test_kills_with_staging_in_s3_lose_nothing_and_load_nothing_twice(servers: Servers) -> None:
    result, chaos, found = kill_run(servers, Plan(kills=9, messages=90, restarts=0, seed=3, staging="s3"))

    assert {name: getattr(result, name) for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert result.kills >= 9
    for tested in chaos.tested:
        kept = servers.client("s3").list_objects_v2(Bucket=tested.queue_name)["KeyCount"]
        assert kept > 0, f"nothing of {tested.contract.name} was staged in the bucket"


def test_killed_commands_lose_nothing(servers: Servers) -> None:
    # What a person or cron would run: an interpreter of its own for each, on the contract's own queue.
    tested = servers.new_queue(CONTRACT.queue)
    sent = bodies.some(tested.tag, 60)
    tested.send(bodies.texts(sent))
    dice, killed, longest = random.Random(5), 0, 2.0
    while killed < 6:
        pair = [_command(tested, "drain") for _ in range(2)]
        for process in pair:
            try:
                process.wait(dice.uniform(0.1, longest))
                longest = max(0.3, longest * 0.9)  # it ended by itself: this machine is faster
            except subprocess.TimeoutExpired:
                process.kill()
                killed += process.wait() == -9
        if not tested.on_queue():
            more = bodies.some(tested.tag, 20, first=len(sent))
            tested.send(bodies.texts(more))
            sent += more
    while tested.on_queue():
        worker.wait_until_visible(tested)
        assert _command(tested, "drain").wait() == 0

    assert reconciliation.balance(tested, sent) == reconciliation.Balance(0, 0, 0, 0)


def test_two_pipelines_on_one_queue_share_its_messages(tested: QueueUnderTest) -> None:
    sent = bodies.some(tested.tag, 3_500)
    tested.send(bodies.texts(sent))
    before = _deadlocks(tested)
    # Hidden for long: whatever is loaded twice here is loaded so by two runs at once.
    options = {
        "QUEUE_ETL_BATCH_MESSAGES": "100",
        "QUEUE_ETL_RECEIVE_SECONDS": "30",
        "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "300",
    }
    took: Counter[int] = Counter()
    while tested.on_queue():
        pair = [worker.start(tested, ["drain", "--max", "500", "--json"], None, **options) for _ in range(2)]
        for number, started in enumerate(pair):
            ended = started.wait()
            assert ended.code == 0, ended.errors[-2000:]
            took[number] += '"received": 0' not in ended.output

    assert reconciliation.balance(tested, sent) == reconciliation.Balance(0, 0, 0, 0)
    assert min(took[0], took[1]) >= 2, "one of the two had all the work"
    assert _deadlocks(tested) == before


def test_two_pipelines_that_receive_the_same_messages_load_each_once(tested: QueueUnderTest) -> None:
    sent = bodies.some(tested.tag, 400)
    tested.send(bodies.texts(sent))
    before = _deadlocks(tested)
    # Messages come back while they are being loaded, and the other pipeline takes them.
    options = {"QUEUE_ETL_BATCH_MESSAGES": "100", "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "2"}
    while tested.on_queue():
        worker.wait_until_visible(tested)
        for started in [worker.start(tested, ["drain"], None, **options) for _ in range(2)]:
            ended = started.wait()
            assert ended.code == 0, ended.errors[-2000:]

    assert reconciliation.balance(tested, sent) == reconciliation.Balance(0, 0, 0, 0)
    assert _deadlocks(tested) == before


def _deadlocks(tested: QueueUnderTest) -> int:
    return int(
        tested.servers.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = 'warehouse'")[0][0]
    )


def _command(tested: QueueUnderTest, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "include.queue_etl", *arguments]
    with (tested.servers.output / "commands.err").open("ab") as said:
        return subprocess.Popen(command, cwd=ROOT, env=tested.environment, stdout=said, stderr=said)
