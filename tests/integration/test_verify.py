"""verify: the numbers of a day, after all that may happen to a message, and when something is amiss."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.contracts import load_contract
from include.contracts.user_logins import CONTRACT
from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.contract import Contract, Day
from include.queue_etl.errors import NumbersDisagree, SettingsError
from include.queue_etl.operations import verify as engine
from include.queue_etl.operations.maintenance import expire_quarantine, verify_days
from include.queue_etl.operations.redrive import redrive, selection
from include.queue_etl.operations.verify import AT_MOST, EXACTLY, UNKNOWN, RunSums, Verified
from tests.integration.project import KEYSET, Project, login, project
from tests.integration.scratch import TODAY, Database, close, load, new_messages, open_run
from tests.support.resources import open_store

__all__ = ["project"]
BAD = b'{"foo": "no login"}'


def verified(project: Project, day: date | None = None) -> Verified:
    """The one table of the project, today unless told otherwise."""
    with project.resources() as resources:
        (one,) = engine.verify(resources, {project.contract.name: project.contract}, day or TODAY)
    return one


def filled(project: Project) -> Project:
    """12 rows, and 3 messages in quarantine."""
    project.send(*(login(f"u{number}") for number in range(12)), *[BAD] * 3)
    project.drain()
    return project


def change(project: Project, statement: str, *values: object) -> None:
    with project.database.owner() as connection:
        connection.execute(statement, values)


# All is well


def test_after_a_run_every_message_is_a_row_or_in_quarantine(project: Project) -> None:
    one = verified(filled(project))
    counts = one.counts
    assert (counts.loaded, counts.rows, counts.rejected, counts.waiting, counts.found) == (12, 12, 3, 3, 3)
    assert (one.rule, one.runs, one.problems) == (EXACTLY, 1, ())


def test_a_message_that_came_twice_counts_once(project: Project) -> None:
    messages = new_messages(3)
    own = replace(project, contract=CONTRACT)
    with open_store(project.database.loader_dsn) as warehouse:
        for _ in range(2):
            run = open_run(warehouse)
            load(warehouse, run, messages)
            warehouse.record_extract(run, 3, 0.1)
            close(warehouse, run)
    one = verified(own)
    assert project.database.rows("SELECT sum(duplicates) FROM etl.runs") == [(3,)]
    assert (one.counts.loaded, one.counts.rows, one.runs, one.problems) == (3, 3, 2, ())


def test_a_row_that_was_replaced_by_key_is_no_difference(project: Project) -> None:
    own = replace(project, contract=replace(load_contract("orders"), queue=project.contract.queue))
    order = {
        "order_id": "o1", "status": "placed", "placed_at": "2026-11-26T10:00:00Z", "total": 1,
        "currency": "EUR",
        "customer": {"id": 1, "email": "a@example.org", "phone": None}, "items": [],
    }  # fmt: skip
    own.send(*(json.dumps({**order, "status": status}).encode() for status in ("placed", "paid")))
    assert own.drain()["loaded"] == 2
    one = verified(own)
    assert (one.counts.loaded, one.counts.rows, one.rule, one.problems) == (2, 1, AT_MOST, ())
    change(own, "INSERT INTO orders SELECT 'o2', status, placed_at, total, currency, customer_id, NULL, NULL,"
                " items, NULL, sent_at FROM orders, generate_series(1, 1)")  # fmt: skip
    change(own, "INSERT INTO orders SELECT 'o3', status, placed_at, total, currency, customer_id, NULL, NULL,"
                " items, NULL, sent_at FROM orders LIMIT 1")  # fmt: skip
    (problem,) = verified(own).problems
    assert "1 rows more than the ledger has loaded (3, not 2)" in problem
    change(own, "TRUNCATE orders")


def test_a_replay_table_has_a_line_of_its_own(project: Project) -> None:
    again = "public.user_logins_again"
    own = replace(filled(project).contract, replay_tables=(again,))
    change(project, f"CREATE TABLE {again} (LIKE public.user_logins)")
    change(project, f"ALTER TABLE {again} OWNER TO etl_owner")
    change(project, f"GRANT INSERT ON {again} TO etl_loader")
    change(project, "SELECT etl.ensure_ledger_partition(current_date)")
    change(project, "INSERT INTO etl.queues (name) VALUES (%s)", f"replay:{again}:{own.queue}")
    change(project, "INSERT INTO etl.ledger SELECT queues.queue_id, current_date, gen_random_uuid(), run_id,"
                    " 'L' FROM etl.queues, etl.runs WHERE name LIKE 'replay:%%'")  # fmt: skip
    with project.resources() as resources:
        found = engine.verify(resources, {own.name: own}, TODAY)
    change(project, f"DROP TABLE {again}")
    assert [(one.table, one.counts.loaded, one.counts.rows) for one in found] == [
        (own.table, 12, 12), (again, 1, 0),
    ]  # fmt: skip
    assert "1 rows are missing: there are 0, and the ledger has 1" in found[1].problems[0]


def test_a_redriven_message_is_a_row_and_waits_no_more(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.queue_etl.contract import Rejected
    from include.queue_etl.transform.parsing import Parser

    with monkeypatch.context() as strict:
        strict.setattr(Parser, "parse", lambda *_: Rejected("bad_version"))
        project.send(login("u"))
        project.drain()
    assert (verified(project).counts.waiting, verified(project).problems) == (1, ())
    with project.open_redrive() as context:
        redrive(context, selection(project.contract, None, None, None), dry_run=False)
    counts = verified(project).counts
    assert (counts.loaded, counts.rows, counts.rejected, counts.waiting) == (1, 1, 0, 0)
    assert verified(project).problems == ()


def test_what_maintenance_expired_is_counted(project: Project) -> None:
    filled(project)
    change(project, "UPDATE etl.quarantine SET quarantined_at = now() - interval '31 days'")
    with project.resources() as resources:
        expire_quarantine(resources)
    one = verified(project)
    assert (one.counts.waiting, one.counts.expired, one.problems) == (0, 3, ())


def test_what_an_officer_erased_is_counted(project: Project) -> None:
    filled(project)
    with project.resources("pii_officer") as resources:
        resources.database.execute("DELETE FROM etl.quarantine")
        resources.database.execute("UPDATE user_logins SET user_id = NULL, masked_ip = NULL")
    one = verified(project)
    assert (one.counts.rows, one.counts.waiting, one.counts.erased, one.problems) == (12, 0, 3, ())


def test_what_was_gone_before_anybody_counted_is_no_difference(project: Project) -> None:
    filled(project)
    change(project, "ALTER TABLE etl.quarantine DISABLE TRIGGER count_deleted")
    try:
        change(project, "DELETE FROM etl.quarantine")
    finally:
        change(project, "ALTER TABLE etl.quarantine ENABLE TRIGGER count_deleted")
    revision = Path(engine.__file__).parents[1] / "postgres" / "migrations" / "versions"
    (text,) = [path.read_text() for path in revision.glob("*_verify.sql")]
    backfill = text[text.index("INSERT INTO etl.quarantine_deleted (queue") : text.index("-- By the session")]
    change(project, backfill)
    one = verified(project)
    assert (one.counts.before, one.problems) == (3, ())


def test_a_redriven_message_that_expires_is_not_counted_as_deleted(project: Project) -> None:
    filled(project)
    change(project, "UPDATE etl.quarantine SET redriven_at = now()")
    change(project, "DELETE FROM etl.quarantine")
    assert project.database.rows("SELECT * FROM etl.quarantine_deleted") == []


# What is amiss


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("DELETE FROM user_logins WHERE user_id = 'u3'", "1 rows are missing: there are 11"),
        (
            "INSERT INTO user_logins (user_id, create_date) SELECT 'x', current_date",
            "1 rows more than the ledger has loaded (13, not 12)",
        ),
        (
            "DELETE FROM etl.quarantine",
            "3 waiting messages were deleted by neither maintenance nor an officer",
        ),
        ("TRUNCATE etl.quarantine", "3 messages are gone from the quarantine, and nobody expired or erased"),
        (
            "DELETE FROM etl.ledger WHERE status = 'Q'",
            "3 messages wait in quarantine, and the ledger has them",
        ),
        (
            "INSERT INTO etl.quarantine_deleted SELECT queue_id, current_date, 'erased', 1 FROM etl.queues",
            "1 messages count as deleted from the quarantine, and the ledger has them no more",
        ),
        (
            "UPDATE etl.ledger SET run_id = gen_random_uuid() WHERE status = 'Q'",
            "3 ledger entries are of a run",
        ),
        ("UPDATE etl.runs SET received = 16", "received 16, but loaded 12, quarantined 3, duplicates 0"),
        ("UPDATE etl.runs SET received = 14", "received 14, but loaded 12, quarantined 3, duplicates 0"),
        ("UPDATE etl.runs SET loaded = 11, received = 14", "its sums are 14 messages, its batches hold 15"),
    ],
)
def test_each_difference_is_a_sentence(project: Project, deed: str, told: str) -> None:
    filled(project)
    change(project, deed)
    (problem,) = verified(project).problems
    assert told in problem


def test_messages_of_a_failed_run_may_come_back_by_themselves(project: Project) -> None:
    filled(project)
    change(project, "UPDATE etl.runs SET state = 'failed', received = 20, released = 2")
    assert verified(project).problems == ()
    change(project, "UPDATE etl.runs SET received = 16")
    (problem,) = verified(project).problems
    assert "and released 2 are 17" in problem


def test_released_messages_of_a_run_are_in_its_sum(project: Project) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    with project.open_run("run__half") as context:
        first, _ = [batch["batch"] for batch in steps.extract(context)]
        steps.mask(context, first)
        steps.load(context, first)
        with pytest.raises(Exception, match="the run failed"):
            steps.finish(context, upstream_failed=True)
    assert project.database.rows("SELECT received, loaded, released FROM etl.runs") == [(15, 10, 5)]
    assert verified(project).problems == ()


# Which rows are of a day


def of(**changes: Any) -> Contract:
    return replace(CONTRACT, **changes)


def test_how_many_rows_there_have_to_be_follows_from_the_contract() -> None:
    long_ago = TODAY - timedelta(days=20)
    orders = load_contract("orders")
    assert engine.rule_of(CONTRACT, TODAY)[1] == EXACTLY
    assert engine.rule_of(orders, TODAY)[1] == AT_MOST  # a row by key may be of a later message
    assert engine.rule_of(of(message=(), partition_by=None), TODAY) == (None, UNKNOWN)
    kept = of(retain_days=10)
    assert [engine.rule_of(kept, day)[1] for day in (TODAY, long_ago)] == [EXACTLY, AT_MOST]
    signups = load_contract("orders")
    by_another = replace(signups, key="", partition_by=Day("placed_at"), retain_days=10)
    assert engine.rule_of(by_another, TODAY)[1] == AT_MOST


@pytest.mark.parametrize(("column", "expected"), [("sent_at", 2), ("message_id", 1)])
def test_rows_are_told_by_moment_or_message_id_too(project: Project, column: str, expected: int) -> None:
    filled(project)
    day = f"{TODAY} 23:59:59.999+00"
    with project.database.owner() as connection:
        connection.execute("DROP TABLE IF EXISTS public.told")
        connection.execute("CREATE TABLE public.told (sent_at timestamptz, message_id uuid)")
        connection.execute("ALTER TABLE public.told OWNER TO etl_owner")
        connection.execute("GRANT INSERT ON public.told TO etl_loader")
        connection.execute(
            "INSERT INTO public.told VALUES (%s, (SELECT max(message_id::text)::uuid FROM etl.ledger)),"
            " (%s::timestamptz - interval '1 day' + interval '1 ms', gen_random_uuid()),"
            " (%s::timestamptz + interval '1 ms', gen_random_uuid())",
            (day, day, day),
        )
    with project.resources() as resources:
        found = resources.database.execute(
            "SELECT etl.rows_of_day('public.told', %(column)s, %(queue)s, %(day)s)",
            column=column, queue=project.contract.queue, day=TODAY,
        )  # fmt: skip
    assert found == [(expected,)]
    change(project, "DROP TABLE public.told")


# The command


@pytest.fixture
def command(clean_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_MAINTAINER_DSN", clean_database.dsn("etl_maintainer"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path / "staging"))
    return lambda *arguments: cli.main(["verify", *arguments])


def loaded_yesterday(database: Database) -> str:
    """Three rows and a rejected message, sent yesterday; the day."""
    day = datetime.now(UTC).date() - timedelta(days=1)
    with open_store(database.loader_dsn) as warehouse:
        run = open_run(warehouse)
        load(warehouse, run, [*new_messages(3, day), *new_messages(1, day, "bad_json")])
        warehouse.record_extract(run, 4, 0.1)
        close(warehouse, run)
    return day.isoformat()


def test_the_command_verifies_yesterday_of_every_contract(
    clean_database: Database, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    day = loaded_yesterday(clean_database)
    assert command("--json") == 0
    found = {line["table"]: line for line in json.loads(capsys.readouterr().out)}
    assert found["public.user_logins"] == {
        "contract": "user_logins", "table": "public.user_logins", "day": day, "loaded": 3, "rows": 3,
        "rule": "exactly", "rejected": 1, "waiting": 1, "expired": 0, "erased": 0, "runs": 0,
        "differences": 0, "problems": [],
    }  # fmt: skip
    assert found["public.orders"]["rule"] == "at most"


def test_a_difference_is_a_table_a_sentence_exit_1_and_an_alert(
    clean_database: Database, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    day = loaded_yesterday(clean_database)
    with clean_database.owner() as connection:
        connection.execute("DELETE FROM user_logins WHERE ctid = (SELECT min(ctid) FROM user_logins)")
    assert command("--contract", "user_logins", "--day", day) == 1
    shown = capsys.readouterr()
    assert [line.split()[:6] for line in shown.out.splitlines()] == [
        ["contract", "table", "day", "loaded", "rows", "rule"],
        ["user_logins", "public.user_logins", day, "3", "2", "exactly"],
    ]
    assert f"public.user_logins, messages sent on {day}: 1 rows are missing: there are 2, and" in shown.err
    alert = "SELECT kind, subject, ended_at IS NULL FROM etl.alerts"
    assert clean_database.rows(alert) == [("verify", f"user_logins {day}", True)]
    with clean_database.owner() as connection:
        connection.execute("INSERT INTO user_logins (user_id, create_date) VALUES ('again', %s)", (day,))
    assert command("--contract", "user_logins", "--day", day) == 0
    assert clean_database.rows(alert) == [("verify", f"user_logins {day}", False)]


@pytest.mark.parametrize(
    ("day", "code", "told"),
    [
        ("yesterday", 2, "'yesterday' is no day"),
        ("2020-01-01", 1, "2020-01-01 is too long ago: the ledger remembers 35 days"),
        ("2999-01-01", 1, "2999-01-01 is still to come"),
    ],
)
def test_a_day_that_cannot_be_verified_is_refused(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], day: str, code: int, told: str
) -> None:
    assert command("--day", day) == code
    assert told in capsys.readouterr().err


# In maintenance


def test_maintenance_verifies_yesterday_and_what_differed_before(project: Project) -> None:
    day = loaded_yesterday(project.database)
    contract = replace(project.contract, queue=CONTRACT.queue)
    contracts = {contract.name: contract}
    alert = "SELECT subject, ended_at IS NULL FROM etl.alerts ORDER BY alert_id"
    change(project, "DELETE FROM etl.quarantine")
    with project.resources() as resources:
        with pytest.raises(NumbersDisagree, match="1 waiting messages were deleted by neither"):
            verify_days(resources, contracts)
        assert project.database.rows(alert) == [(f"user_logins {day}", True)]
        change(project, "UPDATE etl.quarantine_deleted SET cause = 'erased'")
        assert verify_days(resources, contracts) == {"verified": 1}
        assert project.database.rows(alert) == [(f"user_logins {day}", False)]


def test_the_alert_of_a_day_that_the_ledger_forgot_is_ended(project: Project) -> None:
    change(
        project,
        "INSERT INTO etl.alerts (kind, subject, contract, since, what, place, remedy)"
        " VALUES ('verify', 'user_logins 2020-01-01', 'user_logins', now(), '', '', '')",
    )
    with project.resources() as resources:
        assert verify_days(resources, {project.contract.name: project.contract}) == {"verified": 1}
        with pytest.raises(SettingsError, match="too long ago"):
            engine.verify(resources, {}, date(2020, 1, 1))
    assert project.database.rows("SELECT count(*) FROM etl.alerts WHERE ended_at IS NULL") == [(0,)]


def test_a_run_without_count_of_what_it_received_is_left_out() -> None:
    run = RunSums("run", "failed", None, 1, 0, 0, 0, 1)
    assert list(engine.run_differences(run)) == []
