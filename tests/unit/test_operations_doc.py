"""docs/operations.md: each row of its tables names a test that exists, and each setting exists."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from include.queue_etl import errors
from include.queue_etl.cli import app as command_line
from include.queue_etl.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith("|---")]
FAULTS = [row for row in ROWS if row.count("|") == 6 and not row.startswith("| fault |")]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_there_is_a_row_for_each_sort_of_fault() -> None:
    assert len(FAULTS) >= 35


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.split("|")[1].strip())
def test_each_row_names_a_test_that_exists(row: str) -> None:
    named = re.fullmatch(r"`(test_\w+)`", row.strip("|").split(" | ")[-1].strip())
    assert named, "the last column must name a test"
    assert named[1] in TESTS


def test_every_fault_table_has_the_same_columns() -> None:
    headings = [row for row in ROWS if row.startswith("| fault |")]
    assert set(headings) == {"| fault | you see | the data is | run | shown by |"}


def test_each_setting_it_names_exists() -> None:
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    known |= {f"QUEUE_ETL_{role}_DSN" for role in ("OWNER", "MAINTAINER", "WAREHOUSE", "OPS")}
    known |= {"QUEUE_ETL_KEYSET_FILE", "QUEUE_ETL_ALERT_URLS", "QUEUE_ETL_LOG"}
    assert set(re.findall(r"QUEUE_ETL_[A-Z_]+", TEXT)) <= known


def test_each_error_it_names_exists() -> None:
    named = set(re.findall(r"`([A-Z]\w+(?:Unavailable|Damaged|Refused|Failed|Error))`", TEXT))
    assert {"WarehouseUnavailable", "StagedFileDamaged"} <= named
    assert named <= set(dir(errors))


def test_exactly_the_commands_that_it_says_take_json_take_it() -> None:
    (sentence,) = re.findall(r"[^.]*take `--json`", TEXT)
    told = set(re.findall(r"`([a-z][a-z-]+)`", sentence))
    listed = set(re.findall(r"^\| `python -m include\.queue_etl ([a-z-]+)", TEXT, re.MULTILINE))
    assert told == {name for name in listed if _takes_json(name)}


def _takes_json(command: str) -> bool:
    arguments = [command, "finish"] if command == "step" else [command]
    try:
        return bool(command_line._parser().parse_args([*arguments, "--json"]).json)
    except SystemExit:
        return False
