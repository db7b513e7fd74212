"""Recovery through the command line: every original comes back, and nobody recovers unseen."""

import csv
import io
import json
import re
import stat
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from include.contracts.user_logins import CONTRACT
from include.queue_etl.cli import app as cli
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.audit import AuditLog, Entry
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from include.queue_etl.transform.masking import Masker
from tests.integration.scratch import TODAY, open_run

SENT_MS = int(TODAY.strftime("%s")) * 1_000
WHY = ("--reason", "subject access request", "--ticket", "DPO-17")
ADDRESSES = ["192.0.2.7", "198.51.100.1", "2001:db8::1", "not an address", None]
DEVICES = ["123-45-6789", 'id, with "quotes"\nand a line', "zoë", " blanks ", None]
FIELDS = {"app_version": "2.3.0", "device_type": "ios", "locale": None}


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keyset.json"
    path.write_text(KeysetDocument.new().text)
    return path


@pytest.fixture
def logins(warehouse, key_file):
    """Rows of the warehouse, made by the engine: user u<n> has the n-th address and device."""
    bodies = [
        json.dumps({**FIELDS, "user_id": f"u{number}", "ip": ip, "device_id": device}).encode()
        for number, (ip, device) in enumerate(zip(ADDRESSES, DEVICES, strict=True))
    ]
    run_id = open_run(warehouse)
    queue_id = warehouse.run_state(run_id).queue_id
    ids = sorted(str(uuid4()) for _ in bodies)
    raw = RawBatch(queue_id, ids, [SENT_MS] * len(bodies), [1] * len(bodies), bodies)
    keyset = Keyset.from_json(key_file.read_text())
    masked, rejected = mask_batch(raw, CONTRACT, keyset, Settings(staging="/"), run_id)
    warehouse.load(run_id, CONTRACT, "0000-abcdef", masked, rejected)
    assert masked.accepted == len(bodies)
    return UUID(str(run_id))


@pytest.fixture
def officer(clean_database, key_file, monkeypatch):
    """The command line of the privacy officer."""
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN", clean_database.dsn("pii_officer"))
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(key_file))
    monkeypatch.setenv("QUEUE_ETL_STAGING", "/")  # unmask looks at none

    def unmask(*arguments: str, keyset=None) -> int:
        if keyset:
            key_file.write_text(keyset)
        return cli.main(["unmask", *WHY, *arguments])

    return unmask


def audit(database) -> list[tuple]:
    return database.rows("SELECT action, reason, ticket, details FROM pii.audit ORDER BY id")


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def token(database, column: str, user: str) -> str:
    rows = database.rows("SELECT user_id, masked_ip, masked_device_id FROM public.user_logins")
    tokens = {name: {"masked_ip": ip, "masked_device_id": device} for name, ip, device in rows}
    return tokens[user][column]


@pytest.mark.usefixtures("logins")
@pytest.mark.parametrize(("field", "originals"), [("ip", ADDRESSES), ("device_id", DEVICES)])
def test_every_original_comes_back(field, originals, officer, clean_database, capsys):
    tokens = [token(clean_database, f"masked_{field}", f"u{number}") for number in range(len(originals))]
    assert tokens[-1] is None
    assert officer("--stdout", "--field", field, *tokens[:-1]) == 0
    found = read(capsys.readouterr().out)
    assert found == [
        {"field": field, "token": masked, "value": original.strip()}
        for masked, original in zip(tokens[:-1], originals[:-1], strict=True)
    ]


@pytest.mark.usefixtures("logins")
def test_all_of_a_user_comes_back_from_one_user_id(officer, capsys):
    assert officer("--stdout", "--user-id", "u1") == 0
    found = [(line["field"], line["value"]) for line in read(capsys.readouterr().out)]
    assert found == [("ip", ADDRESSES[1]), ("device_id", DEVICES[1])]


@pytest.mark.usefixtures("logins")
def test_of_a_user_without_personal_values_nothing_comes_back(officer, capsys):
    assert officer("--stdout", "--user-id", "u4") == 0
    assert read(capsys.readouterr().out) == []


