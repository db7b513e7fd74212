"""Figures of contenders that take turns: whatever else the machine does then meets all of them alike."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LINE = "{:<24}{:>21}{:>8}{:>14}".format


@dataclass(frozen=True)
class Turns:
    """CPU seconds of each turn, by contender; the first is what the others are compared with.

    Attributes:
        title: what was measured
        unit: of the figures, as a key of the JSON; the table says it in words
        per_second: figures of the unit in a CPU second of a turn
    """

    title: str
    unit: str
    per_second: float
    seconds: Mapping[str, Sequence[float]]

    def as_json(self) -> dict[str, Any]:
        """Medians; of all but the first also the ratio to it, the median of those of single turns.

        `between` is the interval that holds the median of all possible turns with 95 % certainty.
        """
        first, *others = self.seconds
        found: dict[str, dict[str, Any]] = {name: {self.unit: self._median(name)} for name in self.seconds}
        for name in others:
            ratios = sorted(self._ratios(first, name))
            reach = int(0.98 * math.sqrt(len(ratios))) + 1  # by the sign test: ranks beside the middle
            low, high = ratios[max(0, len(ratios) // 2 - reach)], ratios[len(ratios) // 2 :][:reach][-1]
            found[name] |= {
                "ratio": round(statistics.median(ratios), 3),
                "between": [round(low, 3), round(high, 3)],
            }
        return found

    def table(self) -> str:
        """For people."""
        lines = [LINE(self.title, self.unit.replace("_", " "), "ratio", "between")]
        for name, figures in self.as_json().items():
            between = "-".join(f"{ratio:.3f}" for ratio in figures.get("between", []))
            lines.append(LINE(name, figures[self.unit], figures.get("ratio", ""), between).rstrip())
        return "\n".join(lines)

    def _median(self, name: str) -> float:
        return round(statistics.median(self.seconds[name]) * self.per_second, 2)

    def _ratios(self, first: str, other: str) -> list[float]:
        pairs = zip(self.seconds[other], self.seconds[first], strict=True)
        return [seconds / of_first for seconds, of_first in pairs]
