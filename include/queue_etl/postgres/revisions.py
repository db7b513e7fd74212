"""Revisions that are written from contracts: files of migrations/versions."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from include.queue_etl.contract import Contract
from include.queue_etl.postgres import migrations, tables
from include.queue_etl.postgres.table_plan import Change

_LOCK_PATIENCE_SECONDS = 30  # loads wait for 120 s before they are tried again
_CREATED = re.compile(r'CREATE TABLE (?:IF NOT EXISTS )?([\w".]+)', re.IGNORECASE)


def makes_table(table: str) -> bool:
    """Whether a revision that is there makes this table."""
    made = {
        name.replace('"', "")
        for path in _versions().glob("[0-9]*.sql")
        for name in _CREATED.findall(path.read_text(encoding="utf-8"))
    }
    return table in made


def creation(contract: Contract) -> str:
    """The text of a revision that makes the contract's table."""
    return _text([f"-- The table of the contract {contract.name}, as it says.", *tables.create(contract)])


def alteration(contract: Contract, changes: Sequence[Change]) -> str:
    """The text of a revision that makes these changes, all of them compatible; as the table's owner."""
    lines = [
        f"-- The table of the contract {contract.name} follows it.",
        "SET LOCAL ROLE etl_owner;",
        "-- While this waits for who reads the table, all its loads wait behind it: give up and try again.",
        f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE_SECONDS}s';",
    ]
    for change in changes:
        lines += ["", f"-- {change.what} ({change.cost})", *change.sql]
    return _text([*lines, "", "RESET lock_timeout;", "RESET ROLE;"])


def write(name: str, text: str) -> Path:
    """Write the revision with the next number; returns its path."""
    path = _versions() / f"{int(migrations.head_revision()) + 1:04}_{name}.sql"
    path.write_text(text, encoding="utf-8")
    return path


def _versions() -> Path:
    return migrations.HERE / "versions"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
