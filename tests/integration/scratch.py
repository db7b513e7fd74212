"""A migrated database of the tests' own, and batches to load into it."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.contracts.user_logins import CONTRACT
from include.queue_etl.postgres.loading import BatchCounts
from include.queue_etl.postgres.runs import RunStore, RunTotals
from include.queue_etl.transform import copy_binary
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch, ids_digest
from include.queue_etl.transform.quarantine import QuarantineLine, encode_lines
from tests.support.wait import wait_until

TODAY = datetime.now(UTC).date()
Message = tuple[date, str, str]  # sent day, id, user id; a user id that begins with "bad" is rejected

CONTENTS = (
    "public.user_logins, etl.queues, etl.runs, etl.batches, etl.keys, etl.ledger, etl.quarantine,"
    " etl.kept_fields, etl.quarantine_deleted, etl.queue_states, etl.alerts, etl.alert_notices, pii.audit"
)


@dataclass(frozen=True)
class Database:
    """A migrated database.

    The roles are the cluster's, and so are their passwords: those of a running stack must not change. So
    the tests log in through roles of their own, each a member of one of ours, which it becomes at once.
    """

    owner_dsn: str
    suffix: str
    password: str

    def dsn(self, role: str) -> str:
        return make_conninfo(
            self.owner_dsn, user=f"{role}_{self.suffix}", password=self.password, options=f"-c role={role}"
        )

    @property
    def loader_dsn(self) -> str:
        return self.dsn("etl_loader")

    @property
    def name(self) -> str:
        return str(conninfo_to_dict(self.owner_dsn)["dbname"])

    def owner(self) -> psycopg.Connection:
        return psycopg.connect(self.owner_dsn, autocommit=True)

    def rows(self, statement: str) -> list[tuple]:
        with self.owner() as connection:
            return connection.execute(statement).fetchall()

    def counts(self) -> tuple[int, int, int]:
        """Rows, ledger entries, quarantined messages."""
        tables = ("public.user_logins", "etl.ledger", "etl.quarantine")
        return tuple(self.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables)  # noqa: S608

    def deadlocks(self) -> int:
        """How many the server has seen here; sessions report theirs when they end, or are asked."""
        statement = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(self.rows(statement)[0][0])

    def wait_for_blocked(self, sessions: int = 1) -> None:
        """Until that many sessions of this database wait for a lock."""
        statement = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: self.rows(statement)[0][0] >= sessions)

    def wait_for(self, question: str) -> None:
        """Until the statement's one value is true."""
        wait_until(lambda: self.rows(question)[0][0])

    def server_log(self) -> "ServerLog":
        """What the server writes to its log from now on."""
        return ServerLog(self)


class ServerLog:
    """The end of the server's log: the file behind its standard error, read through the server."""

    STDERR = "/proc/self/fd/2"

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.owner() as connection:
            found = connection.execute("SELECT size FROM pg_stat_file(%s)", (self.STDERR,)).fetchone()
            self.start: int = found[0]
        if self.start == 0:
            pytest.skip("the server does not log to a file: its log is out of reach")

    def since(self) -> str:
        read = "SELECT encode(pg_read_binary_file(%s, %s, 1000000), 'escape')"
        with self.database.owner() as connection:
            return str(connection.execute(read, (self.STDERR, self.start)).fetchone()[0])


def copy_settings(connection: psycopg.Connection, database: Database, role: str) -> None:
    """A role's settings are not inherited by its members."""
    found = connection.execute(
        "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase"
        " WHERE datname = %s AND setrole = %s::regrole",
        (database.name, role),
    )
    for (setting,) in found.fetchall():
        name, value = setting.split("=", 1)
        alter = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
        connection.execute(
            alter.format(
                sql.Identifier(f"{role}_{database.suffix}"),
                sql.Identifier(database.name),
                sql.Identifier(name),
                sql.Literal(value),
            )
        )


def new_messages(count: int, day: date = TODAY, user: str = "user") -> list[Message]:
    return [(day, str(uuid.uuid4()), user) for _ in range(count)]


def open_run(warehouse: RunStore) -> uuid.UUID:
    run_id = uuid.uuid4()
    warehouse.open_run(run_id, CONTRACT, f"manual__{run_id}", {"visible": 5})
    return run_id


def masked_batch(
    run_id: uuid.UUID, messages: Sequence[Message], queue_id: int = 1
) -> tuple[MaskedBatch, RejectedBatch]:
    """What mask would make of these messages; their order is kept."""
    statuses, rows, rejected, reasons = [], [], [], Counter[str]()
    days, ids = [str(day) for day, _, _ in messages], [message_id for _, message_id, _ in messages]
    for day, message_id, user in messages:
        bad = user.startswith("bad")
        statuses.append("Q" if bad else "L")
        if bad:
            reasons[user] += 1
            rejected.append(QuarantineLine(queue_id, str(day), message_id, run_id, user, b"\x00\xff", 2, 1))
        else:
            rows.append(f"{user}\tandroid\t{message_id}\t\\N\t\\N\t2\t{day}\n")
    masked = MaskedBatch(
        ids_digest=ids_digest(ids),
        entries=copy_binary.entries(queue_id, run_id, days, ids, statuses),
        rows="".join(rows).encode(),
        accepted=len(rows),
        rejected=dict(reasons),
        anomalies={},
        sent_days=sorted(set(days)),
        key_id=7,
        mask_seconds=0.5,
    )
    return masked, RejectedBatch(encode_lines(rejected))


def load(
    warehouse: RunStore, run_id: uuid.UUID, messages: Sequence[Message], batch: str = "0000"
) -> BatchCounts:
    """Load the messages as one batch, sorted as loaders must."""
    return warehouse.load(run_id, CONTRACT, batch, *masked_batch(run_id, sorted(messages)))


def close(warehouse: RunStore, run_id: uuid.UUID, state: str = "succeeded") -> None:
    warehouse.close_run(run_id, state, RunTotals(deleted=1, visible_after=0, finish_seconds=0.25))
