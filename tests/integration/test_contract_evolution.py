"""A contract from its first revision to its last, by the commands, while another pipeline goes on."""

import json
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from importlib import invalidate_caches
from pathlib import Path

import boto3
import pytest

import include.contracts
from include.contracts import load_contract
from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import contract as contract_commands
from include.queue_etl.errors import PreflightError
from include.queue_etl.postgres import migrations
from tests.integration import queues
from tests.integration.project import KEYSET
from tests.integration.scratch import Database, load, new_messages, open_run
from tests.support import guide
from tests.support.resources import open_run as open_contract_run
from tests.support.resources import open_store

CONTRACT = '''"""Orders."""

from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta, Struct

from include.queue_etl.contract import Contract, Jsonb, Numeric, Personal, SentDay


class Order(Struct):
    """An order."""

    code: Annotated[str, Meta(max_length={length})]
    total: Annotated[Decimal, Numeric(12, 2)]
    email: Annotated[str, Personal(column="email_token")]
    items: Annotated[list[dict[str, Any]], Jsonb()]
{more}

CONTRACT = Contract("evolving", "{queue}", "shop.evolving", Order, message=(SentDay("day"),){options})
'''
EVENT = {"code": "A-1", "total": 12.5, "email": "ann@example.org", "items": [{"sku": "x"}]}


@dataclass(frozen=True)
class Evolution:
    """The contract's file, the project's revisions, a database of their own.

    Attributes:
        versions: a copy of the folder of revisions
        command: runs the command line; its exit code
    """

    folder: Path
    versions: Path
    database: Database
    queue: str
    command: Callable[..., int]

    def declare(self, length: int = 32, more: str = "", options: str = "") -> None:
        """Write the contract's file, and forget how it was."""
        field = f"    {more}\n" if more else ""
        text = CONTRACT.format(length=length, more=field, queue=self.queue, options=options)
        (self.folder / "evolving.py").write_text(text)
        sys.modules.pop("include.contracts.evolving", None)
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)
        invalidate_caches()

    def revisions(self) -> list[str]:
        return sorted(path.name for path in self.versions.glob("*_evolving.sql"))

    def drain(self, *events: dict) -> dict:
        """Send the events, and run the pipeline once."""
        contract = load_contract("evolving")
        queues.send(contract, [json.dumps(one).encode() for one in events])
        settings = queues.settings(self.folder / "staging")
        with open_contract_run(
            contract, secrets.token_hex(4), settings, self.database.loader_dsn, KEYSET
        ) as context:
            context.preflight()
            for batch in steps.extract(context):
                steps.load(context, steps.mask(context, batch["batch"])["batch"])
            return steps.finish(context)


@pytest.fixture
def evolution(
    database: Database, empty_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Evolution]:
    here = tmp_path / "migrations"
    shutil.copytree(migrations.HERE, here)
    monkeypatch.setattr(migrations, "HERE", here)
    folder = tmp_path / "contracts"
    folder.mkdir()
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, str(folder)])
    monkeypatch.delenv("QUEUE_ETL_OWNER_DSN")
    own = Database(empty_database(), database.suffix, database.password)
    queue = f"evolving-{secrets.token_hex(4)}"
    client = boto3.client("sqs")
    url = client.create_queue(QueueName=queue)["QueueUrl"]
    yield Evolution(
        folder,
        here / "versions",
        own,
        queue,
        lambda *arguments: cli.main(["contract", *arguments, "evolving"]),
    )
    client.delete_queue(QueueUrl=url)
    sys.modules.pop("include.contracts.evolving", None)


