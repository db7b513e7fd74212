"""The engine's metrics through Airflow's own, as its task runner sets them up: StatsD and OpenTelemetry."""

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.support.ports import lasting_ports
from tests.support.python_process import run_code
from tests.support.wait import wait_until

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
EXPORTER, PROMETHEUS = "prometheus-statsd-exporter", "prometheus"
# In a process of its own: metrics are set up once in a process. As task_runner.main() does it.
EMIT = """
from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=False)
from queue_etl_observe import emit_all
from include.queue_etl.operations.metrics import of_run, open_alerts
emit_all(of_run(dict(
    contract="user_logins", state="succeeded", received=9, loaded=7, quarantined=2, duplicates=0, deleted=9,
    delete_failed=None, extract_seconds=1.5, mask_seconds=0.25, load_seconds=0.5, finish_seconds=0.1,
    total_seconds=4.0,
)))
emit_all([open_alerts("", 3)])
import os
os._exit(0)  # as a task's process ends: nothing is done at exit
"""


def emit(**metrics: object) -> str:
    """Emit the figures of a run with these settings of Airflow's section `metrics`; what was logged."""
    given = {f"AIRFLOW__METRICS__{name.upper()}": str(value) for name, value in metrics.items()}
    environment = {**os.environ, **given, "PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}"}
    done = run_code(EMIT, environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@contextmanager
def udp() -> Iterator[tuple[int, Callable[[], list[str]]]]:
    """A port, and what came there so far."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        came: list[str] = []

        def lines() -> list[str]:
            try:
                while True:
                    came.extend(server.recv(65_536).decode().splitlines())
            except TimeoutError:
                return came

        yield server.getsockname()[1], lines


def test_statsd_without_tags_has_the_contract_in_the_name() -> None:
    with udp() as (port, lines):
        emit(statsd_on=True, statsd_host="127.0.0.1", statsd_port=port)
        wait_until(lambda: any("alerts.open" in line for line in lines()))
        ours = {line for line in lines() if "queue_etl" in line}
    assert {
        "airflow.queue_etl.run.succeeded.user_logins:1|c",
        "airflow.queue_etl.run.loaded.user_logins:7|c",
        "airflow.queue_etl.run.quarantined.user_logins:2|c",
        "airflow.queue_etl.run.duplicates.user_logins:0|c",
        "airflow.queue_etl.run.mask_seconds.user_logins:0.25|g",
        "airflow.queue_etl.alerts.open.default:3|g",
    } <= ours


def test_statsd_with_tags_has_the_contract_as_a_tag() -> None:
    with udp() as (port, lines):
        emit(statsd_on=True, statsd_host="127.0.0.1", statsd_port=port, statsd_influxdb_enabled=True)
        wait_until(lambda: any("alerts.open" in line for line in lines()))
        assert "airflow.queue_etl.run.loaded,contract=user_logins:7|c" in lines()


def test_where_no_metrics_are_configured_nothing_is_emitted() -> None:
    assert "queue_etl" not in emit()


def test_opentelemetry_gets_them_before_the_process_of_the_task_ends() -> None:
    came: list[ExportMetricsServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        emit(otel_on=True, otel_host="127.0.0.1", otel_port=server.server_port, otel_ssl_active=False)
    finally:
        server.shutdown()
        server.server_close()
    found = {metric.name: metric for metric in _metrics(came) if "queue_etl" in metric.name}
    loaded = found["airflow.queue_etl.run.loaded"].sum.data_points[0]
    assert (loaded.as_int or loaded.as_double, _attributes(loaded)) == (7, {"contract": "user_logins"})
    seconds = found["airflow.queue_etl.run.mask_seconds"].gauge.data_points[0]
    assert (seconds.as_double, _attributes(seconds)) == (0.25, {"contract": "user_logins"})
    assert "airflow.queue_etl.alerts.open" in found


def _metrics(came: list[ExportMetricsServiceRequest]) -> Iterator[Any]:
    for request in came:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                yield from scope.metrics


def _attributes(point: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in point.attributes}


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A program, ended at the end; it listens on 127.0.0.1 alone."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def asked(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.skipif(
    not (shutil.which(EXPORTER) and shutil.which(PROMETHEUS)),
    reason=f"{EXPORTER} and {PROMETHEUS} are not installed",
)
def test_prometheus_has_them_under_the_names_of_rules_and_dashboard(tmp_path: Path) -> None:
    statsd, exporter, prometheus = lasting_ports(["statsd", EXPORTER, PROMETHEUS]).values()
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    config = re.sub("scrape_interval: .*", "scrape_interval: 1s", config)
    config = config.replace("statsd-exporter:9102", f"127.0.0.1:{exporter}")
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    with (
        running(
            EXPORTER, f"--web.listen-address=127.0.0.1:{exporter}", f"--statsd.listen-udp=127.0.0.1:{statsd}",
            "--statsd.listen-tcp=", f"--statsd.mapping-config={DEPLOY / 'statsd-exporter' / 'mapping.yml'}",
        ),
        running(
            PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ),
    ):  # fmt: skip
        wait_until(lambda: answers(exporter, "/metrics"))
        emit(statsd_on=True, statsd_host="127.0.0.1", statsd_port=statsd)
        query = "/api/v1/query?query=queue_etl_run_loaded_total"
        wait_until(lambda: answers(prometheus, query) and bool(asked(prometheus, query)["data"]["result"]))
        (found,) = asked(prometheus, query)["data"]["result"]
        assert found["metric"]["contract"] == "user_logins"
        assert found["value"][1] == "7"
        (alerts,) = asked(prometheus, "/api/v1/query?query=queue_etl_alerts_open")["data"]["result"]
        assert (alerts["metric"]["warehouse"], alerts["value"][1]) == ("default", "3")
        rules = asked(prometheus, "/api/v1/rules")["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
