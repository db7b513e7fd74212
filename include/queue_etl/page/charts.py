"""Charts as rectangles. Pure: what is drawn follows from figures alone; a template writes the SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WIDTH, HEIGHT = 600.0, 120.0  # of the viewBox; the page stretches it
GAP = 0.2  # of a step, between two bars


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in the viewBox; `series` is the number of its colour."""

    x: float
    y: float
    width: float
    height: float
    series: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One step of time: its rectangles from the bottom up, and what a reader is told of it."""

    at: datetime
    rects: tuple[Rect, ...]
    told: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars over time.

    Attributes:
        peak: height of the highest bar, in `unit`; 0 of an empty chart
    """

    title: str
    unit: str
    series: tuple[str, ...]
    bars: tuple[Bar, ...]
    peak: float
    since: datetime
    until: datetime

    @property
    def is_empty(self) -> bool:
        """There is nothing to draw."""
        return self.peak == 0

    @property
    def in_words(self) -> str:
        """The chart for who does not see it."""
        if self.is_empty:
            return f"{self.title}: nothing"
        return f"{self.title}, {len(self.bars)} steps, at most {figure(self.peak)} {self.unit}"


def stacked(
    title: str,
    unit: str,
    series: Sequence[str],
    values: Mapping[datetime, Sequence[float]],
    since: datetime,
    step: timedelta,
    steps: int,
) -> Chart:
    """A chart of so many steps from `since`.

    Args:
        title: of the chart
        unit: of the values, behind the figure
        series: names of what is stacked, the lowest first
        values: by the beginning of a step, a value for each of the series; a step without any is empty
        since: where the first step begins
        step: its length
        steps: how many
    """
    moments = [since + step * number for number in range(steps)]
    peak = max((sum(values.get(at, ())) for at in moments), default=0.0)
    width = WIDTH / steps
    bars = tuple(
        Bar(
            at,
            _rects(values.get(at, ()), number * width, width, peak),
            _told(series, values.get(at, ()), unit),
        )
        for number, at in enumerate(moments)
    )
    return Chart(title, unit, tuple(series), bars, float(peak), since, since + step * steps)


def _rects(values: Sequence[float], x: float, width: float, peak: float) -> tuple[Rect, ...]:
    found: list[Rect] = []
    top = HEIGHT
    for number, value in enumerate(values):
        if value <= 0:
            continue
        height = HEIGHT * value / peak
        top -= height
        found.append(
            Rect(
                round(x + width * GAP / 2, 2),
                round(top, 2),
                round(width * (1 - GAP), 2),
                round(height, 2),
                number,
            )
        )
    return tuple(found)


def _told(series: Sequence[str], values: Sequence[float], unit: str) -> str:
    named = [f"{name} {figure(value)}" for name, value in zip(series, values, strict=False) if value]
    return f"{', '.join(named)} {unit}" if named else "nothing"


def figure(value: float) -> str:
    """A figure that is read at a glance: `1,234`, `12.3`, `0.04`."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:,.1f}".removesuffix(".0")
