"""Fill `.env`, which docker-compose.yml reads, from `.env.example` with fresh secrets."""

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from devstack.credentials import fernet_key, write_private
from devstack.errors import StackError

MAKERS: dict[str, Callable[[], str]] = {"password": lambda: secrets.token_hex(20), "fernet": fernet_key}
PLACEHOLDER = re.compile(r"^(\w+)=<(\w+)>$")


def fill(example: str, keyset: str) -> str:
    """Return the example with every `NAME=<kind>` replaced by a fresh secret of that kind.

    `keyset` is the JSON of the masking keys; it takes the place of `<keyset>`, on one line.
    Raises StackError for a kind that nothing makes.
    """
    makers = {**MAKERS, "keyset": lambda: "'" + json.dumps(json.loads(keyset)) + "'"}
    return "\n".join(_filled(line, makers) for line in example.splitlines()) + "\n"


def write(target: Path, example: Path, keyset: str) -> None:
    """Write `.env`, mode 0600. An existing one is left alone: its secrets may be in use."""
    if target.exists():
        raise StackError(f"{target} exists already; remove it to get new secrets")
    write_private(target, fill(example.read_text(), keyset))


def _filled(line: str, makers: dict[str, Callable[[], str]]) -> str:
    found = PLACEHOLDER.match(line)
    if found is None:
        return line
    name, kind = found.groups()
    if kind not in makers:
        raise StackError(f".env.example: nothing makes <{kind}> for {name}")
    return f"{name}={makers[kind]()}"
