"""Figures in words, for logs and terminals: `loaded 99, quarantined 1`."""

from collections.abc import Mapping


def in_words(counts: Mapping[str, object]) -> str:
    """Name and figure of each, in the order given; `none` where there are none."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def found_in_words(found: Mapping[str, Mapping[str, object]]) -> str:
    """What stands in which field, in the order given: `email in note 3`."""
    return in_words(
        {f"{kind} in {path}": count for path, kinds in found.items() for kind, count in kinds.items()}
    )


def run_in_words(summary: Mapping[str, object]) -> str:
    """What became of a run's messages, in at most 120 characters for less than ten million messages.

    Args:
        summary: a line of etl.run_summary
    """
    return (
        f"{summary['state']}: received {_known(summary, 'received')}: loaded {summary['loaded']}, "
        f"quarantined {summary['quarantined']}, duplicates {summary['duplicates']}; "
        f"deleted {summary['deleted']}, left {_known(summary, 'visible_after')}"
    )


def _known(summary: Mapping[str, object], name: str) -> object:
    value = summary.get(name)
    return "?" if value is None else value