@pytest.mark.usefixtures("logins")
def test_tokens_may_come_on_standard_input(officer, clean_database, capsys, monkeypatch):
    masked = token(clean_database, "masked_ip", "u0")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\n  {masked}  \n\n"))
    assert officer("--stdout", "--field", "ip") == 0
    assert [line["value"] for line in read(capsys.readouterr().out)] == ["192.0.2.7"]


@pytest.mark.usefixtures("logins")
def test_a_file_is_for_its_owner_alone_and_nothing_is_shown(officer, clean_database, capsys, tmp_path):
    path = tmp_path / "values.csv"
    assert officer("--output", str(path), "--user-id", "u0") == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line["value"] for line in read(path.read_text())] == [ADDRESSES[0], DEVICES[0]]
    shown = capsys.readouterr()
    ((mark,),) = clean_database.rows("SELECT id || ':' || encode(hash, 'hex') FROM pii.audit")
    assert shown.out == f"2 values in {path}, readable by you alone\n"
    assert shown.err == f"audit entry {mark}\n"


@pytest.mark.usefixtures("logins")
def test_an_existing_file_is_never_overwritten_and_nothing_is_on_record(
    officer, clean_database, capsys, tmp_path
):
    path = tmp_path / "values.csv"
    path.write_text("mine")
    assert officer("--output", str(path), "--user-id", "u0") == 1
    assert path.read_text() == "mine"
    assert capsys.readouterr() == ("", f"unmask: cannot make the file {path}: File exists\n")
    assert audit(clean_database) == []


@pytest.mark.usefixtures("logins")
def test_a_file_that_cannot_be_made_is_named_before_anything_is_on_record(
    officer, clean_database, capsys, tmp_path
):
    path = tmp_path / "nowhere" / "values.csv"
    assert officer("--output", str(path), "--user-id", "u0") == 1
    told = f"unmask: cannot make the file {path}: No such file or directory\n"
    assert capsys.readouterr() == ("", told)
    assert audit(clean_database) == []


@pytest.mark.usefixtures("logins")
def test_the_file_exists_before_the_audit_entry_and_is_removed_on_refusal(
    officer, clean_database, monkeypatch, tmp_path
):
    path, seen = tmp_path / "values.csv", []

    def record(self: AuditLog, *given: Any, **named: Any) -> Entry:
        seen.append((stat.S_IMODE(path.stat().st_mode), path.read_text()))
        return real(self, *given, **named)

    real = AuditLog.record
    monkeypatch.setattr(AuditLog, "record", record)
    monkeypatch.setenv("QUEUE_ETL_UNMASK_PER_HOUR", "1")
    assert officer("--output", str(path), "--user-id", "u0") == 1
    assert seen == [(0o600, "")]
    assert [line[0] for line in audit(clean_database)] == ["unmask refused"]
    assert not path.exists()


# The audit --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("logins")
def test_the_audit_says_who_why_and_what_without_any_value(officer, clean_database):
    assert officer("--stdout", "--user-id", "u0") == 0
    (record,) = audit(clean_database)
    assert record[:3] == ("unmask", "subject access request", "DPO-17")
    assert record[3] == {"contract": "user_logins", "fields": ["device_id", "ip"], "tokens": 2}
    ((who,),) = clean_database.rows("SELECT who FROM pii.audit")
    assert who == f"pii_officer_{clean_database.suffix}"


@pytest.mark.usefixtures("logins")
def test_the_audit_row_is_committed_before_anything_is_decrypted(officer, clean_database, monkeypatch):
    seen = []

    def value(self: Masker, personal: Any, masked: str) -> str:
        seen.append(len(audit(clean_database)))  # another connection: it sees only what is committed
        return real(self, personal, masked)

    real = Masker.unmask
    monkeypatch.setattr(Masker, "unmask", value)
    assert officer("--stdout", "--user-id", "u0") == 0
    assert seen == [1, 1]


