"""A reference decoder of Postgres COPY text, written from the manual and not from `copytext`.

https://www.postgresql.org/docs/current/sql-copy.html, section Text Format
"""

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
    assert character not in "01234567x", f"an escape that copytext does not write: {character}"
    return SIMPLE.get(character, character)
