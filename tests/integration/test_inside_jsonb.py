"""Personal values inside jsonb columns: every command reaches them, and touches nothing beside them."""

import csv
import io
import json
import shutil
from copy import deepcopy
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.errors import KeyInUse, PreflightError, WarehouseRefused
from include.queue_etl.operations.reconcile import reconcile
from include.queue_etl.privacy import remask_store, rotation
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.erase import erase
from include.queue_etl.privacy.remask_store import RemaskStore
from include.queue_etl.privacy.subjects import Subject
from include.queue_etl.transform import json_values
from tests.integration.deliveries import (
    deliveries,
    delivery,
    originals,
    rows,
    staged_rows,
    tokens_of,
)
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, project
from tests.integration.project import Killed

pytestmark = pytest.mark.slow

__all__ = ["deliveries", "project"]
ODD = "porter\t\\N"
PHONE, OTHER, ADDRESS, WHO = "+44 20 7946 0001", "+44 20 7946 0002", "192.0.2.7", 'Zoë \\ "of"\tthe\nlodge'
CONTACTS = [
    {"role": "neighbour", "phone": PHONE, "ip": ADDRESS, "member": "m-1"},
    {"role": ODD, "phone": OTHER, "ip": "::ffff:192.0.2.7"},
    {"role": "nobody"},
]
NOTES = {"by": {"a": {"who": WHO, "n": 1.10, "k": 12345678901234567890}, "b": {"who": None}}, "else": ["x"]}
BODIES = [
    delivery("p1", "anna", contacts=CONTACTS, notes=NOTES, sender_ip=ADDRESS),
    delivery("p2", "bert", contacts=[CONTACTS[1]], notes={"by": [{"who": "bert"}]}),
    delivery("p3", "carl", contacts=[], notes=None),
    delivery("p4", "anna", contacts=[CONTACTS[2]]),
    # The quarantine
    delivery("q1", "dora", contacts=[{**CONTACTS[0], "role": 7}]),
    delivery("q2", "anna", contacts=None),
    delivery("q3", "dora", contacts=None, notes=NOTES),
]
RUN = "loaded"


@pytest.fixture
def loaded(deliveries: PrivacyProject) -> PrivacyProject:
    deliveries.send(*BODIES)
    summary = deliveries.drain(RUN)
    assert (summary["loaded"], summary["quarantined"]) == (4, 3)
    return deliveries


def run(project: PrivacyProject, field: str, value: str, *, dry_run: bool = False) -> dict:
    with project.officer() as resources:
        subject = Subject(project.contract, field, value)
        return erase(resources, AuditLog(resources.database), subject, PURPOSE, dry_run=dry_run)


def remask(project: PrivacyProject) -> dict[str, int]:
    with project.remasker() as resources:
        return rotation.remask(resources, AuditLog(resources.database), project.contracts(), PURPOSE)


def retire(project: PrivacyProject, key: int, **options: bool) -> None:
    with project.remasker() as resources:
        audit = AuditLog(resources.database)
        rotation.retire(resources, audit, project.contracts(), key, PURPOSE, **options)


def rotate(project: PrivacyProject) -> tuple[int, int]:
    """Put a new primary key into the keyset; the old and the new one."""
    (old,) = project.document().key_ids
    return old, project.promote_new_key()


def contact(role: str, phone: str | None = None, ip: str | None = None, member: bool = False) -> dict:
    return {"role": role, "phone": phone, "ip": ip, "member": member}


LOADED = {  # as `originals` gives it
    "p1": (
        "anna",
        ADDRESS,
        [contact("neighbour", PHONE, ADDRESS, True), contact(ODD, OTHER, ADDRESS), contact("nobody")],
        NOTES,
    ),
    "p2": ("bert", "192.0.2.9", [contact(ODD, OTHER, ADDRESS)], {"by": [{"who": "bert"}]}),
    "p3": ("carl", "192.0.2.9", [], None),
    "p4": ("anna", "192.0.2.9", [contact("nobody")], None),
}


def test_what_was_sent_is_loaded_and_comes_back(loaded: PrivacyProject):
    assert originals(loaded) == LOADED
    clear = repr(rows(loaded)) + repr(staged_rows(loaded, RUN))
    assert [value for value in (PHONE, OTHER, ADDRESS, "lodge", "m-1") if value in clear] == []


# Erase ------------------------------------------------------------------------------------------------------

