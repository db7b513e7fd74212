"""Value in, tokens out: for the privacy officer who looks for the rows of a value."""

import io
import json

import pytest
from msgspec.structs import replace

from include.queue_etl.contract import Scheme
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.privacy.mask import mask as engine
from include.queue_etl.transform.masking import Masker
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project

__all__ = ["project"]
ADDRESS, OTHER = "203.0.113.7", "203.0.113.8"


@pytest.fixture
def mask(project: PrivacyProject):
    return lambda *arguments: project.command("mask", *WHY, *arguments)


def masked(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def load(project: PrivacyProject, *addresses: str) -> None:
    project.send(*(login(f"u{number}", ip=address) for number, address in enumerate(addresses)))
    project.drain()


def test_the_rows_of_a_value_are_found_under_every_key(mask, project, capsys):
    load(project, ADDRESS, f"::ffff:{ADDRESS}", OTHER)
    first = project.document().key_ids[0]
    second = project.promote_new_key()
    load(project, ADDRESS)
    document, added = project.document().add_key()
    project.key_file.write_text(document.text)
    assert mask("--field", "ip", "--count", "--json", ADDRESS) == 0
    found = masked(capsys)
    assert [(one["key_id"], one["rows"]) for one in found] == [(second, 1), (added, 0), (first, 2)]
    assert {(one["value"], one["field"]) for one in found} == {(1, "ip")}
    tokens = [one["token"] for one in found]
    with project.database.owner() as connection:
        rows = connection.execute(
            "SELECT count(*) FROM public.user_logins WHERE masked_ip = ANY (%s)", [tokens]
        ).fetchone()
    assert rows == (3,)


def test_each_value_is_named_by_its_number_and_nobody_reads_it(mask, project, monkeypatch, capsys):
    load(project, OTHER)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADDRESS}\n\n  {OTHER} \n"))
    assert mask("--field", "ip", "--count") == 0
    shown = capsys.readouterr()
    heading, *lines = [line.split() for line in shown.out.splitlines()]
    assert heading == ["value", "field", "token", "key_id", "rows"]
    assert [(line[0], line[4]) for line in lines] == [("1", "0"), ("2", "1")]
    assert "203.0.113" not in shown.out + shown.err


def test_values_may_come_from_a_file(mask, tmp_path, capsys):
    path = tmp_path / "devices.txt"
    path.write_text("123-45-6789\nzoë\n")
    assert mask("--field", "device_id", "--file", str(path), "--json") == 0
    assert [set(one) for one in masked(capsys)] == [{"value", "field", "token", "key_id"}] * 2


def test_the_audit_has_the_count_and_never_the_value(mask, project, monkeypatch):
    seen = []

    def make(self: Masker, *given):
        seen.append(project.audit())  # another connection: it sees only what is committed
        return real(self, *given)

    real = Masker.mask
    monkeypatch.setattr(Masker, "mask", make)
    assert mask("--field", "ip", ADDRESS, OTHER) == 0
    assert seen == [[("mask", {"contract": "user_logins", "fields": ["ip"], "tokens": 2})]]
    assert "203.0.113" not in str(project.database.rows("SELECT * FROM pii.audit"))


def test_what_is_no_address_is_masked_as_text_and_said(mask, project, caplog):
    project.promote_new_key()
    assert mask("--field", "ip", ADDRESS, "203.0.113.7/32") == 0
    assert [record.getMessage() for record in caplog.records] == [
        "1 values are no address: their tokens are those of the text"
    ]


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (("--field", "locale", "DE"), 2, "no personal field 'locale' in user_logins: one of ip, device_id"),
    (("--field", "ip", "--file", "f", "x"), 2, "give VALUE or --file, not both"),
    (("--field", "ip", " "), 1, "a value is blank: its column holds NULL"),
    (("--field", "ip"), 1, "give a value, each on a line of its own"),
])  # fmt: skip
def test_what_cannot_be_masked_is_refused_without_entry(
    mask, project, monkeypatch, capsys, arguments, code, told
):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert mask(*arguments) == code
    assert capsys.readouterr().err.endswith(f"{told}\n")
    assert project.audit() == []


@pytest.mark.parametrize(("scheme", "keys"), [(Scheme.ONE_WAY, 2), (Scheme.SHA256, 1)])
def test_one_way_fields_have_tokens_too(project, scheme, keys):
    project.promote_new_key()
    column = project.contract.personal[1]
    column = replace(column, mark=replace(column.mark, scheme=scheme, allow_weak=True))
    with project.officer() as resources:
        audit = AuditLog(resources.database)
        found = engine(resources, audit, project.contract, column, ["d"], PURPOSE)
        key_ids = resources.keyset_document.key_ids
        token = Masker(project.contract, resources.keyset).mask(column, ["d"], "")[0]
    assert found[0].token == token
    assert [one.key_id for one in found] == (key_ids if keys == 2 else [None])


def test_who_may_not_write_the_audit_masks_nothing(mask, project, monkeypatch, capsys):
    monkeypatch.setattr(Masker, "mask", lambda *_: pytest.fail("masked without an audit"))
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN", project.database.dsn("etl_loader"))
    assert mask("--field", "ip", ADDRESS) == 1
    assert capsys.readouterr().out == ""
