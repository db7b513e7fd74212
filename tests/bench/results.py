"""What a race showed, as JSON and as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.contenders import BASELINES, Used

LABELS = {
    "before": "ours, the code before",
    "by-batch": "ours, a process a batch",
    "drain": "ours, one process",
    "at-least-once": "sensible, at least once",
}
LINE = "{:<24}{:>11}{:>10}{:>10}{:>12}{:>12}{:>11}".format
HEAD = LINE("CPU s per 1M messages", "messages", "client", "Postgres", "messages/s", "peak RSS", "stub CPU")


@dataclass
class Result:
    """What one contender used, all rounds together.

    Attributes:
        stages: client processes by stage
        extract_seconds: wall time of receiving and sealing, without start-up; 0 for baselines
    """

    messages: int = 0
    stages: dict[str, Used] = field(default_factory=dict)
    postgres_cpu_seconds: float = 0.0
    stub_cpu_seconds: float = 0.0
    extract_seconds: float = 0.0

    @property
    def client(self) -> Used:
        """All processes together, start-up included."""
        total = Used()
        for used in self.stages.values():
            total.add(used)
        return total

    def per_million(self, seconds: float) -> float:
        """Seconds for a million messages."""
        return round(seconds * 1e6 / self.messages, 2)

    def as_json(self) -> dict[str, Any]:
        """The figures, in the units of the names."""
        client = self.client
        return {
            "client_cpu_s_per_million": self.per_million(client.cpu_seconds),
            "postgres_cpu_s_per_million": self.per_million(self.postgres_cpu_seconds),
            "messages_per_s": round(self.messages / client.wall_seconds),
            "peak_rss_mb": round(client.peak_rss_mb, 1),
            "stages": {name: self.per_million(used.cpu_seconds) for name, used in self.stages.items()},
        }


def as_json(messages: int, results: Mapping[str, Result]) -> dict[str, Any]:
    """The results, with how many times ours each baseline takes a message: CPU, and wall time."""
    ratios = {}
    for name in compared(results):
        ours, other = results["ours"], results[name]
        cpu, wall = _ratio(ours, other, "cpu_seconds"), _ratio(ours, other, "wall_seconds")
        ratios[name] = {"client_cpu": cpu, "wall": wall}
    shown = {name: result.as_json() for name, result in results.items()}
    return {"messages": messages, **shown, "ratios": ratios}


def table(results: Mapping[str, Result], latency_ms: float) -> str:
    """The results for people."""
    lines = [HEAD]
    for name, result in results.items():
        lines += _lines(name, result)
    for name, ratios in as_json(0, results)["ratios"].items():
        postgres = _postgres_ratio(results["ours"], results[name])
        lines.append(
            f"{name} / ours: client CPU {ratios['client_cpu']:.3g}, wall {ratios['wall']:.3g}, "
            f"Postgres CPU {postgres:.3g}"
        )
    if "ours" in results:
        speed = results["ours"].messages / results["ours"].extract_seconds
        lines.append(f"ours receives and seals {speed:,.0f} messages/s, at {latency_ms:g} ms latency a call")
    return "\n".join(lines)


def compared(results: Mapping[str, Result]) -> list[str]:
    """The baselines that ran beside ours, and our own code of another checkout."""
    return [name for name in results if name in {*BASELINES, "before"} and "ours" in results]


def _lines(name: str, result: Result) -> list[str]:
    shown = result.as_json()
    speed, peak = f"{shown['messages_per_s']:,}", f"{shown['peak_rss_mb']:.0f} MB"
    stub = result.per_million(result.stub_cpu_seconds)
    client, postgres = shown["client_cpu_s_per_million"], shown["postgres_cpu_s_per_million"]
    lines = [LINE(LABELS.get(name, name), f"{result.messages:,}", client, postgres, speed, peak, stub)]
    if len(result.stages) > 1:
        lines += [_stage_line(stage, used, result) for stage, used in result.stages.items()]
    return lines


def _stage_line(stage: str, used: Used, result: Result) -> str:
    processes = f"{used.processes} pr."
    speed, peak = f"{result.messages / used.wall_seconds:,.0f}", f"{used.peak_rss_mb:.0f} MB"
    return LINE(f"  {stage}", processes, result.per_million(used.cpu_seconds), "", speed, peak, "").rstrip()


def _ratio(ours: Result, other: Result, what: str) -> float:
    per_message = [getattr(result.client, what) / result.messages for result in (other, ours)]
    return round(per_message[0] / per_message[1], 2)


def _postgres_ratio(ours: Result, other: Result) -> float:
    return (other.postgres_cpu_seconds / other.messages) / (ours.postgres_cpu_seconds / ours.messages)
