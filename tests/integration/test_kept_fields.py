"""Fields that nobody declared are kept encrypted beside their row, and go with their person."""

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest

from include.queue_etl import steps
from include.queue_etl.contract import Derived
from include.queue_etl.errors import KeyInUse, PreflightError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.operations.maintenance import maintain_partitions
from include.queue_etl.operations.reconcile import reconcile
from include.queue_etl.operations.redrive import redrive
from include.queue_etl.operations.store import Selection
from include.queue_etl.postgres import migrations
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.erase import erase
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform import kept
from include.queue_etl.transform.batches import MaskedBatch
from tests.faults import canaries
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project
from tests.support.contracts import redeclared

__all__ = ["project"]
LENIENT = Annotated[str | None, Derived(lambda version: 0, int)]
TODAY = datetime.now(UTC).date()


@pytest.fixture
def keeping(project: PrivacyProject) -> PrivacyProject:
    """The project, whose contract keeps what it does not declare."""
    return replace(project, contract=replace(project.contract, unknown_fields="keep"))


def opened(project: PrivacyProject) -> dict[str, Any]:
    """User -> fields, of everything that is kept."""
    lines = project.database.rows("SELECT message_id::text, payload FROM etl.kept_fields")
    return _documents(project, lines)


def staged(project: PrivacyProject, name: str) -> dict[str, Any]:
    """The same of the retained files of one run."""
    found: dict[str, Any] = {}
    with project.open_run(name) as context:
        for batch in context.staging.batches(Kind.MASKED):
            masked = context.staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
            lines = kept.decode_lines(masked.kept)
            found |= _documents(project, [(line.message_id, line.payload) for line in lines])
    return found


def _documents(project: PrivacyProject, lines: list[tuple[str, bytes]]) -> dict[str, Any]:
    cipher = kept.cipher(Keyset.from_json(project.keyset_json()), project.contract.name)
    return dict(json.loads(cipher.decrypt(message_id, payload)) for message_id, payload in lines)


def erased(project: PrivacyProject, field: str, value: str, *, dry_run: bool = False) -> dict[str, Any]:
    with project.officer() as resources:
        audit = AuditLog(resources.database)
        return erase(resources, audit, Subject(project.contract, field, value), PURPOSE, dry_run=dry_run)


# Loading ----------------------------------------------------------------------------------------------------


def test_undeclared_fields_are_kept_and_counted_by_name(keeping: PrivacyProject) -> None:
    keeping.send(login("anna", city="Ulm", seen={"at": [1.50]}), login("bert", city=None), login("carl"))
    summary = keeping.drain()
    assert (summary["loaded"], summary["unknown_fields"]) == (3, {"city": 2, "seen": 1})
    assert opened(keeping) == {"anna": {"city": "Ulm", "seen": {"at": [1.5]}}, "bert": {"city": None}}
    assert keeping.database.rows(
        "SELECT shape, messages, first_day, last_day FROM etl.kept_summary ORDER BY shape"
    ) == [
        ("$: object, city: null", 1, TODAY, TODAY),
        ("$: object, city: string, seen: object, seen.at: array, seen.at[*]: number", 1, TODAY, TODAY),
    ]
    ledger = "SELECT queue_id, sent_day, message_id, run_id FROM etl.ledger"
    assert keeping.database.rows(f"SELECT count(*) FROM etl.kept_fields JOIN ({ledger}) AS l"  # noqa: S608
                                 " USING (queue_id, sent_day, message_id, run_id)") == [(2,)]  # fmt: skip


def test_a_message_that_is_known_keeps_nothing_again(keeping: PrivacyProject) -> None:
    keeping.send(login("anna", city="Ulm"), login("bert", city="Bonn"))
    with keeping.open_run("first") as context:
        (batch,) = steps.extract(context)
        steps.mask(context, batch["batch"])
        steps.load(context, batch["batch"])
    with keeping.database.owner() as connection:  # all is known but one message, which comes again as it was
        connection.execute(
            "DELETE FROM etl.ledger WHERE message_id = (SELECT message_id FROM etl.ledger LIMIT 1)"
        )
        connection.execute("UPDATE etl.kept_fields SET shape = 'of the first time'")
        ((gone,),) = connection.execute(
            "DELETE FROM etl.kept_fields WHERE (sent_day, message_id) NOT IN"
            " (SELECT sent_day, message_id FROM etl.ledger) RETURNING message_id"
        ).fetchall()
        connection.execute("DELETE FROM etl.batches")
    with keeping.open_run("first") as context:
        counts = steps.load(context, batch["batch"])
    assert (counts["loaded"], counts["duplicates"]) == (1, 1)
    found = dict(keeping.database.rows("SELECT message_id, shape FROM etl.kept_fields"))
    assert len(found) == 2
    assert found.pop(gone) == "$: object, city: string"
    assert list(found.values()) == ["of the first time"]
    assert opened(keeping) == {"anna": {"city": "Ulm"}, "bert": {"city": "Bonn"}}


