"""Reference decoders of Postgres COPY data, written from the manual, not from our own encoders.

https://www.postgresql.org/docs/current/sql-copy.html, sections Text Format and Binary Format
"""

import io
from datetime import date, timedelta
from uuid import UUID

SIMPLE = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def decoded(lines: bytes) -> list[list[str | None]]:
    """Rows of column values; None for NULL."""
    text = lines.decode()
    assert not text or text.endswith("\n"), "the last row has no end"
    rows = text.split("\n")[:-1]
    assert r"\." not in rows, "a line that means the end of the data"
    assert "\r" not in text, "a raw carriage return: Postgres takes it for a line's end"
    assert "\0" not in text, "Postgres text has no NUL"
    return [[value(column) for column in row.split("\t")] for row in rows]


def value(column: str) -> str | None:
    if column == r"\N":
        return None
    characters = iter(column)
    return "".join(unescaped(next(characters)) if one == "\\" else one for one in characters)


def unescaped(character: str) -> str:
    # Octal and hexadecimal escapes: what is written here has none.
    assert character not in "01234567x", f"an escape that copy_text does not write: {character}"
    return SIMPLE.get(character, character)


def decoded_entries(entries: bytes) -> list[list[str]]:
    """Ledger entries, without the header and trailer of a COPY, as text."""
    reader, found = io.BytesIO(entries), list[list[str]]()
    while (columns := reader.read(2)) == (5).to_bytes(2):
        queue_id, day, message_id, run_id, status = (reader.read(number(reader.read(4))) for _ in range(5))
        sent = date(2000, 1, 1) + timedelta(number(day))
        ids = [str(UUID(bytes=message_id)), str(UUID(bytes=run_id))]
        found.append([str(number(queue_id)), sent.isoformat(), *ids, status.decode()])
    assert not columns, "neither an entry nor the end"
    return found


def number(field: bytes) -> int:
    return int.from_bytes(field, signed=True)
