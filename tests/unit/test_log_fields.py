"""Fields of log lines: bound for a while, passed on to another logging system, and lines of JSON."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from include.queue_etl.cli import app
from include.queue_etl.log_fields import JsonLines, bound, bound_also


def line(text: str = "event", **given: object) -> dict[str, str]:
    record = logging.LogRecord("our.logger", logging.WARNING, "file", 1, text, None, None)
    vars(record).update(given)
    found: dict[str, str] = json.loads(JsonLines().format(record))
    return found


def test_a_line_has_the_fields_that_are_bound_and_loses_them_again() -> None:
    with bound(contract="orders", run="run__1"):
        with bound(batch="0001"):
            inner = line("batch 0001: loaded 3")
        outer = line()
    assert inner | {"time": ""} == {
        "time": "", "level": "warning", "logger": "our.logger", "event": "batch 0001: loaded 3",
        "contract": "orders", "run": "run__1", "batch": "0001",
    }  # fmt: skip
    assert (outer["run"], "batch" in outer, "run" in line()) == ("run__1", False, False)


def test_fields_are_lost_after_an_error_too() -> None:
    with pytest.raises(ValueError, match="x"), bound(batch="1"):
        raise ValueError("x")
    assert "batch" not in line()


def test_another_logging_system_gets_the_same_for_as_long() -> None:
    now: list[dict[str, str]] = []

    @contextmanager
    def bind(**fields: str) -> Iterator[None]:
        now.append(fields)
        yield
        now.remove(fields)

    with bound_also(bind):
        with bound(batch="1"):
            assert now == [{"batch": "1"}]
        assert now == []
    with bound(batch="2"):
        assert now == []


def test_an_exception_is_in_the_line() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        given = line(exc_info=(ValueError, error, error.__traceback__))
    assert given["error"].endswith("ValueError: wrong")


@pytest.mark.parametrize(("setting", "expected"), [("json", JsonLines), ("", logging.Formatter)])
def test_commands_log_json_where_the_setting_says_so(
    monkeypatch: pytest.MonkeyPatch, setting: str, expected: type
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setenv("QUEUE_ETL_LOG", setting)
    app._set_up_logs(logging.WARNING)
    (handler,) = root.handlers
    assert type(handler.formatter or logging.Formatter()) is expected
