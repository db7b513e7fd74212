"""Commands and their arguments: what several of them share, and what they read."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.contracts import DEFAULT_CONTRACT, contract_names

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser


class UsageError(Exception):
    """The arguments do not fit together, or not with the contract: what the parser cannot know."""


def add(
    commands: Any,
    command: Callable[[Arguments], None],
    name: str | None = None,
    *,
    group: str = "",
    examples: str = "",
) -> Parser:
    """Add a command: its docstring is its help, its name that of the function unless another is given.

    Args:
        commands: of a parser's add_subparsers
        command: what it does
        name: of the command
        group: the word before it, such as `keys`
        examples: shown behind its help as they are
    """
    name = name or command.__name__.replace("_", "-")
    summary = (command.__doc__ or "").strip()
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter if examples else argparse.HelpFormatter,
    )
    parser.set_defaults(command=command, name=f"{group} {name}".strip())
    parser.add_argument("-v", "--verbose", action="store_true", help="say what each step does")
    return parser


def add_contract(parser: Parser) -> None:
    """For a command that works on one contract."""
    parser.add_argument("--contract", choices=contract_names(), default=DEFAULT_CONTRACT)


def add_one_or_all_contracts(parser: Parser) -> None:
    """For a command that works on one contract, or on all of them: `contract` is None then."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--contract", choices=contract_names(), default=DEFAULT_CONTRACT)
    group.add_argument(
        "--all-contracts", dest="contract", action="store_const", const=None, help="in every contract"
    )


def add_run_name(parser: Parser) -> None:
    """For a command that is a run."""
    parser.add_argument("--run-id", help="name of the run; give an earlier one to go on with it")


def add_json(parser: Parser, meaning: str = "print one JSON object") -> None:
    """For a command that prints a result."""
    parser.add_argument("--json", action="store_true", help=meaning)


def add_purpose(parser: Parser) -> None:
    """For a command that touches personal data."""
    parser.add_argument("--reason", type=_not_blank, required=True, help="why; kept in the audit")
    parser.add_argument(
        "--ticket", type=_not_blank, required=True, help="reference of the request; kept in the audit"
    )


def positive(text: str) -> int:
    """A whole number above 0, as the type of an argument."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def read_lines(file: Path | None) -> list[str]:
    """The lines of a file, or of standard input, without blanks around them and without empty ones."""
    text = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    return [line.strip() for line in text.split("\n") if line.strip()]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is blank")
    return text
