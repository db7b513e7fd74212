"""What waits in quarantine by its shape: for who is on call, without the keyset and a way to bodies."""

import json

import pytest

from include.queue_etl import steps
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.operations import maintenance
from include.queue_etl.operations import shapes as engine
from include.queue_etl.operations.redrive import redrive, selection
from include.queue_etl.operations.shapes import fill_shapes
from include.queue_etl.postgres.migrations import head_revision
from include.queue_etl.staging.area import BatchFile, Kind, StagedRun
from include.queue_etl.transform.batches import RejectedBatch
from include.queue_etl.transform.quarantine import decode_lines
from tests.integration.privacy import PrivacyProject, login, project

__all__ = ["project"]
NO_IP = (
    "$: object, app_version: string, device_id: string, device_type: string, locale: null, user_id: string"
)


@pytest.fixture
def on_call(project: PrivacyProject, monkeypatch):
    """The command line of who is on call, who has no keyset; what waits is rejected for three reasons."""
    project.send(login("good"), *bad_messages())
    project.drain()
    monkeypatch.setenv("QUEUE_ETL_OPS_DSN", project.database.dsn("ops_ro"))
    for name in ("QUEUE_ETL_KEYSET_FILE", "QUEUE_ETL_STAGING", "QUEUE_ETL_OFFICER_DSN"):
        monkeypatch.delenv(name)
    return lambda *arguments: project.command("shape", *arguments)


def bad_messages() -> list[bytes]:
    no_ip = [login(f"canary{n}").replace(b', "ip": "192.0.2.7"', b"") for n in range(3)]
    extra = {"anna@example.org": 1, "geo": {"lat": 48.1}}
    return [*no_ip, login("canary", device_id=4711, **extra), b"canary, no json", b"canary"]


