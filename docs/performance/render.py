"""Renders what `./dev bench --json` wrote: results.svg, and the tables in ../performance.md.

results.json holds a run of all three contenders, sizes-*.json runs of ours alone, mask.json one with
--baseline, partitions.json one with --partitions. Needs nothing installed:
`python docs/performance/render.py`.
"""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "performance.md"
PARTS = {"extract": "#1f6f8b", "mask": "#3fa796", "load": "#9bc53d", "finish": "#f2a541", "task": "#8d99ae"}
POSTGRES = "#d1495b"
WIDTH, LEFT, BAR, GAP, TOP = 860, 90, 34, 26, 64
SCALE_WIDTH = WIDTH - LEFT - 150


def main() -> None:
    """Writes the chart and the tables; again changes nothing."""
    results = json.loads((HERE / "results.json").read_text())
    sizes = [json.loads(path.read_text()) for path in HERE.glob("sizes-*.json")]
    sizes = sorted([*sizes, results], key=lambda result: result["messages"])
    (HERE / "results.svg").write_text(chart(results))
    page = PAGE.read_text()
    mask, loads = (json.loads((HERE / f"{name}.json").read_text()) for name in ("mask", "partitions"))
    blocks = {
        "results": _comparison(results),
        "sizes": _sizes(sizes),
        "mask": _turns(mask["mask"], "CPU us a message"),
        "partitions": _turns(loads["load"], "CPU s for a million rows"),
    }
    for name, lines in blocks.items():
        block = "\n".join([f"<!-- {name} -->", *lines, f"<!-- end of {name} -->"])
        page = re.sub(f"<!-- {name} -->.*<!-- end of {name} -->", block, page, flags=re.DOTALL)
    PAGE.write_text(page)


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
