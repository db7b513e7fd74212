"""Alerts, metrics, rules and dashboard say the same, in code, in docs/operations.md and in deploy/."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from include.contracts.user_logins import CONTRACT
from include.queue_etl.operations import causes, metrics
from include.queue_etl.operations.causes import QueueState, RunFacts, Seen
from include.queue_etl.operations.metrics import Metric
from include.queue_etl.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 26, tzinfo=UTC)
SEEN = Seen(NOW, RunFacts(), QueueState(1, 1, 1, 1, 1))
MAPPINGS = yaml.safe_load((DEPLOY / "statsd-exporter" / "mapping.yml").read_text())["mappings"]
PREFIX = re.compile(r"queue_etl_[a-z_0-9]+")


def emitted() -> list[Metric]:
    """Every metric there is, once."""
    runs = [
        metrics.of_run(
            dict.fromkeys((*metrics.COUNTED, *metrics.STAGES), 1.0)
            | {"state": state, "contract": "user_logins"}
        )
        for state in ("succeeded", "failed")
    ]
    found = [*runs[0], *runs[1], *metrics.of_queue("user_logins", SEEN), metrics.open_alerts("", 0)]
    return list({one.name: one for one in found}.values())


def mapped(metric: Metric) -> tuple[str, dict[str, str]]:
    """What the exporter of StatsD makes of it: its name in Prometheus, and its labels."""
    given = f"airflow.{metric.name}.{metric.contract}"
    for mapping in MAPPINGS:
        pattern = re.escape(mapping["match"]).replace(r"\*", r"([^.]+)")
        found = re.fullmatch(pattern, given)
        if found and mapping["match_metric_type"] == metric.kind:

            def filled(text: str, found: re.Match[str] = found) -> str:
                return re.sub(r"\$\{?(\d)\}?", lambda place: found[int(place[1])], text)

            return filled(mapping["name"]), {name: filled(text) for name, text in mapping["labels"].items()}
    raise AssertionError(f"no mapping for {given} as {metric.kind}")


NAMES = {mapped(metric)[0] for metric in emitted()}


def test_every_metric_has_a_name_and_its_contract_in_prometheus() -> None:
    assert mapped(emitted()[0]) == ("queue_etl_run_succeeded_total", {"contract": "user_logins"})
    assert mapped(emitted()[-1]) == ("queue_etl_alerts_open", {"warehouse": "default"})
    assert {"queue_etl_queue_oldest_age_seconds", "queue_etl_run_total_seconds"} <= NAMES


def test_the_page_lists_every_metric_with_its_kind_and_no_other() -> None:
    listed = {
        name: kind
        for cells, kind in re.findall(r"^\| ((?:`queue_etl\.[^|]+)) \| (\w+) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(queue_etl\.[\w.]+)`", cells)
    }
    assert listed == {one.name: one.kind for one in emitted()}


def test_rules_and_dashboard_name_metrics_that_there_are() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    board = json.loads((DEPLOY / "grafana" / "queue_etl.json").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for one in asked for name in PREFIX.findall(one)}
    assert len(named) > 12
    assert named <= NAMES


def test_every_rule_says_what_helps_and_has_a_test() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yml").read_text())["tests"]
    raised = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    quiet = {one["alertname"] for test in tests for one in test["alert_rule_test"] if not one["exp_alerts"]}
    names = {rule["alert"] for rule in rules}
    assert raised == names
    assert names <= quiet
    assert all(rule["annotations"]["remedy"] for rule in rules)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_the_rules_of_prometheus_hold_what_their_tests_say() -> None:
    command = ["promtool", "test", "rules", str(DEPLOY / "prometheus" / "rules.test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_lists_every_kind_of_alert_and_no_other() -> None:
    kinds = {one.kind for one in causes.findings(CONTRACT, SEEN, Settings(staging="/"))}
    kinds |= {causes.broken_finding("c", None, NOW).kind, causes.ledger_finding(False, NOW).kind}
    kinds |= {causes.key_finding(None, NOW, 1).kind, causes.verify_finding("c", "d", [], NOW).kind}
    section = PAGE[PAGE.index("## Alerts") : PAGE.index("### The watch itself")]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == kinds


def test_every_section_of_the_page_is_in_its_index() -> None:
    index = PAGE[PAGE.index("## Find what you see") : PAGE.index("## Commands")]
    found = set(re.findall(r"\]\(#([\w-]+)\)", index))
    faults = [part for part in PAGE.split("\n## ")[1:] if "| fault |" in part]
    of_faults = {re.sub(r"[^\w -]", "", part.splitlines()[0].lower()).replace(" ", "-") for part in faults}
    assert of_faults - {"alerts", "archived-messages"} <= found
