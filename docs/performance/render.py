"""Renders what `./dev bench --json` wrote: results.svg, and tables in ../performance.md and ../scaling.md.

airflow.json holds a run with --airflow, freshness.json one with --freshness and --rates, backlog.json one
with --backlog, drains.json one with --drains, idle.json one with --idle, observability.json one with
--observability. results.json holds a run of the engine and its two baselines, sizes-*.json runs of ours
alone, mask.json one with --baseline, partitions.json one with --partitions, day.json what
tests/bench/one_day.py printed. A table whose file is not there stays as it is. Needs nothing installed:
`python docs/performance/render.py`.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE.parent / "performance.md", HERE.parent / "scaling.md")
RACE = {
    "ours": "ours",
    "before": "ours, the code before",
    "sensible": "sensible, in one task",
    "naive": "naive, in one task",
    "stock": "SqsSensor and a task",
}
DOLLARS = 0.4  # of a million requests to a standard queue, beyond the first million of a month
PARTS = {"extract": "#1f6f8b", "mask": "#3fa796", "load": "#9bc53d", "finish": "#f2a541", "task": "#8d99ae"}
POSTGRES = "#d1495b"
WIDTH, LEFT, BAR, GAP, TOP = 860, 90, 34, 26, 64
SCALE_WIDTH = WIDTH - LEFT - 150


def main() -> None:
    """Writes the chart and the tables; again changes nothing."""
    results = _read("results")
    (HERE / "results.svg").write_text(chart(results))
    sizes = [json.loads(path.read_text()) for path in HERE.glob("sizes-*.json")]
    sizes = sorted([*sizes, results], key=lambda result: result["messages"])
    names = "airflow freshness backlog drains mask observability partitions idle day"
    found = {name: _read(name) for name in names.split()}
    blocks: dict[str, tuple[Any, Callable[[Any], list[str]]]] = {
        "results": (results, _comparison),
        "sizes": (sizes, _sizes),
        "race": (found["airflow"], _race),
        "bill": (found["airflow"], _bill),
        "share": (found["airflow"], _share),
        "freshness": (found["freshness"], _freshness),
        "backlog": (found["backlog"], _backlog),
        "drains": (found["drains"], _drains),
        "observability": (found["observability"], _observability),
        "mask": (found["mask"], lambda mask: _turns(mask["mask"], "CPU us a message")),
        "partitions": (found["partitions"], lambda one: _turns(one["load"], "CPU s for a million rows")),
        "idle": (found["idle"], _idle),
        "idle-runs": (found["idle"], _idle_runs),
        "day": (found["day"], _day),
        "day-loads": (found["day"], _day_loads),
    }
    lines = {name: table(result) for name, (result, table) in blocks.items() if result}
    for page in PAGES:
        page.write_text(_filled(page.read_text(), lines))


def _filled(page: str, blocks: dict[str, list[str]]) -> str:
    """The page with these blocks between their markers; others stay."""
    for name, lines in blocks.items():
        block = "\n".join([f"<!-- {name} -->", *lines, f"<!-- end of {name} -->"])
        page = re.sub(
            f"<!-- {name} -->.*<!-- end of {name} -->", lambda _, new=block: new, page, flags=re.DOTALL
        )
    return page


def _read(name: str) -> Any:
    """What the file of that name holds; None where there is none."""
    path = HERE / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _race(found: dict[str, Any]) -> list[str]:
    """Contenders as DAGs; nothing where the file is of a benchmark that had none."""
    return _rows(
        ("", "messages", "messages/s", "CPU s per 1M: Airflow", "Postgres", "CPU / ours", "lost", "doubled"),
        [
            (
                RACE[name],
                f"{one['messages']:,}",
                f"{one['messages_per_s']:,.0f}",
                f"{one['airflow_cpu_s_per_million']:,.0f}",
                f"{one['postgres_cpu_s_per_million']:,.0f}",
                one["cpu_ratio"],
                one["lost"],
                one["doubled"],
            )
            for name, one in found["race"].items()
        ],
    )


def _bill(found: dict[str, Any]) -> list[str]:
    """What a million messages take of SQS and of a core, with messages that wait already."""
    return _rows(
        ("a million messages", "SQS requests", "US$ for them", "CPU hours"),
        [
            (
                RACE[name],
                f"{one['requests_per_million']:,}",
                f"{one['requests_per_million'] / 1e6 * DOLLARS:.2f}",
                f"{one['cpu_s_per_million'] / 3600:.2f}",
            )
            for name, one in found["race"].items()
        ],
    )


def _share(found: dict[str, Any]) -> list[str]:
    """DAG runs of ours beside drain; medians."""
    counts = sorted({run["messages"] for run in found["drains"]})
    rows = []
    for count in counts:
        runs = [one for one in found["runs"] if one["contender"] == "ours" and one["messages"] == count]
        dag, cpu = _median(one["seconds"] for one in runs), _median(_cpu(one) for one in runs)
        drain = _median(one["seconds"] for one in found["drains"] if one["messages"] == count)
        tasks = sum(task["instances"] for task in runs[-1]["tasks"].values())
        rows.append((f"{count:,}", tasks, f"{dag:.1f} s", f"{drain:.1f} s", f"{cpu:.1f} s"))
    return _rows(("messages", "tasks", "trigger to success", "`./dev drain`", "CPU, with Postgres"), rows)


def _freshness(found: dict[str, Any]) -> list[str]:
    """By sender; p95 is from just before sending to the commit of the row."""
    costs = ("runs", "SQS requests", "CPU s: Airflow", "Postgres")
    names = ("messages/s", "p50", "p95", "most", *costs, "lost", "doubled")
    return _rows(
        names,
        [
            (
                f"{one['rate']:g}",
                *(f"{one[name]:.1f} s" for name in ("p50", "p95", "most")),
                one["dag_runs"],
                f"{sum(one['requests'].values()):,}",
                f"{sum(one['cpu_seconds'].values()) - one['cpu_seconds']['postgres']:.0f}",
                f"{one['cpu_seconds']['postgres']:.0f}",
                one["lost"],
                one["doubled"],
            )
            for one in found["ours"]["freshness"]
        ],
    )


def _backlog(found: dict[str, Any]) -> list[str]:
    names = ("", "messages", "messages/s", "seconds", "noticed after", "runs", "CPU s", "lost", "doubled")
    rows = []
    for name, of_one in found.items():
        one = of_one["backlog"]
        shown = (
            f"{one['messages']:,}",
            f"{one['messages_per_s']:,.0f}",
            one["seconds"],
            one["noticed_after"],
        )
        cpu, outcome = sum(one["cpu_seconds"].values()), one["outcome"]
        rows.append((RACE[name], *shown, one["dag_runs"], f"{cpu:.0f}", outcome["lost"], outcome["doubled"]))
    return _rows(names, rows)


def _drains(found: dict[str, Any]) -> list[str]:
    names = (
        f"drains, {found['latency_ms']:g} ms a call",
        "messages/s",
        "seconds",
        "CPU s: client",
        "Postgres",
    )
    return _rows(
        names,
        [
            (
                count,
                f"{one['messages_per_s']:,}",
                one["seconds"],
                one["client_cpu_s"],
                one["postgres_cpu_s"],
            )
            for count, one in found["drains"].items()
        ],
    )


def _observability(found: dict[str, Any]) -> list[str]:
    """By messages of a run: each arm against the first."""
    rows = []
    for count, of_count in found["runs"].items():
        for name, figures in of_count.items():
            seconds, *compared = figures.values()
            ratio, (low, high) = compared or ("1", ("", ""))
            rows.append((count, name, seconds, ratio, f"{low} and {high}" if low else ""))
    return _rows(("messages", "", "CPU s a run", "ratio", "95 % between"), rows)


def _idle(found: dict[str, Any]) -> list[str]:
    """Shares of a core by part, of Airflows that idled at the same time; the first one is bare."""
    idle = found["idle"]
    sums = {name: sum(one["cpu_percent"].values()) for name, one in idle.items()}
    bare = next(iter(sums.values()))
    parts = next(iter(idle.values()))["cpu_percent"]
    rows = [(part, *(f"{one['cpu_percent'][part]:.2f}" for one in idle.values())) for part in parts]
    rows.append(("together", *(f"{percent:.2f}" for percent in sums.values())))
    rows.append(("above bare Airflow", *(f"{percent - bare:.2f}" for percent in sums.values())))
    return _rows((f"% of a core, in {found['seconds']:,.0f} s", *idle), rows)


def _idle_runs(found: dict[str, Any]) -> list[str]:
    """What there is beside CPU: memory, and runs."""
    idle = found["idle"]
    ended = [_counts(one["runs_ended"]) for one in idle.values()]
    dags = sorted({dag for one in idle.values() for dag in one["cpu_seconds_a_run"]})
    rows = [
        ("triggerer, both processes", *(f"{one['triggerer_mb']:,} MB" for one in idle.values())),
        ("runs of contracts that ended, by state of `sense`", *ended),
        *(
            (f"CPU s of a run of `{dag}`", *(one["cpu_seconds_a_run"].get(dag, "") for one in idle.values()))
            for dag in dags
        ),
    ]
    return _rows(("", *idle), rows)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items()) or "none"


def _day(found: dict[str, Any]) -> list[str]:
    """Bytes of a message of a day, and the same multiplied."""
    labels = {
        "ledger_table": "ledger, table",
        "ledger_index": "ledger, index",
        "user_logins": "`user_logins`",
    }
    rows = [
        (labels[name], f"{size:.0f} bytes", _gigabytes(size * found["today"]), _gigabytes(size * 1e8))
        for name, size in found["bytes_a_message"].items()
    ]
    ledger = 35 * (found["bytes_a_message"]["ledger_table"] + found["bytes_a_message"]["ledger_index"])
    kept = "ledger of 35 days (`QUEUE_ETL_LEDGER_DAYS`), calculated"
    rows.append((kept, "", _gigabytes(ledger * found["today"]), _gigabytes(ledger * 1e8)))
    measured = f"{found['today'] / 1e6:g} million a day, measured"
    return _rows(("", "a message", measured, "100 million a day, extrapolated"), rows)


def _day_loads(found: dict[str, Any]) -> list[str]:
    """Postgres for further messages of that day, by what is there and by `shared_buffers`."""
    rows = [
        (
            "an empty database, default" if name == "empty" else f"the day above, {name}",
            one["postgres_cpu_s_per_million"],
            f"{one['log_bytes_a_message']:,} bytes",
        )
        for name, one in found["load"].items()
    ]
    return _rows(("loaded into, with `shared_buffers`", "CPU s for a million", "log a message"), rows)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 1e10 else f"{size / 1e9:,.0f} GB"


def _rows(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"|{'|'.join(f' {cell} ' for cell in line)}|".replace(" --- ", "---") for line in lines]


def _cpu(run: dict[str, Any]) -> float:
    return float(sum(run["cpu_seconds"].values()))


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _comparison(results: dict[str, Any]) -> list[str]:
    lines = [
        f"CPU seconds for a million messages, in one run of {results['messages']:,}:",
        "",
        "| | client | Postgres | messages/s | peak RSS | client CPU / ours | wall / ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("naive", "sensible", "ours"):
        ratios = results["ratios"].get(name, {"client_cpu": 1, "wall": 1})
        lines.append(f"| {name} | {_figures(results[name])} | {ratios['client_cpu']} | {ratios['wall']} |")
    stages = ", ".join(f"{name} {seconds}" for name, seconds in results["ours"]["stages"].items())
    return [*lines, "", f"Ours by stage: {stages}."]


def _sizes(sizes: list[dict[str, Any]]) -> list[str]:
    lines = ["| messages | client | Postgres | messages/s | peak RSS |", "|---|---|---|---|---|"]
    return lines + [f"| {result['messages']:,} | {_figures(result['ours'])} |" for result in sizes]


def _turns(found: dict[str, Any], unit: str) -> list[str]:
    """Contenders that took turns; of all but the first with the ratio to it."""
    lines = [f"| | {unit} | ratio | 95 % between |", "|---|---|---|---|"]
    for name, figures in found.items():
        value, *compared = figures.values()
        ratio, (low, high) = compared or ("1", ("", ""))
        lines.append(f"| {name} | {value} | {ratio} | {f'{low} and {high}' if low else ''} |")
    return lines


def _figures(result: dict[str, Any]) -> str:
    client, postgres = result["client_cpu_s_per_million"], result["postgres_cpu_s_per_million"]
    return f"{client} | {postgres} | {result['messages_per_s']:,} | {result['peak_rss_mb']:.0f} MB"


def chart(results: dict[str, Any]) -> str:
    """One bar a contender on one scale, then ours enlarged, for its stages are too short to be seen."""
    names = [name for name in ("naive", "sensible", "ours") if name in results]
    scale = SCALE_WIDTH / max(_seconds(results[name]) for name in names)
    bars = [(name, name, scale) for name in names]
    larger = 0.9 * SCALE_WIDTH / _seconds(results["ours"])
    bars.append(("ours", f"ours, {larger / scale:.0f}x", larger))
    height = TOP + len(bars) * (BAR + GAP) + 34
    body = [
        _text(LEFT, 24, f"CPU seconds for a million messages ({results['messages']:,} run)", 16, bold=True),
        _text(LEFT, 44, "client by stage, start-up included; Postgres; messages a second", 12),
    ]
    for number, (name, label, its_scale) in enumerate(bars):
        body += _bar(label, results[name], TOP + number * (BAR + GAP), its_scale)
    return "\n".join([_head(height), *body, *_legend(height - 16), "</svg>", ""])


def _parts(result: dict[str, Any]) -> list[tuple[str, float, str]]:
    """(name, seconds, colour) from left to right."""
    stages = [(name, seconds, PARTS.get(name, "#8d99ae")) for name, seconds in result["stages"].items()]
    return [*stages, ("Postgres", result["postgres_cpu_s_per_million"], POSTGRES)]


def _seconds(result: dict[str, Any]) -> float:
    return sum(seconds for _, seconds, _ in _parts(result))


def _bar(label: str, result: dict[str, Any], top: int, scale: float) -> list[str]:
    drawn, left = [_text(LEFT - 10, top + 22, label, 14, anchor="end")], float(LEFT)
    for part, seconds, colour in _parts(result):
        title = f"<title>{escape(part)}: {seconds:.1f} s</title>"
        size = f'x="{left:.1f}" y="{top}" width="{seconds * scale:.1f}" height="{BAR}"'
        drawn.append(f'<rect {size} fill="{colour}">{title}</rect>')
        left += seconds * scale
    shown = f"{_seconds(result):.0f} s, {result['messages_per_s']:,}/s"
    return [*drawn, _text(left + 8, top + 22, shown, 13)]


def _legend(top: int) -> list[str]:
    drawn, left = [], LEFT
    for name, colour in {**PARTS, "Postgres": POSTGRES}.items():
        label = "whole client" if name == "task" else name
        drawn.append(f'<rect x="{left}" y="{top - 10}" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(left + 17, top, label, 12))
        left += 46 + 7 * len(label)
    return drawn


def _head(height: int) -> str:
    box = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    font = 'font-family="system-ui, sans-serif"'
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} {font} role="img">{paper}'


def _text(left: float, top: float, text: str, size: int, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{left:.0f}" y="{top:.0f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place}{weight} fill="#222222">{escape(text)}</text>'


if __name__ == "__main__":
    main()
