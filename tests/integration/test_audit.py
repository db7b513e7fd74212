"""The audit: who changes, removes or puts in an entry breaks the chain; who asks for too much is refused."""

# ruff: noqa: S608 - all statements are put together from texts of this file

import io
import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from include.queue_etl.errors import AuditBroken, RateExceeded, WarehouseRefused, WarehouseUnavailable
from include.queue_etl.postgres.connection import Database as Connected
from include.queue_etl.privacy import audit, unmask
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.officer_store import OfficerStore
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project

__all__ = ["project"]


@pytest.fixture
def officer(clean_database):
    with Connected(clean_database.dsn("pii_officer")) as database:
        yield AuditLog(database)


@pytest.fixture
def trail(officer):
    """Five entries; the fourth's mark was noted elsewhere."""
    entries = [officer.record("unmask", Purpose("because", f"T-{n}"), {"tokens": n}) for n in range(1, 6)]
    return entries[3].mark


def verified(officer, mark=None):
    return audit.verify(officer.entries(), mark)


def test_a_chain_that_nobody_touched_is_whole(officer, trail):
    assert verified(officer).id == 5
    assert verified(officer, trail).id == 5


def test_an_empty_audit_is_whole_unless_an_entry_was_noted(officer):
    assert verified(officer) is None
    with pytest.raises(AuditBroken, match="does not hold the entry 4"):
        verified(officer, "4:00")


