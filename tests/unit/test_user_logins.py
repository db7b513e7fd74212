"""The rules of the `user_logins` contract that are not the engine's."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.user_logins import CONTRACT, MAX_INT4, LoginEvent, major
from include.queue_etl.contract import Rejected
from include.queue_etl.transform.parsing import Parser

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT / "include" / "samples" / "login_messages.jsonl"
BAD, RANGE = Rejected("bad_version"), Rejected("version_range")


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("2.3.0", 2),
        ("2.00", 2),
        ("6.02", 6),
        ("7", 7),
        ("0.0.1", 0),
        ("1.2.3.4", 1),
        ("1.999.999", 1),
        ("1.1000.0", 1),
        ("1.0.1000", 1),
        ("2147.483.647", 2147),
        ("2147.483.648", 2147),
        ("2147483647", MAX_INT4),
        ("2147483648", RANGE),
        ("2.3.0-beta", BAD),
        ("٣.0", BAD),
        ("", BAD),
        (None, None),
    ],
)
def test_a_version_becomes_a_number(version, number):
    assert major(version) == number


@given(st.text(max_size=60))
def test_any_text_is_a_number_or_a_rejection(text):
    found: Any = major(text)
    assert found in (BAD, RANGE) or 0 <= found <= MAX_INT4


@given(st.text("0123456789.", max_size=50))
def test_the_major_version_is_what_stands_before_the_first_period(text):
    found = major(text)
    if isinstance(found, int):
        assert found == int(text.split(".")[0])


def test_the_columns_are_those_of_the_table():
    script = (
        ROOT / "include" / "queue_etl" / "postgres" / "migrations" / "versions" / "0001_warehouse.sql"
    ).read_text()
    body = re.search(r"CREATE TABLE public\.user_logins \((.*?)\);", script, re.DOTALL)
    table = re.findall(r"^\s+(\w+)\s+([\w()]+),?$", body[1], re.MULTILINE)
    assert list(CONTRACT.column_names) == [name for name, _ in table]
    assert [(column.name, column.sql_type) for column in CONTRACT.columns] == table


def test_the_personal_fields_are_masked_and_stand_in_no_other_column():
    assert [masked.field for masked in CONTRACT.personal] == ["ip", "device_id"]
    others = {column.field for column in CONTRACT.columns if not column.is_token}
    assert others.isdisjoint({"ip", "device_id"})


def test_each_field_of_the_event_goes_to_the_table():
    used = {column.field for column in CONTRACT.columns if column.attributes}
    assert used == set(LoginEvent.__struct_fields__)


def test_of_the_sample_messages_some_load_and_some_do_not():
    parser = Parser(CONTRACT, 1_048_576)
    verdicts = [parser.parse(line) for line in SAMPLE.read_bytes().splitlines()]
    loaded: list[Any] = [verdict for verdict in verdicts if not isinstance(verdict, Rejected)]
    assert len(loaded) > len(verdicts) // 2
    assert {verdict.reason for verdict in verdicts if isinstance(verdict, Rejected)} >= {
        "missing_field user_id"
    }
    assert any(event.locale is None for event in loaded)


def test_the_sample_holds_no_address_of_a_real_network():
    documentation = ("192.0.2.", "198.51.100.", "203.0.113.")
    addresses = re.findall(r'"ip": "(\d+\.\d+\.\d+\.\d+)', SAMPLE.read_text(encoding="utf-8"))
    assert len(addresses) > 30
    assert [address for address in addresses if not address.startswith(documentation)] == []
