"""The archive: raw batches of closed runs stay for `archive_days`. Erase and remask reach them."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.queue_etl import steps
from include.queue_etl.errors import RunFailed
from include.queue_etl.operations.maintenance import clean_staging, settle_runs
from include.queue_etl.operations.reconcile import reconcile
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.erase import erase
from include.queue_etl.privacy.remask_store import RemaskStore
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform.batches import RawBatch
from tests.integration.privacy import PURPOSE, PrivacyProject, login, project
from tests.integration.project import Killed, killed_at

__all__ = ["project"]


@pytest.fixture
def archiving(project: PrivacyProject) -> PrivacyProject:
    return project.with_settings(archive_days=30, batch_messages=10)


def staged(project: PrivacyProject) -> list[str]:
    """Kinds of all staged files, sorted."""
    return sorted(path.suffix[1:] for path in Path(project.settings.staging).glob("*/*"))


def cleaned(project: PrivacyProject, days: float = 0) -> dict[str, int]:
    """What maintenance does to the files that many days from now."""
    now = datetime.now(UTC) + timedelta(days=days)
    with project.resources() as resources:
        return clean_staging(resources, project.contracts(), now)


def archived(project: PrivacyProject, name: str) -> list[bytes]:
    """The bodies in the run's archived batches, sorted."""
    with project.open_run(name) as context:
        files = [BatchFile(batch, Kind.RAW) for batch in context.staging.batches(Kind.RAW)]
        return sorted(body for file in files for body in context.staging.open(file, RawBatch).bodies)


def test_archived_batches_stay_for_their_days_and_then_go(archiving: PrivacyProject):
    archiving.send(login("u"))
    archiving.drain("run__1")
    assert staged(archiving) == ["masked", "raw"]
    assert archived(archiving, "run__1") == [login("u")]
    assert cleaned(archiving, 6.9) == {"expired": 0, "tidied": 0, "unknown": 0, "unknown_removed": 0}
    assert cleaned(archiving, 7.1)["tidied"] == 1
    assert staged(archiving) == ["raw"]
    assert cleaned(archiving, 29.9) == {"expired": 0, "tidied": 0, "unknown": 0, "unknown_removed": 0}
    assert cleaned(archiving, 30.1)["expired"] == 1
    assert staged(archiving) == []


def test_a_file_that_is_rewritten_does_not_stay_longer(archiving: PrivacyProject):
    archiving.send(login("u"), login("v"))
    archiving.drain("run__1")
    erased(archiving, "u")
    for path in Path(archiving.settings.staging).glob("*/*.raw"):
        later = datetime.now(UTC).timestamp() + 20 * 86_400
        os.utime(path, (later, later))
    assert cleaned(archiving, 30.1)["expired"] == 1


def test_without_the_setting_no_raw_file_stays(project: PrivacyProject):
    project.send(login("u"))
    project.drain()
    assert staged(project) == ["masked"]


def test_only_batches_that_are_loaded_are_archived(archiving: PrivacyProject):
    archiving.send(*(login(f"u{n:02}") for n in range(15)))
    with archiving.open_run("run__1") as context:
        first, second = (batch["batch"] for batch in steps.extract(context))
        for batch in (first, second):
            steps.mask(context, batch)
        steps.load(context, first)
        with pytest.raises(RunFailed):
            steps.finish(context, upstream_failed=True)
        assert context.staging.batches(Kind.RAW) == [first]
    assert staged(archiving) == ["masked", "raw"]


def test_what_a_killed_finish_left_is_archived_only_if_it_is_loaded(archiving: PrivacyProject, monkeypatch):
    archiving.send(*(login(f"u{n:02}") for n in range(15)))
    with archiving.open_run("run__1") as context:
        first, second = (batch["batch"] for batch in steps.extract(context))
        for batch in (first, second):
            steps.mask(context, batch)
        steps.load(context, second)
        killed_at(context.store, "close_run", monkeypatch, after=True)
        with pytest.raises(Killed):
            steps.finish(context, upstream_failed=True)
        assert context.staging.batches(Kind.RAW) == sorted([first, second])
        assert cleaned(archiving)["tidied"] == 1
        assert context.staging.batches(Kind.RAW) == [second]


