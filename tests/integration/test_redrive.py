"""Redrive: quarantined messages go through the current contract again, each once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest

from include.queue_etl.contract import Derived
from include.queue_etl.errors import PreflightError, SettingsError, WarehouseUnavailable
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.operations import redrive as engine
from include.queue_etl.operations.redrive import redrive, selection
from include.queue_etl.operations.store import MaintenanceStore, Selection
from include.queue_etl.postgres.loading import Load
from tests.integration.project import Killed, Project, killed_at, login, project
from tests.support.contracts import redeclared
from tests.support.resources import open_run

pytestmark = pytest.mark.slow

__all__ = ["project"]
LENIENT = Annotated[str | None, Derived(lambda version: 0, int)]


def corrected(project: Project) -> Project:
    """The same project under a contract that takes any version."""
    return replace(project, contract=redeclared(project.contract, app_version=LENIENT))


@pytest.fixture
def rejected(project: Project) -> Project:
    """A project with one row, and in quarantine three bad versions and one message without ip."""
    versions = [login(f"v{number}", app_version="v2") for number in range(3)]
    no_ip = login("no ip").replace(b'"ip"', b'"pi"')
    project.send(login("good"), *versions, no_ip)
    assert project.drain()["quarantined_by_reason"] == {"bad_version app_version": 3, "missing_field ip": 1}
    return corrected(project)


def redriven(project: Project, *, dry_run: bool = False, name: str = "", **filters: Any) -> dict:
    chosen = Selection(project.contract.queue, **filters)
    with project.open_redrive(name) as context:
        return redrive(context, chosen, dry_run=dry_run)


def test_a_dry_run_says_what_would_become_of_each_and_changes_nothing(rejected: Project) -> None:
    before = rejected.database.rows("SELECT * FROM etl.quarantine ORDER BY message_id")
    assert redriven(rejected, dry_run=True) == {
        "dry_run": True,
        "messages": 4,
        "verdicts": {"bad_version app_version": {"loads": 3}, "missing_field ip": {"missing_field ip": 1}},
    }
    assert rejected.database.rows("SELECT * FROM etl.quarantine ORDER BY message_id") == before
    assert rejected.users() == ["good"]
    assert rejected.database.rows("SELECT count(*) FROM etl.runs") == [(1,)]


def test_what_the_contract_accepts_now_becomes_a_row_and_the_rest_stays(rejected: Project) -> None:
    result = redriven(rejected)
    assert (result["loaded"], result["still_quarantined"], result["overtaken"]) == (3, 1, 0)
    assert rejected.users() == ["good", "v0", "v1", "v2"]
    assert rejected.quarantined() == ["missing_field ip"]


def test_the_row_is_the_one_the_pipeline_would_have_made(rejected: Project) -> None:
    redriven(rejected)
    tokens = rejected.database.rows(
        "SELECT count(DISTINCT masked_ip), count(DISTINCT masked_device_id), count(DISTINCT create_date)"
        " FROM user_logins"
    )
    assert tokens == [(1, 1, 1)]


def test_the_ledger_and_the_quarantine_name_the_redrive(rejected: Project) -> None:
    with rejected.open_redrive("redrive__1") as context:
        redrive(context, Selection(rejected.contract.queue), dry_run=False)
        run_id = context.run.id
    loaded = rejected.database.rows(f"SELECT status FROM etl.ledger WHERE run_id = '{run_id}'")  # noqa: S608
    assert loaded == [("L",)] * 3
    marked = rejected.database.rows(
        "SELECT redriven_run_id FROM etl.quarantine WHERE redriven_at IS NOT NULL"
    )
    assert marked == [(run_id,)] * 3
    summary = rejected.database.rows(
        "SELECT kind, state, received, loaded, quarantined, quarantined_by_reason, duplicates"
        " FROM etl.run_summary WHERE airflow_run_id = 'redrive__1'"
    )
    assert summary == [("redrive", "succeeded", 0, 3, 0, {}, 0)]


SUMS = """
    SELECT sum(received), sum(loaded), sum(quarantined), sum(duplicates),
           sum((quarantined_by_reason ->> 'missing_field ip')::integer)
    FROM etl.run_summary
