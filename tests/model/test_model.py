"""The real steps in a thousand random schedules; and the usual designs in the same ones, which must fail.

A failure names its seed: `replay(seed)` runs that schedule again.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.model.doubles import DeletingQueue, PlainWarehouse, ReplacingWarehouse, TrustingWarehouse
from tests.model.schedule import Design, Outcome, Schedule

SCHEDULES = int(os.environ.get("MODEL_SCHEDULES", "1000"))
PART = max(1, SCHEDULES // 2)
FIRST_SEEDS = [
    seed if seed == 0 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(0, SCHEDULES, PART)
]
OURS = Design("ours")
NAIVE = (
    Design("delete on reception", queue=DeletingQueue, warehouse=PlainWarehouse),
    Design("plain INSERT, then delete", warehouse=PlainWarehouse),
    Design("DELETE WHERE run_id; INSERT", warehouse=ReplacingWarehouse),
    Design("unique id, delete trusts the staged list", warehouse=TrustingWarehouse),
)

OFTEN = (
    "kill", "stop", "long_wait", "clear", "staging_gone", "second_attempt_alive", "poisoned",
    "arrival_in_extract", "sealed_by_age", "extract_out_of_time",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def replay(seed: int, design: Design = OURS) -> tuple[Outcome, Counter[str]]:
    schedule = Schedule(seed, design)
    return schedule.run(), schedule.world.events


@pytest.mark.parametrize("first_seed", FIRST_SEEDS)
def test_no_schedule_loses_doubles_or_strands_a_message(
    first_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    started, total, events = time.process_time(), Outcome(), Counter[str]()
    for seed in range(first_seed, min(first_seed + PART, SCHEDULES)):
        outcome, happened = replay(seed)
        assert outcome.wrong == 0, f"seed {seed}: {outcome}"
        total, events = total + outcome, events + happened
    with capsys.disabled():
        seconds = time.process_time() - started
        print(f"\n{PART} schedules in {seconds:.1f} s CPU: {total}\n{dict(events)}")
    for what in OFTEN:
        assert events[what] > PART / 20, f"{what} hardly ever happened: {events}"


def test_a_seed_always_gives_the_same_schedule() -> None:
    for seed in range(20):
        assert replay(seed) == replay(seed)


@pytest.mark.parametrize("design", NAIVE, ids=lambda design: design.name)
def test_a_naive_design_is_found_out(design: Design, capsys: pytest.CaptureFixture[str]) -> None:
    total = Outcome()
    for seed in range(SCHEDULES // 20):
        total += replay(seed, design)[0]
    with capsys.disabled():
        print(f"\n{design.name}: {total}")
    assert total.lost + total.duplicate > 0