def test_what_was_erased_does_not_come_back_with_the_message(keeping: PrivacyProject) -> None:
    keeping.send(login("anna", city="Ulm"), login("bert", city="Bonn"))
    with keeping.open_run("first") as context:
        (batch,) = steps.extract(context)
        steps.mask(context, batch["batch"])
        steps.load(context, batch["batch"])
    assert erased(keeping, "user_id", "anna")["kept_fields"] == 1
    with keeping.database.owner() as connection:
        connection.execute("DELETE FROM etl.batches")
    with keeping.open_run("first") as context:
        assert steps.load(context, batch["batch"])["duplicates"] == 2
    assert opened(keeping) == {"bert": {"city": "Bonn"}}


def test_a_redrive_keeps_the_fields_of_what_it_loads(keeping: PrivacyProject) -> None:
    keeping.send(login("anna", app_version="v2", city="Ulm"), login("bert", app_version="v3", city="Bonn"))
    keeping.send(login("carl", device_type=1, city="Wien"), login("dora", city="Graz"))
    assert keeping.drain()["quarantined"] == 3
    assert opened(keeping) == {"dora": {"city": "Graz"}}
    lenient = replace(keeping, contract=redeclared(keeping.contract, app_version=LENIENT))
    for _ in range(2):
        with lenient.open_redrive() as context:
            redrive(context, Selection(keeping.contract.queue), dry_run=False)
    assert opened(keeping) == {"anna": {"city": "Ulm"}, "bert": {"city": "Bonn"}, "dora": {"city": "Graz"}}


def test_what_was_rejected_for_its_fields_is_kept_by_a_redrive(keeping: PrivacyProject) -> None:
    strict = replace(keeping, contract=replace(keeping.contract, unknown_fields="reject"))
    strict.send(login("anna", city="Ulm"))
    assert strict.drain()["quarantined"] == 1
    with keeping.open_redrive() as context:
        assert redrive(context, Selection(keeping.contract.queue), dry_run=False)["loaded"] == 1
    assert opened(keeping) == {"anna": {"city": "Ulm"}}


def test_after_a_restore_reconcile_brings_kept_fields_back(keeping: PrivacyProject) -> None:
    keeping.send(login("anna", city="Ulm"), login("bert", city="Bonn"), login("carl"))
    keeping.drain("loaded")
    erased(keeping, "user_id", "anna")
    assert staged(keeping, "loaded") == {"bert": {"city": "Bonn"}}
    with keeping.database.owner() as connection:  # the database is restored to before the run
        connection.execute(
            "TRUNCATE public.user_logins, etl.ledger, etl.quarantine, etl.batches, etl.runs, etl.kept_fields"
        )
        connection.execute("UPDATE etl.queues SET queue_id = DEFAULT")  # and numbers its queues anew
    with keeping.resources() as resources:
        assert reconcile(resources, keeping.contracts())["loaded"] == 3
    assert opened(keeping) == {"bert": {"city": "Bonn"}}
    queues = "SELECT DISTINCT queue_id FROM etl."
    assert keeping.database.rows(f"{queues}kept_fields") == keeping.database.rows(f"{queues}ledger")


def test_a_contract_that_keeps_nothing_does_without_the_table(project: PrivacyProject) -> None:
    project.send(login("anna", city="Ulm"), login("bert"))
    with project.database.owner() as connection:
        connection.execute("REVOKE INSERT ON etl.kept_fields FROM etl_loader")
    try:
        with project.open_run("first") as context:
            (batch,) = steps.extract(context)
            steps.mask(context, batch["batch"])
            assert steps.load(context, batch["batch"])["loaded"] == 2
            with project.database.owner() as connection:
                connection.execute("DELETE FROM etl.batches")
            assert steps.load(context, batch["batch"])["duplicates"] == 2
    finally:
        migrations.upgrade(project.database.owner_dsn, {})


# Erasure ----------------------------------------------------------------------------------------------------

KEPT: dict[str, dict[str, Any]] = {
    "anna": {"city": "Ulm"},
    "bert": {"friend": {"note": ["call anna, please"]}},
    "carl": {"last_ip": "::ffff:192.0.2.9", "friend": "hanna"},
    "dora": {"192.0.2.9": 1},
    "emil": {"ip2": "192.0.2.90"},
}


