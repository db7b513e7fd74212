"""`./dev bench --airflow` runs, and sees what is wrong. No time is asserted."""

import builtins
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from include.queue_etl.keys.keyset_document import KeysetDocument
from tests.bench import airflow_overhead
from tests.bench.airflow_overhead import Drain, Found, WrongRows, check, table
from tests.bench.airflow_own_code import TASKS, ImportClock
from tests.bench.airflow_race import DagRun, Outcome, as_json, outcome, share
from tests.bench.airflow_runs import TaskTimes
from tests.bench.contenders import ROOT
from tests.bench.feed import feed
from tests.bench.scratch import Server
from tests.support.airflow_settings import LEAN

FINE = Outcome(lost=0, doubled=0, left=0)
TIMES = TaskTimes(instances=1, started=0.2, ended=0.9, waited=0.1, lasted=0.7, tries=1)


def run(contender, seconds, messages=100, cpu=3.0):
    parts = {"scheduler": cpu, "postgres": 1.0}
    return DagRun(contender, messages, seconds, parts, {"ReceiveMessage": 10}, FINE, {"sense": TIMES})


def test_a_run_by_the_scheduler_loads_the_right_rows_and_times_each_task():
    with tempfile.TemporaryDirectory(prefix="queue-etl-") as state:
        command = [str(ROOT / "dev"), "bench", "--airflow", "--messages=100", "--json"]
        env = {**os.environ, **LEAN, "DEV_STATE": state}
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert not list(Path(state, "bench").glob("run/*"))
    found = json.loads(run.stdout)
    runs = {one["contender"]: one for one in found["runs"]}
    assert [*runs] == ["ours", "sensible", "naive", "stock"]
    tasks = runs["ours"]["tasks"]
    assert set(tasks) == set(TASKS)
    assert sorted(tasks, key=lambda name: tasks[name]["started"]) == list(TASKS)
    assert all(task["tries"] == task["instances"] == 1 for task in tasks.values())
    assert found["runs"][0]["seconds"] >= tasks["finish"]["ended"] > tasks["finish"]["started"] > 0
    assert found["runs"][0]["cpu_seconds"]["scheduler"] > 0
    assert runs["stock"]["messages"] == 10
    bad = {name: share(name, 100) // 100 for name in runs}  # messages that are no events
    assert {name: one["outcome"] for name, one in runs.items()} == {
        name: {"lost": 0 if name == "ours" else bad[name], "doubled": 0, "left": 0} for name in runs
    }
    assert runs["naive"]["requests"]["DeleteMessage"] == runs["naive"]["messages"] == 20
    assert {name for name, one in found["race"].items() if one["cpu_ratio"] == 1} >= {"ours"}
    assert found["drains"][0]["messages"] == 100
    assert set(found["own_code"]) == set(TASKS)
    assert all(ms["cpu"] >= ms["imports"] > 0 and ms["parse"] > 0 for ms in found["own_code"].values())


def test_wrong_rows_end_the_benchmark():
    server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
    with server.database() as database, tempfile.TemporaryDirectory() as path:
        keyset = Path(path, "keyset.json")
        keyset.write_text(KeysetDocument.new().text)
        with pytest.raises(WrongRows, match=r"expected Totals\(rows=20(.|\n)*; 3 messages are left"):
            check(database, keyset, 3, feed(20))


def test_wrong_rows_print_no_figure_and_are_exit_status_1(monkeypatch, capsys):
    def wrong(*_):
        raise WrongRows("user_logins holds nothing")

    monkeypatch.setattr(airflow_overhead, "_race", wrong)
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert airflow_overhead.main() == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "\nbench: user_logins holds nothing\n")


def test_the_table_tells_what_airflow_adds_by_the_median_of_the_rounds():
    runs = [run("ours", seconds) for seconds in (9.0, 6.0, 5.0)]
    drains = [Drain(100, seconds) for seconds in (2.0, 2.5, 9.0)]
    said = table(Found(2, 0.5, {"sense": {"parse": 11, "cpu": 30, "imports": 20}}, runs, drains))
    assert "100 messages: DAG 6.0 s, drain 2.5 s, Airflow 3.5 s more" in said
    assert "sense           11          30              20" in said
    assert "sense         1       0.2       0.9       0.1       0.7      1" in said


def test_a_contender_with_fewer_messages_is_compared_by_message():
    runs = [run("ours", 1.0), run("ours", 1.0), run("naive", 1.0, messages=20), run("ours", 9.0, messages=10)]
    found = as_json(runs)
    assert (found["ours"]["cpu_ratio"], found["naive"]["cpu_ratio"]) == (1.0, 5.0)
    assert (found["ours"]["messages"], found["naive"]["wall_ratio"]) == (100, 5.0)
    assert found["ours"]["cpu_s_per_million"] == 40_000
    assert found["ours"]["requests_per_million"] == 100_000


def test_lost_and_doubled_rows_are_counted_from_the_table():
    messages = feed(100)
    rows = [
        (event["user_id"], event["device_type"], "x", "y", event["locale"], int(event["app_version"][0]))
        for event, _ in messages.events
    ]
    server = Server(os.environ["QUEUE_ETL_OWNER_DSN"])
    with server.database() as database:
        with psycopg.connect(database.owner_dsn) as connection, connection.cursor() as cursor:
            insert = "INSERT INTO public.user_logins VALUES (%s, %s, %s, %s, %s, %s, current_date)"
            cursor.executemany(insert, [*rows[3:], rows[3], rows[3]])
        # One message in a hundred is no event: neither a row nor in quarantine here.
        assert outcome(database, messages, left=0) == Outcome(lost=3 + 1, doubled=2, left=0)
        assert outcome(database, messages, left=4) == Outcome(lost=0, doubled=2, left=4)


def test_the_clock_of_imports_counts_nested_ones_once(tmp_path, monkeypatch):
    busy = "sum(range(1_000_000))\n"
    (tmp_path / "clocked_outer.py").write_text(f"{busy}import clocked_inner\n")
    (tmp_path / "clocked_inner.py").write_text(busy)
    monkeypatch.syspath_prepend(tmp_path)
    clock, usual, started = ImportClock(), builtins.__import__, time.process_time()
    with clock.running():
        import clocked_outer  # noqa: F401
    assert 0.01 < clock.seconds <= time.process_time() - started
    counted = clock.seconds
    with clock.running():
        sum(range(1_000_000))
    assert clock.seconds == counted
    assert builtins.__import__ is usual
