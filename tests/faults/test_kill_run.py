"""Processes of the engine are killed at random points: every message must still be in one place, once."""

import random
import subprocess
import sys
from collections import Counter

from devstack.settings import ROOT
from include.contracts.user_logins import CONTRACT
from tests.faults import accounts, bodies, worker
from tests.faults.chaos import STEP_SECONDS, Plan
from tests.faults.ground import Ground, Lane
from tests.faults.run import WRONG, kill_run


def test_kills_at_random_points_lose_nothing_and_load_nothing_twice(ground: Ground) -> None:
    result, chaos, found = kill_run(ground, Plan(kills=32, messages=300, restarts=2, seed=7))

    assert {name: getattr(result, name) for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert result.kills >= 32
    assert result.restarts == 2
    assert set(+chaos.kills) == set(STEP_SECONDS)


def test_kills_with_staging_in_a_bucket_lose_nothing_and_load_nothing_twice(ground: Ground) -> None:
    result, chaos, found = kill_run(ground, Plan(kills=12, messages=100, restarts=0, seed=3, staging="s3"))

    assert {name: getattr(result, name) for name in WRONG} == dict.fromkeys(WRONG, 0), found
    assert result.kills >= 12
    kept = ground.client("s3").list_objects_v2(Bucket=chaos.lane.queue_name)["KeyCount"]
    assert kept > 0, "nothing was staged in the bucket"


def test_killed_commands_lose_nothing(ground: Ground) -> None:
    # What a person or cron would run: an interpreter of its own for each, on the contract's own queue.
    lane = ground.new_lane(CONTRACT.queue)
    sent = bodies.some(lane.tag, 60)
    lane.send(bodies.texts(sent))
    dice, killed, longest = random.Random(5), 0, 2.0
    while killed < 6:
        pair = [_command(lane, "drain") for _ in range(2)]
        for process in pair:
            try:
                process.wait(dice.uniform(0.1, longest))
                longest = max(0.3, longest * 0.9)  # it ended by itself: this machine is faster
            except subprocess.TimeoutExpired:
                process.kill()
                killed += process.wait() == -9
        if not lane.on_queue():
            more = bodies.some(lane.tag, 20, first=len(sent))
            lane.send(bodies.texts(more))
            sent += more
    while lane.on_queue():
        worker.wait_until_visible(lane)
        assert _command(lane, "drain").wait() == 0

    assert accounts.balance(lane, sent) == accounts.Balance(0, 0, 0, 0)


def test_two_pipelines_on_one_queue_share_its_messages(lane: Lane) -> None:
    sent = bodies.some(lane.tag, 5_000)
    lane.send(bodies.texts(sent))
    before = _deadlocks(lane)
    # Hidden for long: whatever is loaded twice here is loaded so by two runs at once.
    options = {
        "QUEUE_ETL_BATCH_MESSAGES": "100",
        "QUEUE_ETL_RECEIVE_SECONDS": "30",
        "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "300",
    }
    took: Counter[int] = Counter()
    while lane.on_queue():
        pair = [worker.start(lane, ["drain", "--max", "700", "--json"], None, **options) for _ in range(2)]
        for number, started in enumerate(pair):
            ended = started.wait()
            assert ended.code == 0, ended.errors[-2000:]
            took[number] += '"received": 0' not in ended.output

    assert accounts.balance(lane, sent) == accounts.Balance(0, 0, 0, 0)
    assert min(took[0], took[1]) >= 2, "one of the two had all the work"
    assert _deadlocks(lane) == before


def test_two_pipelines_that_receive_the_same_messages_load_each_once(lane: Lane) -> None:
    sent = bodies.some(lane.tag, 400)
    lane.send(bodies.texts(sent))
    before = _deadlocks(lane)
    # Messages come back while they are being loaded, and the other pipeline takes them.
    options = {"QUEUE_ETL_BATCH_MESSAGES": "100", "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "2"}
    while lane.on_queue():
        worker.wait_until_visible(lane)
        for started in [worker.start(lane, ["drain"], None, **options) for _ in range(2)]:
            ended = started.wait()
            assert ended.code == 0, ended.errors[-2000:]

    assert accounts.balance(lane, sent) == accounts.Balance(0, 0, 0, 0)
    assert _deadlocks(lane) == before


def _deadlocks(lane: Lane) -> int:
    return int(lane.ground.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = 'warehouse'")[0][0])


def _command(lane: Lane, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "include.queue_etl", *arguments]
    with (lane.ground.output / "commands.err").open("ab") as said:
        return subprocess.Popen(command, cwd=ROOT, env=lane.environment, stdout=said, stderr=said)