def told(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def shapes_of(project: PrivacyProject) -> list[tuple]:
    return project.database.rows("SELECT shape, count(*) FROM etl.quarantine GROUP BY 1 ORDER BY 2, 1")


def test_each_group_says_how_it_differs_and_none_tells_a_value(on_call, capsys):
    assert on_call("--json") == 0
    shown = capsys.readouterr()
    groups = [json.loads(line) for line in shown.out.splitlines()]
    assert [(group["waiting"], group["reason"].partition(" ")[0]) for group in groups] == [
        (3, "missing_field"),
        (2, "bad_json"),
        (1, "bad_type"),
    ]
    no_ip, no_json, other_type = groups
    assert (no_ip["missing"], no_ip["extra"], no_ip["other_type"]) == (["ip"], [], [])
    assert no_ip["shape"] == NO_IP
    assert (no_json["shape"], no_json["bytes"]) == ("not JSON", "6 to 15")
    assert other_type["other_type"] == ["device_id: integer, not null|string"]
    assert other_type["extra"] == ["*: integer", "geo: object"]
    assert "canary" not in shown.out + shown.err
    assert "anna" not in shown.out + shown.err


def test_the_newest_message_of_a_group_is_named(on_call, project, capsys):
    assert on_call("--reason", "bad_type", "--json") == 0
    (group,) = told(capsys)
    ((message_id,),) = project.database.rows(
        "SELECT message_id::text FROM etl.quarantine WHERE reason LIKE 'bad_type%'"
    )
    assert group["newest_message"] == message_id


def test_people_get_a_line_a_fact(on_call, capsys):
    assert on_call("--reason", "missing_field") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = dict(line.split(None, 1) for line in shown.out.splitlines() if line)
    assert (lines["waiting"], lines["missing"], lines["extra"], lines["shape"]) == ("3", "ip", "-", NO_IP)


def test_a_reason_takes_all_its_paths_and_no_other_reason(on_call, project, capsys):
    with project.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET reason = 'missing_field ip' WHERE reason LIKE 'miss%'")
        connection.execute("UPDATE etl.quarantine SET reason = 'missing_fields' WHERE reason = 'bad_json'")
    for reason, waiting in (("missing_field", [3]), ("missing_field ip", [3]), ("missing_field i", [])):
        assert on_call("--reason", reason, "--json") == 0
        assert [group["waiting"] for group in told(capsys)] == waiting


def test_what_is_left_out_or_not_there_is_said(on_call, capsys):
    assert on_call("--limit", "1") == 0
    assert capsys.readouterr().err == "the largest 1 of 3 groups; --limit shows more\n"
    assert on_call("--reason", "nothing") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "waits in quarantine for that" in shown.err


def test_what_was_redriven_waits_no_more(on_call, project, capsys):
    with project.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET redriven_at = now() WHERE reason = 'bad_json'")
    assert on_call("--json") == 0
    assert [group["waiting"] for group in told(capsys)] == [3, 1]


def test_a_warehouse_of_another_revision_is_named(on_call, project, capsys):
    with project.database.owner() as connection:
        connection.execute("UPDATE etl.schema_revision SET version_num = '0006'")
        try:
            assert on_call() == 1
        finally:
            connection.execute("UPDATE etl.schema_revision SET version_num = %s", [head_revision()])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "0006" in shown.err


def test_without_its_connection_string_the_variable_is_named(on_call, monkeypatch, capsys):
    monkeypatch.delenv("QUEUE_ETL_OPS_DSN")
    assert on_call() == 1
    assert "QUEUE_ETL_OPS_DSN is not set" in capsys.readouterr().err


# What earlier versions quarantined --------------------------------------------------------------------------


@pytest.fixture
def without_shapes(project: PrivacyProject) -> PrivacyProject:
    """A project with the six messages in quarantine as an earlier version left them, one of them redriven."""
    project.send(*bad_messages())
    project.drain()
    with project.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET shape = NULL")
        connection.execute(
            "UPDATE etl.quarantine SET redriven_at = now() WHERE message_id ="
            " (SELECT message_id FROM etl.quarantine WHERE reason = 'bad_json' ORDER BY 1 LIMIT 1)"
        )
    return project


def filled(project: PrivacyProject) -> dict[str, int]:
    with project.resources() as resources:
        return fill_shapes(resources, project.contracts())


def test_maintenance_fills_in_the_shapes_of_what_waits(without_shapes, monkeypatch):
    monkeypatch.setattr(engine, "MESSAGES", 2)
    with without_shapes.resources() as resources:
        counts = maintenance.maintain(resources, without_shapes.contracts())
    assert (counts["shapes_filled"], counts["shapes_unopened"]) == (5, 0)
    assert [count for _, count in shapes_of(without_shapes)] == [1, 1, 1, 3]
    assert dict(shapes_of(without_shapes))[NO_IP] == 3
    assert filled(without_shapes) == {"shapes_filled": 0, "shapes_unopened": 0}


def test_what_no_key_opens_is_counted_and_stays_without(without_shapes, caplog, monkeypatch):
    monkeypatch.setattr(engine, "MESSAGES", 2)  # what stays without is not met again
    without_shapes.key_file.write_text(KeysetDocument.new().text)
    assert filled(without_shapes) == {"shapes_filled": 0, "shapes_unopened": 5}
    assert shapes_of(without_shapes) == [(None, 6)]
    assert "5 quarantined messages do not open" in caplog.text


def test_what_was_erased_from_a_file_is_not_looked_at(without_shapes):
    with without_shapes.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET payload = '', reason = 'erased'")
    assert filled(without_shapes) == {"shapes_filled": 0, "shapes_unopened": 0}


def test_a_keyset_is_asked_for_only_where_a_shape_is_missing(without_shapes):
    without_shapes.key_file.write_text("none")
    with pytest.raises(KeysetError):
        filled(without_shapes)
    with without_shapes.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET shape = 'not JSON'")
    assert filled(without_shapes) == {"shapes_filled": 0, "shapes_unopened": 0}


@pytest.mark.parametrize("seen", [0, 1], ids=["new messages", "one seen before"])
def test_a_file_that_an_earlier_version_masked_loads_without_shapes(project: PrivacyProject, seen: int):
    project.send(*bad_messages())
    with project.open_run("older") as context:
        ((batch,),) = [[one["batch"]] for one in steps.extract(context)]
        steps.mask(context, batch)
        lines = to_earlier_version(context.staging, batch)
        enter_into_ledger(project, lines[:seen])
        assert steps.load(context, batch)["quarantined"] == 6 - seen
        steps.finish(context)
    assert shapes_of(project) == [(None, 6 - seen)]


def to_earlier_version(staging: StagedRun, batch: str) -> list[bytes]:
    """Take the shapes out of a batch's rejected messages; returns their lines."""
    file = BatchFile(batch, Kind.REJECTED)
    lines = [
        line.rpartition(b"\t")[0] + b"\n" for line in staging.open(file, RejectedBatch).lines.splitlines()
    ]
    staging.seal(file, RejectedBatch(b"".join(lines)))
    return lines


def enter_into_ledger(project: PrivacyProject, lines: list[bytes]) -> None:
    """Let these rejected messages have been seen before."""
    with project.database.owner() as connection:
        for line in decode_lines(b"".join(lines)):
            connection.execute("SELECT etl.ensure_ledger_partition(%s)", [line.sent_day])
            connection.execute("INSERT INTO etl.ledger VALUES (%s, %s, %s, %s, 'Q')", line[:4])


def test_a_redrive_renews_the_shape(without_shapes):
    with without_shapes.open_redrive() as context:
        chosen = selection(without_shapes.contract, "bad_json", None, None)
        assert redrive(context, chosen, dry_run=False)["still_quarantined"] == 1
    assert dict(shapes_of(without_shapes))["not JSON"] == 1
