"""Waiting for something to come true, without guessing how long it takes."""

from collections.abc import Callable

from devstack import processes

# Generous, for a busy machine: a wait costs as long as it takes, and the deadline only when a test fails.
DEADLINE_SECONDS = 120.0


def wait_until(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Return when the condition holds; fail the test when it does not come to hold in time."""
    assert processes.wait_until(condition, seconds, every=0.02), f"did not come true within {seconds:.0f} s"
