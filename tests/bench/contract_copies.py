"""The project with another number of contracts: `user_logins`, and copies of it with queues of their own."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

from devstack.settings import ROOT, Settings

NEEDED = ("dags", "include", "plugins", "devstack")
COPY = """
from dataclasses import replace

from include.contracts.user_logins import CONTRACT as ORIGINAL

CONTRACT = replace(ORIGINAL, name="{name}", queue="{queue}")
"""


@dataclass(frozen=True)
class CopySettings(Settings):
    """Settings of a stack whose code is a copy, with the virtualenvs of the original."""

    @property
    def venv(self) -> Path:
        """That of the original."""
        return ROOT / ".venv"

    @property
    def tools_venv(self) -> Path:
        """That of the original."""
        return ROOT / ".dev" / "tools-venv"


def names(count: int) -> list[str]:
    """The contracts of such a copy."""
    return ["user_logins", *(f"user_logins_{number}" for number in range(2, count + 1))]


def settings(base: Settings, folder: Path, count: int) -> CopySettings:
    """Copy the code into the folder, with so many contracts."""
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for lock in ROOT.glob("*.lock"):
        shutil.copy(lock, folder)
    contracts = folder / "include" / "contracts"
    for file in contracts.glob("*.py"):
        if file.stem not in ("__init__", "user_logins"):
            file.unlink()
    for name in names(count)[1:]:
        queue = name.replace("user_logins", "login-queue").replace("_", "-")
        (contracts / f"{name}.py").write_text(COPY.format(name=name, queue=queue))
    values = {field.name: getattr(base, field.name) for field in fields(base)}
    return CopySettings(**{**values, "root": folder})