@pytest.fixture
def migrate(evolution: Evolution, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Gives the commands their database, and migrates it."""

    def run() -> None:
        monkeypatch.setenv("QUEUE_ETL_OWNER_DSN", evolution.database.owner_dsn)
        assert cli.main(["migrate"]) == 0

    return run


class Neighbour:
    """Loads batches of user_logins until it is told to stop."""

    def __init__(self, database: Database) -> None:
        self.loaded = 0
        self._database = database
        self._end = threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._load)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        assert self._failures == []

    def _load(self) -> None:
        try:
            with open_store(self._database.loader_dsn) as store:
                run_id = open_run(store)
                while not self._end.is_set():
                    self.loaded += load(store, run_id, new_messages(10), f"{self.loaded:08}").loaded
        except BaseException as failure:  # the test's own thread tells of it
            self._failures.append(failure)


def test_a_contract_grows_while_its_neighbour_loads(evolution, migrate, capsys):
    first = int(migrations.head_revision()) + 1
    evolution.declare()
    assert evolution.command("migration") == 0  # without a database
    assert evolution.revisions() == [f"{first:04}_evolving.sql"]
    migrate()
    assert evolution.command("plan") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert evolution.drain(EVENT, {**EVENT, "code": "x" * 33})["loaded"] == 1

    with Neighbour(evolution.database) as neighbour:
        evolution.declare(length=64, more="note: str | None = None")
        assert evolution.command("plan") == 0
        shown = capsys.readouterr().out
        assert "compatible changes 2, breaking 0" in shown
        assert 'ALTER TABLE "shop"."evolving" ADD COLUMN "note" text;' in shown
        assert evolution.command("migration") == 0
        before = neighbour.loaded
        migrate()
        assert evolution.command("plan") == 0
        summary = evolution.drain(EVENT, {**EVENT, "code": "x" * 64, "note": "late"})
        assert neighbour.loaded > before
    assert (summary["state"], summary["loaded"]) == ("succeeded", 2)
    assert evolution.revisions() == [f"{first:04}_evolving.sql", f"{first + 1:04}_evolving.sql"]
    rows = "SELECT length(code), note FROM shop.evolving ORDER BY 1, 2"
    assert evolution.database.rows(rows) == [(3, None), (3, None), (64, "late")]
    (count,) = evolution.database.rows("SELECT count(*) FROM public.user_logins")[0]
    assert count == neighbour.loaded > 0


def test_a_field_that_is_added_later_gets_its_past_in_a_new_table(
    evolution, migrate, tmp_path, monkeypatch, capsys
):
    archive = ', settings={"archive_days": 30}'
    evolution.declare(options=archive)
    evolution.command("migration")
    migrate()
    evolution.drain({**EVENT, "note": "early"}, {**EVENT, "code": "x" * 33})
    options = f'{archive}, replay_tables=("shop.evolving_again",)'
    evolution.declare(length=64, more="note: str | None = None", options=options)
    assert evolution.command("plan", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["what"] for one in told["changes"]] == [
        "column code is varchar(32), and becomes varchar(64)",
        "column note is new: text",
    ]
    assert [(one["table"], len(one["changes"])) for one in told["replay_tables"]] == [
        ("shop.evolving_again", 1)
    ]
    assert evolution.command("migration") == 0
    assert len(evolution.revisions()) == 2
    migrate()
    capsys.readouterr()
    assert evolution.command("plan") == 0
    assert capsys.readouterr().out.count("nothing to do") == 2

    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "keyset.json"))
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(evolution.folder / "staging"))
    monkeypatch.setenv("QUEUE_ETL_MAINTAINER_DSN", evolution.database.dsn("etl_maintainer"))
    command = ["replay", "--contract", "evolving", "--table", "shop.evolving_again", "--apply"]
    assert cli.main(command) == 0
    assert "messages 2, " in capsys.readouterr().out
    rows = "SELECT length(code), note FROM {} ORDER BY 1"
    assert evolution.database.rows(rows.format("shop.evolving")) == [(3, None)]
    assert evolution.database.rows(rows.format("shop.evolving_again")) == [(3, "early"), (33, None)]
    joined = "SELECT count(*) FROM shop.evolving JOIN shop.evolving_again USING (email_token)"
    assert evolution.database.rows(joined) == [(2,)]


def test_a_breaking_change_is_refused_and_loads_go_on(evolution, migrate, capsys):
    evolution.declare()
    evolution.command("migration")
    migrate()
    evolution.drain(EVENT)
    there = evolution.revisions()
    evolution.declare(length=8, more="note: str | None = None")
    capsys.readouterr()
    assert evolution.command("plan") == 3
    out, err = capsys.readouterr()
    assert "compatible changes 1, breaking 1" in out
    assert err == "contract plan: breaking changes:\n  - column code is varchar(32), and becomes varchar(8)\n"
    assert evolution.command("migration") == 3
    assert "Leave the contract at varchar(32)" in capsys.readouterr().err
    assert evolution.revisions() == there
    evolution.declare()
    assert evolution.drain(EVENT)["loaded"] == 1


def test_a_revision_that_waits_is_applied_before_another_is_written(evolution, migrate, capsys):
    evolution.declare()
    evolution.command("migration")
    migrate()
    evolution.declare(more="note: str | None = None")
    assert evolution.command("migration") == 0
    there = evolution.revisions()
    for command in ("plan", "migration"):
        assert evolution.command(command) == 1
        assert "run `python -m include.queue_etl migrate`" in capsys.readouterr().err
    assert evolution.revisions() == there
    with pytest.raises(PreflightError, match="the warehouse is at revision"):
        evolution.drain(EVENT)


def test_the_plan_of_a_table_that_is_not_there_is_its_first_revision(evolution, migrate, capsys):
    evolution.declare()
    migrate()
    assert evolution.command("plan") == 0
    shown = capsys.readouterr().out
    assert "compatible changes 1, breaking 0\n\nthe table is new (at once)\n" in shown
    assert '    CREATE TABLE "shop"."evolving" (' in shown


def test_where_nothing_has_to_change_no_revision_is_written(evolution, migrate, capsys):
    evolution.declare()
    evolution.command("migration")
    migrate()
    assert evolution.command("migration") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(evolution.revisions()) == 1


def test_the_plan_as_json_has_each_change_with_its_sql(evolution, migrate, capsys):
    evolution.declare()
    evolution.command("migration")
    migrate()
    evolution.declare(length=8, more="note: str | None = None")
    capsys.readouterr()
    assert evolution.command("plan", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["table"] == "shop.evolving"
    assert [(one["change"], bool(one["sql"]), bool(one["instead"])) for one in told["changes"]] == [
        ("breaking", False, True),
        ("compatible", True, False),
    ]


def test_a_view_that_keeps_a_type_from_changing_is_said(evolution, migrate, capsys):
    evolution.declare()
    evolution.command("migration")
    migrate()
    with evolution.database.owner() as connection:
        connection.execute("CREATE VIEW shop.codes AS SELECT code FROM shop.evolving")
    evolution.declare(length=64)
    assert evolution.command("migration") == 0
    capsys.readouterr()
    assert cli.main(["migrate"]) == 1
    assert "cannot alter type of a column used by a view or rule" in capsys.readouterr().err


def test_the_guide_leads_from_its_sample_to_a_row(evolution, tmp_path, monkeypatch, capsys):
    project = tmp_path / "project"
    (project / "include").mkdir(parents=True)
    (project / "include" / "contracts").symlink_to(evolution.folder)
    monkeypatch.setattr(contract_commands, "PROJECT", project)
    message = guide.example("json")
    others = [message.replace("P-1001", f"P-{n}").replace("EUR", ("EUR", "GBP")[n % 2]) for n in range(19)]
    (tmp_path / "sample.jsonl").write_text("".join([message, *others]))
    (tmp_path / "keyset.json").write_text(KEYSET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", evolution.database.loader_dsn)
    monkeypatch.setenv("QUEUE_ETL_OWNER_DSN", evolution.database.owner_dsn)
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", "keyset.json")
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path / "staging"))
    new, *following, psql = guide.commands()
    assert (new[:2], psql[0], len(following)) == (["contract", "new"], "psql", 6)
    assert cli.main(new) == 0
    (evolution.folder / "purchases.py").write_text(guide.example("python"))
    try:
        for command in following:
            assert cli.main(command) == 0, command
    finally:
        sys.modules.pop("include.contracts.purchases", None)
        client = boto3.client("sqs")
        for name in ("purchases-queue", "purchases-queue-dlq"):
            client.delete_queue(QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"])
    rows = "SELECT number, total, customer_id, items, customer_email LIKE 'A%' FROM public.purchases"
    assert evolution.database.rows("SELECT count(*) FROM public.purchases") == [(20,)]
    assert evolution.database.rows(f"{rows} WHERE number = 'P-1001'") == [
        ("P-1001", Decimal("12.50"), 17, [{"sku": "A-7", "quantity": 2}], True)
    ]