@pytest.fixture(params=["analyst", "etl_loader"])
def intruder(request, officer, clean_database, monkeypatch):
    """The command line of a role that may not write the audit, asking for one address."""
    masked = token(clean_database, "masked_ip", "u0")
    monkeypatch.setattr(Masker, "unmask", lambda *arguments: pytest.fail("decrypted without an audit"))
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN", clean_database.dsn(request.param))
    return lambda: officer("--stdout", "--field", "ip", masked)


@pytest.mark.usefixtures("logins")
def test_who_may_not_write_the_audit_recovers_nothing(intruder, clean_database, capsys):
    with suppress(psycopg.Error):
        assert intruder() == 1
    assert capsys.readouterr().out == ""
    assert audit(clean_database) == []


@pytest.mark.usefixtures("logins")
def test_who_may_not_write_the_audit_is_told_so_in_clear_words(intruder, capsys):
    assert intruder() == 1
    assert re.fullmatch(
        r"unmask: (Postgres refused: InsufficientPrivilege, SQLSTATE 42501"
        r"|not started, nothing received:\n  - role analyst may not use schema etl: .*)\n",
        capsys.readouterr().err,
    )


@pytest.mark.usefixtures("logins")
def test_each_recovery_has_a_record_of_its_own_that_cannot_be_changed(officer, clean_database):
    for user in ("u0", "u1"):
        assert officer("--stdout", "--user-id", user) == 0
    assert len(audit(clean_database)) == 2
    with psycopg.connect(clean_database.dsn("pii_officer"), autocommit=True) as connection:
        for statement in ("DELETE FROM pii.audit", "UPDATE pii.audit SET reason = ''", "TRUNCATE pii.audit"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


# What does not open -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("logins")
def test_another_keyset_opens_nothing_and_the_missing_key_is_named(officer, clean_database, capsys):
    assert officer("--stdout", "--user-id", "u0", keyset=KeysetDocument.new().text) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"the keyset lacks key \d+, which masked rows", shown.err)
    assert "Traceback" not in shown.err
    assert audit(clean_database) == []


@pytest.mark.usefixtures("logins")
def test_a_recovery_that_breaks_off_leaves_no_half_file(officer, clean_database, tmp_path):
    path = tmp_path / "values.csv"
    good = token(clean_database, "masked_ip", "u0")
    assert officer("--output", str(path), "--field", "ip", good, "no-token") == 1
    assert not path.exists()
    assert officer("--output", str(path), "--field", "ip", good) == 0


@pytest.mark.usefixtures("logins")
@pytest.mark.parametrize("foreign", ["of another field", "no token", "changed"])
def test_a_foreign_token_is_one_clear_line(foreign, officer, clean_database, capsys):
    masked = token(clean_database, "masked_ip", "u0")
    given = {
        "of another field": token(clean_database, "masked_device_id", "u0"),
        "no token": "192.0.2.7",
        "changed": masked[:20] + ("A" if masked[20] != "A" else "B") + masked[21:],
    }[foreign]
    assert officer("--stdout", "--field", "ip", given) == 1
    shown = capsys.readouterr()
    assert read(shown.out) == []
    mark, told = shown.err.splitlines()
    assert mark.startswith("audit entry 1:")  # the attempt is on record
    assert told.startswith("unmask: not a token" if foreign == "no token" else "unmask: ")


@pytest.mark.usefixtures("logins")
def test_with_a_broken_keyset_nothing_is_read_or_recorded(officer, clean_database, capsys):
    assert officer("--stdout", "--user-id", "u0", keyset="canary-4711") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "the keyset cannot be read" in shown.err
    assert "canary" not in shown.err
    assert audit(clean_database) == []


def test_a_wrong_password_is_one_clear_line(officer, clean_database, monkeypatch, capsys):
    wrong = psycopg.conninfo.make_conninfo(clean_database.dsn("pii_officer"), password="canary-4711")
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN", wrong)
    assert officer("--stdout", "--user-id", "u0") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "wrong user or password" in shown.err
    assert "canary" not in shown.err
