"""Random passwords of one stack, each in its own file that only its owner reads."""

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def _word() -> str:
    # Letters and digits only: the same text is valid in a URL, in SQL and in a shell.
    return secrets.token_hex(20)


def fernet_key() -> str:
    """Return a key in the form Airflow's [core] fernet_key wants: 32 bytes, URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def signing_key() -> str:
    """Return a key for Airflow's [api_auth] jwt_secret: HS512 wants at least 64 bytes (RFC 7518, 3.2)."""
    return secrets.token_hex(64)


def secret(folder: Path, name: str, make: Callable[[], str] = _word) -> str:
    """Return the secret of this name, making it (mode 0600) the first time it is asked for."""
    path = folder / name
    try:
        return path.read_text()
    except FileNotFoundError:
        write_private(path, make())
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step by `text`, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
