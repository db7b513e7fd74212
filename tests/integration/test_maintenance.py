"""Maintenance: by state and never by age alone, beside running pipelines, and again without effect."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.config import Config

from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.errors import QueueUnavailable, RunFailed, WarehouseUnavailable
from include.queue_etl.operations.maintenance import (
    UNKNOWN_KEPT,
    clean_staging,
    close_ended_runs,
    expire_quarantine,
    maintain,
    maintain_ledger,
    settle_runs,
)
from include.queue_etl.operations.store import MaintenanceStore
from tests.integration.project import Killed, Project, killed_at, login, project

__all__ = ["project"]
NOTHING = {
    "ledger_days_made": 0, "ledger_days_dropped": 0, "partitions_made": 0, "partitions_dropped": 0,
    "kept_fields_expired": 0,
    "quarantine_expired": 0, "quarantine_never_redriven": 0, "shapes_filled": 0, "shapes_unopened": 0,
    "orphans": 0, "late_receipt_handles": 0, "unsettled": 0, "expired": 0, "tidied": 0, "unknown": 0,
    "unknown_removed": 0, "verified": 1,
}  # fmt: skip


def contracts(project: Project) -> dict[str, Contract]:
    return {project.contract.name: project.contract}


def maintained(project: Project) -> dict[str, int]:
    with project.resources() as resources:
        return maintain(resources, contracts(project))


def settled(project: Project) -> dict[str, int]:
    with project.resources() as resources:
        return settle_runs(resources, contracts(project))


def cleaned(project: Project, now: datetime | None = None) -> dict[str, int]:
    with project.resources() as resources:
        return clean_staging(resources, contracts(project), now)


def extracted(project: Project, name: str) -> list[str]:
    with project.open_run(name) as context:
        return [batch["batch"] for batch in steps.extract(context)]


@contextmanager
def without_sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing answers while the block lasts."""
    from include.queue_etl.sqs.client import SqsQueue

    def down(*_: object) -> None:
        raise QueueUnavailable("no answer")

    with monkeypatch.context() as outage:
        outage.setattr(SqsQueue, "connect", down)
        yield


def age_runs(project: Project, seconds: int) -> None:
    """Let everything about runs have happened so much earlier."""
    with project.database.owner() as connection:
        shift = f"- interval '{seconds} seconds'"
        connection.execute(f"UPDATE etl.runs SET started_at = started_at {shift}")  # noqa: S608
        connection.execute(f"UPDATE etl.runs SET finished_at = finished_at {shift}")  # noqa: S608
        connection.execute(f"UPDATE etl.batches SET committed_at = committed_at {shift}")  # noqa: S608


def states(project: Project) -> dict[str, str]:
    return dict(project.database.rows("SELECT airflow_run_id, state FROM etl.runs"))


def staged(project: Project) -> list[str]:
    """Kinds of all staged files, sorted."""
    return sorted(path.name.rpartition(".")[2] for path in Path(project.settings.staging).glob("*/*"))


# Ledger


def test_the_ledgers_days_are_made_ahead(project: Project) -> None:
    with project.database.owner() as connection:
        connection.execute("SELECT etl.drop_ledger_partitions(15)")
        for (name,) in connection.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'etl.ledger'::regclass"
        ).fetchall():
            connection.execute(f"DROP TABLE etl.{name}")
    with project.resources() as resources:
        assert maintain_ledger(resources) == {"ledger_days_made": 3, "ledger_days_dropped": 0}
        assert maintain_ledger(resources) == {"ledger_days_made": 0, "ledger_days_dropped": 0}
    days = project.database.rows(
        "SELECT bool_and(etl.ledger_day_exists(current_date + ahead)) FROM generate_series(0, 2) AS ahead"
    )
    assert days == [(True,)]


def test_days_behind_are_dropped_when_they_are_old_enough(project: Project) -> None:
    with project.database.owner() as connection:
        for days in (34, 35, 36, 400):
            connection.execute("SELECT etl.ensure_ledger_partition(current_date - %s)", (days,))
    with project.resources() as resources:
        assert maintain_ledger(resources)["ledger_days_dropped"] == 2
    left = project.database.rows("SELECT etl.ledger_day_exists(current_date - 35)")
    assert left == [(True,)]


