"""`contract list`, `export` and `migration` without a database."""

import json
import sys
from pathlib import Path

import pytest

import include.contracts
from include.contracts import contract_names
from include.queue_etl.cli import app as cli
from include.queue_etl.postgres import migrations
from tests.contracts import newsletter_signups

ACTIONS = ("plan", "migration", "export", "list")


@pytest.fixture(autouse=True)
def signups(monkeypatch, tmp_path):
    """A project that has the contract newsletter_signups too, and one that cannot be used."""
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "newsletter_signups.py").write_text(Path(newsletter_signups.__file__).read_text())
    (folder / "useless.py").write_text("CONTRACT = 1\n")
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, str(folder)])
    monkeypatch.delenv("QUEUE_ETL_OWNER_DSN", raising=False)
    yield
    for name in ("newsletter_signups", "useless"):
        sys.modules.pop(f"include.contracts.{name}", None)


@pytest.fixture
def versions(monkeypatch, tmp_path):
    """The folder of a project's revisions, the last of them 0001."""
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / "0001_first.sql").write_text("CREATE TABLE public.user_logins (a int);")
    monkeypatch.setattr(migrations, "HERE", tmp_path)
    return folder


def run(*arguments: object) -> int:
    return cli.main(["contract", *map(str, arguments)])


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_help_with_an_example(action, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(action, "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert f"example: python -m include.queue_etl contract {action} " in told


def test_the_list_has_every_contract_and_what_is_wrong_with_broken_ones(capsys):
    assert run("list") == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    named = ["name", "queue", "table", "columns", "personal", "key", "partitions"]
    assert heading.split() == [*named, "schedule", "owner", "elsewhere"]
    rows = [line.split()[:3] for line in lines[:-1]]
    assert [name for name, *_ in rows] == [name for name in contract_names() if name != "useless"]
    assert ["newsletter_signups", "newsletter-signups", "public.newsletter_signups"] in rows
    assert lines[-1].startswith("useless cannot be used: ")
    assert "it has no CONTRACT = Contract(...): add one" in lines[-1]


def test_the_list_as_json_has_the_same(capsys):
    assert run("list", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["contracts"]] == [n for n in contract_names() if n != "useless"]
    assert list(told["broken"]) == ["useless"]


def test_the_list_tells_which_queue_and_warehouse_are_elsewhere(capsys, tmp_path):
    file = tmp_path / "contracts" / "newsletter_signups.py"
    given = 'aws="news_aws", region="eu-west-1", queue_account="123456789012", warehouse="news",'
    file.write_text(file.read_text().replace("sns_envelope=True,", f"sns_envelope=True, {given}"))
    assert run("list", "--json") == 0
    found = {one["name"]: one["elsewhere"] for one in json.loads(capsys.readouterr().out)["contracts"]}
    where = "warehouse news, AWS connection news_aws, region eu-west-1, account 123456789012"
    assert (found["newsletter_signups"], found["user_logins"]) == (where, None)


def test_partitions_are_listed_by_their_length_and_column(capsys, tmp_path):
    file = tmp_path / "contracts" / "newsletter_signups.py"
    text = file.read_text().replace(
        "sns_envelope=True,", 'sns_envelope=True, partition_by=Month("signed_up_on"),'
    )
    file.write_text(text.replace("SentDay\n", "SentDay, Month\n", 1))
    assert run("list") == 0
    assert "month of signed_up_on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("odcs", '{\n  "apiVersion": "v3.1.0",'),
        ("jsonschema", '{\n  "$schema": '),
        ("markdown", "# user_logins\n"),
    ],
)
def test_an_export_goes_to_standard_output_or_into_a_file(form, begins, capsys, tmp_path):
    assert run("export", "user_logins", "--format", form) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(begins)
    file = tmp_path / "new" / "folder" / "it"
    assert run("export", "user_logins", "--format", form, "--output", file) == 0
    assert file.read_text() == printed
    assert capsys.readouterr().out == f"wrote {file}\n"


def test_a_contract_that_is_not_there_is_wrong_usage():
    with pytest.raises(SystemExit, match="2"):
        run("plan", "nothing")


@pytest.mark.parametrize("action", ["plan", "migration"])
def test_a_comparison_without_a_database_names_the_variable(action, versions, capsys):
    assert run(action, "user_logins") == 1
    assert "QUEUE_ETL_OWNER_DSN is not set" in capsys.readouterr().err
    assert len(list(versions.iterdir())) == 1


def test_the_revision_of_a_new_table_needs_no_database(versions, capsys):
    assert run("migration", "newsletter_signups") == 0
    file = versions / "0002_newsletter_signups.sql"
    assert capsys.readouterr().out == (
        f"wrote {file}: read it, then run `migrate`. To write it again, delete it before that\n"
    )
    assert 'CREATE TABLE "public"."newsletter_signups" (' in file.read_text()


def test_a_contract_that_cannot_be_used_gets_no_revision(versions, capsys):
    assert run("migration", "useless") == 1
    assert "it has no CONTRACT = Contract(...)" in capsys.readouterr().err
    assert len(list(versions.iterdir())) == 1
