"""When somebody is to be told: what was seen of a contract -> causes, each with what helps. Pure.

A finding says of one kind of cause that it holds, or that it does not. Where something could not be seen,
there is no finding, and an alert stays as it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from include.queue_etl.contract import Contract
from include.queue_etl.counts import found_in_words, in_words
from include.queue_etl.settings import Settings

COMMAND = "python -m include.queue_etl"
ALL = "(all contracts)"  # the contract of what is about none of them
EXPIRES_WITHIN = timedelta(days=3)
ON_THE_QUEUE = "on the queue: nothing is lost"
IN_QUARANTINE = "in etl.quarantine, encrypted"


class Cause(NamedTuple):
    """Why somebody is told.

    Attributes:
        since: as far as is known
        what: a sentence without its full stop
        place: where the messages are
        remedy: the command or page that helps
    """

    since: datetime
    what: str
    place: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """That one kind of cause holds for a subject, or that it does not."""

    kind: str
    subject: str
    contract: str
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class QueueState:
    """What SQS says of a contract's queues.

    Attributes:
        dead_letters: messages in the dead-letter queue; None where there is none
        retention_seconds: so long SQS keeps a message
        cloudwatch_age: of the oldest message, in seconds; None where CloudWatch has no answer
    """

    visible: int
    in_flight: int
    delayed: int
    dead_letters: int | None
    retention_seconds: int
    cloudwatch_age: int | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the warehouse knows of a contract's runs.

    Attributes:
        failed_run: name of the newest closed run, where that one failed
        failed_since: when the first of the failed runs ended that no successful one followed
        failed_age: of the oldest message that the newest one received, in seconds; now, not then
        moved_at: when a run last deleted messages from the queue
        loaded: rows of the runs that were closed within a day
        quarantined: messages that came to quarantine within a day, and wait there
        quarantined_since: when the first of them came
        expiring: waiting messages that maintenance deletes within EXPIRES_WITHIN
        unknown_fields: messages with fields that nobody declared, by path, within a day
        personal: what looks personal, by path and kind, within a day
        last_success: when a run last succeeded
    """

    failed_run: str = ""
    failed_since: datetime | None = None
    failed_age: int | None = None
    moved_at: datetime | None = None
    loaded: int = 0
    quarantined: int = 0
    quarantined_since: datetime | None = None
    expiring: int = 0
    unknown_fields: Mapping[str, int] = field(default_factory=dict)
    personal: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    last_success: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a contract.

    Attributes:
        waiting_since: since when messages wait and no run moved any; None where none waits
        queue: None where it could not be asked
        problem: why it could not
    """

    at: datetime
    runs: RunFacts
    queue: QueueState | None
    waiting_since: datetime | None = None
    problem: str = ""

    @property
    def oldest_age(self) -> int | None:
        """Of the oldest message, in seconds: at least so old; None where nobody can tell."""
        if self.queue is None or not self.queue.visible + self.queue.in_flight:
            return None
        waited = int((self.at - self.waiting_since).total_seconds()) if self.waiting_since else None
        known = [age for age in (self.queue.cloudwatch_age, self.runs.failed_age, waited) if age is not None]
        return max(known, default=None)


def waiting_since(
    before: datetime | None, at: datetime, queue: QueueState, moved_at: datetime | None
) -> datetime | None:
    """Since when messages wait and no run moved any; None where none waits.

    Messages in flight wait too: a run that fails releases them.

    Args:
        before: what the last look said
        at: now
        queue: what SQS says now
        moved_at: when a run last deleted messages
    """
    if not queue.visible + queue.in_flight:
        return None
    since = before or at
    return max(since, moved_at) if moved_at else since


def findings(contract: Contract, seen: Seen, settings: Settings) -> Iterator[Finding]:
    """What holds for a contract and what does not; the contract's own settings win."""
    own = {**{name: getattr(settings, name) for name in LIMITS}, **contract.settings}
    found = {
        "failed": _failed(contract, seen),
        "quarantined": _quarantined(contract, seen, own["alert_quarantined_percent"]),
        "expiring": _expiring(contract, seen, settings.quarantine_days),
        "undeclared": _undeclared(contract, seen),
        "personal": _personal(contract, seen),
        "queue": _unseen(contract, seen),
    }
    if seen.queue is not None:
        found["age"] = _age(contract, seen, seen.queue)
        found["dead_letters"] = _dead_letters(contract, seen, seen.queue)
        found["stalled"] = _stalled(contract, seen, seen.queue, own)
    for kind, cause in found.items():
        yield Finding(kind, contract.name, contract.name, cause)