def test_a_day_that_a_load_holds_is_dropped_the_next_time(project: Project) -> None:
    with project.database.owner() as connection, project.resources() as resources:
        connection.execute("SELECT etl.ensure_ledger_partition(current_date - 400)")
        connection.autocommit = False
        connection.execute("LOCK TABLE etl.ledger IN ROW EXCLUSIVE MODE")
        with pytest.raises(WarehouseUnavailable):
            maintain_ledger(resources)
        connection.rollback()
        assert maintain_ledger(resources)["ledger_days_dropped"] == 1


# Quarantine


def quarantine(project: Project, days: int, redriven: bool = False) -> None:
    with project.database.owner() as connection:
        connection.execute(
            "INSERT INTO etl.quarantine VALUES (1, current_date, gen_random_uuid(), gen_random_uuid(),"
            " 'bad_json', '', 0, 1, now() - make_interval(days => %s), CASE WHEN %s THEN now() END)",
            (days, redriven),
        )


def test_quarantine_expires_after_30_days_and_says_what_was_never_redriven(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    for days in (1, 29, 31, 31):
        quarantine(project, days)
    quarantine(project, 40, redriven=True)
    with project.resources() as resources:
        assert expire_quarantine(resources) == {"quarantine_expired": 3, "quarantine_never_redriven": 2}
        assert "2 messages were in quarantine for 30 days and never redriven" in caplog.text
        assert expire_quarantine(resources) == {"quarantine_expired": 0, "quarantine_never_redriven": 0}
    assert len(project.quarantined()) == 2


def test_many_expired_messages_go_in_several_transactions(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.queue_etl.operations.store.EXPIRED_AT_ONCE", 2)
    for _ in range(5):
        quarantine(project, 31)
    with project.resources() as resources:
        assert expire_quarantine(resources)["quarantine_expired"] == 5


# Runs


def test_an_orphaned_run_is_closed_and_its_messages_are_visible_again(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    extracted(project, "run__killed")
    assert project.waiting() == (0, 15)
    age_runs(project, 3_600 + 900 + 1)
    assert settled(project) == {"orphans": 1, "late_receipt_handles": 0, "unsettled": 0}
    assert states(project) == {"run__killed": "failed"}
    assert project.waiting() == (15, 0)
    assert staged(project) == []
    assert "run__killed" in caplog.text
    assert project.drain()["loaded"] == 15


def test_what_an_orphan_had_loaded_is_deleted_and_not_released(project: Project) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    first, second = extracted(project, "run__killed")
    with project.open_run("run__killed") as context:
        steps.mask(context, first)
        steps.load(context, first)
    age_runs(project, 3_600 + 900 + 1)
    assert settled(project)["orphans"] == 1
    assert project.waiting() == (5, 0)
    assert len(project.users()) == 10
    assert second


def test_a_run_that_makes_progress_is_no_orphan_however_old(project: Project) -> None:
    project.send(login("u"))
    (batch,) = extracted(project, "run__slow")
    age_runs(project, 100_000)
    with project.open_run("run__slow") as context:
        steps.mask(context, batch)
        steps.load(context, batch)
        assert settled(project) == {"orphans": 0, "late_receipt_handles": 0, "unsettled": 0}
        assert steps.finish(context)["state"] == "succeeded"


def test_the_margin_is_a_setting(project: Project) -> None:
    patient = project.with_settings(orphan_margin_seconds=86_400)
    project.send(login("u"))
    extracted(project, "run__slow")
    age_runs(project, 3_600 + 900 + 1)
    assert settled(patient)["orphans"] == 0
    assert settled(project)["orphans"] == 1


def test_a_run_taken_for_an_orphan_loads_nothing_afterwards(project: Project) -> None:
    project.send(login("u"))
    (batch,) = extracted(project, "run__slow")
    with project.open_run("run__slow") as context:
        steps.mask(context, batch)
        age_runs(project, 100_000)
        assert settled(project)["orphans"] == 1
        assert steps.load(context, batch)["loaded"] == 0
    assert project.drain()["loaded"] == 1
    assert project.users() == ["u"]


def test_messages_sealed_after_their_run_was_closed_are_released(project: Project) -> None:
    """By an attempt of extract that lived on when its run had been finished."""
    project.send(login("early"))
    (batch,) = extracted(project, "run__1")
    with project.open_run("run__1") as late:
        run = late.open_run(None)
        with project.open_run("run__1") as context:
            steps.mask(context, batch)
            steps.load(context, batch)
            steps.finish(context)
        project.send(login("late"))
        intake = steps._Intake({}, run.queue_id)
        steps._receive(late, intake)
        assert intake.messages == 1
    assert project.waiting() == (0, 1)
    assert settled(project) == {"orphans": 0, "late_receipt_handles": 1, "unsettled": 0}
    assert project.waiting() == (1, 0)
    assert states(project) == {"run__1": "succeeded"}


def test_a_kill_between_closing_and_clearing_up_leaves_nothing_raw_behind(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.send(login("u"), b"not json")
    (batch,) = extracted(project, "run__1")
    with project.open_run("run__1") as context:
        steps.mask(context, batch)
        steps.load(context, batch)
        killed_at(context.staging, "destroy", monkeypatch)
        with pytest.raises(Killed):
            steps.finish(context)
    assert "raw" in staged(project)
    result = maintained(project)
    assert (result["late_receipt_handles"], result["orphans"]) == (1, 0)
    assert staged(project) == ["masked", "rejected"]


def test_without_sqs_an_orphan_is_left_for_the_next_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.send(login("u"))
    extracted(project, "run__killed")
    age_runs(project, 100_000)
    with without_sqs(monkeypatch):
        assert settled(project) == {"orphans": 0, "late_receipt_handles": 0, "unsettled": 1}
    assert settled(project) == {"orphans": 1, "late_receipt_handles": 0, "unsettled": 0}
    assert project.waiting() == (1, 0)


def ended(project: Project, *names: str) -> dict[str, int]:
    """Close the runs that are open, where the scheduler says of these that they have ended."""
    with project.resources() as resources:
        contracts = {project.contract.name: project.contract}
        return close_ended_runs(resources, contracts, lambda _, name: name in names)


def test_runs_that_their_scheduler_ended_are_closed_at_once_and_others_not(project: Project) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    first, _second = extracted(project, "run__ended")
    with project.open_run("run__ended") as context:
        steps.mask(context, first)
        steps.load(context, first)
    project.send(login("other"))
    extracted(project, "run__alive")
    assert ended(project, "run__ended", "run__unknown") == {"ended": 1, "unsettled": 0}
    assert states(project) == {"run__ended": "failed", "run__alive": "running"}
    assert project.waiting() == (5, 1)
    assert len(project.users()) == 10
    assert ended(project, "run__ended") == {"ended": 0, "unsettled": 0}


def test_a_run_that_cannot_be_closed_is_counted_and_closed_the_next_time(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.send(login("u"))
    extracted(project, "run__ended")
    with without_sqs(monkeypatch):
        assert ended(project, "run__ended") == {"ended": 0, "unsettled": 1}
    assert states(project) == {"run__ended": "running"}
    assert ended(project, "run__ended") == {"ended": 1, "unsettled": 0}
    assert project.waiting() == (1, 0)


def test_a_run_that_loaded_nothing_and_released_all_has_failed(project: Project) -> None:
    project.send(login("u"))
    extracted(project, "run__1")
    with project.open_run("run__1") as context, pytest.raises(RunFailed):
        steps.finish(context)  # although nobody says that a step before it failed
    assert states(project) == {"run__1": "failed"}
    assert project.waiting() == (1, 0)


def test_runs_of_contracts_that_are_gone_are_left_alone(project: Project) -> None:
    project.send(login("u"))
    extracted(project, "run__1")
    age_runs(project, 100_000)
    with project.resources() as resources:
        assert settle_runs(resources, {})["orphans"] == 0
    assert states(project) == {"run__1": "running"}


def test_a_run_of_a_broken_contract_is_left_alone_with_all_its_files(project: Project) -> None:
    """Both one that is open and one that is closed and would be tidied."""

    def staged() -> list[Path]:
        return sorted(Path(project.settings.staging).rglob("*.*"))

    project.send(login("u"))
    extracted(project, "closed")
    with project.open_run("closed") as context, pytest.raises(RunFailed):
        steps.finish(context, upstream_failed=True)
    project.send(login("v"))
    extracted(project, "open")
    age_runs(project, 100_000)
    before, were = staged(), states(project)
    with project.resources() as resources:
        maintain_ledger(resources)  # the database may be new: its days are to be made whatever is broken
        counts = maintain(resources, {}, broken=[project.contract.name])
    assert {name: count for name, count in counts.items() if count} == {}
    assert (staged(), states(project)) == (before, were)
    assert before


# Staging


def test_a_closed_runs_masked_files_stay_for_their_days_and_then_go(project: Project) -> None:
    project.send(login("u"), b"not json")
    project.drain()
    now = datetime.now(UTC)
    assert cleaned(project, now + timedelta(days=6, hours=23))["expired"] == 0
    assert staged(project) == ["masked", "rejected"]
    assert cleaned(project, now + timedelta(days=7, hours=1))["expired"] == 1
    assert list(Path(project.settings.staging).iterdir()) == []


def test_an_open_runs_files_stay_however_old(project: Project) -> None:
    project.send(login("u"))
    extracted(project, "run__1")
    age_runs(project, 400 * 86_400)
    make_old(project, 400)
    assert cleaned(project)["expired"] == 0
    assert staged(project) == ["raw", "receipts"]


def make_old(project: Project, days: int) -> None:
    long_ago = time.time() - days * 86_400
    for path in Path(project.settings.staging).glob("*/*"):
        os.utime(path, (long_ago, long_ago))


def forget_runs(project: Project) -> None:
    with project.database.owner() as connection:
        connection.execute("TRUNCATE etl.runs, etl.batches")


def test_a_run_the_warehouse_does_not_know_is_told_and_kept(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.send(login("u"))
    project.drain()
    forget_runs(project)
    make_old(project, UNKNOWN_KEPT.days - 1)
    assert cleaned(project)["unknown"] == 1
    assert "run reconcile" in caplog.text
    assert staged(project) == ["masked"]


def test_an_unknown_run_goes_when_nothing_in_it_can_matter_any_more(project: Project) -> None:
    project.send(login("u"))
    project.drain()
    forget_runs(project)
    make_old(project, UNKNOWN_KEPT.days + 1)
    assert cleaned(project)["unknown_removed"] == 1
    assert staged(project) == []


def test_what_a_killed_write_left_goes_with_the_closed_run_only(project: Project) -> None:
    project.send(login("u"))
    (batch,) = extracted(project, "run__1")
    (folder,) = Path(project.settings.staging).iterdir()
    (folder / f".{batch}.raw.0123456789ab.tmp").write_bytes(b"half")
    assert cleaned(project)["tidied"] == 0
    with project.open_run("run__1") as context:
        steps.mask(context, batch)
        steps.load(context, batch)
        steps.finish(context)
    assert cleaned(project)["tidied"] == 1
    assert staged(project) == ["masked"]


def test_where_no_run_has_staged_anything_yet_there_is_nothing_to_clean(project: Project) -> None:
    assert not Path(project.settings.staging).exists()
    assert maintained(project)["unknown"] == 0


def test_folders_that_are_none_of_ours_are_left_alone(project: Project) -> None:
    foreign = Path(project.settings.staging) / "not-a-run" / "file"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("x")
    make_old(project, 400)
    assert cleaned(project) == {"expired": 0, "tidied": 0, "unknown": 0, "unknown_removed": 0}
    assert foreign.exists()


def test_staging_on_s3_is_cleaned_by_the_same_rules(project: Project) -> None:
    bucket = project.contract.queue
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    client.create_bucket(Bucket=bucket)
    on_s3 = project.with_settings(staging=f"s3://{bucket}/some/where")

    def names() -> list[str]:
        found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return sorted(item["Key"].rpartition(".")[2] for item in found)

    on_s3.send(login("u"))
    on_s3.drain("run__1")
    on_s3.send(login("v"))
    extracted(on_s3, "run__2")
    client.put_object(Bucket=bucket, Key="some/where/not-a-run/file.masked", Body=b"")
    client.put_object(Bucket=bucket, Key="elsewhere", Body=b"")
    assert cleaned(on_s3)["expired"] == 0
    later = datetime.now(UTC) + timedelta(days=8)
    assert cleaned(on_s3, later) == {"expired": 1, "tidied": 0, "unknown": 0, "unknown_removed": 0}
    assert names() == ["elsewhere", "masked", "raw", "receipts"]
    forget_runs(on_s3)
    assert cleaned(on_s3)["unknown"] == 1
    assert cleaned(on_s3, datetime.now(UTC) + timedelta(days=15))["unknown_removed"] == 1
    assert names() == ["elsewhere", "masked"]


# All of it


def test_maintenance_again_does_nothing(project: Project) -> None:
    project.send(login("u"), b"not json")
    project.drain()
    maintained(project)
    assert maintained(project) == NOTHING


def test_maintenance_beside_a_running_pipeline_leaves_it_alone(project: Project) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    with project.open_run("run__1") as context:
        batches = [batch["batch"] for batch in steps.extract(context)]
        for batch in batches:
            maintained(project)
            steps.mask(context, batch)
            maintained(project)
            steps.load(context, batch)
        maintained(project)
        summary = steps.finish(context)
    assert (summary["state"], summary["loaded"], summary["deleted"]) == ("succeeded", 15, 15)


def test_a_part_that_fails_does_not_keep_the_others_from_running(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(store: MaintenanceStore, days: int) -> None:
        raise WarehouseUnavailable("locked")

    quarantine(project, 31)
    with project.resources() as resources:
        monkeypatch.setattr(MaintenanceStore, "drop_ledger_days", refuse)
        with caplog.at_level(logging.INFO), pytest.raises(WarehouseUnavailable, match="locked"):
            maintain(resources, contracts(project))
    assert project.quarantined() == []


# The role


MAY = (
    "SELECT * FROM etl.ledger",
    "UPDATE etl.ledger SET status = 'L', run_id = gen_random_uuid()",
    "SELECT * FROM etl.quarantine",
    "UPDATE etl.quarantine SET reason = 'x', redriven_at = now(), redriven_run_id = gen_random_uuid()",
    "DELETE FROM etl.quarantine",
    "SELECT * FROM etl.quarantine_summary",
    "INSERT INTO public.user_logins (user_id, create_date) VALUES ('x', current_date)",
    "SELECT etl.ensure_ledger_partition(current_date)",
    "SELECT etl.drop_ledger_partitions(9999)",
    "UPDATE etl.runs SET received = 1",
)
MAY_NOT = (
    "SELECT * FROM public.user_logins",
    "UPDATE public.user_logins SET user_id = 'x'",
    "DELETE FROM public.user_logins",
    "UPDATE etl.ledger SET message_id = gen_random_uuid()",
    "DELETE FROM etl.ledger",
    "UPDATE etl.quarantine SET payload = ''",
    "DELETE FROM etl.runs",
    "SELECT * FROM pii.audit",
    "INSERT INTO pii.audit (action, reason, ticket) VALUES ('unmask', 'r', 't')",
    "SET ROLE etl_owner",
    "CREATE TABLE public.mine (x int)",
)


@pytest.mark.parametrize("statement", MAY)
def test_the_maintainer_may(project: Project, statement: str) -> None:
    with psycopg.connect(project.database.dsn("etl_maintainer")) as connection:
        connection.execute("SELECT etl.ensure_partition('public.user_logins', current_date)")
        connection.execute(statement)
        connection.rollback()


@pytest.mark.parametrize("statement", MAY_NOT)
def test_the_maintainer_may_not(project: Project, statement: str) -> None:
    with (
        psycopg.connect(project.database.dsn("etl_maintainer")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