FORGED = (
    "INSERT INTO pii.audit SELECT {id}, at, 'nobody', action, reason, ticket, details, {previous}, {hash}"
    " FROM pii.audit WHERE id = 2"
)
REHASH = "UPDATE pii.audit AS a SET hash = pii.chained(a)"
TAMPERING = {
    "a reason is changed": (["UPDATE pii.audit SET reason = 'x' WHERE id = 2"], "entry 2 was changed"),
    "a time is changed": (["UPDATE pii.audit SET at = at - interval '1 us' WHERE id = 3"], "3 was changed"),
    "a count is changed": (["UPDATE pii.audit SET details = '{}' WHERE id = 5"], "entry 5 was changed"),
    "a name is changed, and its hash made anew": (
        ["UPDATE pii.audit SET who = 'x' WHERE id = 2", f"{REHASH} WHERE id = 2"],
        "entry 3 was put in",
    ),
    "one in the middle is removed": (["DELETE FROM pii.audit WHERE id = 3"], "entry 3 was removed"),
    "the first is removed": (["DELETE FROM pii.audit WHERE id = 1"], "entry 1 was removed"),
    "one is removed, and the others numbered anew": (
        ["DELETE FROM pii.audit WHERE id = 2", "UPDATE pii.audit SET id = id - 1 WHERE id = 3"],
        "entry 2 was put in",
    ),
    "the last two are removed": (["DELETE FROM pii.audit WHERE id > 3"], "does not hold the entry 4"),
    "one is put in at the end": (
        [FORGED.format(id=6, previous="hash", hash="hash")], "entry 6 was put in"
    ),
    "one is put in before the first": (
        [FORGED.format(id=0, previous="NULL", hash="hash")], "entry 0 was put in"
    ),
    "one is put in between, and all behind it moved": (
        [
            *(f"UPDATE pii.audit SET id = {n + 1} WHERE id = {n}" for n in (5, 4, 3)),
            FORGED.format(id=3, previous="hash", hash="hash"),
        ],
        "entry 3 was changed",
    ),
    "two are exchanged": (
        [f"UPDATE pii.audit SET id = {new} WHERE id = {old}" for old, new in ((2, 9), (3, 2), (9, 3))],
        "entry 2 was put in",
    ),
    "all behind the second are forged anew, with the right sums": (
        [
            "UPDATE pii.audit SET reason = 'x' WHERE id = 2",
            f"{REHASH} WHERE id = 2",
            *(
                step
                for n in (3, 4, 5)
                for step in (
                    f"UPDATE pii.audit SET previous_hash = (SELECT hash FROM pii.audit WHERE id = {n - 1})"
                    f" WHERE id = {n}",
                    f"{REHASH} WHERE id = {n}",
                )
            ),
        ],
        "does not hold the entry 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("deed", TAMPERING)
def test_the_owner_of_the_database_cannot_tamper_unseen(deed, officer, trail, clean_database):
    statements, told = TAMPERING[deed]
    with clean_database.owner() as connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(AuditBroken, match=told):
        verified(officer, trail)


def test_entries_of_the_former_dag_pii_unmask_can_still_be_verified(officer):
    asked = {"fields": ["ip"], "tokens": 2, "requested_by": "bob", "run": "manual__1"}
    officer.record("unmask asked", PURPOSE, asked)
    officer.record("unmask", PURPOSE, {**asked, "approved_by": "ada"})
    officer.record("unmask refused", PURPOSE, {**asked, "why": "ada rejected it", "answered_by": "ada"})
    assert verified(officer).id == 3
    told = [entry.content for entry in officer.entries()]
    assert all('"requested_by": "bob"' in content for content in told)
    assert '"approved_by": "ada"' in told[1]
    assert '"why": "ada rejected it"' in told[2]


def test_entries_of_many_at_once_are_one_chain(clean_database, officer):
    def write(number):
        with Connected(clean_database.dsn("pii_officer")) as database:
            one = AuditLog(database)
            return [one.record("unmask", Purpose("r", f"{number}"), {}).id for _ in range(10)]

    with ThreadPoolExecutor(6) as threads:
        ids = [id_ for some in threads.map(write, range(6)) for id_ in some]
    assert sorted(ids) == list(range(1, 61))
    assert verified(officer).id == 60


def test_an_entry_that_is_rolled_back_leaves_no_gap(clean_database, officer):
    with psycopg.connect(clean_database.dsn("pii_officer")) as connection:
        connection.execute("SELECT pii.record('unmask', 'r', 't')")
        connection.rollback()
    officer.record("unmask", PURPOSE, {})
    assert verified(officer).id == 1


@pytest.mark.parametrize("purpose", [Purpose("", "t"), Purpose("r", "  "), Purpose(" ", "t")])
def test_a_blank_reason_or_ticket_is_refused(purpose, officer):
    with pytest.raises(WarehouseRefused, match="23514"):
        officer.record("unmask", purpose, {})
    assert verified(officer) is None


def test_who_unmasks_more_than_the_hour_allows_is_refused_and_on_record(officer):
    asked = [officer.record("unmask", PURPOSE, {"tokens": n}, per_hour=10).action for n in (6, 5, 4, 1)]
    assert asked == ["unmask", "unmask refused", "unmask", "unmask refused"]


def test_the_allowance_comes_back_with_the_hour_and_is_each_officers_own(officer, clean_database):
    assert officer.record("unmask", PURPOSE, {"tokens": 10}, per_hour=10).action == "unmask"
    assert officer.record("unmask", PURPOSE, {"tokens": 1}, per_hour=10).action == "unmask refused"
    with Connected(clean_database.dsn("etl_remasker")) as database:
        other = AuditLog(database)
        assert other.record("unmask", PURPOSE, {"tokens": 10}, per_hour=10).action == "unmask"
    with clean_database.owner() as connection:
        connection.execute("UPDATE pii.audit SET at = at - interval '61 minutes'")
    assert officer.record("unmask", PURPOSE, {"tokens": 10}, per_hour=10).action == "unmask"


def test_a_negative_count_is_no_credit(officer):
    officer.record("unmask", PURPOSE, {"tokens": -1000}, per_hour=10)
    assert officer.record("unmask", PURPOSE, {"tokens": 11}, per_hour=10).action == "unmask refused"


def test_two_at_once_cannot_share_one_allowance(clean_database):
    def ask(_):
        with Connected(clean_database.dsn("pii_officer")) as database:
            one = AuditLog(database)
            return one.record("unmask", PURPOSE, {"tokens": 6}, per_hour=10).action

    with ThreadPoolExecutor(6) as threads:
        asked = sorted(threads.map(ask, range(6)))
    assert asked == ["unmask", *["unmask refused"] * 5]


# Through the commands ---------------------------------------------------------------------------------------


def test_over_the_allowance_nothing_is_opened(project: PrivacyProject, monkeypatch, capsys):
    project.send(login("u1", ip="192.0.2.77"))
    project.drain()
    monkeypatch.setenv("QUEUE_ETL_UNMASK_PER_HOUR", "1")
    assert project.command("unmask", *WHY, "--stdout", "--user-id", "u1") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2 tokens are more than this hour has room for (QUEUE_ETL_UNMASK_PER_HOUR=1)" in shown.err
    assert [action for action, _ in project.audit()] == ["unmask refused"]


def test_refused_is_an_error_of_its_own(project: PrivacyProject):
    tokens = [(project.contract.personal[0], "x")] * 1_001
    with project.officer() as resources, pytest.raises(RateExceeded, match="audit entry 1 says so"):
        unmask.unmask(resources, AuditLog(resources.database), project.contract, tokens, PURPOSE)


def test_the_command_prints_the_mark_and_takes_it(project: PrivacyProject, capsys, clean_database):
    project.send(login("u1"))
    project.drain()
    path = project.key_file.with_name("out.csv")
    assert project.command("unmask", *WHY, "--output", str(path), "--user-id", "u1") == 0
    mark = re.search(r"audit entry (1:[0-9a-f]{64})\n", capsys.readouterr().err)[1]
    assert project.command("audit", "verify", "--mark", mark) == 0
    assert capsys.readouterr().out == f"the audit is whole; last entry {mark}\n"
    with clean_database.owner() as connection:
        connection.execute("UPDATE pii.audit SET ticket = 'other'")
    assert project.command("audit", "verify") == 1
    assert capsys.readouterr() == ("", "audit verify: audit entry 1 was changed\n")


AUDITED = {
    "unmask": ("unmask", "--stdout", "--user-id", "u1"),
    "erase dry run": ("erase", "--by", "ip", "--json"),
    "erased": ("erase", "--by", "ip", "--apply", "--json"),
    "remask": ("remask", "--json"),
    "destroy key": ("keys", "destroy", "{old}", "--print"),
}


@pytest.mark.parametrize("action", AUDITED)
def test_every_audited_command_prints_its_mark_apart_from_its_result(
    action, project: PrivacyProject, capsys, monkeypatch
):
    old = project.document().key_ids[0]
    project.promote_new_key()
    monkeypatch.setattr("sys.stdin", io.StringIO("192.0.2.77\n"))
    command = [part.format(old=old) for part in AUDITED[action]]
    assert project.command(*command, *WHY) == 0
    shown = capsys.readouterr()
    (mark,) = re.findall(r"^audit entry (\S+)$", shown.err, re.MULTILINE)
    assert "audit entry" not in shown.out
    marks = project.database.rows(
        "SELECT action, id || ':' || encode(hash, 'hex') FROM pii.audit ORDER BY id"
    )
    assert marks[-1] == (action, mark)
    assert project.command("audit", "verify", "--mark", mark) == 0


@pytest.mark.parametrize("command", [("keys", "destroy", "{primary}")])
def test_what_left_no_entry_prints_no_mark(command, project: PrivacyProject, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("192.0.2.77\n"))
    primary = project.document().key_ids[0]
    project.command(*(part.format(primary=primary) for part in command), *WHY)
    assert "audit entry" not in capsys.readouterr().err
    assert project.audit() == []


def test_the_mark_is_printed_also_where_the_deed_fails(project: PrivacyProject, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise WarehouseUnavailable("the connection to Postgres was lost")

    monkeypatch.setattr(OfficerStore, "overwrite", fail)
    monkeypatch.setattr("sys.stdin", io.StringIO("192.0.2.77\n"))
    assert project.command("erase", "--by", "ip", "--apply", *WHY) == 1
    assert re.fullmatch(r"audit entry 1:[0-9a-f]{64}\nerase: the connection .*\n", capsys.readouterr().err)


def test_tokens_may_come_from_a_file(project: PrivacyProject, capsys, tmp_path):
    project.send(login("u1", ip="192.0.2.77"))
    project.drain()
    ((token,),) = project.database.rows("SELECT masked_ip FROM public.user_logins")
    (tmp_path / "tokens").write_text(f"{token}\n\n")
    assert (
        project.command("unmask", *WHY, "--stdout", "--field", "ip", "--file", str(tmp_path / "tokens")) == 0
    )
    assert "192.0.2.77" in capsys.readouterr().out


def test_values_are_written_as_csv_whatever_they_hold():
    stream = io.StringIO()
    assert unmask.write_csv(iter([("ip", "t", 'a,"b"\nc')]), stream) == 1
    assert stream.getvalue() == 'field,token,value\r\nip,t,"a,""b""\nc"\r\n'


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_value_is_no_formula_to_a_spreadsheet(value):
    stream = io.StringIO()
    unmask.write_csv(iter([("device_id", "t", value)]), stream)
    assert stream.getvalue().endswith(f"device_id,t,'{value}\r\n")
