"""A quarantined message, shown to the privacy officer: its facts and body, or its shape, each on record."""

import json
import stat
from uuid import uuid4

import pytest

from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.privacy.audit import AuditLog
from include.queue_etl.transform.quarantine import Original, PayloadCipher
from tests.integration.privacy import WHY, PrivacyProject, login, project

__all__ = ["project"]
BODY = login("canary-user", device_id=4711).replace(b'"2.3.0"', b'"\\u001b[2J"')


@pytest.fixture
def message_id(project: PrivacyProject) -> str:
    """Of a message in quarantine whose device id is a number and whose version holds an escape sequence."""
    return quarantined(project, BODY)


def quarantined(project: PrivacyProject, body: bytes) -> str:
    project.send(body)
    project.drain()
    return project.database.rows(
        "SELECT message_id::text FROM etl.quarantine ORDER BY quarantined_at DESC LIMIT 1"
    )[0][0]


@pytest.fixture
def show(project: PrivacyProject):
    return lambda *arguments: project.command("show", *WHY, *arguments)


def test_its_facts_come_first_and_then_its_body(show, project, message_id, capsys):
    assert show(message_id) == 0
    shown = capsys.readouterr()
    facts, body = shown.out.split("\n\n")
    ((run_id, reason, run_name),) = project.database.rows(
        "SELECT run_id::text, reason, airflow_run_id FROM etl.quarantine JOIN etl.runs USING (run_id)"
    )
    told = dict(line.split(None, 1) for line in facts.splitlines())
    assert (told["message_id"], told["reason"], told["redriven_at"]) == (message_id, reason, "-")
    assert (told["run_id"], told["run_name"]) == (run_id, run_name)
    assert (told["receive_count"], told["payload_bytes"]) == ("1", str(len(BODY)))
    assert json.loads(body) == json.loads(BODY)
    assert '\n  "device_id": 4711' in body
    assert "\x1b" not in shown.out


def test_a_body_that_is_no_json_is_shown_as_text(project, show, capsys):
    assert show(quarantined(project, b"no json\r\n\tend")) == 0
    assert capsys.readouterr().out.partition("\n\n")[2] == "no json\\r\n\\tend\n"


def test_a_shape_has_paths_types_and_lengths_and_no_value(show, message_id, capsys):
    assert show(message_id, "--shape") == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.partition("\n\n")[2].splitlines()] == [
        ["path", "types", "length"],
        ["$", "object", "6"],
        ["app_version", "string", "4"],
        ["device_id", "integer"],
        ["device_type", "string", "3"],
        ["ip", "string", "9"],
        ["locale", "null"],
        ["user_id", "string", "11"],
    ]
    assert not any(value in shown for value in ("canary", "4711", "192.0.2.7"))


def test_a_file_is_for_its_owner_alone_and_nothing_is_shown(show, message_id, tmp_path, capsys):
    path = tmp_path / "message.txt"
    assert show(message_id, "--output", str(path)) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "canary-user" in path.read_text()
    assert capsys.readouterr().out == f"the message is in {path}, readable by you alone\n"
    assert show(message_id, "--output", str(path)) == 1  # never overwritten


def test_copies_that_were_sent_on_two_days_are_both_shown(show, project, message_id, capsys):
    with project.database.owner() as connection:
        connection.execute(
            "INSERT INTO etl.quarantine SELECT queue_id, sent_day - 1, message_id, run_id, 'older', payload,"
            " payload_bytes, receive_count FROM etl.quarantine"
        )
    assert show(message_id) == 0
    assert capsys.readouterr().out.count("canary-user") == 2
    assert project.audit()[0][1]["tokens"] == 2


# The audit --------------------------------------------------------------------------------------------------


def test_the_entry_is_committed_before_the_message_is_opened(show, project, message_id, monkeypatch):
    seen = []

    def decrypt(self: PayloadCipher, *given):
        seen.append(project.audit())  # another connection: it sees only what is committed
        return real(self, *given)

    real = PayloadCipher.decrypt
    monkeypatch.setattr(PayloadCipher, "decrypt", decrypt)
    assert show(message_id) == 0
    details = {"contract": "user_logins", "message": message_id, "tokens": 1}
    assert seen == [[("show", details)]]


def test_the_mark_is_printed_also_where_the_message_does_not_open(show, project, message_id, capsys):
    cipher = PayloadCipher(KeysetDocument.new().open(), project.contract.name)
    with project.database.owner() as connection:
        payload = cipher.encrypt(message_id, Original(b"canary"))
        connection.execute("UPDATE etl.quarantine SET payload = %s", [payload])
    assert show(message_id) == 1
    mark, told = capsys.readouterr().err.splitlines()
    assert mark.startswith("audit entry 1:")
    assert told.startswith("show: cannot be opened with this keyset")


def test_what_is_shown_masked_and_unmasked_shares_one_allowance(
    show, project, message_id, monkeypatch, capsys
):
    project.send(login("u1"))
    project.drain()
    monkeypatch.setenv("QUEUE_ETL_UNMASK_PER_HOUR", "4")
    commands = (("show", message_id), ("mask", "--field", "ip", "192.0.2.1"),
                ("unmask", "--stdout", "--user-id", "u1"))  # fmt: skip
    assert [project.command(name, *WHY, *rest) for name, *rest in commands] == [0, 0, 0]
    capsys.readouterr()
    for name, *rest in commands:
        assert project.command(name, *WHY, *rest) == 1
        shown = capsys.readouterr()
        assert "more than this hour has room for (QUEUE_ETL_UNMASK_PER_HOUR=4)" in shown.err
        assert shown.out == ""
    assert [action for action, _ in project.audit()][3:] == ["show refused", "mask refused", "unmask refused"]
    assert show(message_id, "--shape") == 0  # tells no value, so it costs nothing
    assert project.audit()[-1][0] == "show shape"


def test_a_message_that_is_not_there_is_an_error_without_entry(show, project, message_id, capsys):
    with project.database.owner() as connection:
        connection.execute("INSERT INTO etl.queues (name) VALUES ('of another contract')")
        connection.execute("UPDATE etl.quarantine SET queue_id = (SELECT max(queue_id) FROM etl.queues)")
    for other in (message_id, str(uuid4())):
        assert show(other) == 1
        assert capsys.readouterr() == (
            "",
            f"show: nothing of a message {other} of {project.contract.queue} is stored\n",
        )
    assert project.audit() == []


@pytest.mark.parametrize("role", ["ops_ro", "analyst", "etl_loader", "etl_maintainer"])
def test_only_the_officer_can_look(role, show, project, message_id, monkeypatch, capsys):
    monkeypatch.setattr(PayloadCipher, "decrypt", lambda *_: pytest.fail("opened without an audit"))
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN", project.database.dsn(role))
    assert show(message_id) == 1
    assert capsys.readouterr().out == ""
    assert project.audit() == []


def test_nothing_is_opened_where_the_audit_cannot_be_written(show, message_id, monkeypatch):
    def record(self: AuditLog, *_, **__):
        raise OSError("no audit")

    monkeypatch.setattr(AuditLog, "record", record)
    monkeypatch.setattr(PayloadCipher, "decrypt", lambda *_: pytest.fail("opened without an audit"))
    assert show(message_id) == 1
