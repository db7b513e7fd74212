"""What commands print: JSON for programs, lines and tables for people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec

from include.queue_etl.counts import in_words

# The order of the figures of a run; others follow in the order of their names.
RUN_FIGURES = (
    "run_id",
    "contract",
    "airflow_run_id",
    "state",
    "started_at",
    "finished_at",
    "visible_before",
    "oldest_age_seconds",
    "received",
    "loaded",
    "quarantined",
    "quarantined_by_reason",
    "unknown_fields",
    "personal_data_checked",
    "personal_data_found",
    "duplicates",
    "deleted",
    "delete_failed",
    "released",
    "visible_after",
)


def show(
    result: Mapping[str, Any] | Sequence[Any], as_json: bool = False, file: TextIO | None = None
) -> None:
    """Print a result, to standard output unless told otherwise: JSON, or for people a line a field."""
    if as_json or not isinstance(result, Mapping):
        print(json.dumps(result), file=file)
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        print(f"{key:{width}}  {cell(value)}", file=file)


def show_run(summary: Mapping[str, Any], as_json: bool) -> None:
    """Print a line of etl.run_summary, its figures always in the same order."""
    names = [name for name in RUN_FIGURES if name in summary]
    names += sorted(summary.keys() - set(names))
    show({name: summary[name] for name in names}, as_json)


def show_table(rows: Sequence[Mapping[str, Any]], file: TextIO | None = None) -> None:
    """Print rows with the same keys as a table: a heading, then a line each."""
    if not rows:
        return
    cells = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        texts = [f"{text:{width}}" for text, width in zip(line, widths, strict=True)]
        print("  ".join(texts).rstrip(), file=file)


def readable(body: bytes) -> str:
    """A message body for people: JSON indented, its numbers and keys as they came; other text as it is.

    What could steer a terminal is escaped: control characters but for newlines, and those that change the
    direction of text. What is no UTF-8 is escaped too.
    """
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "backslashreplace")
    return "".join([one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text])


def one_line(value: str | bytes) -> str:
    """A text beside a message's body, on one line, escaped as a body is; so are bytes that are no text."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return "".join([one if one.isprintable() else json.dumps(one)[1:-1] for one in text])


def cell(value: object) -> str:
    """A value as people read it: counts in words, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, Mapping):
        return (
            "; ".join(f"{name}: {in_words(inner)}" for name, inner in value.items())
            if any(isinstance(inner, Mapping) for inner in value.values())
            else in_words(value)
        )
    return str(value)
