"""Two contracts, each with a warehouse of its own: every command works in the one it is about, or in both."""

import csv
import io
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from include.contracts import LoadedContracts
from include.queue_etl.cli import arguments, contract_tables, operations, pipeline, wiring
from include.queue_etl.cli import privacy as privacy_commands
from include.queue_etl.contract import Contract
from include.queue_etl.postgres import migrations
from include.queue_etl.privacy import rotation
from include.queue_etl.privacy.audit import AuditLog
from tests.integration.privacy import PURPOSE, WHY, PrivacyProject, login, project
from tests.integration.scratch import Database, copy_settings

__all__ = ["project"]
ADDRESS = "192.0.2.7"
ROLES = {
    "QUEUE_ETL_WAREHOUSE_DSN": "etl_loader",
    "QUEUE_ETL_MAINTAINER_DSN": "etl_maintainer",
    "QUEUE_ETL_REMASKER_DSN": "etl_remasker",
    "QUEUE_ETL_OFFICER_DSN": "pii_officer",
    "QUEUE_ETL_OPS_DSN": "ops_ro",
}
Command = Callable[..., Any]


@dataclass(frozen=True)
class Two:
    """The project in the default warehouse, and the one in the warehouse `partner`."""

    one: PrivacyProject
    other: PrivacyProject

    def fill(self) -> None:
        """A good and a bad message of Anna in each, and one of somebody else."""
        for name in ("user_logins", "partner_logins"):
            each = self.one if name == "user_logins" else self.other
            bad = login("bad", app_version="v2", ip=ADDRESS)
            each.send(login("anna", ip=ADDRESS), login("bert", ip="10.0.0.1"), bad)
            assert each.command("drain", "--contract", name) == 0

    def tables(self) -> list[list[tuple]]:
        """Users whose address is still there, by warehouse."""
        statement = "SELECT user_id FROM user_logins WHERE masked_ip IS NOT NULL ORDER BY 1"
        return [each.database.rows(statement) for each in (self.one, self.other)]


@pytest.fixture(scope="module")
def second_database(database: Database, empty_database: Callable[[], str]) -> Database:
    """Another warehouse on the same server, with the same logins."""
    dsn = empty_database()
    migrations.upgrade(dsn, {})
    made = replace(database, owner_dsn=dsn)
    with made.owner() as connection:
        for role in migrations.ROLES:
            copy_settings(connection, made, role)
    return made


@pytest.fixture
def two(
    project: PrivacyProject, second_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Two]:
    with second_database.owner() as connection:
        connection.execute(
            "TRUNCATE public.user_logins, etl.queues, etl.runs, etl.batches, etl.keys, etl.ledger,"
            " etl.quarantine, pii.audit RESTART IDENTITY"
        )
    queue = f"partner-{secrets.token_hex(4)}"
    contract = replace(project.contract, name="partner_logins", queue=queue, warehouse="partner")
    own = replace(project.settings, staging=f"{project.settings.staging}/partner")
    contracts = {project.contract.name: project.contract, contract.name: contract}
    _declare(contracts, monkeypatch)
    for variable, role in ROLES.items():
        monkeypatch.setenv(variable, project.database.dsn(role))
        monkeypatch.setenv(f"{variable}__PARTNER", second_database.dsn(role))
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "0")
    client = boto3.client("sqs")
    urls = [
        client.create_queue(QueueName=name)["QueueUrl"]
        for name in (contract.queue, contract.dead_letter_queue)
    ]
    yield Two(project, replace(project, database=second_database, contract=contract, settings=own))
    for url in urls:
        client.delete_queue(QueueUrl=url)


