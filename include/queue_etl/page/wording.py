"""Figures and errors as people read them. Pure."""

from datetime import timedelta

from include.queue_etl.errors import QueueEtlError, SettingsError

DASH = "\N{EN DASH}"
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(value: float | None) -> str:
    """`12,345`; a dash for what is not known."""
    return DASH if value is None else f"{value:,.0f}"


def known(value: int | None) -> str:
    """As `count`, in a word where it is not known."""
    return "unknown" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """`3.2 %`; what is not nothing is not shown as 0 %."""
    if value is None:
        return count(None)
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Its two largest units: `2 d 3 h`, `4 min 10 s`, `0.3 s`, `12 ms`."""
    if seconds is None:
        return count(None)
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in _UNITS:
        if left >= length or parts:
            parts.append((left // length, unit))
            left %= length
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def span(length: timedelta) -> str:
    """As `duration`."""
    return duration(length.total_seconds())


def size(count_of_bytes: float | None) -> str:
    """`1.5 MB`, in powers of 1,000."""
    if count_of_bytes is None:
        return count(None)
    value, step = float(count_of_bytes), 0
    while value >= 1000 and step < len(_SIZES) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.0f} {_SIZES[step]}" if step == 0 or value >= 100 else f"{value:.1f} {_SIZES[step]}"


def said(error: QueueEtlError) -> str:
    """What an error says, in one line."""
    return "; ".join(error.problems) if isinstance(error, SettingsError) else str(error)
