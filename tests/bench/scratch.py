"""A migrated database for one contender, and the CPU time its server takes."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from include.queue_etl.postgres import migrations

ROOT = Path(__file__).resolve().parents[2]
# Of the contenders: a server that others use too always has somebody.
CLIENTS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname ~ '^bench_[0-9a-f]{8}$'
"""
LEAVE_WITHIN_SECONDS = 30
# Messages of a day, as a table in use has them.
PRELOAD = """
    INSERT INTO etl.ledger (queue_id, sent_day, message_id, run_id, status)
        SELECT 1, current_date - {days_ago}, gen_random_uuid(), gen_random_uuid(), 'L'
        FROM generate_series(1, {messages});
    INSERT INTO public.user_logins
        SELECT gen_random_uuid()::text, 'ios', repeat('x', 52), repeat('y', 52), 'DE', 2,
               current_date - {days_ago}
        FROM generate_series(1, {messages});
"""
EARLIER_DAYS = 10
# For the baselines, which make none. Another checkout may have tables without partitions.
PARTITIONS = """
    DO $$
    BEGIN
        IF to_regproc('etl.ensure_partition') IS NOT NULL THEN
            PERFORM etl.ensure_partition('public.user_logins', current_date - days_ago)
            FROM generate_series(-1, 31) AS days_ago;
        END IF;
    END $$
"""


class Server:
    """A Postgres of this machine, looked at as its superuser."""

    def __init__(self, superuser_dsn: str) -> None:
        self._dsn = superuser_dsn
        self.reconnect()

    def reconnect(self) -> None:
        """After a restart of the server."""
        self._connection = psycopg.connect(self._dsn, autocommit=True)
        self._pid = int(self._one("SELECT pg_read_file('postmaster.pid')").split()[0])

    def cpu_seconds(self) -> float:
        """User and system time of the server: of its processes, and of those that have ended.

        It waits for the contenders to leave.

        Raises:
            TimeoutError: one stays, or processes of the server start and end all the time
        """
        deadline = time.monotonic() + LEAVE_WITHIN_SECONDS
        while self._one(CLIENTS):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a contender is still connected after {LEAVE_WITHIN_SECONDS} s")
            time.sleep(0.01)
        # One that ends between two reads is missed: its parent, read before, does not have its time yet.
        ticks = self._ticks()
        while ticks.keys() != (again := self._ticks()).keys():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server's processes come and go for {LEAVE_WITHIN_SECONDS} s")
            ticks = again
        return sum(again.values()) / os.sysconf("SC_CLK_TCK")

    def _ticks(self) -> dict[int, int]:
        """Of each process of the server; the first has the time of those that have ended too."""
        ticks = {self._pid: sum(map(int, process_stat(self._pid)[11:15]))}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = process_stat(int(folder.name))
            except OSError:
                continue  # ended just now
            if int(fields[1]) == self._pid:
                ticks[int(folder.name)] = sum(map(int, fields[11:13]))
        return ticks

    def checkpoint(self) -> None:
        """Write out what earlier work left behind, lest the next contender pay for it."""
        self._connection.execute("CHECKPOINT")

    @contextmanager
    def database(self, earlier: int = 0, today: int = 0, code: Path = ROOT) -> Iterator["Database"]:
        """A database dropped at the end; with so many messages of earlier days, and of today.

        It has the schema that the checkout `code` wants.
        """
        name, password = f"bench_{secrets.token_hex(4)}", secrets.token_urlsafe(16)
        created = sql.Identifier(name)
        self._connection.execute(sql.SQL("CREATE DATABASE {}").format(created))
        try:
            owner = make_conninfo(self._connection.info.dsn, dbname=name, password=self._password)
            _migrate(owner, code)
            with psycopg.connect(owner) as connection:
                connection.execute(PARTITIONS)
            # The roles are the cluster's: their own passwords, which a stack may be using, must not change.
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE etl_loader")
            self._connection.execute(create.format(created, sql.Literal(password)))
            loader = make_conninfo(owner, user=name, password=password, options="-c role=etl_loader")
            if earlier or today:
                per_day = earlier // EARLIER_DAYS
                _preload(owner, {0: today, **dict.fromkeys(range(1, EARLIER_DAYS + 1), per_day)})
            yield Database(owner, loader)
        finally:
            self._connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(created))
            self._connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(created))

    @property
    def _password(self) -> str:
        return self._connection.info.password

    def _one(self, question: str) -> str:
        found = self._connection.execute(question).fetchone()
        assert found
        return found[0]


class Database:
    """One contender's database.

    Attributes:
        owner_dsn: of a superuser
        loader_dsn: of a role that is no more than etl_loader
    """

    def __init__(self, owner_dsn: str, loader_dsn: str) -> None:
        self.owner_dsn = owner_dsn
        self.loader_dsn = loader_dsn

    def rows(self, question: str) -> list[tuple]:
        """Answers a question, as the owner."""
        with psycopg.connect(self.owner_dsn) as connection:
            return connection.execute(question.encode()).fetchall()


def _migrate(owner_dsn: str, code: Path) -> None:
    if code == ROOT:
        migrations.upgrade(owner_dsn, {})
        return
    command = [sys.executable, "-m", "include.queue_etl", "migrate"]
    environment = {**os.environ, "QUEUE_ETL_OWNER_DSN": owner_dsn}
    subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)


def _preload(owner_dsn: str, messages_by_days_ago: dict[int, int]) -> None:
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO etl.queues (name) VALUES ('login-queue')")
        for days_ago, messages in messages_by_days_ago.items():
            connection.execute("SELECT etl.ensure_ledger_partition(current_date - %s)", [days_ago])
            connection.execute(PRELOAD.format(days_ago=days_ago, messages=messages).encode())
        connection.execute("VACUUM ANALYZE")


def process_stat(pid: int) -> list[str]:
    """What follows the name in brackets: state, parent, ...; fields 14 to 17 of proc(5) are the times."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
