"""After a real restore, what the database lost comes back from the retained masked files."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from devstack import postgres
from devstack import settings as devstack_settings
from include.contracts import load_contracts
from include.queue_etl import steps
from include.queue_etl.contract import Contract
from include.queue_etl.errors import RunFailed
from include.queue_etl.operations import verify
from include.queue_etl.operations.reconcile import reconcile
from tests.integration.project import Killed, Project, killed_at, login, project
from tests.integration.scratch import TODAY

__all__ = ["project"]
BODIES = [*(login(f"u{number:02}") for number in range(23)), b"not json", login("v", app_version="v1")]


def pg_tool(name: str) -> str:
    stack = devstack_settings.from_environment({})
    return str(postgres.bundled(stack) / "bin" / name)


def connection_of(dsn: str) -> tuple[list[str], dict[str, str]]:
    parts = conninfo_to_dict(dsn)
    arguments = [
        f"--host={parts['host']}", f"--port={parts['port']}", f"--username={parts['user']}",
        f"--dbname={parts['dbname']}",
    ]  # fmt: skip
    return arguments, {"PGPASSWORD": str(parts["password"]), "PATH": "/usr/bin:/bin"}


@pytest.fixture
def restore(project: Project, empty_database: Callable[[], str], tmp_path: Path) -> Callable[[], object]:
    """Takes a dump now; each call of the result gives the project on a database restored from it."""

    def dump() -> Callable[[], Project]:
        arguments, environment = connection_of(project.database.owner_dsn)
        file = tmp_path / "backup.dump"
        command = [pg_tool("pg_dump"), "--format=custom", f"--file={file}", *arguments]
        subprocess.run(command, env=environment, check=True, timeout=600)

        def restored() -> Project:
            dsn = empty_database()
            arguments, environment = connection_of(dsn)
            command = [
                pg_tool("pg_restore"),
                "--exit-on-error",
                "--single-transaction",
                *arguments,
                str(file),
            ]
            subprocess.run(command, env=environment, check=True, timeout=600)
            return replace(project, database=replace(project.database, owner_dsn=dsn))

        return restored

    return dump


def contracts_of(project: Project) -> dict[str, Contract]:
    return {**load_contracts().good, project.contract.name: project.contract}


def reconciled(project: Project) -> dict[str, int]:
    with project.resources() as resources:
        return reconcile(resources, contracts_of(project))


def all_rows(project: Project) -> list[tuple]:
    return project.database.rows("SELECT * FROM user_logins ORDER BY user_id")


def ledger(project: Project) -> list[tuple]:
    return project.database.rows("SELECT * FROM etl.ledger ORDER BY message_id")


def test_a_restored_backup_gets_back_every_run_made_since(project: Project, restore: Callable) -> None:
    project.send(login("before"))
    project.drain("run__before")
    restored = restore()
    project.send(*BODIES)
    project.drain("run__1")
    project.send(login("later"))
    project.drain("run__2")
    assert project.waiting() == (0, 0)  # the masked files are the only copy

    after = restored()
    assert after.users() == ["before"]
    assert reconciled(after) == {
        "runs": 3, "missing_runs": 2, "batches": 4, "loaded": 24, "quarantined": 2, "duplicates": 0,
        "damaged": 0,
    }  # fmt: skip
    assert all_rows(after) == all_rows(project)
    assert ledger(after) == ledger(project)
    assert after.quarantined() == project.quarantined()


def test_the_lost_runs_are_entered_again_and_closed(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(*BODIES)
    project.drain("run__1")
    after = restored()
    reconciled(after)
    columns = "run_id, contract, airflow_run_id, state, received, loaded, quarantined, quarantined_by_reason"
    summary = f"SELECT {columns} FROM etl.run_summary"  # noqa: S608
    assert after.database.rows(summary) == project.database.rows(summary)


def test_a_run_that_was_half_loaded_at_the_backup_has_the_sums_of_all(
    project: Project, restore: Callable
) -> None:
    project.send(*(login(f"u{number}") for number in range(15)))
    with project.open_run("run__1") as context:
        first, second = [batch["batch"] for batch in steps.extract(context)]
        for batch in (first, second):
            steps.mask(context, batch)
        steps.load(context, first)
        restored = restore()
        steps.load(context, second)
        steps.finish(context)
    after = restored()
    assert reconciled(after)["loaded"] == 5
    assert after.database.rows("SELECT received, loaded FROM etl.runs") == [(15, 15)]
    with after.resources() as resources:
        (one,) = verify.verify(resources, {after.contract.name: after.contract}, TODAY)
    assert one.problems == ()


def test_reconciling_again_changes_nothing(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(*BODIES)
    project.drain()
    after = restored()
    reconciled(after)
    before = (all_rows(after), ledger(after))
    assert reconciled(after) == {
        "runs": 1, "missing_runs": 0, "batches": 0, "loaded": 0, "quarantined": 0, "duplicates": 0,
        "damaged": 0,
    }  # fmt: skip
    assert (all_rows(after), ledger(after)) == before


def test_where_nothing_was_lost_nothing_is_loaded(project: Project) -> None:
    project.send(*BODIES)
    project.drain()
    assert reconciled(project)["batches"] == 0


def test_messages_that_came_back_meanwhile_count_as_duplicates(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(*BODIES)
    with project.open_run() as context:
        messages = [message for some in context.queue.receive(100, 60) for message in some]
        context.queue.resend(messages[:5])
        context.queue.release([message.receipt_handle for message in messages])
    project.drain()
    after = restored()
    with after.open_run() as context:
        context.queue.resend(messages[:5])
    after.drain()
    result = reconciled(after)
    assert result["loaded"] + result["quarantined"] == 20
    assert sorted(after.users()) == sorted(project.users())


def test_a_queue_that_has_another_number_now_keeps_its_messages(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(*BODIES)
    project.drain()
    after = restored()
    with after.database.owner() as connection:
        connection.execute("INSERT INTO etl.queues (name) VALUES ('another-queue')")
    assert reconciled(after)["loaded"] == 23
    numbers = after.database.rows(
        "SELECT DISTINCT name FROM etl.queues JOIN (SELECT queue_id FROM etl.ledger UNION ALL"
        " SELECT queue_id FROM etl.quarantine) AS used USING (queue_id)"
    )
    assert numbers == [(project.contract.queue,)]


def test_a_run_cut_off_by_the_failover_is_loaded_and_left_to_its_own_tasks(
    project: Project, restore: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction was lost, and a part of its messages is deleted: the staged file is the only copy."""
    restored = restore()
    project.send(*BODIES[:5])
    with project.open_run("run__1") as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
            steps.load(context, batch["batch"])
        killed_at(context.store, "close_run", monkeypatch)
        with pytest.raises(Killed):
            steps.finish(context)
    after = restored()
    assert reconciled(after)["loaded"] == 5
    states = "SELECT state FROM etl.runs"
    assert after.database.rows(states) == [("running",)]
    with after.open_run("run__1") as context:
        assert steps.finish(context)["loaded"] == 5
    assert after.database.rows(states) == [("succeeded",)]
    assert len(after.users()) == 5


