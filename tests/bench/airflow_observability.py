"""What it costs to see a pipeline: CPU of DAG runs with all of it on, against the same with all of it off.

    ./dev bench --observability [--apart] [--messages N] [--rounds N] [--json]

Each arm is a stack of its own, which idles while another works. They take turns, in every round in another
order; counted is the CPU time of all processes of the arm's Airflow, of tasks and of its Postgres, from the
trigger to two seconds after the end. The DAG files are parsed once: how often they are parsed again has
nothing to do with a run. Metrics go to a socket of this process, lineage into a file.
"""

import json
import os
import shutil
import socket
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.console import Console
from tests.bench.airflow_race import DagRun
from tests.bench.airflow_runs import RunFailed
from tests.bench.contenders import ROOT
from tests.bench.turns import Turns
from tests.support.airflow_settings import PARSED_ONCE

HOST = "127.0.0.1"
OFF, ON = "off", "all on"
METRICS, LOGS, LINEAGE = "metrics", "JSON logs", "lineage"
UNIT = "cpu_s_a_run"
LONGEST = 65_536  # bytes of a datagram
PAGE = "queue_etl_page*.py"


@dataclass(frozen=True)
class Found:
    """CPU seconds of runs, by their messages.

    Attributes:
        load: the machine's load average of a minute before a round, in the median; the stacks are part of it
    """

    load: float
    turns: Mapping[int, Turns]

    def as_json(self) -> dict[str, Any]:
        """The load and, by messages, what `Turns` says."""
        return {
            "load": self.load,
            "runs": {f"{count:,}": turns.as_json() for count, turns in self.turns.items()},
        }

    def table(self) -> str:
        """For people."""
        tables = [turns.table() for turns in self.turns.values()]
        return "\n\n".join([f"load {self.load}", *tables])


@contextmanager
def arms(folder: Path, apart: bool = False) -> Iterator[dict[str, dict[str, str]]]:
    """The variables of each arm, the first of which is off; the socket that takes the metrics is open.

    Args:
        folder: gets the lineage
        apart: there is also an arm for each part that may cost something, with that part alone

    Raises:
        RunFailed: at the end, where nothing was seen of the runs: then nothing was measured either
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind((HOST, 0))
        parts = _parts(folder, sink.getsockname()[1])
        common = {**PARSED_ONCE, "AIRFLOW__OPENLINEAGE__DISABLED": "True"}
        off = {**common, "AIRFLOW__CORE__PLUGINS_FOLDER": str(_plugins_without_page(folder))}
        alerts = {"QUEUE_ETL_ALERT_URLS": f"json://{HOST}:9/"}
        yield {
            OFF: off,
            ON: {**common, **alerts, **parts[METRICS], **parts[LOGS], **parts[LINEAGE]},
            **({name: {**off, **part} for name, part in parts.items()} if apart else {}),
        }
        require_observed(folder, sink)


def _parts(folder: Path, port: int) -> dict[str, dict[str, str]]:
    """What switches each of them on, with metrics sent to that port."""
    transport = {"type": "file", "log_file_path": str(events(folder)), "append": True}
    return {
        METRICS: {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": HOST,
            "AIRFLOW__METRICS__STATSD_PORT": str(port),
        },
        LOGS: {"AIRFLOW__LOGGING__JSON_LOGS": "True"},
        LINEAGE: {
            "AIRFLOW__OPENLINEAGE__DISABLED": "False",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        },
    }


def _plugins_without_page(folder: Path) -> Path:
    """A copy of the plugins, without those of the page."""
    copy = folder / "plugins-without-page"
    ignored = shutil.ignore_patterns(PAGE, "__pycache__")
    shutil.copytree(ROOT / "plugins", copy, ignore=ignored, dirs_exist_ok=True)
    return copy


def events(folder: Path) -> Path:
    """Where lineage is written."""
    return folder / "lineage.jsonl"


def require_observed(folder: Path, sink: socket.socket) -> None:
    """Raises RunFailed where no lineage was written, or no metric of a run came."""
    file = events(folder)
    text = file.read_text() if file.exists() else ""
    if '"name":"user_logins.finish"' not in text.replace(": ", ":"):
        raise RunFailed("OpenLineage has not written of any finish")
    sink.setblocking(False)
    try:
        sink.recv(LONGEST)
    except BlockingIOError:
        raise RunFailed("no metric came") from None


def measure(
    run: Callable[[str, int], DagRun],
    names: Sequence[str],
    counts: Sequence[int],
    rounds: int,
    console: Console,
) -> Found:
    """Every arm runs so many messages in turn, `rounds` times, after a run of each that is not counted.

    Args:
        run: starts a run of so many messages in an arm, and waits for its end
        names: of the arms; the others are compared with the first
        counts: of messages
        rounds: how often
        console: gets the progress
    """
    for name in names:
        with console.step(f"{name}: a run that is not counted"):
            run(name, counts[0])
    seconds: dict[int, dict[str, list[float]]] = {count: {name: [] for name in names} for count in counts}
    loads = []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for count in counts:
            for name in turned(names, number):
                with console.step(f"round {number + 1}, {name}: {count:,} messages"):
                    seconds[count][name].append(sum(run(name, count).cpu_seconds.values()))
    turns = {count: Turns(f"{count:,} messages", UNIT, 1.0, of_count) for count, of_count in seconds.items()}
    return Found(round(statistics.median(loads), 2), turns)


def turned(names: Sequence[str], number: int) -> list[str]:
    """The names in an order that differs by round: each is first as often as the others."""
    start = number % len(names)
    return [*names[start:], *names[:start]]
