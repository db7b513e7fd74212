"""Tables for people: columns as wide as their widest cell, numbers to the right."""

from collections.abc import Sequence

Cell = str | int | float | None


def table(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Return a line for the headings and one a row; None is shown as `-`.

    A column is set to the right when it holds a number; no line ends in blanks.
    """
    texts = [list(headings), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [any(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)]
    is_right = numeric or [False] * len(headings)
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_right, strict=True)
        ).rstrip()
        for line in texts
    ]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)