def test_a_contract_has_its_own_days_in_maintenance_too(project: PrivacyProject):
    own = replace(project, contract=replace(project.contract, settings={"archive_days": 30}))
    own.send(login("u"))
    with own.open_run("run__1") as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
            steps.load(context, batch["batch"])
    with own.database.owner() as connection:
        connection.execute("UPDATE etl.runs SET started_at = now() - interval '1 day'")
        connection.execute("UPDATE etl.batches SET committed_at = now() - interval '1 day'")
    with own.resources() as resources:
        assert settle_runs(resources, own.contracts())["orphans"] == 1
    assert staged(own) == ["masked", "raw"]
    assert cleaned(own, 29.9)["tidied"] == 1
    assert staged(own) == ["raw"]
    assert cleaned(project, 29.9)["expired"] == 1  # the file of the contract says so no more


def test_a_mask_that_is_cleared_masks_nothing_from_the_archive(archiving: PrivacyProject):
    brief = archiving.with_settings(retain_days=0)
    brief.send(login("u"))
    brief.drain("run__1")
    with brief.open_run("run__1") as context:
        (batch,) = context.staging.batches(Kind.RAW)
        assert steps.mask(context, batch) == {"batch": batch, "accepted": 0, "rejected": {}, "anomalies": {}}
    assert staged(brief) == ["raw"]


def test_an_archived_file_says_nothing_without_the_keyset(archiving: PrivacyProject):
    archiving.send(login("somebody", device_id="device-of-somebody"))
    archiving.drain()
    (file,) = Path(archiving.settings.staging).glob("*/*.raw")
    assert file.stat().st_mode & 0o077 == 0
    assert b"somebody" not in file.read_bytes()


def test_reconcile_leaves_the_archive_alone(archiving: PrivacyProject):
    archiving.send(login("u"))
    archiving.drain("run__1")
    with archiving.resources() as resources:
        assert reconcile(resources, archiving.contracts())["batches"] == 0
    assert archived(archiving, "run__1") == [login("u")]


# Erase and keys -----------------------------------------------------------------------------------


def erased(project: PrivacyProject, value: str, field: str = "user_id", *, dry_run: bool = False) -> dict:
    with project.officer() as resources:
        subject = Subject(project.contract, field, value)
        return erase(resources, AuditLog(resources.database), subject, PURPOSE, dry_run=dry_run)


BROKEN = b'{"user_id": "anna", "ip": "'
BODIES = [login("anna"), login("bert", ip="2001:DB8::1"), login("hanna", ip="2001:db8:0:0::1"), BROKEN]


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("user_id", "anna", BODIES[1:3]),
        ("ip", "2001:db8::1", [BROKEN, BODIES[0]]),
        ("ip", "10.0.0.1", BODIES),
    ],
)
def test_erase_removes_a_persons_messages_from_the_archive(
    archiving: PrivacyProject, field: str, value: str, kept: list[bytes]
):
    archiving.send(*BODIES)
    archiving.drain("run__1")
    cleaned(archiving, 8)  # what is retained for reconcile is gone: only the archive is left
    gone = len(BODIES) - len(kept)
    before = archived(archiving, "run__1")
    for dry_run in (True, False):
        counts = erased(archiving, value, field, dry_run=dry_run)
        assert (counts["files"], counts["file_messages"]) == (min(gone, 1), gone)
        assert archived(archiving, "run__1") == (before if dry_run else sorted(kept))
    assert erased(archiving, value, field)["files"] == 0


def test_a_damaged_archived_file_is_counted_and_stays(archiving: PrivacyProject):
    archiving.send(login("anna"))
    archiving.drain()
    (file,) = Path(archiving.settings.staging).glob("*/*.raw")
    file.write_bytes(file.read_bytes()[:-1])
    assert erased(archiving, "anna")["damaged"] == 1
    assert file.exists()


def test_remask_seals_the_archive_anew_and_the_old_key_can_go(archiving: PrivacyProject):
    (old,) = archiving.document().key_ids
    archiving.send(login("u"))
    archiving.drain("run__1")
    new = archiving.promote_new_key()
    with archiving.remasker() as resources:
        columns = RemaskStore(resources.database).masked_columns([archiving.contract])
        in_use = {used.place: used.count for used in rotation.usage(resources, columns, old)}
        assert in_use["staged files"] == 2  # masked and raw
        done = rotation.remask(resources, AuditLog(resources.database), archiving.contracts(), PURPOSE)
        assert (done["files"], done["left"], done["damaged"]) == (2, 0, 0)
        assert rotation.staged_keys(resources.staging) == {new: 2}
        rest = rotation.retire(resources, AuditLog(resources.database), archiving.contracts(), old, PURPOSE)
    archiving.key_file.write_text(rest.text)
    assert archived(archiving, "run__1") == [login("u")]