def test_a_damaged_file_is_counted_and_the_others_are_loaded(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(*BODIES)
    project.drain()
    folder = Path(project.settings.staging)
    damaged = sorted(folder.glob("*/0001-*.masked"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    after = restored()
    result = reconciled(after)
    assert (result["batches"], result["damaged"]) == (2, 1)
    assert after.database.rows("SELECT state FROM etl.runs") == [("running",)]


def test_a_missing_rejected_file_is_damage_too(project: Project, restore: Callable) -> None:
    restored = restore()
    project.send(b"not json")
    project.drain()
    (rejected,) = Path(project.settings.staging).glob("*/*.rejected")
    rejected.unlink()
    assert reconciled(restored())["damaged"] == 1


def test_reconciling_beside_a_running_pipeline_loads_its_batch_once(project: Project) -> None:
    project.send(*BODIES)
    with project.open_run("run__1") as context:
        batches = [batch["batch"] for batch in steps.extract(context)]
        for batch in batches:
            steps.mask(context, batch)
        assert reconciled(project)["batches"] == 3
        loaded = [steps.load(context, batch)["loaded"] for batch in batches]
        summary = steps.finish(context)
    assert (sum(loaded), summary["loaded"], summary["state"]) == (23, 23, "succeeded")
    assert len(project.users()) == len(set(project.users())) == 23


def test_a_run_that_failed_is_left_alone(project: Project) -> None:
    project.send(*BODIES[:3])
    with project.open_run("run__1") as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
        with pytest.raises(RunFailed):
            steps.finish(context, upstream_failed=True)
    assert reconciled(project)["batches"] == 0
    assert project.users() == []


def test_a_restored_database_keeps_its_rights(project: Project, restore: Callable) -> None:
    after = restore()()
    for role in ("etl_loader", "etl_maintainer"):
        with psycopg.connect(after.database.dsn(role)) as connection:
            connection.execute("SELECT * FROM etl.run_summary")
