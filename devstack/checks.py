"""The static checks: programs of the virtualenv that only read files; no server, no network, seconds each.

`.pre-commit-config.yaml` runs the same before a commit.
"""

from pathlib import Path

CHECKS = (
    ("ruff check", "ruff check ."),
    ("ruff format", "ruff format --check ."),
    ("mypy", "mypy --strict include plugins devstack"),
    ("sqlfluff", "sqlfluff lint include/migrations tests/contracts"),
    ("shellcheck", "shellcheck .ci/run docker/create-airflow-database.sh"),
    ("workflow", "check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml"),
    ("renovate", "check-jsonschema --builtin-schema vendor.renovate renovate.json"),
)


def commands(virtualenv: Path) -> list[tuple[str, list[str]]]:
    """Return title and command line of each check, with the programs of this virtualenv."""
    split = [(title, line.split()) for title, line in CHECKS]
    return [(title, [str(virtualenv / "bin" / program), *rest]) for title, (program, *rest) in split]