"""


@pytest.mark.parametrize("is_closed", [True, False])
def test_sums_over_all_runs_count_each_message_once_after_redrives(
    rejected: Project, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    assert rejected.database.rows(SUMS) == [(5, 1, 4, 0, 1)]
    with monkeypatch.context() as patch:
        if not is_closed:
            killed_at(engine, "_close", patch)
        with nullcontext() if is_closed else pytest.raises(Killed):
            redriven(rejected)
    assert rejected.database.rows(SUMS) == [(5, 4, 4, 0, 1)]
    redriven(rejected)
    assert rejected.database.rows(SUMS) == [(5, 4, 4, 0, 1)]
    kinds = rejected.database.rows("SELECT kind FROM etl.run_summary ORDER BY started_at")
    assert kinds == [("queue",), ("redrive",), ("redrive",)]


def test_a_reason_that_only_a_redrive_met_is_known(rejected: Project) -> None:
    redriven(replace(rejected, settings=replace(rejected.settings, body_limit_bytes=10)))
    with rejected.database.owner() as connection:
        connection.execute("DELETE FROM etl.quarantine")
    assert redriven(rejected, reason="too_large")["messages"] == 0


def test_what_fails_again_stays_with_its_new_reason(rejected: Project) -> None:
    strict = replace(rejected.settings, body_limit_bytes=10)
    redriven(replace(rejected, settings=strict))
    assert rejected.quarantined() == ["too_large"] * 4
    assert rejected.users() == ["good"]


def test_a_second_redrive_finds_nothing_left_to_load(rejected: Project) -> None:
    redriven(rejected)
    again = redriven(rejected)
    assert (again["messages"], again["loaded"]) == (1, 0)
    assert rejected.users() == ["good", "v0", "v1", "v2"]


def test_a_redrive_that_is_done_is_not_repeated_under_its_name(rejected: Project) -> None:
    redriven(rejected, name="redrive__1")
    assert redriven(rejected, name="redrive__1")["messages"] == 0


@pytest.mark.parametrize(
    ("filters", "messages"),
    [
        ({"reason": "bad_version"}, 3),
        ({"reason": "bad_version app_version"}, 3),
        ({"reason": "missing_field"}, 1),
        ({"since": datetime.now(UTC) + timedelta(hours=1)}, 0),
        ({"since": datetime.now(UTC) - timedelta(hours=1)}, 4),
        ({"until": datetime.now(UTC) - timedelta(hours=1)}, 0),
        ({"until": datetime.now(UTC) + timedelta(hours=1), "reason": "missing_field"}, 1),
    ],
)
def test_filters_select_by_reason_and_time(rejected: Project, filters: dict, messages: int) -> None:
    assert redriven(rejected, dry_run=True, **filters)["messages"] == messages


def test_an_unknown_reason_is_an_error_that_names_the_reasons_there_are(rejected: Project) -> None:
    for dry_run in (True, False):
        with pytest.raises(SettingsError) as caught:
            redriven(rejected, dry_run=dry_run, reason="bad_verison")
        (problem,) = caught.value.problems
        assert problem == (
            f"no message of {rejected.contract.queue} was ever rejected for 'bad_verison'; "
            "there are: bad_version app_version, missing_field ip"
        )
    assert rejected.database.rows("SELECT count(*) FROM etl.runs") == [(1,)]


def test_where_nothing_was_ever_rejected_a_reason_says_so(project: Project) -> None:
    with pytest.raises(SettingsError, match="rejected for 'bad_version'; there are none yet"):
        redriven(project, reason="bad_version")


def test_a_reason_that_another_took_the_place_of_is_still_known(rejected: Project) -> None:
    strict = replace(rejected, settings=replace(rejected.settings, body_limit_bytes=10))
    redriven(strict, name="redrive__1", reason="bad_version")
    assert rejected.quarantined() == ["missing_field ip", *["too_large"] * 3]
    assert redriven(strict, name="redrive__1", reason="bad_version")["messages"] == 0
    assert redriven(strict, reason="bad_version")["messages"] == 0


def test_reasons_of_another_queue_are_not_known(rejected: Project) -> None:
    other = Selection("another-queue", "bad_version")
    with rejected.open_redrive() as context, pytest.raises(SettingsError, match="there are none yet"):
        redrive(context, other)


def test_messages_of_another_queue_stay(rejected: Project) -> None:
    assert redriven(rejected, dry_run=True)["messages"] == 4
    other = Selection("another-queue")
    with rejected.open_redrive() as context:
        assert redrive(context, other, dry_run=False)["messages"] == 0


def test_many_pages_meet_each_message_once(project: Project) -> None:
    project.send(*(login(f"u{number:03}", app_version="v2") for number in range(35)))
    project.drain()
    result = redriven(corrected(project))
    assert result["loaded"] == 35
    assert len(project.users()) == len(set(project.users())) == 35
    batches = project.database.rows("SELECT count(*) FROM etl.batches WHERE loaded > 0")
    assert batches == [(4,)]  # ten messages each


def test_a_page_is_bounded_in_bytes_too_but_holds_at_least_one_message(rejected: Project) -> None:
    with rejected.open_redrive() as context:
        chosen = Selection(rejected.contract.queue)
        assert (
            len(MaintenanceStore(context.resources.database).quarantined(chosen, None, 10, max_bytes=1)) == 1
        )
        assert (
            len(MaintenanceStore(context.resources.database).quarantined(chosen, None, 10, max_bytes=150))
            == 2
        )


def test_a_message_that_may_kill_the_process_is_taken_only_when_asked_for(project: Project) -> None:
    project.send(login("poison"))
    with project.open_run() as context:  # received once, released: the next time is the second
        taken = [message for messages in context.queue.receive(1, 60) for message in messages]
        context.queue.release([message.receipt_handle for message in taken])
    project.with_settings(max_receives=1).drain()
    assert project.quarantined() == ["too_many_receives"]
    assert redriven(project)["messages"] == 0
    assert redriven(project, reason="too_many_receives")["loaded"] == 1
    assert project.users() == ["poison"]


def test_a_kill_before_the_commit_changes_nothing(rejected: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with rejected.open_redrive("redrive__1") as context, monkeypatch.context() as patch:
        killed_at(MaintenanceStore, "redrive", patch)
        with pytest.raises(Killed):
            redrive(context, Selection(rejected.contract.queue), dry_run=False)
    assert rejected.users() == ["good"]
    assert redriven(rejected, name="redrive__1")["loaded"] == 3


def test_a_kill_after_the_commit_loads_nothing_twice(
    rejected: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejected.open_redrive("redrive__1") as context, monkeypatch.context() as patch:
        killed_at(MaintenanceStore, "redrive", patch, after=True)
        with pytest.raises(Killed):
            redrive(context, Selection(rejected.contract.queue), dry_run=False)
    assert redriven(rejected, name="redrive__1")["loaded"] == 0
    assert rejected.users() == ["good", "v0", "v1", "v2"]


def test_a_lost_connection_leaves_the_rest_to_the_next_try(
    rejected: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejected.open_redrive("redrive__1") as context:
        chosen = Selection(rejected.contract.queue)
        pages = MaintenanceStore(context.resources.database).quarantined(chosen, None, 10, 1_000_000)
        assert len(pages) == 4
        rejected.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'queue_etl'"
        )
        with pytest.raises((WarehouseUnavailable, PreflightError)):
            redrive(context, chosen, dry_run=False)
        assert redrive(context, chosen, dry_run=False)["loaded"] == 3


def test_two_redrives_at_once_load_each_message_once(project: Project) -> None:
    project.send(*(login(f"u{number:03}", app_version="v2") for number in range(200)))
    project.drain()
    both = corrected(project.with_settings(batch_messages=20))
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda number: redriven(both, name=f"redrive__{number}"), range(2)))
    assert sum(result["loaded"] for result in results) == 200
    assert len(project.users()) == len(set(project.users())) == 200
    assert project.database.deadlocks() == 0


def test_redrives_beside_pipelines_that_receive_the_same_messages_again(project: Project) -> None:
    project.send(*(login(f"u{number:03}", app_version="v2") for number in range(100)))
    with project.open_run() as context:
        copies = [message for some in context.queue.receive(100, 60) for message in some]
        context.queue.release([message.receipt_handle for message in copies])
    project.drain()
    with project.open_run() as context:
        for start in range(0, 100, 10):
            context.queue.resend(copies[start : start + 10])
    # The pipelines know the corrected contract too: a copy would load, were it not known.
    both = corrected(project.with_settings(batch_messages=10, max_messages=60))
    work = [both.drain, both.drain, lambda: redriven(both), lambda: redriven(both)]
    with ThreadPoolExecutor(len(work)) as threads:
        outcomes = [future.result() for future in [threads.submit(job) for job in work]]
    assert sum(outcome["loaded"] for outcome in outcomes) == 100
    assert len(project.users()) == len(set(project.users())) == 100
    assert project.quarantined() == []
    assert project.database.deadlocks() == 0


def test_messages_that_another_redrive_takes_meanwhile_count_as_overtaken(
    rejected: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejected.open_redrive() as context:
        original = MaintenanceStore.redrive

        def after_another(store: MaintenanceStore, load: Load) -> object:
            monkeypatch.setattr(MaintenanceStore, "redrive", original)
            assert redriven(rejected)["loaded"] == 3
            return original(store, load)

        monkeypatch.setattr(MaintenanceStore, "redrive", after_another)
        result = redrive(context, Selection(rejected.contract.queue), dry_run=False)
    assert (result["loaded"], result["still_quarantined"], result["overtaken"]) == (0, 1, 3)
    assert rejected.users() == ["good", "v0", "v1", "v2"]


def test_a_message_erased_between_reading_and_writing_stays_erased(
    rejected: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejected.open_redrive() as context:
        original = MaintenanceStore.redrive

        def after_erasure(store: MaintenanceStore, load: Load) -> object:
            with rejected.database.owner() as connection:
                connection.execute("DELETE FROM etl.quarantine")
            return original(store, load)

        monkeypatch.setattr(MaintenanceStore, "redrive", after_erasure)
        assert redrive(context, Selection(rejected.contract.queue), dry_run=False)["overtaken"] == 4
    assert rejected.users() == ["good"]


def test_a_redelivered_message_is_a_duplicate_before_and_after_its_redrive(rejected: Project) -> None:
    redriven(rejected)
    (message_id,) = rejected.database.rows(
        "SELECT message_id::text FROM etl.quarantine WHERE redriven_at IS NOT NULL LIMIT 1"
    )[0]
    with rejected.open_redrive() as context:
        assert MaintenanceStore(context.resources.database).known(rejected.contract.queue, [message_id]) == {
            message_id
        }


def test_a_message_whose_ledger_day_is_dropped_can_be_redriven_once(rejected: Project) -> None:
    with rejected.database.owner() as connection:
        connection.execute("DELETE FROM etl.ledger")
    assert redriven(rejected)["loaded"] == 3
    assert redriven(rejected)["loaded"] == 0
    assert rejected.users() == ["good", "v0", "v1", "v2"]


def test_what_the_ledger_says_is_loaded_is_not_loaded_again(rejected: Project) -> None:
    """Whatever the quarantine says: its mark and the ledger's status each suffice."""
    with rejected.database.owner() as connection:
        connection.execute("UPDATE etl.ledger SET status = 'L'")
    assert redriven(rejected)["loaded"] == 0
    assert rejected.users() == ["good"]