ERASED = {  # field, value -> parcels of the rows, quarantined messages
    ("contacts[*].phone", PHONE): (["p1"], 1),
    ("contacts[*].phone", f" {OTHER} "): (["p1", "p2"], 0),
    ("contacts[*].ip", ADDRESS): (["p1", "p2"], 1),
    ("contacts[*].member", "m-1"): (["p1"], 1),
    ("notes.by[*].who", WHO): (["p1"], 1),
    ("notes.by[*].who", "bert"): (["p2"], 0),
    ("notes.by[*].who", PHONE): ([], 1),
    ("contacts[*].phone", "+44 20 7946 000"): ([], 0),
}


def erased(row: tuple, field: str, value: str) -> tuple:
    """The row as it has to be afterwards."""
    customer, ip, contacts, notes = deepcopy(row)
    column, _, name = field.rpartition("].")
    inside = contacts if column.startswith("contacts") else notes and notes["by"]
    for one in inside.values() if isinstance(inside, dict) else inside or ():
        if name == "member":
            one[name] = False
        elif one[name] == value.strip():
            one[name] = None
    return customer, ip, contacts, notes


@pytest.mark.parametrize(("field", "value"), ERASED)
def test_a_value_inside_is_erased_and_nothing_beside_it(field, value, loaded: PrivacyProject):
    parcels, quarantined = ERASED[field, value]
    before = rows(loaded), staged_rows(loaded, RUN), loaded.quarantined()
    counted = run(loaded, field, value, dry_run=True)
    assert (rows(loaded), staged_rows(loaded, RUN), loaded.quarantined()) == before
    counts = run(loaded, field, value)
    assert counts == {**counted, "dry_run": False}
    assert (counts["rows"], counts["quarantined"]) == (len(parcels), quarantined)
    assert (counts["file_rows"], counts["file_messages"]) == (len(parcels), quarantined)
    assert originals(loaded) == {
        parcel: erased(row, field, value) if parcel in parcels else row for parcel, row in LOADED.items()
    }
    assert len(loaded.quarantined()) == 3 - quarantined
    again = run(loaded, field, value)
    assert (again["rows"], again["quarantined"], again["files"]) == (0, 0, 0)


def test_of_a_person_everything_personal_in_the_rows_goes(loaded: PrivacyProject):
    counts = run(loaded, "customer", "anna")
    assert (counts["rows"], counts["file_rows"], counts["quarantined"]) == (2, 2, 1)
    notes = {**NOTES, "by": {"a": {**NOTES["by"]["a"], "who": None}, "b": {"who": None}}}
    assert originals(loaded) == {
        **LOADED,
        "p1": (None, None, [contact("neighbour"), contact(ODD), contact("nobody")], notes),
        "p4": (None, None, [contact("nobody")], None),
    }
    assert run(loaded, "customer", "anna")["rows"] == 0


@pytest.mark.parametrize(("field", "value"), [("contacts[*].phone", OTHER), ("customer", "anna")])
def test_after_a_restore_nothing_that_was_erased_inside_comes_back(field, value, loaded: PrivacyProject):
    run(loaded, field, value)
    expected = rows(loaded)
    with loaded.database.owner() as connection:  # the database is restored to before the run
        connection.execute("TRUNCATE public.deliveries, etl.ledger, etl.quarantine, etl.batches, etl.runs")
    with loaded.resources() as resources:
        assert reconcile(resources, loaded.contracts())["damaged"] == 0
    assert rows(loaded) == expected


def test_tokens_inside_are_found_under_every_key(loaded: PrivacyProject):
    rotate(loaded)
    loaded.send(delivery("p5", contacts=[CONTACTS[0]]))
    loaded.drain()
    assert run(loaded, "contacts[*].phone", PHONE)["rows"] == 2


def test_a_document_older_than_the_path_is_left_as_it_is(loaded: PrivacyProject):
    """Rows are older than a path that is declared later; anything may stand on the way."""
    odd = [7, "by", ["by"], {"by": 5}, {"by": {"who": "x"}}, {"by": [[{"who": "y"}], "who", None]}, {}]
    insert = "INSERT INTO public.deliveries VALUES (%s, 'zoe', NULL, '{}', %s, '2026-01-01')"
    with loaded.database.owner() as connection:
        for number, notes in enumerate(odd):
            connection.execute(insert, [f"z{number}", Jsonb(notes)])
    rotate(loaded)
    assert remask(loaded)["left"] == 0
    assert run(loaded, "notes.by[*].who", WHO)["rows"] == 1
    assert [row[4] for row in rows(loaded)[4:]] == odd
    assert run(loaded, "customer", "zoe")["rows"] == len(odd)
    assert [row[4] for row in rows(loaded)[4:]] == odd


