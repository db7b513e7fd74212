"""docs/settings.md lists every environment variable of the code, and no other."""

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

from include.queue_etl.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
CODE = ("include", "plugins", "dags", "config", "devstack")
# What names of variables begin with; those of .env.example have others too.
NAME = re.compile(r"\b(?:QUEUE_ETL|DEV|AIRFLOW|AWS|REQUESTS)_[A-Z0-9_]*[A-Z0-9]\b")


def listed() -> list[str]:
    """The names in the first column of every table."""
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def strings(folder: str) -> Iterator[str]:
    """Every text in the code of a folder: a name that is looked up or set stands in one."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def used() -> set[str]:
    """The names in the code, in the containers, in .env, and those made of the fields of Settings."""
    texts = [text for folder in CODE for text in strings(folder)]
    containers = [ROOT / "docker-compose.yml", *(ROOT / "docker").iterdir()]
    texts += [path.read_text(encoding="utf-8") for path in containers if path.is_file()]
    example = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    settings = {PREFIX + field.name.upper() for field in fields(Settings)}
    return {name for text in texts for name in NAME.findall(text)} | set(example) | settings


def test_every_variable_is_listed_once_and_no_other():
    names = listed()
    assert sorted(set(names)) == sorted(names)
    assert set(names) == used()


def test_every_setting_of_the_engine_is_listed_with_its_default():
    rows = dict(re.findall(r"^\| `(QUEUE_ETL_[A-Z_]+)` \| `?([^|`]+)`? \|", PAGE, re.MULTILINE))
    expected = {
        PREFIX + field.name.upper(): "none" if field.default in (MISSING, "") else str(field.default)
        for field in fields(Settings)
    }
    assert {name: rows[name].strip() for name in expected} == expected
