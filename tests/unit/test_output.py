"""What commands print: bodies that steer no terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.queue_etl.cli.output import readable


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"no json\x1b[2J\r\n\xff\tend\xe2\x80\xae", "no json\\u001b[2J\\r\n\\xff\\tend\\u202e"),
        (
            b'{"a": 1.10, "a": 1e999, "b": "\x7f\xc2\x9b", "c": "zo\xc3\xab"}',
            '{\n  "a": 1.10,\n  "a": 1e999,\n  "b": "\\u007f\\u009b",\n  "c": "zoë"\n}',
        ),
        (b'{"a": "\xff"}', '{"a": "\\xff"}'),
        (b"[" * 3_000, "[" * 3_000),
        (b"", ""),
    ],
)
def test_a_body_is_shown_as_it_came(body, expected):
    assert readable(body) == expected


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_no_body_steers_a_terminal(body):
    assert all(one.isprintable() or one == "\n" for one in readable(body))