MISSING = {
    "to look inside": "REVOKE EXECUTE ON FUNCTION etl.json_values FROM pii_officer",
    "to change the inside": "REVOKE EXECUTE ON FUNCTION etl.json_changed FROM pii_officer",
    "to overwrite the column": "REVOKE UPDATE (contacts) ON public.deliveries FROM pii_officer",
}


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_right_that_is_missing_inside_is_named(missing, dry_run, loaded: PrivacyProject):
    hint = MISSING[missing].replace("REVOKE", "GRANT").replace(" FROM ", " TO ")
    with loaded.database.owner() as connection:
        connection.execute(MISSING[missing])
        try:
            with pytest.raises(PreflightError) as caught:
                run(loaded, "contacts[*].phone", PHONE, dry_run=dry_run)
        finally:
            connection.execute(hint)
    assert caught.value.problems == (
        f"role pii_officer may not {hint.split(' ON ')[0].removeprefix('GRANT ')} on "
        f"{hint.split(' ON ')[1].split(' TO ')[0]}: {hint}",
    )
    assert originals(loaded) == LOADED


# Keys -------------------------------------------------------------------------------------------------------


def members(project: PrivacyProject) -> list[str | None]:
    return [one["member"] for row in rows(project) for one in row[3]]


def test_tokens_inside_move_and_the_old_key_can_go(loaded: PrivacyProject):
    old, new = rotate(loaded)
    one_way = members(loaded)
    everywhere = tokens_of(loaded, old)
    counts = remask(loaded)
    assert (counts["left"], counts["unopened"], counts["one_way"]) == (0, 0, 1)
    assert counts["rows"] == 4 + 2 + 2  # senders, contacts, notes
    assert (tokens_of(loaded, old), tokens_of(loaded, new)) == (1, everywhere - 1)
    assert members(loaded) == one_way
    assert originals(loaded) == LOADED
    assert remask(loaded)["rows"] == 0
    told = r"public\.deliveries\.contacts\[\*\]\.member \(one-way\): 1 are encrypted with it"
    with pytest.raises(KeyInUse, match=told):
        retire(loaded, old)
    retire(loaded, old, abandon_one_way=True)


def test_tokens_inside_keep_their_key_and_status_counts_them(loaded: PrivacyProject, capsys):
    old, _ = rotate(loaded)
    with loaded.database.owner() as connection:
        connection.execute("TRUNCATE etl.quarantine")
        connection.execute("UPDATE public.deliveries SET sender_ip = NULL")
    shutil.rmtree(loaded.settings.staging)
    capsys.readouterr()
    assert loaded.command("keys", "status", "--json") == 0
    status = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {key["key_id"]: key["in_use"] for key in status}[old] == {
        "public.deliveries.contacts[*].ip": 3,
        "public.deliveries.contacts[*].member (one-way)": 1,
        "public.deliveries.contacts[*].phone": 3,
        "public.deliveries.notes.by[*].who": 2,
    }
    assert loaded.command("keys", "destroy", str(old), *WHY, "--abandon-one-way") == 1
    assert "public.deliveries.notes.by[*].who: 2 are encrypted with it" in capsys.readouterr().err


def test_the_staged_tokens_inside_move_and_load_after_a_restore(loaded: PrivacyProject):
    old, _ = rotate(loaded)
    remask(loaded)
    expected = rows(loaded)
    with loaded.remasker() as resources:
        assert old not in rotation.staged_keys(resources.staging)
    with loaded.database.owner() as connection:
        connection.execute("TRUNCATE public.deliveries, etl.ledger, etl.quarantine, etl.batches, etl.runs")
    with loaded.resources() as resources:
        assert reconcile(resources, loaded.contracts())["damaged"] == 0
    assert rows(loaded) == expected


