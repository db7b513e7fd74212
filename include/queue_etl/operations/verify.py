"""Do the numbers agree? Counts of one day, from the tables themselves.

The ledger knows every message that was dealt with, by the day it was sent: each is a row, or waits in
quarantine, or left it in a way that is counted. A run has received what became of its messages. Each
statement sees one moment, so that loads under way change nothing.

It sees numbers, not contents. Where a contract has neither SentDay, SentAt nor MessageId, nobody can tell
which rows are of a day; where rows are replaced by key, or dropped by another date, there may be fewer rows
than messages. Messages that never reached a batch, and days that the ledger has forgotten, are out of its
sight.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString, NamedTuple

from include.queue_etl.contract import Contract
from include.queue_etl.contract.columns import Column, Form
from include.queue_etl.errors import NumbersDisagree, SettingsError
from include.queue_etl.operations.alerts import AlertStore
from include.queue_etl.operations.causes import verify_finding
from include.queue_etl.operations.replay import ledger_queue
from include.queue_etl.postgres.connection import Database
from include.queue_etl.resources import Resources

EXACTLY, AT_MOST, UNKNOWN = "exactly", "at most", "unknown"
# The first that a contract has tells the rows of a day.
TELLING = (Form.SENT_DAY, Form.SENT_AT, Form.MESSAGE_ID)
log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What the tables say of the messages that were sent on one day.

    Attributes:
        loaded: ledger entries of messages that became a row
        rows: rows of the table; None where nobody can tell
        rejected: ledger entries of messages that went to quarantine and are no row
        waiting: messages that wait in quarantine
        found: those of them that the ledger has as rejected
        expired: waiting messages that maintenance deleted
        erased: waiting messages that a privacy officer deleted
        before: messages that were gone before anybody counted
        other: waiting messages that somebody else deleted
        of_no_run: ledger entries of a run that is not known
    """

    loaded: int
    rows: int | None
    rejected: int
    waiting: int
    found: int
    expired: int
    erased: int
    before: int
    other: int
    of_no_run: int

    @property
    def gone(self) -> int:
        """Rejected messages that are not in quarantine any more, as they were counted."""
        return self.expired + self.erased + self.before + self.other


class RunSums(NamedTuple):
    """What a closed run says of its messages, and what its batches say."""

    run_name: str
    state: str
    received: int | None
    loaded: int
    quarantined: int
    duplicates: int
    released: int
    in_batches: int


@dataclass(frozen=True, slots=True)
class Verified:
    """One table on one day.

    Attributes:
        rule: how many rows there have to be: EXACTLY or AT_MOST as many as `loaded`, or UNKNOWN
        runs: of the queue, that were closed on that day
        problems: a sentence for each difference
    """

    contract: str
    table: str
    day: date
    rule: str
    counts: Counts
    runs: int
    problems: tuple[str, ...]

    def line(self) -> dict[str, Any]:
        """What `verify` prints of it."""
        counts = self.counts
        return {
            "contract": self.contract,
            "table": self.table,
            "day": self.day.isoformat(),
            "loaded": counts.loaded,
            "rows": counts.rows,
            "rule": self.rule,
            "rejected": counts.rejected,
            "waiting": counts.waiting,
            "expired": counts.expired,
            "erased": counts.erased,
            "runs": self.runs,
            "differences": len(self.problems),
        }


def yesterday() -> date:
    """The last day that is over, in UTC, as days of sending are."""
    return datetime.now(UTC).date() - timedelta(days=1)


def require_day(day: date, ledger_days: int) -> None:
    """Raises SettingsError where the ledger may have forgotten the day, or it is still to come."""
    today = datetime.now(UTC).date()
    if day > today:
        raise SettingsError([f"{day} is still to come: give a day that was"])
    if day < today - timedelta(days=ledger_days):
        raise SettingsError([f"{day} is too long ago: the ledger remembers {ledger_days} days"])


def verify(resources: Resources, contracts: Mapping[str, Contract], day: date) -> list[Verified]:
    """Compare ledger, tables, quarantine and runs of one day; changes nothing.

    Args:
        resources: as role etl_maintainer
        contracts: by name
        day: on which messages were sent, and on which runs were closed, in UTC

    Returns:
        one a table, replay tables too

    Raises:
        SettingsError: the ledger may have forgotten the day
        WarehouseUnavailable, WarehouseRefused: also where a table is missing
    """
    require_day(day, resources.settings.ledger_days)
    found = []
    for contract in contracts.values():
        runs = [RunSums(*line) for line in _execute(resources.database, RUNS, contract.queue, day)]
        found.append(_of_table(resources.database, contract, contract.queue, day, runs))
        if contract.key:
            continue  # what is replayed by key needs no ledger
        for again in contract.each_table()[1:]:
            found.append(_of_table(resources.database, again, ledger_queue(again), day, []))
    for one in found:
        for problem in one.problems:
            log.error("%s", problem)
    return found


def report(resources: Resources, contracts: Iterable[str], day: date, found: Sequence[Verified]) -> None:
    """Raise an alert for each contract whose numbers of the day differ; end those of the others."""
    at = datetime.now(UTC)
    problems = {
        name: [problem for one in found if one.contract == name for problem in one.problems]
        for name in contracts
    }
    AlertStore(resources.database).report(
        [verify_finding(name, day.isoformat(), told, at) for name, told in problems.items()]
    )


def refuse(found: Sequence[Verified]) -> None:
    """Raises NumbersDisagree with all differences, where there are any."""
    problems = [problem for one in found for problem in one.problems]
    if problems:
        raise NumbersDisagree(problems)


