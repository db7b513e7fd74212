"""Connecting to Postgres, and what its errors become: SQLSTATE and names, never a value."""

from collections.abc import Callable, Generator, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg import sql, waiting
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from include.queue_etl.errors import QueueEtlError, WarehouseRefused, WarehouseUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

# Longest silence of the server within a statement. What people and maintenance start may read a whole table.
SILENCE_SECONDS = 3_600.0
# Connection lost, transaction to be repeated, out of resources, operator intervention.
TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57"})
# A server that is read-only while another takes over; a lock that was not to be had in time.
TRANSIENT_STATES = frozenset({"25006", "55P03"})
# A dead network must not hold a task for the two hours that Linux waits by default. What the DSN says wins.
CONNECTION_DEFAULTS = {
    "application_name": "queue_etl",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "client_encoding": "utf8",
}
# libpq has no SQLSTATE for a connection that fails, only the server's words. A phrase is its words, in order.
REFUSALS = (
    (("password authentication failed",), "28P01", "wrong user or password"),
    (("no password supplied",), "28P01", "no password given"),
    (("no pg_hba.conf entry",), "28000", "the server's pg_hba.conf does not let this client in"),
    (("is not permitted to log in",), "28000", "the role may not log in"),
    (("permission denied for database",), "42501", "the role may not connect to this database"),
    (('database "', "does not exist"), "3D000", "there is no such database"),
    (('role "', "does not exist"), "28000", "there is no such role"),
    (("does not support SSL",), "28000", "the server does not offer the SSL that sslmode asks for"),
    (("certificate verify failed",), "28000", "the server's certificate is not to be trusted"),
)
OUTAGES = ("Connection refused", "timeout expired", "starting up", "shutting down", "too many")


class Database:
    """A database, as one role. Connects on first use, and again after a lost connection.

    What a role does there is in its store, which has a Database: RunStore, MaintenanceStore, OfficerStore,
    RemaskStore, AuditLog. All their methods raise WarehouseUnavailable (try again) or WarehouseRefused (a
    person has to act). Neither holds a value, and no psycopg error, which would, is chained to them.
    """

    def __init__(self, dsn: str, silence_seconds: float | None = None) -> None:
        """Connect to nothing yet; `silence_seconds` as for `connect`."""
        self._dsn = dsn
        self._silence_seconds = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def execute(self, statement: "LiteralString | sql.Composed", **values: object) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; its rows, if it has any."""

        def run(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

        return self.transaction(run)

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns; its transaction is committed then, or rolled back where it raises."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, self._silence_seconds)
        try:
            with self._connection.transaction():
                return work(self._connection)
        except psycopg.Error as error:
            failure = to_engine_error(error)
        raise failure  # out here, so that not even its __context__ holds the psycopg error


def table_identifier(table: str) -> sql.Identifier:
    """The name of a table, which may say its schema."""
    return sql.Identifier(*table.split("."))


class Deadlocked(WarehouseUnavailable):
    """Postgres ended this transaction in favour of another."""


class Silent(psycopg.OperationalError):
    """No byte came from the server, and it took none, for too long; the text holds no value."""


class _Watched(Connection):
    """Gives up on a silent server: where TCP goes on acknowledging, no time-out of TCP would."""

    silence_seconds = SILENCE_SECONDS

    # psycopg passes every wait for an answer through here, and comes by ten times a second meanwhile. Its own
    # `wait` asks the server to cancel at Ctrl-C: a COMMIT that waits for its standby would then show as done
    # although no standby has it (docs/decisions/0014-silence-is-measured-here.md).
    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        waited_for = _watched(gen, self.silence_seconds)
        try:
            return waiting.wait(waited_for, self.pgconn.socket, interval=interval, timeout=timeout)
        except BaseException:
            # The answer is still to come: leaving the transaction would wait for it, to send its ROLLBACK.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


def _watched(waiting: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """The same generator, which psycopg resumes with what the socket is ready for, or with nothing."""
    heard = monotonic()
    try:
        wish = next(waiting)
        while True:
            if ready := (yield wish):
                heard = monotonic()
            elif monotonic() - heard > seconds:
                raise Silent(f"Postgres has not answered for {seconds:g} s: it hangs, or waits for a lock")
            wish = waiting.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def parse_dsn(dsn: str) -> dict[str, Any] | None:
    """What the connection string says, by libpq's keywords; None where libpq cannot read it.

    Its own error is not passed on: it quotes what it choked on, which may be the password.
    """
    try:
        return conninfo_to_dict(dsn)
    except psycopg.Error:
        return None


def connect(dsn: str, silence_seconds: float = SILENCE_SECONDS) -> Connection:
    """A connection in autocommit, whose transactions are READ COMMITTED.

    Args:
        dsn: libpq connection string
        silence_seconds: so long one statement may leave this side without a byte; then it is closed

    Raises:
        WarehouseUnavailable, WarehouseRefused: with host, port, database and user, without the password
    """
    given = parse_dsn(dsn)
    if given is None:
        raise WarehouseRefused("the connection string of the warehouse is malformed")
    try:
        # No server-side prepared statements: poolers lose them, and nothing here is repeated often.
        connection = _Watched.connect(
            **{**CONNECTION_DEFAULTS, **given}, autocommit=True, prepare_threshold=None
        )
        connection.silence_seconds = silence_seconds
        # Under REPEATABLE READ, ON CONFLICT DO NOTHING fails on rows that another loader has just committed.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        return connection
    except psycopg.Error as error:
        failure = _connection_failure(str(error), _describe_target(given))
    raise failure


def to_engine_error(error: psycopg.Error) -> QueueEtlError:
    """Our error for one of psycopg's, whose message, DETAIL and CONTEXT quote values."""
    if isinstance(error, Silent):
        return WarehouseUnavailable(str(error))
    sqlstate = error.sqlstate
    if sqlstate is None:
        if isinstance(error, psycopg.OperationalError):
            return WarehouseUnavailable("the connection to Postgres was lost")
        return WarehouseRefused(f"the request to Postgres was wrong ({type(error).__name__})")
    kind = f"{type(error).__name__}, SQLSTATE {sqlstate}"
    if isinstance(error, psycopg.errors.DeadlockDetected):
        return Deadlocked(f"Postgres asks for a retry: {kind}")
    if sqlstate[:2] in TRANSIENT_CLASSES or sqlstate in TRANSIENT_STATES:
        return WarehouseUnavailable(f"Postgres asks for a retry: {kind}")
    diagnosis = error.diag
    names = {
        "table": diagnosis.table_name,
        "column": diagnosis.column_name,
        "constraint": diagnosis.constraint_name,
    }
    known = [f"{word} {name}" for word, name in names.items() if name]
    return WarehouseRefused(
        f"Postgres refused: {', '.join([kind, *known])}", sqlstate, diagnosis.constraint_name
    )


def _describe_target(given: Mapping[str, Any]) -> str:
    """Where and as whom; what the DSN leaves out, libpq takes from PG* variables."""
    return (
        f"Postgres at {given.get('host', '(default host)')}:{given.get('port', '(default port)')}, "
        f"database {given.get('dbname', '(default)')}, user {given.get('user', '(default)')}"
    )


def _connection_failure(words: str, place: str) -> QueueEtlError:
    for phrases, sqlstate, meaning in REFUSALS:
        if all(phrase in words for phrase in phrases):
            return WarehouseRefused(f"{place}: {meaning}", sqlstate)
    for phrase in OUTAGES:
        if phrase in words:
            return WarehouseUnavailable(f"{place}: cannot connect ({phrase.lower()})")
    return WarehouseUnavailable(f"{place}: cannot connect")