def test_remask_of_the_inside_goes_on_where_it_was_stopped(loaded: PrivacyProject, monkeypatch):
    loaded.send(*(delivery(f"m{n:03}", contacts=[{**CONTACTS[0], "phone": str(n)}]) for n in range(300)))
    loaded.drain()
    before = originals(loaded)
    old, _ = rotate(loaded)
    monkeypatch.setattr("include.queue_etl.privacy.remask_store.BLOCKS", 1)
    move, calls = RemaskStore._move_inside, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return move(self, *arguments)

    monkeypatch.setattr(RemaskStore, "_move_inside", stops)
    everywhere = tokens_of(loaded, old)
    with pytest.raises(Killed):
        remask(loaded)
    assert len(members(loaded)) < tokens_of(loaded, old) < everywhere
    assert remask(loaded)["left"] == 0
    assert tokens_of(loaded, old) == 301  # the one-way ones
    assert originals(loaded) == before


def test_a_token_inside_that_does_not_open_stays_and_keeps_its_key(loaded: PrivacyProject):
    old, _ = rotate(loaded)
    with loaded.database.owner() as connection:
        connection.execute(
            "UPDATE public.deliveries SET contacts = jsonb_set(contacts, '{0,phone}',"
            " to_jsonb(left(contacts #>> '{0,phone}', 30) || 'AAAAAAAAAAAAAAAAAAAAA')) WHERE parcel = 'p1'"
        )
    counts = remask(loaded)
    assert (counts["unopened"], counts["left"]) == (1, 1)
    assert remask(loaded)["rows"] == 0
    with pytest.raises(KeyInUse, match=r"contacts\[\*\]\.phone: 1 are encrypted with it"):
        retire(loaded, old, abandon_one_way=True)


def test_erasing_while_tokens_inside_move_leaves_neither_undone(loaded: PrivacyProject):
    """Tokens are read, then somebody erases one of them, then the tokens are replaced."""
    old, _ = rotate(loaded)
    real = remask_store.reencrypted
    done: list[int] = []

    def erased_meanwhile(masker, masked, token):
        if not done:
            done.append(run(loaded, "contacts[*].phone", OTHER)["rows"])
        return real(masker, masked, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remask_store, "reencrypted", erased_meanwhile)
        assert remask(loaded)["left"] == 0
    assert done == [2]
    assert tokens_of(loaded, old) == 1
    assert originals(loaded) == {
        parcel: erased(row, "contacts[*].phone", OTHER) for parcel, row in LOADED.items()
    }


def denied() -> Any:
    return pytest.raises(psycopg.errors.InsufficientPrivilege)


@pytest.mark.parametrize("column", ["contacts", "parcel", "customer", "*"])
def test_who_remasks_does_not_see_what_is_beside_a_token(column, loaded: PrivacyProject):
    with denied(), psycopg.connect(loaded.database.dsn("etl_remasker")) as connection:
        connection.execute(f"SELECT {column} FROM public.deliveries")  # noqa: S608


READ = "etl.tokens_inside('public.deliveries', 'contacts', "
REFUSED = {
    "a path that holds no tokens": f"{READ}'[*].role', '{{AShdSvE}}')",
    "a whole column": "etl.tokens_inside('public.deliveries', 'customer', '', '{AShdSvE}')",
    "a table without tokens": "etl.tokens_inside('etl.runs', 'contacts', '[*].phone', '{AShdSvE}')",
    "what is no token": f"{READ}'[*].phone', '{{anna}}')",
    "anything": f"{READ}'[*].phone', ARRAY[''])",
    "a path to write": (
        "etl.move_tokens_inside('public.deliveries', 'contacts', '{[*].role}', '{\"{}\"}', '(0,0)', '(9,0)')"
    ),
    "text to write": (
        "etl.move_tokens_inside('public.deliveries', 'contacts', '{[*].phone}',"
        " ARRAY['{\"AShdSvE\": \"anna\"}']::jsonb[], '(0,0)', '(9,0)')"
    ),
    "text to replace": (
        "etl.move_tokens_inside('public.deliveries', 'contacts', '{[*].phone}',"
        " ARRAY['{\"anna\": \"AShdSvE\"}']::jsonb[], '(0,0)', '(9,0)')"
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_functions_of_remask_give_and_take_tokens_alone(what, loaded: PrivacyProject):
    with denied(), psycopg.connect(loaded.database.dsn("etl_remasker")) as connection:
        connection.execute(f"SELECT {REFUSED[what]}")


def test_a_path_that_is_not_registered_stops_remask_before_it_begins(loaded: PrivacyProject):
    rotate(loaded)
    before = rows(loaded)
    with loaded.database.owner() as connection:
        connection.execute("DELETE FROM etl.masked_columns WHERE path = '[*].phone'")
    told = r"does not have public\.deliveries\.contacts\[\*\]\.phone .* migrate"
    with pytest.raises(WarehouseRefused, match=told):
        remask(loaded)
    assert rows(loaded) == before
    assert loaded.audit() == []


@pytest.mark.parametrize(("statement", "told"), [
    ("ALTER TABLE public.deliveries ALTER contacts TYPE text", "was jsonb and is no jsonb now"),
    ("ALTER TABLE public.deliveries ALTER sender_ip TYPE jsonb USING to_jsonb(sender_ip)", "is jsonb now"),
    ("ALTER TABLE public.deliveries OWNER TO postgres", "role etl_owner may not read public.deliveries"),
])  # fmt: skip
def test_what_nobody_can_look_into_keeps_every_key(statement, told, loaded: PrivacyProject):
    old, _ = rotate(loaded)
    with loaded.database.owner() as connection:
        connection.execute(statement)
    with pytest.raises(WarehouseRefused, match=told):
        retire(loaded, old)


# Unmask -----------------------------------------------------------------------------------------------------


def unmasked(project: PrivacyProject, capsys, *arguments: str) -> list[tuple[str, str]]:
    assert project.command("unmask", *WHY, "--contract", "deliveries", "--stdout", *arguments) == 0
    found = csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))
    return [(line["field"], line["value"]) for line in found]