@pytest.fixture
def full(keeping: PrivacyProject) -> PrivacyProject:
    keeping.send(*(login(user, **fields) for user, fields in KEPT.items()))
    assert keeping.drain("loaded")["loaded"] == len(KEPT)
    return keeping


@pytest.mark.parametrize(
    ("field", "value", "gone"),
    [
        ("user_id", "anna", {"anna", "bert"}),
        ("ip", "192.0.2.9", {"carl", "dora"}),
        ("ip", "192.0.2.7", set()),  # of every row; the fields beside it are those of their user
        ("device_id", "hanna", {"carl"}),
        ("user_id", "nobody", set()),
    ],
)
def test_kept_fields_go_with_their_person_and_with_a_value(field, value, gone, full: PrivacyProject) -> None:
    counted = erased(full, field, value, dry_run=True)
    assert (counted["kept_fields"], counted["file_kept_fields"]) == (len(gone), len(gone))
    assert opened(full) == staged(full, "loaded") == KEPT
    done = erased(full, field, value)
    assert {**done, "dry_run": True} == counted
    left = {user: fields for user, fields in KEPT.items() if user not in gone}
    assert opened(full) == staged(full, "loaded") == left
    assert full.audit()[-1][1]["kept_fields"] == len(gone)
    again = erased(full, field, value)
    assert (again["kept_fields"], again["file_kept_fields"], again["files"]) == (0, 0, 0)


def test_kept_fields_that_no_key_opens_are_counted_and_stay(full: PrivacyProject) -> None:
    with full.database.owner() as connection:
        connection.execute("UPDATE etl.kept_fields SET payload = payload || '\\x00'")
    counts = erased(full, "user_id", "anna")
    assert (counts["unopened"], counts["kept_fields"]) == (len(KEPT), 0)
    assert full.database.rows("SELECT count(*) FROM etl.kept_fields") == [(len(KEPT),)]


def test_without_the_right_to_delete_nothing_is_erased(full: PrivacyProject) -> None:
    with full.database.owner() as connection:
        connection.execute("REVOKE DELETE ON etl.kept_fields FROM pii_officer")
    try:
        with pytest.raises(PreflightError, match=r"GRANT DELETE ON etl\.kept_fields TO pii_officer"):
            erased(full, "user_id", "anna", dry_run=True)
    finally:
        migrations.upgrade(full.database.owner_dsn, {})
    assert opened(full) == KEPT


# Who may look -----------------------------------------------------------------------------------------------


def test_the_officer_sees_what_is_kept_of_a_message_on_record(full: PrivacyProject, capsys) -> None:
    ((message_id,),) = full.database.rows(
        "SELECT message_id::text FROM etl.kept_fields WHERE shape LIKE '%note%'"
    )
    assert full.command("show", *WHY, message_id) == 0
    facts, document = capsys.readouterr().out.split("\n\n")
    assert json.loads(document) == {"subject": "bert", "fields": KEPT["bert"]}
    assert dict(line.split(None, 1) for line in facts.splitlines())["run_name"] == "loaded"
    assert full.command("show", *WHY, message_id, "--shape") == 0
    shown = capsys.readouterr().out
    assert "fields.friend.note[*]  string" in shown
    assert "anna" not in shown
    assert full.audit() == [
        ("show", {"contract": "user_logins", "message": message_id, "tokens": 1}),
        ("show shape", {"contract": "user_logins", "message": message_id}),
    ]


def test_who_is_on_call_sees_names_and_types(full: PrivacyProject, monkeypatch, capsys) -> None:
    full.send(login("fritz", city="Bonn"))
    full.drain()
    monkeypatch.setenv("QUEUE_ETL_OPS_DSN", full.database.dsn("ops_ro"))
    for name in ("QUEUE_ETL_KEYSET_FILE", "QUEUE_ETL_STAGING", "QUEUE_ETL_OFFICER_DSN"):
        monkeypatch.delenv(name)
    assert full.command("shape", "--kept", "--json", "--limit", "2") == 0
    shown = capsys.readouterr()
    first, second = map(json.loads, shown.out.splitlines())
    assert (first["messages"], first["shape"]) == (2, "$: object, city: string")
    assert first["first_day"] == first["last_day"] == str(TODAY)
    assert second["messages"] == 1
    assert shown.err == "the largest 2 of 5 groups; --limit shows more\n"
    with full.database.owner() as connection:
        connection.execute("TRUNCATE etl.kept_fields")
    assert full.command("shape", "--kept") == 0
    assert capsys.readouterr().err == f"nothing of {full.contract.queue} has kept fields\n"