def test_what_the_quarantine_says_is_redriven_is_not_loaded_again(
    rejected: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rejected.open_redrive() as context:
        original = MaintenanceStore.redrive

        def after_another(store: MaintenanceStore, load: Load) -> object:
            monkeypatch.setattr(MaintenanceStore, "redrive", original)
            redriven(rejected)
            with rejected.database.owner() as connection:
                connection.execute("DELETE FROM etl.ledger")  # as if its day had been dropped
            return original(store, load)

        monkeypatch.setattr(MaintenanceStore, "redrive", after_another)
        redrive(context, Selection(rejected.contract.queue), dry_run=False)
    assert rejected.users() == ["good", "v0", "v1", "v2"]


def test_payloads_of_a_lost_key_are_counted_and_stay(rejected: Project) -> None:
    with rejected.database.owner() as connection:
        connection.execute(
            "UPDATE etl.quarantine SET payload = substr(payload, 2) WHERE reason = 'missing_field ip'"
        )
    result = redriven(rejected)
    assert result["verdicts"] == {
        "bad_version app_version": {"loads": 3},
        "missing_field ip": {"does not open": 1},
    }
    assert rejected.quarantined() == ["missing_field ip"]


def test_a_foreign_keyset_stops_the_redrive_before_anything_is_read(rejected: Project) -> None:
    foreign = KeysetDocument.new().text
    dsn = rejected.database.dsn("etl_maintainer")
    run = open_run(rejected.contract, "redrive__1", rejected.settings, dsn, foreign)
    with run as context, pytest.raises(PreflightError, match="the keyset lacks key"):
        redrive(context, Selection(rejected.contract.queue), dry_run=False)


def test_a_redrive_as_the_loader_is_refused(rejected: Project) -> None:
    with rejected.open_run() as context, pytest.raises(Exception, match="InsufficientPrivilege"):
        redrive(context, Selection(rejected.contract.queue), dry_run=False)


def test_nothing_personal_is_in_what_a_redrive_returns_or_stores(rejected: Project) -> None:
    result = redriven(rejected)
    stored = rejected.database.rows("SELECT row_to_json(runs)::text FROM etl.runs")
    everything = repr(result) + repr(stored)
    assert "192.0.2.7" not in everything
    assert "123-45-6789" not in everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T08:30", datetime(2026, 11, 21, 8, 30, tzinfo=UTC)),
        ("2026-11-21T08:30+01:00", datetime(2026, 11, 21, 7, 30, tzinfo=UTC)),
        ("2026-11-21T07:30:00Z", datetime(2026, 11, 21, 7, 30, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(
    project: Project, text: str | None, expected: datetime | None
) -> None:
    queue = project.contract.queue
    assert selection(project.contract, "", text, None) == Selection(queue, since=expected)
    assert selection(project.contract, "", None, text) == Selection(queue, until=expected)


def test_what_is_no_time_is_said(project: Project) -> None:
    with pytest.raises(SettingsError, match="'yesterday' is no time"):
        selection(project.contract, None, "yesterday", None)
