"""Fields that a contract does not declare: counted by path, and no data in any path."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from include.queue_etl.contract import Contract, Rejected
from include.queue_etl.transform.parsing import Parser
from include.queue_etl.transform.undeclared import MAX_PATHS, OTHERS, Undeclared


class Item(Struct):
    sku: str
    parts: "list[Item]" = []


class Event(Struct):
    a: int = 0
    inner: Item | None = None
    items: list[Item] = []
    by_name: dict[str, Item] = {}
    free: dict[str, Any] = {}
    numbers: list[int] = []
    anything: Any = None


FOUND = Undeclared(Event)


def paths(event: dict[str, Any]) -> dict[str, int]:
    return FOUND.count([json.dumps(event).encode()])


def test_each_undeclared_field_is_counted_by_its_path():
    item = {"sku": "x", "new": 1, "parts": [{"sku": "y", "deep": {"er": 1}}]}
    found = paths(
        {
            "a": 1,
            "b": None,
            "inner": item,
            "items": [item, {"sku": "z"}, item],
            "by_name": {"k": item, "n": None},
        }
    )
    assert found == {
        "b": 1,
        "inner.new": 1,
        "inner.parts[*].deep": 1,
        "items[*].new": 1,
        "items[*].parts[*].deep": 1,
        "by_name[*].new": 1,
        "by_name[*].parts[*].deep": 1,
    }


DEEP = b'{"inner": {"sku": "x", "parts": [{"sku": "y", "parts": [{"sku": "z", "new": 1}]}]}}'


def test_at_every_depth_of_a_struct_that_holds_itself_they_are_seen():
    contract = Contract(name="c", queue="q", table="public.c", event=Event)
    parser = Parser(contract, len(DEEP))
    assert parser.with_unknown_fields([DEEP], [parser.parse(DEEP)]) == {0: DEEP}
    rejecting = Parser(replace(contract, unknown_fields="reject"), len(DEEP))
    assert rejecting.parse(DEEP) == Rejected("unknown_field")
    assert not isinstance(rejecting.parse(DEEP.replace(b', "new": 1', b"")), Rejected)


def test_types_are_looked_at_at_every_depth_too():
    bad = DEEP.replace(b'"z", "new": 1', b"3")
    parser = Parser(Contract(name="c", queue="q", table="public.c", event=Event), len(bad))
    assert parser.parse(bad) == Rejected("bad_type inner.parts[*].parts[*].sku")


def test_what_is_declared_as_anything_has_no_undeclared_fields():
    assert paths({"free": {"x": {"y": 1}}, "anything": {"x": 1}, "numbers": [1], "inner": None}) == {}


def test_a_message_counts_once_for_each_path():
    bodies = [json.dumps({"items": [{"sku": "a", "new": 1}] * 3}).encode()] * 2
    assert FOUND.count(bodies) == {"items[*].new": 2}


def test_names_that_may_be_data_are_not_shown():
    names = ["ann@example.org", "192.0.2.7", "user_4711", "a b", "x" * 41, "deadbeef", ""]
    assert paths(dict.fromkeys(names, 1)) == {"*": 1}


def test_further_paths_are_counted_together():
    names = [f"{letter}{other}" for letter in "abcdefghijkl" for other in "abcdefghijkl"]
    found = paths(dict.fromkeys(names, 1))
    assert len(found) == MAX_PATHS + 1
    assert found[OTHERS] == len(names) - MAX_PATHS


@given(st.dictionaries(st.text(max_size=20), st.integers(), max_size=5))
def test_no_value_and_no_strange_name_stands_in_a_path(extra):
    found = paths({"inner": {"sku": "x", **{f"canary {name}": value for name, value in extra.items()}}})
    assert "canary" not in json.dumps(found)