LIMITS = ("alert_quarantined_percent", "alert_stalled_minutes", "freshness_seconds")


def _failed(contract: Contract, seen: Seen) -> Cause | None:
    runs = seen.runs
    if runs.failed_since is None:
        return None
    return Cause(
        runs.failed_since,
        f"run {runs.failed_run} of {contract.name} failed, and none succeeded since",
        "what was committed is in the table, all else on the queue",
        f"the log of the run's first failed task; docs/operations.md, `A run fails`; "
        f"`{COMMAND} check --contract {contract.name}`",
    )


def _quarantined(contract: Contract, seen: Seen, percent: int) -> Cause | None:
    runs = seen.runs
    if not runs.quarantined or 100 * runs.quarantined <= percent * (runs.quarantined + runs.loaded):
        return None
    share = 100 * runs.quarantined // (runs.quarantined + runs.loaded)
    return Cause(
        runs.quarantined_since or seen.at,
        f"{share}% of the messages of {contract.name} within a day wait in quarantine ({runs.quarantined}); "
        f"the limit is {percent}%",
        IN_QUARANTINE,
        f"`{COMMAND} shape --contract {contract.name}` tells why; correct the contract, then "
        f"`{COMMAND} redrive --contract {contract.name} --apply`",
    )


def _expiring(contract: Contract, seen: Seen, quarantine_days: int) -> Cause | None:
    if not seen.runs.expiring:
        return None
    return Cause(
        seen.at,
        f"{seen.runs.expiring} messages of {contract.name} wait in quarantine for almost {quarantine_days} "
        f"days: maintenance deletes them within {EXPIRES_WITHIN.days} days",
        IN_QUARANTINE,
        f"`{COMMAND} redrive --contract {contract.name} --apply`, or a larger QUEUE_ETL_QUARANTINE_DAYS",
    )


def _undeclared(contract: Contract, seen: Seen) -> Cause | None:
    if not seen.runs.unknown_fields:
        return None
    kept = (
        "encrypted beside their rows" if contract.unknown_fields == "keep" else "nowhere: they are left out"
    )
    return Cause(
        seen.at,
        f"messages of {contract.name} have fields that nobody declared: {in_words(seen.runs.unknown_fields)}",
        f"the messages are rows; these fields are {kept}",
        "declare them: docs/contracts.md, `Change a contract`",
    )


def _personal(contract: Contract, seen: Seen) -> Cause | None:
    if not seen.runs.personal:
        return None
    return Cause(
        seen.at,
        f"messages of {contract.name} have what looks personal where nobody declared it: "
        f"{found_in_words(seen.runs.personal)}",
        "in quarantine" if contract.personal_data_check == "quarantine" else "in the table, in the clear",
        "tell the privacy officer; docs/operations.md, `Personal data where nobody declared it`",
    )


def _unseen(contract: Contract, seen: Seen) -> Cause | None:
    if seen.queue is not None:
        return None
    return Cause(
        seen.at,
        f"the queue of {contract.name} cannot be asked: {seen.problem}",
        "on the queue, as far as anybody can tell",
        f"`{COMMAND} check --contract {contract.name}`",
    )


