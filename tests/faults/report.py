"""What the fault tests came to: a line a fault, which pytest prints when they are over."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from operator import add

from tests.faults.reconciliation import Balance

HEAD = ("cases", "messages", "lost", "duplicate", "wrong_kind", "left_on_queue", "stale")


@dataclass
class Report:
    """Sums over the cases of each fault, in the order in which they ended.

    Attributes:
        pii_hits: places where personal values were found at the end, and how many; None: not looked for
    """

    by_fault: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pii_hits: dict[str, int] | None = None

    def add(self, test: str, messages: int, balance: Balance) -> None:
        """Count one more case of the fault that the test is about."""
        fault = test.removeprefix("test_").replace("_", " ")
        case = (1, messages, *astuple(balance))
        self.by_fault[fault] = tuple(map(add, self.by_fault.get(fault, (0,) * len(case)), case))

    def found(self, hits: dict[str, int]) -> None:
        """Add the places of one more stack that was searched."""
        self.pii_hits = {**(self.pii_hits or {}), **hits}

    def lines(self) -> list[str]:
        """The table, for people."""
        total = [sum(column) for column in zip(*self.by_fault.values(), strict=True)]
        rows = [*self.by_fault.items(), ("all of them", total)]
        found = "not looked for" if self.pii_hits is None else sum(self.pii_hits.values())
        return [
            *(_line(row, fault) for fault, row in [("fault", HEAD), *rows]),
            f"pii_hits in staging, logs, tables and Postgres's files: {found}",
            *(f"  {count} in {place}" for place, count in (self.pii_hits or {}).items()),
        ]


def _line(row: Iterable[object], fault: str) -> str:
    return "".join(f"{cell:>{len(name) + 2}}" for name, cell in zip(HEAD, row, strict=True)) + f"  {fault}"
