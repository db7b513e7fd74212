"""`./dev bench --observability`: the order of turns, what is compared, and that nothing seen is no result."""

import io
import json
import socket
from collections import Counter
from pathlib import Path

import pytest

from devstack.console import Console
from tests.bench import airflow_observability as bench
from tests.bench.airflow_race import DagRun, Outcome
from tests.bench.airflow_runs import RunFailed

SECONDS = {"off": 4.0, "all on": 4.1, "metrics": 4.0}


def run(name: str, messages: int) -> DagRun:
    cpu = {"scheduler": SECONDS[name] * messages / 100 - 1, "postgres": 1.0}
    return DagRun(name, messages, 9.0, cpu, {}, Outcome(0, 0, 0), {})


def test_arms_take_turns_and_are_compared_with_what_is_off() -> None:
    ran: list[tuple[str, int]] = []

    def remembered(name: str, messages: int) -> DagRun:
        ran.append((name, messages))
        return run(name, messages)

    found = bench.measure(remembered, [*SECONDS], [100, 200], 3, Console(io.StringIO()))
    assert ran[:3] == [(name, 100) for name in SECONDS]  # not counted
    assert Counter(ran[3:]) == {(name, count): 3 for name in SECONDS for count in (100, 200)}
    assert {name for name, _ in ran[3::6]} == {*SECONDS}  # each is the first of a round
    shown = found.as_json()
    figures = shown["runs"]
    assert (shown["load"], [*figures]) == (found.load, ["100", "200"])
    assert figures["100"]["off"] == {"cpu_s_a_run": 4.0}
    assert figures["100"]["all on"]["ratio"] == 1.025
    assert figures["200"]["all on"]["cpu_s_a_run"] == 8.2
    assert "metrics" in found.table()


def differs(arm: dict[str, str], off: dict[str, str]) -> set[str]:
    return {name for name, value in arm.items() if off.get(name) != value}


def test_off_has_nothing_and_on_has_all(tmp_path: Path) -> None:
    with pytest.raises(RunFailed), bench.arms(tmp_path) as arms:
        off, on = arms["off"], arms["all on"]
    assert [*arms] == ["off", "all on"]
    assert not any("STATSD" in name or "ALERT" in name or "JSON_LOGS" in name for name in off)
    assert on["AIRFLOW__METRICS__STATSD_ON"] == on["AIRFLOW__LOGGING__JSON_LOGS"] == "True"
    assert on["AIRFLOW__OPENLINEAGE__DISABLED"] == "False"
    assert off["AIRFLOW__OPENLINEAGE__DISABLED"] == "True"
    plugins = {path.name for path in Path(off["AIRFLOW__CORE__PLUGINS_FOLDER"]).glob("*.py")}
    assert "queue_etl_connections.py" in plugins
    assert not any(name.startswith("queue_etl_page") for name in plugins)


def test_apart_each_part_is_on_alone(tmp_path: Path) -> None:
    with pytest.raises(RunFailed), bench.arms(tmp_path, apart=True) as arms:
        off, on, *others = arms.values()
    assert [*arms][2:] == ["metrics", "JSON logs", "lineage"]
    parts = [differs(one, off) for one in others]
    assert all(parts)
    together = sorted(name for part in parts for name in part)
    assert together == sorted(differs(on, off) - {"QUEUE_ETL_ALERT_URLS"})


def test_a_result_of_which_nothing_was_seen_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="has not written of any finish"), bench.arms(tmp_path):
        pass
    bench.events(tmp_path).write_text(json.dumps({"job": {"name": "user_logins.finish"}}))
    with pytest.raises(RunFailed, match="no metric came"), bench.arms(tmp_path):
        pass
    with bench.arms(tmp_path) as arms, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"airflow.ti:1|c", (bench.HOST, int(arms[bench.ON]["AIRFLOW__METRICS__STATSD_PORT"])))
