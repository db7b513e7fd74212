"""The benchmark runs, and its checks see what is wrong. No time is asserted."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from devstack.bench import CONTENDERS as NAMES
from include.queue_etl.keys.keyset_document import KeysetDocument
from tests.bench.__main__ import share
from tests.bench.checks import problems_of_bookkeeping, problems_of_rows
from tests.bench.contenders import CONTENDERS, ROOT, ContenderFailed, Race, Used
from tests.bench.feed import MALFORMED, Feed, feed
from tests.bench.results import Result, as_json, table
from tests.bench.scratch import Server
from tests.bench.turns import Turns
from tests.bench.upsert import ratio

MESSAGES = 300


@pytest.fixture(scope="module")
def server():
    return Server(os.environ["QUEUE_ETL_OWNER_DSN"])


def test_every_contender_loads_the_right_rows():
    command = [sys.executable, "-m", "tests.bench", f"--messages={MESSAGES}", "--json", f"--baseline={ROOT}"]
    run = subprocess.run(
        [*command, f"--only={','.join(NAMES)}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(found) == {"messages", "ratios", "before", "mask", *NAMES}
    assert set(found["mask"]) == {"user_logins", "typed", "before"}
    assert found["mask"]["typed"]["ratio"] > 0
    assert "ratio" not in found["mask"]["user_logins"]
    assert found["messages"] == MESSAGES
    assert set(found["ours"]["stages"]) == {"extract", "mask", "load", "finish"}
    assert set(found["before"]["stages"]) == set(found["ours"]["stages"])
    assert set(found["ratios"]) == {"sensible", "naive", "at-least-once", "before"}
    assert all(found[name]["client_cpu_s_per_million"] > 0 for name in NAMES)


def test_the_launcher_names_the_contenders_there_are():
    assert {*NAMES, "before"} == set(CONTENDERS)


def test_loads_are_measured_by_the_number_of_partitions():
    command = [sys.executable, "-m", "tests.bench", "--partitions=1,3", f"--messages={MESSAGES}", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(found) == {"load", "first_of_a_session"}
    assert all(set(figures) == {"1 partitions", "3 partitions"} for figures in found.values())
    assert found["load"]["3 partitions"]["ratio"] > 0


def test_an_upsert_is_measured_beside_appends():
    sizes = ["--rounds=1", "--present=20000", "--rows=30000"]
    command = [sys.executable, "-m", "tests.bench.upsert", *sizes, "--recent"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = {name: figures for name, *figures in map(str.split, run.stdout.splitlines()[2:])}
    assert list(found) == ["append", "indexed", "upsert", "conflict", "least"]
    assert found["append"][1] == found["indexed"][2] == "1.00"
    assert all(float(figure) > 0 for figures in found.values() for figure in figures)


def test_drains_at_once_share_the_messages():
    command = [sys.executable, "-m", "tests.bench", "--drains=1,2", f"--messages={MESSAGES}", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["drains"]
    assert set(found) == {"1", "2"}
    assert all(one["messages"] == MESSAGES and one["messages_per_s"] > 0 for one in found.values())


def test_a_day_is_measured_with_little_and_with_much_memory():
    command = [sys.executable, "-m", "tests.bench.one_day", "--today=2000", "--messages=300", "--rounds=1"]
    with tempfile.TemporaryDirectory(prefix="queue-etl-") as state:
        env = {**os.environ, "DEV_STATE": state}
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert set(found["load"]) == {"empty", "1GB", "128MB"}
    assert all(one["log_bytes_a_message"] > 0 for one in found["load"].values())
    assert all(size > 40 for size in found["bytes_a_message"].values())


def test_a_ratio_is_the_median_of_those_of_single_turns():
    seconds = {"one": [1.0, 2.0, 3.0, 4.0, 5.0], "two": [2.0, 4.0, 6.6, 8.0, 50.0]}
    found = Turns("load", "ms", 1_000, seconds).as_json()
    assert found == {"one": {"ms": 3_000}, "two": {"ms": 6_600, "ratio": 2.0, "between": [2.0, 10.0]}}
    assert Turns("load", "ms", 1_000, seconds).table().splitlines()[2].split() == [
        "two",
        "6600.0",
        "2.0",
        "2.000-10.000",
    ]


def test_wrong_rows_are_seen(server):
    messages = feed(20)
    with server.database() as database, tempfile.TemporaryDirectory() as path:
        keyset = Path(path, "keyset.json")
        keyset.write_text(KeysetDocument.new().text)
        assert "expected Totals(rows=20" in problems_of_rows(database, messages)[0]
        assert len(problems_of_bookkeeping(database, messages, keyset)) == 3


def test_a_process_that_fails_ends_the_race():
    race = Race(1, dict(os.environ), print)
    with pytest.raises(ContenderFailed, match=r"task failed: (.|\n)*ZeroDivisionError"):
        race.process("task", "-c", "1 / 0")


def test_what_a_process_uses_is_metered():
    race = Race(1, dict(os.environ), print)
    said = race.process("task", "-c", "x = bytearray(50_000_000); sum(range(3_000_000)); print('done')")
    assert said == "done"
    used = race.stages["task"]
    assert used.processes == 1
    assert used.cpu_seconds > 0
    assert used.peak_rss_mb > 50


def test_the_meter_does_not_count_the_memory_of_the_benchmark_itself():
    ballast = bytearray(b"x") * 150_000_000
    race = Race(1, dict(os.environ), print)
    race.process("task", "-c", "pass")
    assert race.stages["task"].peak_rss_mb < 60
    assert ballast


def test_the_server_tells_the_time_of_sessions_that_have_ended(server):
    before = server.cpu_seconds()
    with server.database() as database:
        database.rows("SELECT sum(number) FROM generate_series(1, 2000000) AS number")
    assert server.cpu_seconds() - before >= 0.05


def test_a_session_that_ends_while_the_server_is_read_is_timed(server, monkeypatch):
    # The server's own time lacks that of process 2 when 2 is gone: it was read just before.
    looks = iter([{1: 10, 2: 5}, {1: 10}, {1: 15}])
    monkeypatch.setattr(server, "_ticks", lambda: next(looks))
    assert server.cpu_seconds() == 15 / os.sysconf("SC_CLK_TCK")


def test_a_ratio_to_what_took_less_than_a_tick_is_not_told():
    assert (ratio(3.0, 2.0), ratio(3.0, 0.0)) == ("1.50", "-")


def test_one_message_in_a_hundred_is_malformed_and_half_are_of_known_users():
    messages = feed(10_000)
    assert messages.rejected == 100
    assert messages.totals.rows == 9_900
    assert 4_900 <= messages.totals.users <= 5_100
    assert feed(10_000).bodies == messages.bodies


def test_a_feed_that_repeats_its_bodies_knows_how_often():
    event = b'{"user_id": "u", "app_version": "3.1", "ip": "1.2.3.4", "device_id": "d"}'
    messages = Feed([event, MALFORMED[0]], count=5)
    assert (messages.totals.rows, messages.rejected) == (3, 2)
    assert messages.totals.versions == 9
    assert messages.secrets["u", "1.2.3.4", "d"] == 3


@pytest.mark.parametrize(
    ("name", "messages", "expected"),
    [
        ("naive", 200_000, 5_000),
        ("naive", 1_000_000, 25_000),
        ("naive", 100, 100),
        ("ours", 200_000, 200_000),
    ],
)
def test_the_naive_baseline_gets_a_part_of_the_messages(name, messages, expected):
    assert share(name, messages) == expected


def test_ratios_are_by_message():
    ours = Result(1_000, {"all": Used(2.0, 4.0, 50.0, 1)}, postgres_cpu_seconds=1.0, extract_seconds=1.0)
    naive = Result(10, {"task": Used(1.0, 1.0, 60.0, 1)}, postgres_cpu_seconds=0.1)
    found = as_json(1_000, {"ours": ours, "naive": naive})
    assert found["ratios"] == {"naive": {"client_cpu": 50.0, "wall": 25.0}}
    assert found["ours"]["client_cpu_s_per_million"] == 2_000
    assert "naive / ours: client CPU 50, wall 25, Postgres CPU 10" in table({"ours": ours, "naive": naive}, 0)
