"""The command line without its servers: help, usage, and one clear line for what is wrong."""

import logging
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.queue_etl import steps
from include.queue_etl.cli import app as cli
from include.queue_etl.cli import pipeline, wiring
from include.queue_etl.errors import RunFailed
from include.queue_etl.keys import keyset_document
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.run_context import Run

HELP = cli._parser().format_help()
ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"^    (\S+)", HELP, re.MULTILINE)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """Nothing of the machine's own environment, and of `main` nothing is left behind."""
    for name in [name for name in os.environ if name.startswith(("QUEUE_ETL_", "AWS_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    before, handlers = signal.getsignal(signal.SIGTERM), list(logging.root.handlers)
    yield
    signal.signal(signal.SIGTERM, before)
    logging.root.handlers[:] = handlers


def run(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert run(command, "--help") == 0
    assert f"python -m include.queue_etl {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["shape", "show", "mask"])
def test_the_example_of_a_commands_help_can_be_typed(command, capsys):
    assert run(command, "--help") == 0
    example = " ".join(capsys.readouterr().out.partition("\nexample: ")[2].split()).partition(" <")[0]
    typed = shlex.split(example)
    assert cli._parser().parse_args(typed).name == command


def test_the_help_names_every_command_with_what_it_does(capsys):
    assert run("--help") == 0
    assert capsys.readouterr().out == HELP
    expected = {
        "check",
        "drain",
        "step",
        "send",
        "depth",
        "create-queue",
        "keys",
        "migrate",
        "unmask",
    }
    assert expected <= set(COMMANDS)
    assert "Check everything a run needs; receive no messages." in " ".join(HELP.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["drain", "--max", "many"],
        ["drain", "--max", "0"],
        ["drain", "--until-empty", "--run-id", "one"],
        ["dead-letters", "--max", "-1"],
        ["audit", "verify", "--mark", "1"],
        ["audit", "verify", "--mark", "foo:" + "0" * 64],
        ["drain", "--contract", "nothing"],
        ["send"],
        ["step", "nothing"],
        ["unmask", "token"],
        ["unmask", "--reason", "r", "--ticket", "t", "token"],  # neither --output nor --stdout
        ["unmask", "--reason", "r", "--ticket", "t", "--stdout", "--output", "file", "token"],
        ["erase", "--reason", "r", "--ticket", "t"],  # of what
        ["show", "--reason", "r", "--ticket", "t"],
        ["show", "--reason", "r", "--ticket", "t", "no-id"],
        ["show", "00000000-0000-4000-8000-000000000001"],
        ["mask", "--reason", "r", "--ticket", "t", "value"],  # of which field
        ["mask", "--field", "ip", "value"],
        ["shape", "--limit", "0"],
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, capsys):
    assert run(*arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["check"], "QUEUE_ETL_"),
        (["drain"], "QUEUE_ETL_"),
        (["migrate"], "QUEUE_ETL_OWNER_DSN"),
        (
            ["unmask", "--reason", "r", "--ticket", "t", "--stdout", "--field", "ip", "x"],
            "QUEUE_ETL_OFFICER_DSN",
        ),
    ],
)
def test_a_missing_variable_is_named_and_explained(arguments, variable, capsys):
    assert run(*arguments) == 1
    shown = capsys.readouterr()
    assert re.search(rf"{variable}\w* is not set: .", shown.err)
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_all_wrong_settings_are_named_at_once(monkeypatch, capsys):
    monkeypatch.setenv("QUEUE_ETL_WAREHOUSE_DSN", "host=127.0.0.1")
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", "/dev/null")
    monkeypatch.setenv("QUEUE_ETL_STAGING", "here")
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "21")
    assert run("drain", "--max", "100001") == 1
    assert capsys.readouterr().err.splitlines() == [
        "drain: invalid settings:",
        "  - QUEUE_ETL_STAGING='here': give an absolute folder or s3://bucket/prefix",
        "  - QUEUE_ETL_MAX_MESSAGES='100001': must be a whole number from 1 to 100000",
        "  - QUEUE_ETL_WAIT_SECONDS='21': must be a whole number from 0 to 20",
    ]


@pytest.mark.parametrize(
    ("command", "dsn", "role"),
    [
        ("check", "QUEUE_ETL_WAREHOUSE_DSN", "etl_loader"),
        ("drain", "QUEUE_ETL_WAREHOUSE_DSN", "etl_loader"),
        ("maintain", "QUEUE_ETL_MAINTAINER_DSN", "etl_maintainer"),
    ],
)
def test_all_missing_variables_are_named_beside_the_wrong_ones(monkeypatch, capsys, command, dsn, role):
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "21")
    assert run(command) == 1
    written = "(`./dev` writes it to .dev/env)"
    assert capsys.readouterr().err.splitlines() == [
        f"{command}: invalid settings:",
        f"  - {dsn} is not set: libpq connection string of role {role} {written}",
        f"  - QUEUE_ETL_KEYSET_FILE is not set: file with the Tink JSON keyset {written}",
        "  - QUEUE_ETL_STAGING is not set: give an absolute folder or s3://bucket/prefix",
        "  - QUEUE_ETL_WAIT_SECONDS='21': must be a whole number from 0 to 20",
    ]


