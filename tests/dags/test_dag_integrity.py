"""What the DAG file promises without being run: it loads, edges, policy, and what a parse may touch."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DeltaTriggerTimetable, TriggerRule
from queue_etl_policy import pace, task_args

import include.contracts
from include.contracts import DEFAULT_CONTRACT, contract_names, load_contract
from include.queue_etl import errors
from include.queue_etl.contract import Contract
from include.queue_etl.settings import limits

PROJECT = Path(__file__).resolve().parents[2]
OPERATIONS = [
    "queue_etl_maintenance",
    "queue_etl_recovery",
    "queue_etl_redrive",
    "queue_etl_remask",
    "queue_etl_watch",
]  # tested in test_operations_dags.py and test_remask_dag.py
TASKS = ("sense", "extract", "mask", "load", "finish")


def test_there_is_one_dag_for_each_contract(dags: Mapping[str, Any]) -> None:
    assert sorted(dags) == sorted([*contract_names(), *OPERATIONS])
    assert "user_logins" in dags


def test_a_second_contract_gets_its_dag_and_changes_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(PROJECT / "tests" / "contracts")
    monkeypatch.setattr(include.contracts, "__path__", [*include.contracts.__path__, folder])
    bag = DagBag(str(PROJECT / "dags"))
    assert "newsletter_signups" in bag.dags
    contract = bag.dags["queue_etl_redrive"].params.get_param("contract")
    assert (contract.value, contract.schema["enum"]) == (DEFAULT_CONTRACT, contract_names())


BROKEN_CONTRACTS = """
import include.contracts
from airflow.dag_processing.dagbag import DagBag
include.contracts.__path__.append({folder!r})
bag = DagBag({dags!r})
print("dags", sorted(bag.dags))
for file, error in bag.import_errors.items():
    print("failed", file.rpartition("/")[2])
    print(error)
"""


def test_broken_contracts_are_one_import_error_and_stop_no_other_dag(tmp_path: Path) -> None:
    """In a process of its own, as the DAG processor does it."""
    good = (PROJECT / "tests" / "contracts" / "newsletter_signups.py").read_text()
    (tmp_path / "newsletter_signups.py").write_text(good)
    (tmp_path / "wrong_field.py").write_text(good.replace('Name("confirmed")', 'Name("email_token")'))
    line = good[: good.index("CONTRACT = ")].count("\n") + 1
    (tmp_path / "wrong_name.py").write_text(good)
    (tmp_path / "wrong_syntax.py").write_text("CONTRACT = Contract(")
    code = BROKEN_CONTRACTS.format(folder=str(tmp_path), dags=str(PROJECT / "dags"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = sorted([*contract_names(), "newsletter_signups", *OPERATIONS])
    assert f"dags {expected}\n" in result.stdout
    failed = [
        line.removeprefix("failed ") for line in result.stdout.splitlines() if line.startswith("failed ")
    ]
    assert failed == ["broken_contracts.py"]
    for told in (
        f"wrong_field.py, line {line}: contract newsletter_signups: 2 columns have the name email_token:",
        "wrong_name.py: its contract has the name 'newsletter_signups': give both the same name",
        "wrong_syntax.py, line 1: '(' was never closed: correct the Python there",
    ):
        assert f"  - {tmp_path}/{told}" in result.stdout


def test_edges_are_sense_extract_mask_load_finish(dags: Mapping[str, Any]) -> None:
    edges = {task.task_id: task.downstream_task_ids for task in dags["user_logins"].tasks}
    assert edges == {
        "sense": {"extract", "finish"},
        "extract": {"mask", "finish"},
        "mask": {"load"},
        "load": {"finish"},
        "finish": set(),
    }


def test_dag_policy(dags: Mapping[str, Any]) -> None:
    for contract in map(load_contract, contract_names()):
        dag = dags[contract.name]
        assert dag.max_active_runs == contract.runs_at_once
        assert dag.catchup is False
        assert dag.is_paused_upon_creation is False
        assert {"sqs", "postgres", *contract.tags} <= set(dag.tags)
        assert {task.owner for task in dag.tasks} == {contract.owner}
        assert {task.retries for task in dag.tasks} == {contract.retries}


def test_by_default_an_event_of_the_queue_begins_a_run(dags: Mapping[str, Any]) -> None:
    dag = dags["user_logins"]
    (asset,) = dag.timetable.asset_condition.objects
    ((_, arguments),) = [watcher.trigger.serialize() for watcher in asset.watchers]
    assert arguments == {
        "dag_id": "user_logins", "queue": "login-queue", "account": None, "aws_conn_id": "aws_default",
        "region_name": None, "min_messages": 10_000, "freshness_seconds": 60,
    }  # fmt: skip
    assert dag.timetable.timetable == DeltaTriggerTimetable(timedelta(hours=1))
    assert dag.dagrun_timeout == timedelta(hours=1)


def worth_a_run(contract: Contract) -> tuple[int, int]:
    (asset,) = pace(contract)["schedule"].asset_condition.objects
    (trigger,) = [watcher.trigger for watcher in asset.watchers]
    return trigger.min_messages, trigger.freshness_seconds


def test_what_is_worth_a_run_is_a_setting_and_of_a_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_ETL_FRESHNESS_SECONDS", "5")
    monkeypatch.setenv("QUEUE_ETL_MIN_MESSAGES", "7")
    contract = load_contract("user_logins")
    assert worth_a_run(contract) == (7, 5)
    assert worth_a_run(replace(contract, settings={"freshness_seconds": 0})) == (7, 0)


def test_a_wrong_setting_leaves_the_dag_for_its_runs_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """`extract` fails with the list of all wrong settings; an import error would show one file's alone."""
    monkeypatch.setenv("QUEUE_ETL_FRESHNESS_SECONDS", "often")
    assert worth_a_run(load_contract("user_logins")) == (10_000, 60)


