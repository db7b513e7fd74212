"""The warehouses that contracts name beside the default one: each is a database of the stack's Postgres."""

import ast
from pathlib import Path

from devstack.postgres import WAREHOUSE
from devstack.settings import Settings


def names(settings: Settings) -> list[str]:
    """Return their names, sorted; read without running a contract, since nothing may be installed yet."""
    folder = settings.root / "include" / "contracts"
    return sorted({name for path in folder.glob("*.py") for name in _named_in(path)})


def database(warehouse: str) -> str:
    """Return the database of a warehouse; the default one has no name."""
    return f"{WAREHOUSE}_{warehouse}" if warehouse else WAREHOUSE


def variables(warehouse: str, given: dict[str, str]) -> dict[str, str]:
    """Return these variables of the default warehouse under their names for another one."""
    return {f"{name}__{warehouse.upper()}": value for name, value in given.items()}


def _named_in(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError:
        return []  # the contract is broken, which is said where it is loaded
    return [
        keyword.value.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "warehouse"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
        and keyword.value.value.isidentifier()
    ]