@pytest.mark.parametrize(
    ("command", "dsn"),
    [("check", "QUEUE_ETL_WAREHOUSE_DSN"), ("migrate", "QUEUE_ETL_OWNER_DSN")],
)
def test_a_malformed_connection_string_is_named_by_variable_and_not_quoted(monkeypatch, capsys, command, dsn):
    monkeypatch.setenv(dsn, "postgresql://etl_loader:s3cr%t@127.0.0.1/queue_etl")
    assert run(command) == 1
    shown = capsys.readouterr().err
    assert f"{dsn} is no libpq connection string: give postgresql://USER:PASSWORD@HOST" in shown
    assert "s3cr" not in shown


@pytest.mark.usefixtures("without_servers")
def test_mask_starts_without_psycopg_and_boto3():
    code = """
import sys
from include.queue_etl import steps
from include.queue_etl.cli import app
from include.queue_etl.staging.area import StagedRun
StagedRun.batches = lambda self, kind: ["0000-abcdef"]
steps.mask = lambda context, batch: batch
app.main(["step", "mask", "--run-id", "r"])
print(sorted({"psycopg", "boto3"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('["0000-abcdef"]\n[]\n', "")


@pytest.mark.usefixtures("without_servers")
@pytest.mark.parametrize("command", ["check", "drain"])
def test_a_missing_keyset_file_is_named_beside_the_wrong_settings(monkeypatch, capsys, command):
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", "/nowhere/keyset.json")
    monkeypatch.setenv("QUEUE_ETL_WAIT_SECONDS", "21")
    assert run(command) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{command}: invalid settings:",
        "  - QUEUE_ETL_KEYSET_FILE='/nowhere/keyset.json': there is no such file: "
        "give the file with the Tink JSON keyset",
        "  - QUEUE_ETL_WAIT_SECONDS='21': must be a whole number from 0 to 20",
    ]


@pytest.mark.usefixtures("without_servers")
def test_a_keyset_file_that_is_no_text_is_a_keyset_that_cannot_be_read(monkeypatch, capsys, tmp_path):
    (tmp_path / "keyset.json").write_bytes(b"\x80canary")
    assert run("check") == 1
    shown = capsys.readouterr().err
    assert "  - the keyset cannot be read: expected a Tink JSON keyset" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("step", ["mask", "load", "finish"])
def test_a_step_that_goes_on_with_a_run_asks_which(step, capsys):
    assert run("step", step) == 2
    assert f"error: {step} needs --run-id" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "the run never started: .+ no airflow_run_id 'nope' of user_logins"),
        ("failed", "the run failed"),
    ],
)
def test_the_finish_of_an_unknown_run_says_so_and_not_that_of_a_failed_one(monkeypatch, state, said):
    def finish(*_, **__):
        raise RunFailed("the run failed")

    monkeypatch.setattr(steps, "finish", finish)
    warehouse = SimpleNamespace(run_state=lambda _run_id: state)
    unknown: Any = SimpleNamespace(store=warehouse, run=Run("user_logins", "nope"))
    with pytest.raises(RunFailed, match=said):
        pipeline._finish(unknown, True)


def test_wrong_numbers_name_their_option(capsys):
    assert run("drain", "--max", "-5") == 2
    assert "--max: '-5' is not a whole number above 0" in capsys.readouterr().err


@pytest.fixture
def without_servers(monkeypatch, tmp_path):
    """All settings are there; nothing listens where they point."""
    (tmp_path / "keyset.json").write_text(KeysetDocument.new().text)
    for name, value in {
        "QUEUE_ETL_WAREHOUSE_DSN": "host=127.0.0.1 port=1",
        "QUEUE_ETL_KEYSET_FILE": str(tmp_path / "keyset.json"),
        "QUEUE_ETL_STAGING": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("without_servers")
def test_a_drain_without_servers_lists_problems_once_and_finishes_nothing(capsys):
    assert run("drain") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("drain: ")
    assert [line[:4] for line in shown.splitlines()[1:]] == ["  - ", "  - "]
    assert "login-queue" in shown
    assert "Postgres" in shown


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(wiring, "required_variable", interrupted)
    assert run("drain") == 130
    assert capsys.readouterr().err.strip() == "drain: interrupted"


@pytest.mark.parametrize(("name", "problem"), [("missing", "no such file"), ("", "is a directory")])
def test_a_file_that_cannot_be_sent_is_named(name, problem, tmp_path, capsys):
    assert run("send", str(tmp_path / name)) == 1
    assert capsys.readouterr().err == f"send: {tmp_path / name}: {problem}\n"


@pytest.mark.parametrize(
    "text", ['[\n {"a": 1}\n]', '{\n "a": 1\n}', '[{\n "a": 1\n}]', "\ufeff[\n1\n]", "\n[\n1\n]"]
)
def test_indented_json_is_not_sent_line_by_line(text, tmp_path, capsys):
    (tmp_path / "messages").write_text(text)
    assert run("send", str(tmp_path / "messages")) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"send: {tmp_path / 'messages'}: it is indented JSON, and each line would be")


def test_a_queue_without_region_is_one_line(capsys):
    assert run("depth") == 1
    shown = capsys.readouterr().err
    assert shown == "depth: queue 'login-queue': no client for SQS: NoRegionError\n"


@pytest.mark.parametrize("is_development", [True, False])
def test_a_new_keyset_file_is_for_its_owner_alone_and_opens(is_development, tmp_path, monkeypatch, capsys):
    path = tmp_path / "keyset.json"
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(path))
    assert run("keys", "create", *(["--development"] if is_development else [])) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = KeysetDocument(path.read_text())
    assert [keyset_document.is_development(key_id) for key_id in document.key_ids] == [is_development]
    keyset = document.open()
    assert keyset.decrypt(keyset.encrypt(b"x", b""), b"") == b"x"
    assert "key" not in capsys.readouterr().out.replace("keyset", "").replace("keep", "")


def test_an_existing_keyset_is_never_overwritten(tmp_path, monkeypatch, capsys):
    path = tmp_path / "keyset.json"
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(path))
    path.write_text("the only copy")
    assert run("keys", "create") == 1
    assert path.read_text() == "the only copy"
    assert capsys.readouterr().err == f"keys create: {path}: File exists\n"


def test_a_file_that_is_not_there_is_named_without_a_number_of_errno(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("QUEUE_ETL_KEYSET_FILE", str(tmp_path / "nowhere"))
    assert run("keys", "add") == 1
    assert capsys.readouterr().err == f"keys add: {tmp_path}/nowhere: No such file or directory\n"


WHY = ("--reason", "r", "--ticket", "t")


def test_an_unknown_personal_field_is_named_with_those_there_are(capsys):
    assert run("unmask", *WHY, "--stdout", "--field", "user_id", "x") == 2
    expected = "unmask: error: no recoverable field 'user_id' in user_logins: one of ip, device_id\n"
    assert capsys.readouterr().err.endswith(expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--user-id", "u", "--field", "ip"], "not with --field"),
        (["--user-id", "u", "--file", "f"], "not with --file"),
        (["--user-id", "u", "token"], "not with TOKEN"),
        (["--user-id", "u", "--field", "ip", "--file", "f", "token"], "not with TOKEN, --file, --field"),
        (["--field", "ip", "--file", "f", "token"], "give TOKEN or --file, not both"),
        (["token"], "give --field and its tokens, or --by, or --user-id"),
        (["--file", "f"], "give --field and its tokens, or --by, or --user-id"),
        ([], "give --field and its tokens, or --by, or --user-id"),
        (["--user-id", "u", "--by", "ip"], "not with --by"),
        (["--by", "ip", "token"], "--by takes one value, from --file or standard input: not with TOKEN"),
        (["--by", "ip", "--field", "ip"], "not with --field"),
        (["--by", "locale"], "no field 'locale' to search by in user_logins: one of user_id, ip, device_id"),
        (["--all-contracts", "--by", "device_id"], "no kind of value 'device_id': one of user_id, ip, text"),
        (["--all-contracts", "--field", "ip", "x"], "not with --all-contracts"),
    ],
)
def test_unmask_refuses_what_it_would_have_to_ignore(arguments, told, capsys):
    assert run("unmask", *WHY, "--stdout", *arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("field", ["locale", "device_type", "app_version", "masked_ip", ""])
def test_erase_is_by_user_or_personal_field_alone_and_says_which(field, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)  # refused before it asks for the value
    assert run("erase", *WHY, "--by", field, "--apply") == 2
    expected = f"no field '{field}' to search by in user_logins: one of user_id, ip, device_id\n"
    assert capsys.readouterr().err.endswith(expected)


def test_erase_in_all_contracts_is_by_a_kind_of_value(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)  # refused before it asks for the value
    assert run("erase", *WHY, "--all-contracts", "--by", "masked_ip") == 2
    assert "no kind of value 'masked_ip': one of user_id, ip, text" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["unmask", "--stdout"], ["erase"]])
@pytest.mark.parametrize("order", [1, -1])
def test_one_contract_and_all_contracts_exclude_each_other(command, order, capsys):
    # A text of its own, as from a shell: argparse takes the very object of the default for no choice.
    one, every = ["--contract", b"user_logins".decode()], ["--all-contracts"]
    options = [*one, *every] if order == 1 else [*every, *one]
    assert run(*command, *WHY, "--by", "ip", *options) == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["unmask", "erase"])
def test_the_examples_of_the_help_can_be_typed(command, capsys):
    assert run(command, "--help") == 0
    lines = capsys.readouterr().out.partition("\nexamples")[2].splitlines()[1:]
    examples = [re.split(" {2,}", line.strip())[0].partition(" <")[0] for line in lines if line.strip()]
    assert len(examples) == 4
    for example in examples:
        stdout = ["--stdout"] if command == "unmask" else []
        assert cli._parser().parse_args([*shlex.split(example), *WHY, *stdout]).name == command


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
@pytest.mark.parametrize("option", ["--reason", "--ticket"])
@pytest.mark.parametrize(
    "command",
    [
        ["unmask", "--stdout", "--user-id", "u"],
        ["erase", "--by", "ip"],
        ["erase", "--by", "ip", "--apply"],
        ["mask", "--field", "ip", "v"],
        ["show", "00000000-0000-4000-8000-000000000001"],
        ["remask"],
        ["keys", "destroy", "1"],
    ],
)
def test_a_blank_reason_or_ticket_is_wrong_usage(command, option, blank, capsys):
    assert run(*command, *WHY, option, blank) == 2
    assert f"error: argument {option}: it is blank\n" in capsys.readouterr().err


def test_a_stop_by_signal_is_an_exception_so_that_messages_are_released():
    with pytest.raises(SystemExit) as caught:
        cli._stop(signal.SIGTERM, None)
    assert caught.value.code == 143