@pytest.mark.parametrize("schedule", ["*/5 * * * *", None])
def test_a_contract_may_have_a_cron_schedule_or_none(schedule: str | None) -> None:
    contract = replace(load_contract("user_logins"), schedule=schedule, run_seconds=1_800)
    hour = timedelta(seconds=1_800)
    assert pace(contract) == {"schedule": schedule, "max_active_runs": 1, "dagrun_timeout": hour}


def test_a_contract_says_how_many_runs_are_at_once_and_how_long() -> None:
    settings = {"max_messages": 30_000}
    contract = replace(load_contract("user_logins"), runs_at_once=4, task_seconds=1_800, settings=settings)
    assert pace(contract)["max_active_runs"] == 4
    assert task_args(contract)["execution_timeout"] == timedelta(seconds=1_800)


def test_every_task_has_owner_timeout_retries_and_backoff(dags: Mapping[str, Any]) -> None:
    for task in dags["user_logins"].tasks:
        assert task.owner == "data-platform"
        assert timedelta() < task.execution_timeout <= timedelta(minutes=15)
        assert task.retries == 4
        assert task.retry_exponential_backoff == 2.0
        assert task.retry_delay < task.max_retry_delay <= timedelta(minutes=5)


def test_receiving_ends_well_before_the_time_limit_of_a_task(dags: Mapping[str, Any]) -> None:
    longest = sum(limits(name)[1] for name in ("receive_seconds", "wait_seconds", "request_timeout_seconds"))
    for name in contract_names():
        limit = dags[name].get_task("extract").execution_timeout.total_seconds()
        assert longest <= limit / 2
        assert (
            dags[name].params.get_param("receive_seconds").schema["maximum"] == limits("receive_seconds")[1]
        )


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (errors.WarehouseUnavailable("x"), "retry"),
        (errors.QueueUnavailable("x"), "retry"),
        (errors.StagedFileDamaged("x"), "fail"),
        (errors.PreflightError(["x"]), "fail"),
        (errors.SettingsError(["x"]), "fail"),
        (RuntimeError("x"), "default"),
    ],
)
def test_only_what_may_pass_by_itself_is_retried(
    dags: Mapping[str, Any], error: Exception, action: str
) -> None:
    for task in dags["user_logins"].tasks:
        assert task.retry_policy.evaluate(error, 1, 4).action.value == action


def test_finish_runs_after_failures_and_only_it(dags: Mapping[str, Any]) -> None:
    rules = {task.task_id: task.trigger_rule for task in dags["user_logins"].tasks}
    assert rules.pop("finish") == TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    assert set(rules.values()) == {TriggerRule.ALL_SUCCESS}


def test_finish_announces_the_table(dags: Mapping[str, Any]) -> None:
    outlets = {task.task_id: [asset.name for asset in task.outlets] for task in dags["user_logins"].tasks}
    assert {task: names for task, names in outlets.items() if names} == {"finish": ["public.user_logins"]}