def test_all_of_a_person_comes_back_from_the_inside_too(loaded: PrivacyProject, capsys):
    found = unmasked(loaded, capsys, "--user-id", "anna")
    assert sorted(found) == sorted([
        ("sender_ip", ADDRESS), ("sender_ip", "192.0.2.9"), ("contacts[*].ip", ADDRESS),
        ("contacts[*].phone", f"'{PHONE}"), ("contacts[*].phone", f"'{OTHER}"), ("notes.by[*].who", WHO),
    ])  # fmt: skip


def test_all_in_the_rows_with_a_value_inside_comes_back(loaded: PrivacyProject, capsys, tmp_path):
    (tmp_path / "value").write_text("bert\n")
    found = unmasked(loaded, capsys, "--by", "notes.by[*].who", "--file", str(tmp_path / "value"))
    assert sorted(found) == sorted([
        ("sender_ip", "192.0.2.9"), ("contacts[*].ip", ADDRESS), ("contacts[*].phone", f"'{OTHER}"),
        ("notes.by[*].who", "bert"),
    ])  # fmt: skip


def test_tokens_from_the_inside_open_by_their_field(loaded: PrivacyProject, capsys):
    token = rows(loaded)[0][3][0]["phone"]
    assert unmasked(loaded, capsys, "--field", "contacts[*].phone", token) == [
        ("contacts[*].phone", f"'{PHONE}")
    ]
    assert (
        loaded.command("unmask", *WHY, "--contract", "deliveries", "--stdout", "--field", "sender_ip", token)
        == 1
    )


# Paths ------------------------------------------------------------------------------------------------------

leaves = st.sampled_from(["x", "x", "x", "a", "", None, True, 7])
json_documents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "é'?"]), inner, max_size=3)
    ),
    max_leaves=12,
)
paths = st.lists(st.sampled_from(["[*]", "[*]", ".a", ".é'?"]), min_size=1, max_size=3).map("".join)


@given(json_documents, paths)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_postgres_and_python_mean_the_same_by_a_path(database, document, path):
    text = json.dumps(document)
    found: list[object] = []

    def renamed(value: object) -> object:
        if value != "x":
            return value
        found.append(value)
        return "new"

    changed = json_values.changed(text, path, renamed)
    cleared = json_values.changed(text, path, lambda value: None)
    ((values, after, empty),) = database.rows(
        sql.SQL(
            "SELECT coalesce((SELECT jsonb_agg(found) FROM etl.json_values({d}, etl.json_paths({p})) AS found"
            "                WHERE found = '\"x\"'), '[]'),"
            ' etl.json_changed({d}, etl.json_steps({p}), \'{{"x": "new"}}\'),'
            " etl.json_changed({d}, etl.json_steps({p}), NULL)"
        ).format(d=sql.SQL("{}::jsonb").format(text), p=path)
    )
    assert values == found
    assert (after, empty) == (json.loads(changed), json.loads(cleared))
