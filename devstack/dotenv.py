"""Fill `.env`, which docker-compose.yml reads, from `.env.example` with fresh secrets."""

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from devstack.credentials import fernet_key, signing_key, write_private
from devstack.errors import StackError

MAKERS: dict[str, Callable[[], str]] = {
    "password": lambda: secrets.token_hex(20),
    "signing": signing_key,
    "fernet": fernet_key,
}
PLACEHOLDER = re.compile(r"^(\w+)=<(\w+)>$")


def fill(example: str, keyset: str) -> str:
    """Return the example with every `NAME=<kind>` replaced by a fresh secret of that kind.

    `keyset` is the JSON of the masking keys; `<keyset>` becomes an Airflow connection that holds it.
    Raises StackError for a kind that nothing makes.
    """
    connection = json.dumps({"conn_type": "generic", "password": json.dumps(json.loads(keyset))})
    # In single quotes compose takes the text as it is; JSON of base64 holds none.
    makers = {**MAKERS, "keyset": lambda: f"'{connection}'"}
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