def _age(contract: Contract, seen: Seen, queue: QueueState) -> Cause | None:
    age = seen.oldest_age
    if age is None or 2 * age <= queue.retention_seconds:
        return None
    lost_in = timedelta(seconds=max(0, queue.retention_seconds - age))
    return Cause(
        seen.at - timedelta(seconds=age - queue.retention_seconds // 2),
        f"the oldest message of {contract.name} is {_hours(timedelta(seconds=age))} old: SQS deletes it in "
        f"{_hours(lost_in)}",
        f"{ON_THE_QUEUE} until then",
        f"`{COMMAND} check --contract {contract.name}`, then run the DAG {contract.name}, or "
        f"`{COMMAND} drain --contract {contract.name}`",
    )


def _dead_letters(contract: Contract, seen: Seen, queue: QueueState) -> Cause | None:
    if not queue.dead_letters:
        return None
    return Cause(
        seen.at,
        f"{queue.dead_letters} messages of {contract.name} are dead letters",
        f"on {contract.dead_letter_queue}",
        f"`{COMMAND} dead-letters --contract {contract.name} --apply`, when their cause is gone",
    )


def _stalled(contract: Contract, seen: Seen, queue: QueueState, own: Mapping[str, int]) -> Cause | None:
    # Without a schedule nobody promised that it runs.
    if seen.waiting_since is None or contract.schedule is None:
        return None
    since = max(filter(None, (seen.waiting_since, seen.runs.last_success)))
    minutes = max(own["alert_stalled_minutes"], 2 * own["freshness_seconds"] // 60)  # so long they may wait
    if seen.at - since <= timedelta(minutes=minutes):
        return None
    waiting = queue.visible + queue.in_flight
    return Cause(
        since,
        f"{waiting} messages of {contract.name} wait, and no run has succeeded for {minutes} minutes",
        ON_THE_QUEUE,
        f"is the DAG {contract.name} paused, and does a triggerer run? `{COMMAND} check --contract "
        f"{contract.name}` names what is not ready",
    )


def _hours(time: timedelta) -> str:
    hours, minutes = divmod(int(time.total_seconds()) // 60, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


# What is about no single contract ---------------------------------------------------------------------------


def broken_finding(name: str, problem: str | None, at: datetime) -> Finding:
    """That the file of a contract cannot be used, or that it can (None)."""
    cause = problem and Cause(
        at,
        f"contract {name} cannot be used: {problem}",
        "on the queue; open runs and staged files stay as they are",
        f"correct the file; `{COMMAND} contract list` shows what is wrong",
    )
    return Finding("broken", name, name, cause or None)


def ledger_finding(is_behind: bool, at: datetime) -> Finding:
    """That the days of the ledger run out, since maintenance has not run, or that they do not."""
    cause = Cause(
        at,
        "the ledger has no day for tomorrow: maintenance has not run for two days, so nothing expires either",
        "where it was: loads make the days they need",
        f"is the DAG queue_etl_maintenance paused? `{COMMAND} maintain`",
    )
    return Finding("ledger", ALL, ALL, cause if is_behind else None)


def key_finding(first_used_at: datetime | None, at: datetime, days: int) -> Finding:
    """That the primary key masks for longer than `days`, or that it does not; 0 days: nobody is told."""
    due = first_used_at + timedelta(days=days) if first_used_at and days else at
    cause = Cause(
        due,
        f"the primary key has masked for more than {days} days",
        "in the tables, as tokens",
        f"`{COMMAND} keys add`, `keys promote`, `remask`: docs/privacy.md",
    )
    return Finding("key", ALL, ALL, cause if due < at else None)


def verify_finding(contract: str, day: str, problems: list[str], at: datetime) -> Finding:
    """That the numbers of a contract's day differ, or that they agree."""
    more = f", and {len(problems) - 1} differences more" if len(problems) > 1 else ""
    cause = problems and Cause(
        at,
        f"the numbers of {contract} on {day} do not agree: {problems[0]}{more}",
        "docs/operations.md, `The numbers do not agree`, tells for each difference",
        f"`{COMMAND} verify --contract {contract} --day {day}`",
    )
    return Finding("verify", f"{contract} {day}", contract, cause or None)
