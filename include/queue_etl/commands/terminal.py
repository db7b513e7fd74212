"""What the commands have in common: their arguments, what they read and what they print."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from include.contracts import DEFAULT_CONTRACT, contract_names

Arguments = argparse.Namespace


def add(
    commands: Any, command: Callable[[Arguments], None], name: str | None = None
) -> argparse.ArgumentParser:
    """Add a command: its docstring is its help, its name that of the function unless another is given.

    `arguments.misused(message)` ends it as wrong usage, for what the parser cannot know.
    """
    name = name or command.__name__.replace("_", "-")
    summary = (command.__doc__ or "").strip()
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command, name=name, misused=parser.error)
    parser.add_argument("--contract", choices=contract_names(), default=DEFAULT_CONTRACT)
    parser.add_argument(
        "--run-id", default=None, help="name of the run; give an earlier one to go on with it"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what each step does")
    return parser


def positive(text: str) -> int:
    """A whole number above 0, as the type of an argument."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def lines(file: Path | None) -> list[str]:
    """The lines of a file, or of standard input, without blanks around them and without empty ones."""
    text = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    return [line.strip() for line in text.split("\n") if line.strip()]


def show(result: Mapping[str, Any] | Sequence[Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a line a field."""
    if as_json or not isinstance(result, Mapping):
        print(json.dumps(result))
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        print(f"{key:{width}}  {value}")