def test_no_undeclared_value_can_be_read_anywhere(keeping, caplog, capfd):
    values = {"new_ip": f"{ADDRESS_MARK}::1", "devices": [{DEVICE_MARK: {"x": f"{DEVICE_MARK}-00000001"}}]}
    bodies = [login("anna", **values), login("bert", app_version="v2", **values)]
    assert canaries.hits(b"".join(bodies)) > 0
    keeping.send(*bodies)
    caplog.set_level(logging.DEBUG)
    assert keeping.drain("loaded")["loaded"] == 1
    lenient = replace(keeping, contract=redeclared(keeping.contract, app_version=LENIENT))
    with lenient.open_redrive() as context:
        assert redrive(context, Selection(keeping.contract.queue), dry_run=False)["loaded"] == 1
    assert set(opened(keeping)) == {"anna", "bert"}
    erased(keeping, "ip", f"{ADDRESS_MARK}::2", dry_run=True)
    assert canaries.in_tables(keeping.database) == {}
    files = [path for path in Path(keeping.settings.staging).rglob("*") if path.is_file()]
    assert files
    assert canaries.in_files(files) == {}
    said = capfd.readouterr()
    assert canaries.hits((caplog.text + said.out + said.err).encode()) == 0


# Keys -------------------------------------------------------------------------------------------------------


def test_kept_fields_hold_a_key_until_remask_has_moved_them(full: PrivacyProject) -> None:
    old, new = full.document().key_ids[0], full.promote_new_key()
    full.send(login("fritz", city="Bonn"))
    full.drain()

    def usage(key: int) -> int:
        with full.remasker() as resources:
            (status,) = [one for one in rotation.status(resources, full.contracts()) if one["key_id"] == key]
        return status["in_use"].get("kept fields", 0)

    assert (usage(old), usage(new)) == (len(KEPT), 1)
    with full.remasker() as resources:
        audit = AuditLog(resources.database)
        with pytest.raises(KeyInUse, match=f"kept fields: {len(KEPT)} are encrypted with it"):
            rotation.retire(resources, audit, full.contracts(), old, PURPOSE)
        counts = rotation.remask(resources, audit, full.contracts(), PURPOSE)
        assert (counts["payloads"], counts["left"], counts["unopened"]) == (len(KEPT), 0, 0)
        rest = rotation.retire(resources, audit, full.contracts(), old, PURPOSE)
    full.key_file.write_text(rest.text)
    assert (usage(old), usage(new)) == (0, len(KEPT) + 1)
    assert opened(full) == {**KEPT, "fritz": {"city": "Bonn"}}
    assert staged(full, "loaded") == KEPT


# Retention --------------------------------------------------------------------------------------------------


def test_kept_fields_go_when_the_days_of_their_rows_are_over(full: PrivacyProject) -> None:
    days = {"anna": 30, "bert": 31, "carl": 400}
    with full.database.owner() as connection:
        for user, age in days.items():
            connection.execute(
                "UPDATE etl.kept_fields SET sent_day = %s WHERE shape = %s",
                [TODAY - timedelta(days=age), SHAPES[user]],
            )
        connection.execute("INSERT INTO etl.queues (name) VALUES ('other')")
        connection.execute(
            "INSERT INTO etl.kept_fields SELECT (SELECT max(queue_id) FROM etl.queues), '2020-01-01',"
            " gen_random_uuid(), run_id, shape, payload FROM etl.kept_fields LIMIT 1"
        )

    def expired(retain_days: int | None) -> int:
        contract = replace(full.contract, retain_days=retain_days)
        migrations.upgrade(full.database.owner_dsn, {}, [contract])
        with full.resources() as resources:
            return maintain_partitions(resources, {contract.name: contract})["kept_fields_expired"]

    try:
        assert expired(None) == 0
        assert expired(30) == 2
        assert expired(30) == 0
    finally:
        migrations.upgrade(full.database.owner_dsn, {}, [full.contract])
    left = full.database.rows("SELECT sent_day FROM etl.kept_fields ORDER BY 1")
    assert [day for (day,) in left][:2] == [datetime(2020, 1, 1).date(), TODAY - timedelta(days=30)]
    assert len(left) == 4


SHAPES = {
    "anna": "$: object, city: string",
    "bert": "$: object, friend: object, friend.note: array, friend.note[*]: string",
    "carl": "$: object, friend: string, last_ip: string",
}
