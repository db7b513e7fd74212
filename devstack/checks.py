"""The static checks: programs of the virtualenv that only read files; no server, no network, seconds each.

`.pre-commit-config.yaml` runs the same before a commit.
"""

import os
import shutil
from pathlib import Path

from devstack.errors import StackError

CHECKS = (
    ("ruff check", "ruff check ."),
    ("ruff format", "ruff format --check ."),
    ("mypy", "mypy"),
    ("sqlfluff", "sqlfluff lint include/queue_etl/postgres/migrations tests/contracts"),
    ("shellcheck", "shellcheck .ci/run docker/command.sh docker/create-airflow-database.sh"),
    ("workflow", "check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml"),
    ("renovate", "check-jsonschema --builtin-schema vendor.renovate renovate.json"),
)


def commands(virtualenv: Path) -> list[tuple[str, list[str]]]:
    """Return title and command line of each check, with the programs of this virtualenv.

    Raises:
        StackError: a program is neither there nor on PATH. shellcheck has no wheel for Linux on ARM.
    """
    split = [(title, line.split()) for title, line in CHECKS]
    return [(title, [_found(program, virtualenv), *rest]) for title, (program, *rest) in split]


def _found(program: str, virtualenv: Path) -> str:
    places = os.pathsep.join([str(virtualenv / "bin"), os.environ.get("PATH", "")])
    path = shutil.which(program, path=places)
    if path is None:
        raise StackError(f"{program} is not installed; on Debian: apt-get install {program}")
    return path
