"""What every log line of a run has as fields, where logs are JSON: contract, run and batch. Never a value."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime

# Binds fields, while the context lasts, where another logging system looks for them.
Bind = Callable[..., AbstractContextManager[None]]


def _nowhere(**fields: str) -> AbstractContextManager[None]:
    return nullcontext()


_fields: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default={})  # noqa: B039 - never changed
_also: ContextVar[Bind] = ContextVar("log_fields_also", default=_nowhere)


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Give the lines that are logged within these fields, beside those of the contexts around it."""
    before = _fields.set({**_fields.get(), **fields})
    try:
        with _also.get()(**fields):
            yield
    finally:
        _fields.reset(before)


@contextmanager
def bound_also(bind: Bind) -> Iterator[None]:
    """Let `bound` bind its fields there too: where Airflow's logging looks, which knows nothing of ours."""
    before = _also.set(bind)
    try:
        yield
    finally:
        _also.reset(before)


class JsonLines(logging.Formatter):
    """A line of JSON for each record: time, level, logger, event, and the fields that are bound."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; an exception is in `error`."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        line |= {"event": record.getMessage(), **_fields.get()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