def _of_table(database: Database, contract: Contract, queue: str, day: date, runs: list[RunSums]) -> Verified:
    telling, rule = rule_of(contract, day)
    values = {"table": contract.table, "column": telling.name if telling and rule != UNKNOWN else None}
    (line,) = _execute(database, COUNTS, queue, day, **values)
    counts = Counts(*line)
    problems = (
        *(f"{contract.table}, messages sent on {day}: {problem}" for problem in differences(counts, rule)),
        *(problem for run in runs for problem in run_differences(run)),
    )
    return Verified(contract.name, contract.table, day, rule, counts, len(runs), problems)


def rule_of(contract: Contract, day: date) -> tuple[Column | None, str]:
    """The column that tells the rows of a day, and how many rows there have to be."""
    by_form = {column.form: column for column in contract.columns}
    telling = next((by_form[form] for form in TELLING if form in by_form), None)
    if telling is None:
        return None, UNKNOWN
    if contract.key:
        return telling, AT_MOST
    if contract.retain_days is None or contract.partition_by is None:
        return telling, EXACTLY
    if contract.partition_by.column != telling.name:
        return telling, AT_MOST  # a row may have had a date that is long past
    is_kept = day >= datetime.now(UTC).date() - timedelta(days=contract.retain_days)
    return telling, EXACTLY if is_kept else AT_MOST


def differences(counts: Counts, rule: str) -> Iterator[str]:
    """What does not agree, a sentence each."""
    rows = counts.rows
    if rows is not None and rows > counts.loaded:
        yield f"{rows - counts.loaded} rows more than the ledger has loaded ({rows}, not {counts.loaded})"
    if rows is not None and rule == EXACTLY and rows < counts.loaded:
        yield f"{counts.loaded - rows} rows are missing: there are {rows}, and the ledger has {counts.loaded}"
    missing = counts.rejected - counts.found - counts.gone
    if missing > 0:
        yield f"{missing} messages are gone from the quarantine, and nobody expired or erased them"
    if missing < 0:
        yield f"{-missing} messages count as deleted from the quarantine, and the ledger has them no more"
    if counts.other:
        yield f"{counts.other} waiting messages were deleted by neither maintenance nor an officer"
    if counts.waiting > counts.found:
        yield f"{counts.waiting - counts.found} messages wait in quarantine, and the ledger has them not"
    if counts.of_no_run:
        yield f"{counts.of_no_run} ledger entries are of a run that etl.runs does not have"


def run_differences(run: RunSums) -> Iterator[str]:
    """What does not agree in the sums of one closed run, a sentence each."""
    settled = run.loaded + run.quarantined + run.duplicates
    if settled != run.in_batches:
        yield f"run {run.run_name}: its sums are {settled} messages, its batches hold {run.in_batches}"
    if run.received is None:
        return
    # Of a failed run some messages may come back by the visibility timeout: nobody could release them.
    unsettled = run.received - settled - run.released
    if unsettled < 0 or (unsettled > 0 and run.state == "succeeded"):
        yield (
            f"run {run.run_name}: received {run.received}, but loaded {run.loaded}, quarantined "
            f"{run.quarantined}, duplicates {run.duplicates} and released {run.released} are "
            f"{settled + run.released}"
        )


def _execute(
    database: Database, statement: LiteralString, queue: str, day: date, **values: object
) -> list[tuple[Any, ...]]:
    return database.execute(statement, queue=queue, day=day, **values)


# The statements. One each, since each sees the tables as of one moment.

COUNTS: LiteralString = """
    WITH entries AS MATERIALIZED (
        SELECT message_id, status, run_id FROM etl.ledger JOIN etl.queues USING (queue_id)
        WHERE name = %(queue)s AND sent_day = %(day)s
    ), waiting AS MATERIALIZED (
        SELECT message_id FROM etl.quarantine JOIN etl.queues USING (queue_id)
        WHERE name = %(queue)s AND sent_day = %(day)s AND redriven_at IS NULL
    ), gone AS MATERIALIZED (
        SELECT cause, messages FROM etl.quarantine_deleted JOIN etl.queues USING (queue_id)
        WHERE name = %(queue)s AND sent_day = %(day)s
    )
    SELECT
        (SELECT count(*) FROM entries WHERE status = 'L'),
        CASE WHEN %(column)s::text IS NOT NULL
             THEN etl.rows_of_day(%(table)s::regclass, %(column)s, %(queue)s, %(day)s) END,
        (SELECT count(*) FROM entries WHERE status = 'Q'),
        (SELECT count(*) FROM waiting),
        (SELECT count(*) FROM waiting JOIN entries USING (message_id) WHERE status = 'Q'),
        coalesce((SELECT messages FROM gone WHERE cause = 'expired'), 0),
        coalesce((SELECT messages FROM gone WHERE cause = 'erased'), 0),
        coalesce((SELECT messages FROM gone WHERE cause = 'before'), 0),
        coalesce((SELECT messages FROM gone WHERE cause = 'other'), 0),
        (SELECT count(*) FROM entries LEFT JOIN etl.runs USING (run_id) WHERE runs.run_id IS NULL)
"""
RUNS: LiteralString = """
    SELECT airflow_run_id, state, received, coalesce(runs.loaded, 0), coalesce(runs.quarantined, 0),
           coalesce(runs.duplicates, 0), coalesce(released, 0),
           coalesce(sum(batches.loaded + batches.quarantined + batches.duplicates), 0)
    FROM etl.runs JOIN etl.queues USING (queue_id) LEFT JOIN etl.batches USING (run_id)
    WHERE name = %(queue)s AND kind = 'queue' AND state <> 'running'
      AND finished_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
      AND finished_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    GROUP BY run_id
"""
