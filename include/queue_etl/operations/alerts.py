"""The state of alerts, in the warehouse: which are open, and who has been told of what.

A cause is open once (`etl.alerts_open`), so it is told once, however many look at once.
Nobody sends from here: `notices` does, in a pass of the watch.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from include.queue_etl.operations.causes import Finding
from include.queue_etl.postgres.connection import Connection, Database

# A pass that dies while it sends gives its notices back by then. Longer than sending may take.
CLAIM_SECONDS = 300


class Alert(NamedTuple):
    """A line of etl.alerts; its texts hold no value of a message."""

    alert_id: int
    kind: str
    contract: str
    subject: str
    since: datetime
    raised_at: datetime
    ended_at: datetime | None
    what: str
    place: str
    remedy: str


class Notice(NamedTuple):
    """What one receiver is to be told of an alert: that it was `raised`, or that it `ended`."""

    event: str
    alert: Alert


class AlertStore:
    """Alerts as role etl_maintainer, which raises and ends them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, findings: Iterable[Finding]) -> dict[str, int]:
        """Raise what holds and is not open, end what is open and does not hold.

        Returns:
            "raised" and "ended": how many alerts
        """
        return self._database.transaction(lambda connection: report(connection, findings))

    def verify_days(self) -> list[tuple[str, str]]:
        """Contract and day of each open difference."""
        return [(contract, subject.split(" ")[-1]) for contract, subject in self._database.execute(OPEN_DAYS)]

    def enqueue(self, receivers: Sequence[str]) -> None:
        """Note what each receiver is to be told, for `claim`.

        Of an open alert that it was raised; of one that ended that it did, where its receiver was to be told
        that it was raised. So a receiver that is new is not told of what is over.
        """
        self._database.execute(ENQUEUE, receivers=list(receivers))

    def claim(self, receiver: str) -> list[Notice]:
        """The unsent notices of a receiver, the oldest first; nobody else gets them for CLAIM_SECONDS."""
        found = self._database.execute(CLAIM, receiver=receiver, seconds=CLAIM_SECONDS)
        notices = [Notice(event, Alert(*alert)) for event, *alert in found]
        # By the moment of what is told, then raised before ended.
        return sorted(notices, key=lambda one: (one.alert.alert_id, one.event == "ended"))

    def sent(self, receiver: str, notice: Notice) -> None:
        """The receiver has it."""
        self._database.execute(SENT, receiver=receiver, alert_id=notice.alert.alert_id, event=notice.event)

    def give_back(self, receiver: str, notices: Sequence[Notice]) -> None:
        """They were not sent: the next pass tries again."""
        for notice in notices:
            values = {"receiver": receiver, "alert_id": notice.alert.alert_id, "event": notice.event}
            self._database.execute(GIVE_BACK, **values)


def report(connection: Connection, findings: Iterable[Finding]) -> dict[str, int]:
    """As `AlertStore.report`, within a transaction."""
    counts = {"raised": 0, "ended": 0}
    for finding in findings:
        values: dict[str, Any] = {
            "kind": finding.kind, "subject": finding.subject, "contract": finding.contract,
        }  # fmt: skip
        if finding.cause is None:
            counts["ended"] += connection.execute(END, values).rowcount
        else:
            ((is_new,),) = connection.execute(RAISE, {**values, **finding.cause._asdict()}).fetchall()
            counts["raised"] += is_new
    return counts


def open_alerts(database: Database, *, ended_too: int = 0) -> list[Alert]:
    """The open alerts, and so many of those that ended last; the newest first. As role ops_ro."""
    return [Alert(*line) for line in database.execute(SELECT_ALERTS, ended=ended_too)]


# The statements

# xmax is 0 in a row that was inserted and not updated.
RAISE: LiteralString = """
    INSERT INTO etl.alerts AS one (kind, subject, contract, since, what, place, remedy)
    VALUES (%(kind)s, %(subject)s, %(contract)s, %(since)s, %(what)s, %(place)s, %(remedy)s)
    ON CONFLICT (kind, subject) WHERE ended_at IS NULL
    DO UPDATE SET what = excluded.what, place = excluded.place, remedy = excluded.remedy, seen_at = now()
    RETURNING xmax = 0
"""
END: LiteralString = """
    UPDATE etl.alerts SET ended_at = now()
    WHERE kind = %(kind)s AND subject = %(subject)s AND ended_at IS NULL
"""
OPEN_DAYS: LiteralString = """
    SELECT contract, subject FROM etl.alerts WHERE kind = 'verify' AND ended_at IS NULL
"""
ENQUEUE: LiteralString = """
    INSERT INTO etl.alert_notices (alert_id, event, receiver)
    SELECT alert_id, 'raised', receiver FROM etl.alerts, unnest(%(receivers)s::text[]) AS receiver
    WHERE ended_at IS NULL
    UNION ALL
    SELECT alert_id, 'ended', receiver FROM etl.alerts JOIN etl.alert_notices AS told USING (alert_id)
    WHERE ended_at IS NOT NULL AND told.event = 'raised' AND receiver = ANY (%(receivers)s)
      AND NOT EXISTS (
          SELECT FROM etl.alert_notices AS over
          WHERE (over.alert_id, over.event, over.receiver) = (told.alert_id, 'ended', told.receiver)
      )
    ON CONFLICT DO NOTHING
"""
CLAIM: LiteralString = """
    WITH mine AS MATERIALIZED (
        SELECT alert_id, event, receiver FROM etl.alert_notices
        WHERE receiver = %(receiver)s AND sent_at IS NULL
          AND (claimed_until IS NULL OR claimed_until < now())
        ORDER BY alert_id, event FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE etl.alert_notices AS notice
        SET claimed_until = now() + make_interval(secs => %(seconds)s), attempts = attempts + 1
        FROM mine
        WHERE (notice.alert_id, notice.event, notice.receiver) = (mine.alert_id, mine.event, mine.receiver)
        RETURNING notice.alert_id, notice.event
    )
    SELECT event, alert_id, kind, contract, subject, since, raised_at, ended_at, what, place, remedy
    FROM claimed JOIN etl.alerts USING (alert_id)
"""
SENT: LiteralString = """
    UPDATE etl.alert_notices SET sent_at = now(), claimed_until = NULL
    WHERE alert_id = %(alert_id)s AND event = %(event)s AND receiver = %(receiver)s
"""
GIVE_BACK: LiteralString = """
    UPDATE etl.alert_notices SET claimed_until = NULL
    WHERE alert_id = %(alert_id)s AND event = %(event)s AND receiver = %(receiver)s
"""
SELECT_ALERTS: LiteralString = """
    (SELECT alert_id, kind, contract, subject, since, raised_at, ended_at, what, place, remedy
     FROM etl.alerts WHERE ended_at IS NULL)
    UNION ALL
    (SELECT alert_id, kind, contract, subject, since, raised_at, ended_at, what, place, remedy
     FROM etl.alerts WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT %(ended)s)
    ORDER BY alert_id DESC
"""