def test_the_trigger_form_has_limits_titles_and_descriptions(dags: Mapping[str, Any]) -> None:
    params = dags["user_logins"].params
    settings = {"max_messages", "receive_seconds"}  # left empty, the environment's setting holds
    assert set(params) == settings | {"min_messages", "max_age_seconds", "wait_seconds"}
    for name in params:
        schema = params.get_param(name).schema
        assert schema["type"] == (["null", "integer"] if name in settings else "integer")
        assert schema["title"]
        assert jsonschema.validators.validator_for(schema) is jsonschema.Draft7Validator  # else it takes long
        assert params.get_param(name).description
    assert all(params[name] is None for name in settings)
    assert params["min_messages"] == 1
    assert params.get_param("max_messages").schema["maximum"] == 100_000
    assert params["wait_seconds"] == 0  # a run by hand looks once
    # Longer, and a sensor would still wait when the next run of a five-minute schedule is due.
    assert params.get_param("wait_seconds").schema["maximum"] < 300


def test_doc_md_says_for_each_task_what_to_do_when_it_fails(dags: Mapping[str, Any]) -> None:
    for dag in [dags[name] for name in contract_names()]:
        lines = [line for line in dag.doc_md.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert cells[0] == ["if this task fails", "what you see", "where your data is", "what to do"]
        rows = {row[0].strip("`"): row[1:] for row in cells[2:]}
        assert set(rows) == {task.task_id for task in dag.tasks} == set(TASKS)
        assert all(all(row) and len(row) == 3 for row in rows.values())


def test_the_dag_file_is_short() -> None:
    assert len((PROJECT / "dags" / "queue_etl.py").read_text().splitlines()) <= 100


PARSE = """
import sys, time
import airflow.sdk, airflow.dag_processing.dagbag, airflow.triggers.base
from airflow.sdk import DAG, Asset, BaseSensorOperator, ExceptionRetryPolicy, Metadata, Param, task
import airflow.sdk.bases.decorator, airflow.sdk.definitions.mappedoperator
bag = airflow.dag_processing.dagbag.DagBag({empty!r})  # what any DAG pays for
touched = []
def watch(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess", "os.system")):
        touched.append(event)
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so", ".pth")):
        if not args[0].startswith((sys.prefix, sys.base_prefix, "/proc/", "/etc/")):
            touched.append(args[0])
before = set(sys.modules)
sys.addaudithook(watch)
started = time.process_time()
bag = airflow.dag_processing.dagbag.DagBag({dags!r})
print("CPU ms", round((time.process_time() - started) * 1000))
print("dags", sorted(bag.dags), bag.import_errors)
heavy = ("boto3", "botocore", "psycopg", "tink", "pycurl", "zstandard", "airflow.providers.amazon")
print("heavy", [name for name in set(sys.modules) - before if name.startswith(heavy)])
print("touched", [name for name in touched if not name.endswith((".airflowignore", "/dags"))])
"""


def test_a_parse_uses_no_network_file_connection_or_heavy_import(tmp_path: Path) -> None:
    code = PARSE.format(empty=str(tmp_path), dags=str(PROJECT / "dags"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = dict(
        line.split(" ", 1) for line in result.stdout.splitlines() if line.startswith(("CPU", "dags"))
    )
    print("parse of dags/ above bare Airflow:", lines["CPU"])
    assert f"dags {sorted([*contract_names(), *OPERATIONS])} {{}}" in result.stdout
    assert "heavy []" in result.stdout
    assert "touched []" in result.stdout


def test_the_engine_does_not_import_airflow() -> None:
    code = (
        "import sys, pkgutil, importlib, include\n"
        "names = [m.name for m in pkgutil.walk_packages(include.__path__, 'include.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "assert 'include.queue_etl.steps' in sys.modules\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'airflow'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_airflow_home_alone_makes_include_importable(tmp_path: Path) -> None:
    environment = {"AIRFLOW_HOME": str(PROJECT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    environment["AIRFLOW_CONFIG"] = str(tmp_path / "airflow.cfg")
    environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tmp_path}/unused.db"
    environment["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = str(tmp_path)
    code = "import airflow.settings, sqs_queue_depth, queue_etl_connections, include.contracts; print('ok')"
    result = subprocess.run(
        [sys.executable, "-c", f"import airflow; airflow.settings.initialize(); {code}"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.stdout.strip().endswith("ok"), result.stderr


def test_the_plugin_loader_leaves_modules_alone_that_dags_import() -> None:
    # Executed again under its bare name, a module's classes would exist twice.
    from airflow._shared.module_loading import find_path_from_directory

    found = {Path(path).name for path in find_path_from_directory(str(PROJECT / "plugins"), ".airflowignore")}
    ours = {path.name for path in (PROJECT / "plugins").glob("*.py")}
    # Airflow has to know the timetable. That its class exists twice does no harm: Airflow goes by its name.
    plugins = ("page", "preload", "run_note", "timetable")
    assert found & ours == {f"queue_etl_{name}.py" for name in plugins}
