"""How a contract stands, in one word. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from include.queue_etl.page.depths import UNKNOWN, QueueFigures
from include.queue_etl.page.store import Standing

FEW = 20  # messages, of which one that is rejected says nothing


class Limits(NamedTuple):
    """The settings of a contract from which on alerts are raised too; their names begin with `alert_`."""

    stalled_minutes: int
    quarantined_percent: int


USUAL = Limits(30, 5)


@dataclass(frozen=True, slots=True)
class Word:
    """A state: the word, how it is coloured, and what to do.

    Attributes:
        tone: "bad", "warn", "good" or "calm"
        advice: a sentence
        rank: the lowest is shown first
    """

    word: str
    tone: str
    advice: str
    rank: int


BROKEN = Word(
    "broken", "bad", "Its file cannot be loaded, so it has no DAG. Correct the file and deploy it.", 0
)
UNREACHABLE = Word("unreachable", "bad", "Its warehouse does not answer this page; runs may still load.", 1)
FAILING = Word("failing", "bad", "The last run failed. Open the contract: it shows what the run said.", 2)
LATE = Word("late", "bad", "The oldest message is beyond half of the queue's retention. Run the DAG now.", 3)
STUCK = Word("stuck", "bad", "Messages wait, and no run has succeeded for too long. Is the DAG paused?", 4)
DEAD = Word(
    "dead-letters",
    "warn",
    "The command dead-letters shows them without their bodies, and sends them back.",
    5,
)
REJECTING = Word("rejecting", "warn", "Many of today's messages are in quarantine. Look at the reasons.", 6)
RUNNING = Word("running", "good", "A run is under way.", 7)
GOOD = Word("good", "good", "Nothing to do.", 8)
NEW = Word("new", "calm", "No run has received a message yet. Send one, or run the DAG.", 9)


def word_of(
    standing: Standing, depth: QueueFigures = UNKNOWN, *, now: datetime, limits: Limits = USUAL
) -> Word:
    """The worst that is true of a contract whose warehouse answered; what is unknown does not count."""
    success, failure = standing.last_success, standing.last_failure
    checks: Sequence[tuple[bool, Word]] = (
        (failure is not None and (success is None or success < failure), FAILING),
        (_is_late(standing, depth), LATE),
        (_is_stuck(standing, depth, now - timedelta(minutes=limits.stalled_minutes)), STUCK),
        (bool(depth.dead_letters), DEAD),
        (_rejects_much(standing, limits.quarantined_percent / 100), REJECTING),
        (standing.running_since is not None, RUNNING),
        (success is not None, GOOD),
    )
    return next((word for holds, word in checks if holds), NEW)


def share_quarantined(standing: Standing) -> float | None:
    """Of what was handled today; None where nothing was."""
    return standing.quarantined_today / standing.handled_today if standing.handled_today else None


def oldest_age(standing: Standing, depth: QueueFigures) -> int | None:
    """Seconds, of the oldest message that waits: as CloudWatch says, else as the last run saw it; else None.

    0 where nothing waits.
    """
    if depth.oldest_age_seconds is not None:
        return depth.oldest_age_seconds
    if depth.visible is None:
        return None
    return standing.oldest_age_seconds if depth.visible else 0


def _is_late(standing: Standing, depth: QueueFigures) -> bool:
    age = oldest_age(standing, depth)
    return bool(age and depth.retention_seconds and age > depth.retention_seconds / 2)


def _is_stuck(standing: Standing, depth: QueueFigures, since: datetime) -> bool:
    if not depth.visible or standing.running_since is not None:
        return False
    return standing.last_success is not None and standing.last_success < since


def _rejects_much(standing: Standing, most: float) -> bool:
    share = share_quarantined(standing)
    return share is not None and standing.handled_today >= FEW and share > most
