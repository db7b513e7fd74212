"""Whatever is wrong before a run: one clear message, and nothing has been received."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from psycopg.conninfo import make_conninfo

from include.contracts.user_logins import CONTRACT
from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import pipeline
from include.queue_etl.contract import Contract
from include.queue_etl.errors import PreflightError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.postgres import migrations
from tests.integration import queues
from tests.integration.scratch import Database
from tests.support.resources import open_run

BODY = json.dumps(
    {
        "user_id": "u",
        "app_version": "1.0",
        "device_type": "ios",
        "ip": "192.0.2.7",
        "locale": None,
        "device_id": "d",
    }
).encode()
KEYSET_JSON = KeysetDocument.new().text


@pytest.fixture
def contract() -> Iterator[Contract]:
    """`user_logins` on a queue of its own with one message, which must still be visible at the end."""
    with queues.own_queue(CONTRACT) as own:
        queues.send(own, [BODY])
        yield own
        assert queues.depth(own).visible == 1, "a message was received although the run must not start"
        assert queues.depth(own).in_flight == 0


@pytest.fixture
def refused(clean_database: Database, tmp_path, contract):
    """Extracts with something wrong; returns the problems of the PreflightError."""

    def extract(
        queue: str | None = None,
        dsn: str | None = None,
        keyset_json: str = KEYSET_JSON,
        staging=None,
    ) -> tuple[str, ...]:
        asked = replace(contract, queue=queue) if queue else contract
        chosen = queues.settings(staging or tmp_path / "staging", request_timeout_seconds=2)
        with (
            open_run(asked, "manual__1", chosen, dsn or clean_database.loader_dsn, keyset_json) as context,
            pytest.raises(PreflightError) as caught,
        ):
            steps.extract(context)
        assert str(caught.value).startswith("not started, nothing received:\n  - ")
        return caught.value.problems

    return extract


def test_when_all_is_well_it_starts(clean_database, tmp_path):
    with queues.own_queue(CONTRACT) as own:
        queues.send(own, [BODY])
        chosen = queues.settings(tmp_path / "staging")
        with open_run(own, "manual__1", chosen, clean_database.loader_dsn, KEYSET_JSON) as context:
            assert [batch["messages"] for batch in steps.extract(context)] == [1]


def test_a_wrong_queue_is_named_with_region_and_endpoint(refused):
    (problem,) = refused(queue="no-such-queue")
    where = f"queue 'no-such-queue' in {os.environ['AWS_DEFAULT_REGION']} at {os.environ['AWS_ENDPOINT_URL']}"
    assert problem.startswith(where)
    assert "NonExistentQueue" in problem or "QueueDoesNotExist" in problem


def test_a_wrong_password_is_named_without_showing_it(refused, clean_database):
    (problem,) = refused(dsn=make_conninfo(clean_database.loader_dsn, password="canary-4711"))
    assert "wrong user or password" in problem
    assert f"user etl_loader_{clean_database.suffix}" in problem
    assert "canary" not in problem


def test_a_server_that_is_down_is_named(refused, clean_database):
    (problem,) = refused(dsn=make_conninfo(clean_database.loader_dsn, port="9"))
    assert problem.startswith("Postgres at 127.0.0.1:9, ")
    assert problem.endswith("cannot connect (connection refused)")


def test_a_queue_server_that_is_down_is_named(refused, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        (problem,) = refused()
    assert "at http://127.0.0.1:9" in problem


def test_an_empty_database_is_named_with_the_command_that_restores_it(
    refused, clean_database, empty_database
):
    (problem,) = refused(dsn=make_conninfo(clean_database.loader_dsn, dbname=_name(empty_database())))
    assert problem == "the warehouse has no schema: run `python -m include.queue_etl migrate`"


def test_an_old_schema_is_named_with_the_command_that_restores_it(refused, clean_database):
    with clean_database.owner() as connection:
        (current,) = connection.execute("SELECT version_num FROM etl.schema_revision").fetchone()
        try:
            connection.execute("UPDATE etl.schema_revision SET version_num = '0000'")
            (problem,) = refused()
        finally:
            connection.execute("UPDATE etl.schema_revision SET version_num = %s", [current])
    expected = f"the warehouse is at revision 0000, not {current}: run `python -m include.queue_etl migrate`"
    assert problem == expected


def test_a_role_that_may_not_load_is_named_with_what_it_lacks(refused, clean_database):
    problems = refused(dsn=clean_database.dsn("analyst"))
    assert problems == ("role analyst may not use schema etl: connect as etl_loader",)


def test_an_unwritable_staging_folder_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (problem,) = refused(staging=tmp_path / "file" / "staging")
    assert problem == f"staging: cannot create {tmp_path}/file/staging: Not a directory"


def test_a_missing_bucket_is_named(refused):
    (problem,) = refused(staging="s3://no-such-bucket-here/prefix")
    assert problem.startswith("staging: cannot write s3://no-such-bucket-here/prefix/")
    assert problem.endswith("NoSuchBucket")


def test_a_broken_keyset_is_named_without_showing_it(refused):
    (problem,) = refused(keyset_json="canary-4711")
    assert problem.startswith("the keyset cannot be read: expected a Tink JSON keyset")
    assert "canary" not in problem


def test_a_key_of_earlier_runs_that_the_keyset_lacks_is_named(refused, warehouse):
    used = Keyset.from_json(KeysetDocument.new().text)
    warehouse.add_key_check(used.primary_key_id, used.check_value())
    (problem,) = refused()
    assert problem.startswith(f"the keyset lacks key {used.primary_key_id}, which masked rows")
    assert problem.endswith("give the right keyset, or add the old keys to it")


def test_everything_that_is_wrong_is_named_at_once(refused, clean_database, tmp_path):
    (tmp_path / "file").write_text("in the way")
    problems = refused(
        queue="no-such-queue",
        dsn=make_conninfo(clean_database.loader_dsn, port="9"),
        keyset_json="broken",
        staging=tmp_path / "file",
    )
    assert [problem.split()[0] for problem in problems] == ["queue", "Postgres", "the", "staging:"]


def test_a_failed_start_leaves_no_run_behind(refused, clean_database, tmp_path):
    refused(keyset_json="broken")
    assert clean_database.rows("SELECT count(*) FROM etl.runs") == [(0,)]
    assert list(tmp_path.rglob("*.raw")) == []


@pytest.mark.usefixtures("contract")
def test_five_wrong_settings_are_named_at_once_on_the_command_line(monkeypatch, capsys):
    wrong = {
        "QUEUE_ETL_STAGING": "here",
        "QUEUE_ETL_ENV": "test",
        "QUEUE_ETL_BATCH_MESSAGES": "9",
        "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "43201",
        "QUEUE_ETL_SQS_CLIENT": "curl",
    }
    for name, text in wrong.items():
        monkeypatch.setenv(name, text)
    before = queues.depth(CONTRACT)
    assert cli.main(["drain"]) == 1
    heading, *problems = capsys.readouterr().err.splitlines()
    assert heading == "drain: invalid settings:"
    assert [problem.removeprefix("  - ").partition("=")[0] for problem in problems] == list(wrong)
    assert queues.depth(CONTRACT) == before


def test_a_wrong_password_on_the_command_line_is_a_message_not_a_traceback(
    clean_database, monkeypatch, capsys, tmp_path
):
    dsn = make_conninfo(clean_database.loader_dsn, password="canary-4711")
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", dsn)
    monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path))
    before = queues.depth(CONTRACT)
    assert cli.main(["drain"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "canary" not in shown.err
    assert "wrong user or password" in shown.err
    assert queues.depth(CONTRACT) == before


def _name(dsn: str) -> str:
    from psycopg.conninfo import conninfo_to_dict

    return str(conninfo_to_dict(dsn)["dbname"])


def test_a_missing_grant_is_restored_by_the_command_that_the_error_names(clean_database, tmp_path):
    with clean_database.owner() as connection, queues.own_queue(CONTRACT) as own:
        connection.execute("REVOKE INSERT ON public.user_logins FROM etl_loader")
        chosen = queues.settings(tmp_path / "staging")
        with open_run(own, "manual__1", chosen, clean_database.loader_dsn, KEYSET_JSON) as context:
            try:
                with pytest.raises(PreflightError) as caught:
                    context.preflight()
                (problem,) = caught.value.problems
                migrate = "run `python -m include.queue_etl migrate`"
                assert problem == f"role etl_loader may not INSERT INTO public.user_logins: {migrate}"
                migrations.upgrade(clean_database.owner_dsn, {}, [CONTRACT])
                context.preflight()
            finally:
                connection.execute("GRANT INSERT ON public.user_logins TO etl_loader")


def test_check_says_what_the_server_may_log(clean_database, monkeypatch, capsys, tmp_path):
    """As on a managed Postgres, where migrate may not set it: a warning, and the pipeline is ready."""
    with queues.own_queue(CONTRACT) as own:
        monkeypatch.setattr(pipeline, "load_contract", lambda name: own)
        monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", clean_database.loader_dsn)
        monkeypatch.setenv("QUEUE_ETL_STAGING", str(tmp_path))
        assert cli.main(["check"]) == 0
        assert capsys.readouterr().err == ""
        with clean_database.owner() as connection:
            role = f"ALTER ROLE pii_officer IN DATABASE {clean_database.name}"
            try:
                connection.execute(f"{role} RESET log_min_messages")
                connection.execute(f"{role} SET log_statement = 'all'")
                assert cli.main(["check"]) == 0
            finally:
                connection.execute(f"{role} SET log_min_messages = fatal")
                connection.execute(f"{role} SET log_statement = none")
    said = capsys.readouterr()
    assert said.out.startswith("ready: ")
    assert said.err == (
        "warning: the server's log may quote personal data that pii_officer sends: nobody could set "
        f"log_min_messages, log_statement for it. As a superuser run {role} SET log_min_messages = 'fatal'; "
        f"{role} SET log_statement = 'none'; or set it in the server's configuration\n"
    )
