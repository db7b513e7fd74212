"""Erasure: what was asked for is gone from table, quarantine and retained files, and nothing else is."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from include.contracts.user_logins import Secret
from include.queue_etl import steps
from include.queue_etl.contract import Derived, Normalization, Personal, Scheme, SentDay
from include.queue_etl.errors import PreflightError
from include.queue_etl.operations.reconcile import reconcile
from include.queue_etl.postgres import revisions
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.erase import erase
from include.queue_etl.privacy.remask_store import RemaskStore
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.staging.area import BatchFile, Kind
from include.queue_etl.transform.batches import MaskedBatch, RejectedBatch
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project
from tests.support.contracts import redeclared

pytestmark = pytest.mark.slow

__all__ = ["project"]
ADDRESS, DEVICE = "192.0.2.7", "dévice, 7"
BODIES = [
    login("anna", ip=ADDRESS, device_id=DEVICE),
    login("anna", ip="::ffff:192.0.2.7", device_id="other"),
    login("anna", ip="2001:DB8::1", device_id=None),
    login("bert", ip=ADDRESS, device_id="bert's"),
    login("bert", ip="192.0.2.70", device_id=f"  {DEVICE}  "),
    login("carl", ip="10.0.0.1", device_id="carl's"),
    # The quarantine
    login("anna", app_version="v2", ip="10.0.0.2", device_id="d"),
    login("dora", app_version="v2", ip="::FFFF:c000:207", device_id="d"),
    login("dora", app_version="v2", ip="10.0.0.2", device_id=DEVICE),
    login("dora", app_version="v2", ip="192.0.2.70", device_id="hanna"),
    b'{"user_id": "anna", "ip": "192.0.2.7", "device_id": "',
    b'[1, [2, {"x": "{\\"ip\\": \\"192.0.2.7\\"}"}]]',
]
ROWS, QUARANTINED = 6, 6
EXPECTED = {  # field, value -> rows, quarantined messages
    ("user_id", "anna"): (3, 2),
    ("ip", ADDRESS): (3, 3),
    ("ip", " ::ffff:192.0.2.7 "): (3, 3),
    ("ip", "2001:db8:0:0::1"): (1, 0),
    ("device_id", DEVICE): (2, 1),
    ("device_id", f" {DEVICE}"): (2, 1),
    ("user_id", "nobody"): (0, 0),
    ("ip", "2.0.2.7"): (0, 0),
    ("user_id", "ann"): (0, 0),
}


@pytest.fixture
def loaded(project: PrivacyProject) -> PrivacyProject:
    project.send(*BODIES)
    summary = project.drain("loaded")
    assert (summary["loaded"], summary["quarantined"]) == (ROWS, QUARANTINED)
    return project


def run(project: PrivacyProject, field: str, value: str, *, dry_run: bool = False) -> dict:
    with project.officer() as resources:
        return erase(
            resources,
            AuditLog(resources.database),
            Subject(project.contract, field, value),
            PURPOSE,
            dry_run=dry_run,
        )


def snapshot(project: PrivacyProject) -> tuple:
    rows = project.database.rows("SELECT * FROM public.user_logins ORDER BY 1, 2, 3, 4")
    return (
        rows,
        project.database.rows("SELECT message_id, payload FROM etl.quarantine ORDER BY 1"),
        staged(project),
    )


def staged(project: PrivacyProject, name: str = "loaded") -> tuple[bytes, bytes]:
    with project.open_run(name) as context:
        (batch,) = context.staging.batches(Kind.MASKED)
        masked = context.staging.open(BatchFile(batch, Kind.MASKED), MaskedBatch)
        rejected = context.staging.open(BatchFile(batch, Kind.REJECTED), RejectedBatch)
    return masked.rows, rejected.lines


@pytest.mark.parametrize(("field", "value"), EXPECTED)
def test_a_dry_run_counts_and_changes_nothing(field, value, loaded: PrivacyProject):
    rows, quarantined = EXPECTED[field, value]
    before = snapshot(loaded)
    counts = run(loaded, field, value, dry_run=True)
    assert (counts["rows"], counts["quarantined"]) == (rows, quarantined)
    assert (counts["file_rows"], counts["file_messages"]) == (rows, quarantined)
    assert snapshot(loaded) == before
    # A count tells whether somebody is there: so it is on record too.
    assert loaded.audit() == [("erase dry run", {"contract": "user_logins", "field": field})]


@pytest.mark.parametrize(("field", "value"), EXPECTED)
def test_what_was_counted_is_erased_everywhere_and_nothing_else(field, value, loaded: PrivacyProject):
    rows, quarantined = EXPECTED[field, value]
    others = {row for row in loaded.originals() if not is_of(row, field, value)}
    counts = run(loaded, field, value)
    assert (counts["rows"], counts["quarantined"]) == (rows, quarantined)
    assert (counts["file_rows"], counts["file_messages"]) == (rows, quarantined)
    assert others <= loaded.originals()
    assert not any(is_of(row, field, value) for row in loaded.originals())
    assert len(loaded.users()) == ROWS
    assert len(loaded.quarantined()) == QUARANTINED - quarantined
    again = run(loaded, field, value)
    assert (again["rows"], again["quarantined"], again["files"]) == (0, 0, 0)


def is_of(row, field: str, value: str) -> bool:
    normalized = {" ::ffff:192.0.2.7 ": ADDRESS, "2001:db8:0:0::1": "2001:db8::1"}.get(value, value.strip())
    return row[("user_id", "ip", "device_id").index(field)] == normalized


def test_a_person_is_erased_by_any_form_of_an_email_or_a_phone_number(project: PrivacyProject):
    phone = Personal(Normalization.PHONE, "masked_ip", token_chars=256, region="DE")
    email = Personal(Normalization.EMAIL_FOLDED, "masked_device_id", token_chars=256)
    contract = redeclared(
        project.contract,
        ip=Annotated[Secret | None, phone],
        device_id=Annotated[Secret | None, email],
    )
    project = replace(project, contract=contract)
    project.send(
        login("anna", ip="030 1234567", device_id="Anna Lee <Anna@B\u00fccher.example>"),
        login("anna", ip="tel:+49-30-1234567", device_id="anna@xn--bcher-kva.example"),
        login("bert", ip="030 12345678", device_id="hanna@b\u00fccher.example"),
        # The quarantine
        login("dora", app_version="v2", ip="+49 (0)30 123 45 67", device_id="call 0049301234567, please"),
        login("dora", app_version="v2", ip="x", device_id="Re: ANNA@b\u00fccher.example; 7"),
        login("dora", app_version="v2", ip="030 12345678", device_id="hanna@b\u00fccher.example"),
    )
    summary = project.drain("loaded")
    assert (summary["loaded"], summary["quarantined"]) == (3, 3)
    for field, value in (("ip", "+49301234567"), ("device_id", "mailto:anna@B\u00dcCHER.example")):
        counts = run(project, field, value)
        assert (counts["rows"], counts["quarantined"]) == (2, 1)
        assert (counts["file_rows"], counts["file_messages"]) == (2, 1)
    assert project.originals() == {
        ("anna", None, None),
        ("bert", "+493012345678", "hanna@xn--bcher-kva.example"),
    }
    assert len(project.quarantined()) == 1


def test_of_a_user_all_that_is_personal_goes_and_the_login_stays_countable(loaded: PrivacyProject):
    run(loaded, "user_id", "anna")
    empty = loaded.database.rows(
        "SELECT user_id, masked_ip, masked_device_id, device_type, app_version FROM public.user_logins"
        " WHERE user_id IS NULL"
    )
    assert empty == [(None, None, None, "ios", 2)] * 3


def test_the_audit_says_what_was_done_without_the_value(loaded: PrivacyProject):
    run(loaded, "ip", ADDRESS)
    (first, asked), (second, done) = loaded.audit()
    assert (first, second) == ("erase", "erased")
    assert asked == {"contract": "user_logins", "field": "ip"}
    assert (done["rows"], done["quarantined"], done["field"]) == (3, 3, "ip")
    assert ADDRESS not in str(loaded.database.rows("SELECT * FROM pii.audit"))


def test_tokens_under_every_key_are_found(loaded: PrivacyProject):
    loaded.promote_new_key()
    loaded.send(login("emil", ip=ADDRESS))
    loaded.drain()
    assert run(loaded, "ip", ADDRESS)["rows"] == 4


@pytest.mark.parametrize("scheme", [Scheme.ONE_WAY, Scheme.SHA256, Scheme.MD5])
def test_values_masked_one_way_are_found_too(scheme, project: PrivacyProject):
    weak = Personal(Normalization.IP, "masked_ip", token_chars=256, scheme=scheme, allow_weak=True)
    contract = redeclared(project.contract, ip=Annotated[Secret | None, weak])
    project = replace(project, contract=contract)
    project.send(login("a", ip=ADDRESS), login("b", ip="10.0.0.1"))
    project.drain()
    assert run(project, "ip", ADDRESS)["rows"] == 1
    left = project.database.rows("SELECT user_id FROM public.user_logins WHERE masked_ip IS NOT NULL")
    assert left == [("b",)]


def test_after_a_restore_reconcile_restores_nothing_that_was_erased(loaded: PrivacyProject):
    run(loaded, "ip", ADDRESS)
    with loaded.database.owner() as connection:  # the database is restored to before the run
        connection.execute("TRUNCATE public.user_logins, etl.ledger, etl.quarantine, etl.batches, etl.runs")
    with loaded.resources() as resources:
        result = reconcile(resources, loaded.contracts())
    assert result["damaged"] == 0
    assert len(loaded.users()) == ROWS
    assert not any(is_of(row, "ip", ADDRESS) for row in loaded.originals())
    assert loaded.quarantined().count("erased") == 3


def test_files_of_an_open_run_are_left_alone_and_counted(loaded: PrivacyProject):
    loaded.send(login("anna"))
    with loaded.open_run("open") as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
        assert run(loaded, "user_id", "anna")["open_runs"] == 1
        for name in context.staging.batches(Kind.MASKED):
            steps.load(context, name)
        steps.finish(context)
    again = run(loaded, "user_id", "anna")
    assert (again["open_runs"], again["rows"], again["file_rows"]) == (0, 1, 1)


def damage_one_file(project: PrivacyProject, kind: Kind = Kind.MASKED) -> Path:
    """The first file of this kind of the oldest run."""
    path = min(Path(project.settings.staging).glob(f"*/*.{kind}"))
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_a_damaged_file_holds_up_nothing_and_is_counted(loaded: PrivacyProject):
    whole = run(loaded, "ip", ADDRESS, dry_run=True)
    damage_one_file(loaded)
    counts = run(loaded, "ip", ADDRESS)
    assert (whole["damaged"], counts["damaged"]) == (0, 1)
    assert counts["files"] < whole["files"]
    assert (counts["rows"], counts["quarantined"]) == (whole["rows"], whole["quarantined"])
    assert not any(is_of(row, "ip", ADDRESS) for row in loaded.originals())


@pytest.mark.parametrize(("damaged", "erased"), [(Kind.MASKED, (0, 3)), (Kind.REJECTED, (3, 0))])
def test_what_lies_beside_a_damaged_file_is_erased(damaged, erased, loaded: PrivacyProject):
    path = damage_one_file(loaded, damaged)
    before = path.read_bytes()
    counts = run(loaded, "ip", ADDRESS)
    assert (counts["file_rows"], counts["file_messages"], counts["damaged"]) == (*erased, 1)
    again = run(loaded, "ip", ADDRESS)
    assert (again["file_rows"], again["file_messages"], again["damaged"]) == (0, 0, 1)
    assert path.read_bytes() == before


def test_a_rejected_file_that_lies_alone_is_erased(loaded: PrivacyProject):
    min(Path(loaded.settings.staging).glob("*/*.masked")).unlink()
    counts = run(loaded, "ip", ADDRESS)
    assert (counts["files"], counts["file_messages"], counts["damaged"]) == (1, 3, 0)
    assert run(loaded, "ip", ADDRESS)["file_messages"] == 0


@pytest.mark.parametrize("kind", [Kind.MASKED, Kind.REJECTED])
def test_a_damaged_file_keeps_its_key_and_holds_up_no_remask(kind, loaded: PrivacyProject):
    new = loaded.promote_new_key()
    damage_one_file(loaded, kind)
    with loaded.remasker() as resources:
        counts = rotation.remask(resources, AuditLog(resources.database), loaded.contracts(), PURPOSE)
        assert rotation.staged_keys(resources.staging)[new] == 1
    assert (counts["damaged"], counts["left"]) == (1, 1)


def test_a_payload_that_does_not_open_is_counted_and_stays(loaded: PrivacyProject):
    with loaded.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET payload = payload || '\\x00' WHERE reason = 'bad_json'")
    counts = run(loaded, "ip", ADDRESS)
    assert (counts["unopened"], counts["quarantined"]) == (1, 2)


def test_a_redrive_restores_nothing_that_was_erased(loaded: PrivacyProject):
    from include.queue_etl.operations.redrive import redrive
    from include.queue_etl.operations.store import Selection

    run(loaded, "user_id", "anna")
    any_version = Annotated[str | None, Derived(lambda text: 2, int)]
    lenient = replace(loaded, contract=redeclared(loaded.contract, app_version=any_version))
    with lenient.open_redrive() as context:
        assert redrive(context, Selection(loaded.contract.queue), dry_run=False)["loaded"] == 3
    assert "anna" not in loaded.users()


def test_erasing_and_remasking_at_once_leaves_neither_undone(loaded: PrivacyProject):
    loaded.promote_new_key()
    real = RemaskStore.move_rows

    def erased_meanwhile(self, contract, masker, prefixes, first):
        found = real(self, contract, masker, prefixes, first)
        run(loaded, "ip", ADDRESS)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemaskStore, "move_rows", erased_meanwhile)
        with loaded.remasker() as resources:
            counts = rotation.remask(resources, AuditLog(resources.database), loaded.contracts(), PURPOSE)
    assert counts["left"] == 0
    assert not any(is_of(row, "ip", ADDRESS) for row in loaded.originals())


@pytest.mark.parametrize(("field", "value", "told"), [
    ("locale", "x", "no field 'locale' to search by in user_logins: one of user_id, ip, device_id"),
    ("device_type", "ios", "no field 'device_type' to search by"),
    ("ip", " ", "the value is blank"),
])  # fmt: skip
def test_what_cannot_be_erased_by_is_said(field, value, told, project: PrivacyProject):
    with pytest.raises(ValueError, match=told):
        Subject(project.contract, field, value)


# What the role may -----------------------------------------------------------------------------------------


MISSING = {  # field to erase by, what is taken away, the hint that the refusal names
    "a column to overwrite": (
        "user_id",
        "REVOKE UPDATE (user_id) ON public.user_logins FROM pii_officer",
        "GRANT UPDATE (user_id) ON public.user_logins TO pii_officer",
    ),
    "a personal column": (
        "user_id",
        "REVOKE UPDATE (masked_device_id) ON public.user_logins FROM pii_officer",
        "GRANT UPDATE (masked_device_id) ON public.user_logins TO pii_officer",
    ),
    "the column to look in": (
        "ip",
        "REVOKE SELECT ON public.user_logins FROM pii_officer",
        "GRANT SELECT (masked_ip) ON public.user_logins TO pii_officer",
    ),
    "the quarantine": (
        "ip",
        "REVOKE DELETE ON etl.quarantine FROM pii_officer",
        "GRANT DELETE ON etl.quarantine TO pii_officer",
    ),
    "the audit": (
        "ip",
        "REVOKE EXECUTE ON FUNCTION pii.record FROM pii_officer",
        "GRANT EXECUTE ON FUNCTION pii.record TO pii_officer",
    ),
    "the schema": (
        "ip",
        "REVOKE USAGE ON SCHEMA pii FROM pii_officer",
        "GRANT USAGE ON SCHEMA pii TO pii_officer",
    ),
    "room for NULL": (
        "user_id",
        "ALTER TABLE public.user_logins ALTER user_id SET NOT NULL",
        "ALTER TABLE public.user_logins ALTER user_id DROP NOT NULL",
    ),
}


@pytest.fixture(params=MISSING)
def lacking(request, loaded: PrivacyProject):
    """A project whose officer lacks something; the field that shows it; the statement that restores it."""
    field, taken, hint = MISSING[request.param]
    with loaded.database.owner() as connection:
        connection.execute(taken)
        yield loaded, field, hint
        connection.execute(hint)
        connection.execute("GRANT SELECT ON public.user_logins TO pii_officer")


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_the_role_lacks_is_named_with_its_hint_and_nothing_is_touched(dry_run, lacking):
    project, field, hint = lacking
    before = snapshot(project)
    with pytest.raises(PreflightError) as caught:
        run(project, field, {"user_id": "anna", "ip": ADDRESS}[field], dry_run=dry_run)
    (problem,) = caught.value.problems
    assert problem.endswith(f": {hint}")
    assert snapshot(project) == before
    assert project.audit() == []


def test_the_hint_that_is_named_is_enough(lacking):
    project, field, hint = lacking
    with project.database.owner() as connection:
        connection.execute(hint)
    assert run(project, field, {"user_id": "anna", "ip": ADDRESS}[field])["rows"] == 3


def test_all_that_is_missing_is_named_at_once(loaded: PrivacyProject):
    columns = "user_id, masked_ip, masked_device_id"
    with loaded.database.owner() as connection:
        connection.execute(f"REVOKE UPDATE ({columns}) ON public.user_logins FROM pii_officer")
        try:
            with pytest.raises(PreflightError) as caught:
                run(loaded, "user_id", "anna", dry_run=True)
        finally:
            connection.execute(f"GRANT UPDATE ({columns}) ON public.user_logins TO pii_officer")
    assert len(caught.value.problems) == 3


def test_a_table_that_is_not_there_is_said(project: PrivacyProject):
    project = replace(project, contract=replace(project.contract, table="public.signups"))
    with pytest.raises(PreflightError, match=r"there is no table public\.signups"):
        run(project, "ip", ADDRESS, dry_run=True)


class Signup(msgspec.Struct):
    device_id: Annotated[str | None, Personal(column="email_token")]
    newsletter: str


def test_a_table_made_by_its_contracts_revision_can_be_erased_from(project: PrivacyProject):
    contract = replace(
        project.contract,
        table="public.signups",
        event=Signup,
        message=(SentDay("day"),),
        partition_by=None,
    )
    with project.database.owner() as connection:
        connection.execute(revisions.creation(contract))
        try:
            counts = run(replace(project, contract=contract), "device_id", "ann@example.org")
        finally:
            connection.execute("DROP TABLE public.signups")
    assert counts["rows"] == 0


# The command ------------------------------------------------------------------------------------------------


def test_the_command_counts_first_and_takes_the_value_from_standard_input(
    loaded: PrivacyProject, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADDRESS}\n"))
    assert loaded.command("erase", "--by", "ip", *WHY, "--json") == 0
    shown = capsys.readouterr()
    counted = json.loads(shown.out)
    assert counted["dry_run"] is True
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADDRESS}\n"))
    assert loaded.command("erase", "--by", "ip", *WHY, "--json", "--apply", "-v") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {**counted, "dry_run": False}
    assert ADDRESS not in shown.out + shown.err


def test_the_command_wants_exactly_one_value(loaded: PrivacyProject, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert loaded.command("erase", "--by", "ip", *WHY) == 1
    assert capsys.readouterr().err == "erase: give one value, on a line of its own: there are 2\n"
