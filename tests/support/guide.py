"""The example of docs/contracts.md."""

import re
import textwrap
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    """The first block of that language."""
    block = re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)[0]
    return textwrap.dedent(block)


def commands() -> list[list[str]]:
    """What the first section calls, in its order; of `./dev run`, the command of the engine."""
    section = TEXT.partition("## From a sample")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix("./dev ").removeprefix("run ").split() for line in lines]
