"""One person in all contracts: one command, one entry in the audit, and no contract overlooked."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from include.contracts import LoadedContracts
from include.queue_etl import steps
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.staging.area import Kind
from tests.faults import canaries
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK
from tests.integration import deliveries as of_deliveries
from tests.integration.deliveries import deliveries, delivery
from tests.integration.privacy import WHY, PrivacyProject, login, project

pytestmark = pytest.mark.slow

__all__ = ["deliveries", "project"]
ADDRESS, DEVICE = "192.0.2.7", "d-7"
LOGINS = [
    login("anna", ip=ADDRESS, device_id=DEVICE),
    login("bert", ip="::ffff:192.0.2.7", device_id="d-8"),
    login("carl", ip="10.0.0.1", device_id="d-9"),
    login("dora", app_version="v2", ip=ADDRESS),
]
DELIVERIES = [
    delivery("p1", "anna", sender_ip=ADDRESS, contacts=[{"role": "r", "ip": ADDRESS, "phone": DEVICE}]),
    delivery("p2", "bert", sender_ip="10.0.0.1", contacts=[{"role": "r", "ip": ADDRESS}, {"role": DEVICE}]),
    delivery("p3", "carl", notes={"by": {"x": {"who": DEVICE}}}),
    delivery("q1", "dora", contacts=None, sender_ip="anna"),
]


@pytest.fixture
def both(project: PrivacyProject, deliveries: PrivacyProject) -> tuple[PrivacyProject, PrivacyProject]:
    project.send(*LOGINS)
    assert project.drain()["loaded"] == 3
    deliveries.send(*DELIVERIES)
    assert deliveries.drain()["loaded"] == 3
    return project, deliveries


def command(project: PrivacyProject, value: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{value}\n"))
    return project.command(arguments[0], "--all-contracts", *WHY, *arguments[1:])


def erase(project: PrivacyProject, kind: str, value: str, monkeypatch, capsys, *arguments: str) -> dict:
    assert command(project, value, monkeypatch, "erase", "--by", kind, "--json", *arguments) == 0
    shown = capsys.readouterr()
    assert value not in shown.out + shown.err
    return json.loads(shown.out)


def table(project: PrivacyProject, name: str) -> list[tuple]:
    return project.database.rows(f"SELECT * FROM public.{name} ORDER BY 1")  # noqa: S608


EXPECTED = {  # kind, value -> of user_logins and of deliveries: rows, quarantined messages
    ("ip", ADDRESS): ((2, 1), (2, 0)),
    ("text", DEVICE): ((1, 0), (2, 0)),
    ("user_id", "anna"): ((1, 0), (1, 1)),
    ("user_id", "nobody"): ((0, 0), (0, 0)),
    ("ip", "anna"): ((0, 0), (0, 1)),
}


@pytest.mark.parametrize(("kind", "value"), EXPECTED)
def test_a_value_is_erased_in_every_contract_whatever_its_fields_are(kind, value, both, monkeypatch, capsys):
    one, other = both
    before = table(one, "user_logins"), table(other, "deliveries")
    counted = erase(one, kind, value, monkeypatch, capsys)
    assert counted["dry_run"] is True
    assert (table(one, "user_logins"), table(other, "deliveries")) == before
    done = erase(one, kind, value, monkeypatch, capsys, "--apply")
    assert done == {**counted, "dry_run": False}
    found = [(done["contracts"][name]["rows"], done["contracts"][name]["quarantined"])
             for name in ("user_logins", "deliveries")]  # fmt: skip
    assert tuple(found) == EXPECTED[kind, value]
    assert done["total"] == {
        name: sum(counts[name] for counts in done["contracts"].values()) for name in done["total"]
    }
    again = erase(one, kind, value, monkeypatch, capsys, "--apply")
    assert [again["total"][name] for name in ("rows", "quarantined", "files", "file_rows")] == [0, 0, 0, 0]


def test_what_is_of_others_stays(both, monkeypatch, capsys):
    one, other = both
    erase(one, "ip", ADDRESS, monkeypatch, capsys, "--apply")
    assert one.originals() == {("anna", None, DEVICE), ("bert", None, "d-8"), ("carl", "10.0.0.1", "d-9")}
    found = of_deliveries.originals(other)
    contacts = [[one["ip"] for one in contacts] for _, _, contacts, _ in found.values()]
    assert contacts == [[None], [None, None], []]
    assert [ip for _, ip, _, _ in found.values()] == [None, "10.0.0.1", "192.0.2.9"]
    assert found["p1"][2][0]["phone"] == DEVICE


def test_the_audit_has_one_entry_before_the_deed_and_one_after_it(both, monkeypatch, capsys):
    one, _ = both
    done = erase(one, "ip", ADDRESS, monkeypatch, capsys, "--apply")
    fields = {"user_logins": ["ip"], "deliveries": ["sender_ip", "contacts[*].ip"]}
    details = {"by": "ip", "contracts": fields}
    assert one.audit() == [("erase", details), ("erased", {**details, "counts": done["contracts"]})]
    assert ADDRESS not in str(one.database.rows("SELECT * FROM pii.audit"))


def test_people_get_a_line_for_each_contract_and_one_for_all(both, monkeypatch, capsys):
    one, _ = both
    assert command(one, ADDRESS, monkeypatch, "erase", "--by", "ip") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [re.split(" {2,}", line)[:4] for line in shown] == [
        ["contract", "fields", "rows", "quarantined"],
        ["deliveries", "sender_ip, contacts[*].ip", "2", "0"],
        ["user_logins", "ip", "2", "1"],
        ["total", "-", "4", "1"],
    ]


def test_that_nothing_was_found_is_said(both, monkeypatch, capsys):
    assert command(both[0], "nobody", monkeypatch, "erase", "--by", "user_id") == 0
    assert "no contract has anything of this user_id\n" in capsys.readouterr().err


def test_every_problem_of_every_contract_is_listed_before_anything_is_done(both, monkeypatch, capsys):
    one, other = both
    before = table(one, "user_logins"), table(other, "deliveries")
    rights = "UPDATE (masked_ip) ON public.user_logins", "UPDATE (contacts) ON public.deliveries"
    with one.database.owner() as connection:
        for right in rights:
            connection.execute(f"REVOKE {right} FROM pii_officer")
        connection.execute("REVOKE DELETE ON etl.quarantine FROM pii_officer")
        try:
            code = command(one, ADDRESS, monkeypatch, "erase", "--by", "ip", "--apply")
        finally:
            for right in (*rights, "DELETE ON etl.quarantine"):
                connection.execute(f"GRANT {right} TO pii_officer")
    assert code == 1
    told = capsys.readouterr().err
    assert [told.count(f"GRANT {right} TO") for right in (*rights, "DELETE ON etl.quarantine")] == [1, 1, 1]
    assert (table(one, "user_logins"), table(other, "deliveries")) == before
    assert one.audit() == []


@pytest.mark.parametrize(
    "arguments", [["erase", "--by", "ip", "--apply"], ["unmask", "--by", "ip", "--stdout"]]
)
def test_a_broken_contract_is_named_and_nothing_is_done(arguments, both, monkeypatch, capsys):
    one, _ = both
    loaded = LoadedContracts(one.contracts(), {"orders": "include/contracts/orders.py, line 9: it is empty"})
    monkeypatch.setattr(privacy_commands, "load_contracts", lambda: loaded)
    assert command(one, ADDRESS, monkeypatch, *arguments) == 1
    assert capsys.readouterr().err == (
        f"{arguments[0]}: broken contracts:\n  - include/contracts/orders.py, line 9: it is empty\n"
    )
    assert one.audit() == []


def test_open_runs_are_counted_for_their_own_contract(both, monkeypatch, capsys):
    one, other = both
    other.send(delivery("p9", "anna"))
    with other.open_run("open") as context:
        for batch in steps.extract(context):
            steps.mask(context, batch["batch"])
        done = erase(one, "user_id", "anna", monkeypatch, capsys, "--apply")
        for name in context.staging.batches(Kind.MASKED):
            steps.load(context, name)
        steps.finish(context)
    assert {name: counts["open_runs"] for name, counts in done["contracts"].items()} == {
        "deliveries": 1, "user_logins": 0,
    }  # fmt: skip


# Unmask -----------------------------------------------------------------------------------------------------


def unmasked(project: PrivacyProject, value: str, monkeypatch, capsys, *arguments: str) -> list[tuple]:
    assert command(project, value, monkeypatch, "unmask", "--stdout", *arguments) == 0
    lines = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    return sorted((line["contract"], line["field"], line["value"]) for line in lines)


OF_ANNA = [
    ("deliveries", "contacts[*].ip", ADDRESS),
    ("deliveries", "contacts[*].phone", DEVICE),
    ("deliveries", "sender_ip", ADDRESS),
    ("user_logins", "device_id", DEVICE),
    ("user_logins", "ip", ADDRESS),
]


def test_all_of_a_person_comes_back_from_every_contract(both, monkeypatch, capsys):
    one, _ = both
    assert unmasked(one, "", monkeypatch, capsys, "--user-id", "anna") == OF_ANNA
    assert unmasked(one, "anna", monkeypatch, capsys, "--by", "user_id") == OF_ANNA
    fields = {name: sorted({field for contract, field, _ in OF_ANNA if contract == name})
              for name in ("user_logins", "deliveries")}  # fmt: skip
    assert one.audit() == [("unmask", {"by": "user_id", "contracts": fields, "tokens": 5})] * 2


def test_all_in_the_rows_with_an_address_comes_back_from_every_contract(both, monkeypatch, capsys):
    found = unmasked(both[0], " ::ffff:192.0.2.7", monkeypatch, capsys, "--by", "ip")
    assert found == sorted([
        *OF_ANNA, ("user_logins", "device_id", "d-8"), ("deliveries", "sender_ip", "10.0.0.1"),
    ])  # fmt: skip


def test_the_hours_limit_refuses_all_contracts_together(both, monkeypatch, capsys):
    one, _ = both
    monkeypatch.setenv("QUEUE_ETL_UNMASK_PER_HOUR", "4")
    assert command(one, "anna", monkeypatch, "unmask", "--stdout", "--by", "user_id") == 1
    assert "5 tokens are more than this hour has room for" in capsys.readouterr().err
    assert [action for action, _ in one.audit()] == ["unmask refused"]


def test_a_right_to_read_that_is_missing_in_any_contract_is_named(both, monkeypatch, capsys):
    one, _ = both
    with one.database.owner() as connection:
        connection.execute("REVOKE SELECT ON public.deliveries FROM pii_officer")
        try:
            code = command(one, "anna", monkeypatch, "unmask", "--stdout", "--by", "user_id")
        finally:
            connection.execute("GRANT SELECT ON public.deliveries TO pii_officer")
    assert code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    for column in ("customer", "sender_ip", "contacts", "notes"):
        assert f"GRANT SELECT ({column}) ON public.deliveries TO pii_officer" in shown.err
    assert one.audit() == []


# Canaries ---------------------------------------------------------------------------------------------------


def canary_delivery(number: int, parcel: Any = "p") -> bytes:
    """A message whose every personal value is a canary."""
    values = {name: f"{DEVICE_MARK}-{name}-{number}" for name in ("phone", "member", "who")}
    address = f"{ADDRESS_MARK}::{number:x}"
    inside = {"role": "r", "ip": address, "phone": values["phone"], "member": values["member"]}
    notes = {"by": [{"who": values["who"]}]}
    return delivery(parcel, f"c{number}", sender_ip=address, contacts=[inside], notes=notes)


def test_no_canary_from_the_inside_of_jsonb_is_found_anywhere(deliveries, monkeypatch, capsys, tmp_path):
    """Through load, quarantine, rotation, remask, unmask and erase: only the officer's file has any."""
    deliveries.send(*map(canary_delivery, range(40)), *(canary_delivery(n, parcel=n) for n in range(40, 50)))
    assert deliveries.drain()["quarantined"] == 10
    deliveries.promote_new_key()
    assert deliveries.command("remask", *WHY, "-v") == 0
    output = tmp_path / "values.csv"
    asked = ("--user-id", "c1", "--all-contracts", "--output", str(output), "-v")
    assert deliveries.command("unmask", *WHY, *asked) == 0
    for kind, value in (("text", f"{DEVICE_MARK}-phone-7"), ("ip", f"{ADDRESS_MARK}::8"), ("user_id", "c9")):
        assert command(deliveries, value, monkeypatch, "erase", "--by", kind, "--apply", "-v") == 0
    assert deliveries.command("keys", "status") == 0
    shown = capsys.readouterr()
    assert canaries.hits((shown.out + shown.err).encode()) == 0
    assert canaries.in_tables(deliveries.database) == {}
    staged = [path for path in Path(deliveries.settings.staging).rglob("*") if path.is_file()]
    assert len(staged) >= 2
    assert canaries.in_files([*staged, output]) == {str(output): 2}