def _declare(contracts: dict[str, Contract], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make them all the contracts there are, for every command."""
    loaded = LoadedContracts(contracts, {})
    for module in (wiring, privacy_commands, operations, pipeline, contract_tables):
        monkeypatch.setattr(module, "load_contract", contracts.__getitem__, raising=False)
        monkeypatch.setattr(module, "load_contracts", lambda: loaded, raising=False)
    monkeypatch.setattr(arguments, "contract_names", lambda: list(contracts))


@pytest.fixture
def answer(two: Two, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The JSON of a command; each of several lines where it prints several."""

    def run(*given: str, value: str = "") -> Any:
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{value}\n"))
        assert two.one.command(*given, "--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return lines[0] if len(lines) == 1 else lines

    return run


def test_a_contract_loads_its_own_warehouse_and_no_other(two: Two) -> None:
    two.fill()
    queues = [each.database.rows("SELECT name FROM etl.queues") for each in (two.one, two.other)]
    assert queues == [[(two.one.contract.queue,)], [(two.other.contract.queue,)]]
    assert two.tables() == [[("anna",), ("bert",)], [("anna",), ("bert",)]]
    assert two.one.database.counts() == two.other.database.counts() == (2, 3, 1)


def test_staged_files_of_each_warehouse_have_a_folder_of_their_own(two: Two) -> None:
    two.fill()
    with two.one.resources() as one, two.other.resources() as other:
        runs = set(one.staging.runs()), set(other.staging.runs())
    known = [
        {run_id for (run_id,) in each.database.rows("SELECT run_id FROM etl.runs")}
        for each in (two.one, two.other)
    ]
    assert list(runs) == known
    assert len(runs[0]) == len(runs[1]) == 1


def test_maintenance_works_in_every_warehouse(two: Two, answer: Command) -> None:
    two.fill()
    for each in (two.one, two.other):
        with each.database.owner() as connection:
            connection.execute("UPDATE etl.quarantine SET quarantined_at = now() - interval '60 days'")
            connection.execute("UPDATE etl.runs SET finished_at = now() - interval '60 days'")
    done = answer("maintain")
    assert (done["quarantine_expired"], done["expired"], done["unknown"]) == (2, 2, 0)
    assert [each.quarantined() for each in (two.one, two.other)] == [[], []]


def test_maintenance_goes_on_where_one_warehouse_is_out_of_reach(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two.fill()
    with two.other.database.owner() as connection:
        connection.execute("UPDATE etl.quarantine SET quarantined_at = now() - interval '60 days'")
    monkeypatch.setenv("QUEUE_ETL_MAINTAINER_DSN", "postgresql://u:p@127.0.0.1:1/d")
    assert two.one.command("maintain") == 1
    assert (two.one.quarantined(), two.other.quarantined()) == (["bad_version app_version"], [])


def test_a_person_is_erased_in_every_warehouse(two: Two, answer: Command) -> None:
    two.fill()
    asked = ("erase", "--all-contracts", "--by", "ip", *WHY)
    counted = answer(*asked, value=ADDRESS)
    assert {name: (one["rows"], one["quarantined"]) for name, one in counted["contracts"].items()} == {
        "user_logins": (1, 1),
        "partner_logins": (1, 1),
    }
    assert two.tables() == [[("anna",), ("bert",)], [("anna",), ("bert",)]]
    answer(*asked, "--apply", value=ADDRESS)
    assert two.tables() == [[("bert",)], [("bert",)]]
    assert (two.one.quarantined(), two.other.quarantined()) == ([], [])
    for each, name in ((two.one, "user_logins"), (two.other, "partner_logins")):
        actions = [(action, list(details["contracts"])) for action, details in each.audit()]
        assert actions == [("erase dry run", [name]), ("erase", [name]), ("erased", [name])]


def test_nobody_is_erased_anywhere_while_one_warehouse_cannot_be_reached(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two.fill()
    monkeypatch.setenv("QUEUE_ETL_OFFICER_DSN__PARTNER", "postgresql://u:p@127.0.0.1:1/d")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ADDRESS}\n"))
    assert two.one.command("erase", "--all-contracts", "--by", "ip", *WHY, "--apply") == 1
    assert "warehouse partner: " in capsys.readouterr().err
    assert two.tables() == [[("anna",), ("bert",)], [("anna",), ("bert",)]]
    assert two.one.audit() == []


def test_values_of_every_warehouse_are_unmasked_together(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two.fill()
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("anna\n"))
    assert two.one.command("unmask", "--all-contracts", "--by", "user_id", "--stdout", *WHY) == 0
    shown = capsys.readouterr()
    found = {(row["contract"], row["value"]) for row in csv.DictReader(io.StringIO(shown.out))}
    assert {(name, ADDRESS) for name in ("user_logins", "partner_logins")} <= found
    assert "of warehouse partner" in shown.err
    assert [len(each.audit()) for each in (two.one, two.other)] == [1, 1]


def test_a_key_stays_while_any_warehouse_uses_it(
    two: Two, answer: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    two.fill()
    old = two.one.document().key_ids[0]
    two.one.promote_new_key()
    with two.one.remasker() as resources:  # in the default warehouse alone
        audit = AuditLog(resources.database)
        assert rotation.remask(resources, audit, two.one.contracts(), PURPOSE)["left"] == 0
    assert two.one.command("keys", "destroy", str(old), *WHY) == 1
    assert "warehouse partner: public.user_logins.masked_ip: " in capsys.readouterr().err
    assert old in two.one.document().key_ids
    assert _retired(two, old) == [None, None]
    statuses = {key["key_id"]: key for key in answer("keys", "status")}
    assert set(statuses[old]["in_use"]) == {
        f"warehouse partner: {place}"
        for place in (
            "staged files",
            "public.user_logins.masked_ip",
            "public.user_logins.masked_device_id",
            "quarantined messages",
        )
    }


def test_after_a_remask_of_all_warehouses_the_old_key_can_go(two: Two, answer: Command) -> None:
    two.fill()
    old = two.one.document().key_ids[0]
    two.one.promote_new_key()
    moved = answer("remask", *WHY)
    assert (moved["rows"], moved["payloads"], moved["left"]) == (4, 2, 0)
    assert two.one.command("keys", "destroy", str(old), *WHY) == 0
    assert old not in two.one.document().key_ids
    assert all(_retired(two, old))
    for each in (two.one, two.other):
        assert [action for action, _ in each.audit()] == ["remask", "destroy key"]


def test_no_key_goes_while_a_warehouse_cannot_be_reached(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = two.one.document().key_ids[0]
    two.one.promote_new_key()
    monkeypatch.setenv("QUEUE_ETL_REMASKER_DSN__PARTNER", "postgresql://u:p@127.0.0.1:1/d")
    assert two.one.command("keys", "destroy", str(old), *WHY) == 1
    assert "warehouse partner: " in capsys.readouterr().err
    assert old in two.one.document().key_ids
    assert two.one.database.rows("SELECT * FROM etl.keys WHERE retired_at IS NOT NULL") == []


def _retired(two: Two, key_id: int) -> list[Any]:
    """When the key was retired, by warehouse."""
    statement = f"SELECT retired_at FROM etl.keys WHERE key_id = {key_id}"  # noqa: S608
    return [each.database.rows(statement)[0][0] for each in (two.one, two.other)]


def test_each_warehouse_is_restored_from_its_own_files(two: Two, answer: Command) -> None:
    two.fill()
    with two.other.database.owner() as connection:
        connection.execute("TRUNCATE public.user_logins, etl.runs, etl.batches, etl.ledger, etl.quarantine")
    done = answer("reconcile")
    assert (done["missing_runs"], done["loaded"], done["quarantined"], done["damaged"]) == (1, 2, 1, 0)
    assert two.one.database.counts() == two.other.database.counts() == (2, 3, 1)


def test_commands_of_one_contract_look_into_its_warehouse(two: Two, answer: Command) -> None:
    two.fill()
    with two.one.database.owner() as connection:
        connection.execute("TRUNCATE public.user_logins, etl.quarantine")
    other = ("--contract", "partner_logins")
    assert answer("shape", *other)["waiting"] == 1
    assert answer("redrive", *other)["messages"] == 1
    masked = answer("mask", *other, "--field", "ip", "--count", *WHY, ADDRESS)
    assert masked["rows"] == 1
    assert answer("erase", *other, "--by", "user_id", *WHY, value="anna")["rows"] == 1
    assert two.one.audit() == []
    (message_id,) = two.other.database.rows("SELECT message_id::text FROM etl.quarantine")[0]
    assert two.one.command("show", *other, "--shape", message_id, *WHY) == 0
    assert two.one.command("audit", "verify", "--warehouse", "partner") == 0
    assert two.one.command("check", *other) == 0
    assert two.one.command("audit", "verify", "--warehouse", "nobody") == 2


def test_migrate_brings_every_warehouse_up_to_date(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUEUE_ETL_OWNER_DSN", two.one.database.owner_dsn)
    monkeypatch.delenv("QUEUE_ETL_OWNER_DSN__PARTNER", raising=False)
    assert two.one.command("migrate") == 1
    assert (
        "QUEUE_ETL_OWNER_DSN__PARTNER is not set: libpq connection string of a role that may create roles"
        " of warehouse partner (contract partner_logins)"
    ) in capsys.readouterr().err
    monkeypatch.setenv("QUEUE_ETL_OWNER_DSN__PARTNER", two.other.database.owner_dsn)
    for name in ("LOADER", "MAINTAINER", "REMASKER", "ANALYST", "OFFICER", "OPS"):
        monkeypatch.delenv(f"QUEUE_ETL_{name}_PASSWORD", raising=False)
    assert two.one.command("migrate") == 0
    assert capsys.readouterr().out.splitlines() == [
        "warehouse: schema, roles and grants are up to date",
        "warehouse partner: schema, roles and grants are up to date",
    ]
    registered = "SELECT count(*) FROM etl.masked_columns WHERE contract = 'partner_logins'"
    assert two.other.database.rows(registered) == [(2,)]
    assert two.one.database.rows(registered) == [(0,)]


def test_all_that_is_missing_for_all_warehouses_is_listed_at_once(
    two: Two, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("QUEUE_ETL_MAINTAINER_DSN", "QUEUE_ETL_MAINTAINER_DSN__PARTNER", "QUEUE_ETL_KEYSET_FILE"):
        monkeypatch.delenv(name)
    assert two.one.command("maintain") == 1
    shown = capsys.readouterr().err
    listed = shown[shown.rindex("invalid settings:") :].splitlines()[1:]
    assert [line.split()[1] for line in listed] == [
        "QUEUE_ETL_MAINTAINER_DSN",
        "QUEUE_ETL_KEYSET_FILE",
        "QUEUE_ETL_MAINTAINER_DSN__PARTNER",
    ]
    assert "of warehouse partner (contract partner_logins)" in listed[2]


def test_without_named_warehouses_staging_stays_where_it_was(two: Two) -> None:
    with wiring.resources(wiring.MAINTAINER, "", {}) as resources:
        assert resources.settings.staging == two.one.settings.staging
