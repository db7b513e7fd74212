"""Bodies such as a broken or hostile producer may send: logins, and what becomes of them in bad hands.

All hold the marks of `bodies`, so that a value that gets out can be found. The same seed gives the same ones.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK

Fields = dict[str, Any]
# Far from where a parser stops counting: no two agree on the depth.
SHALLOW, DEEP = 60, 60_000
TEXTS = [
    "", " ", "\t", "\\N", "\\.", "\\", "\\\\", "\n", "\r\n", "a\tb", "\\x00", "\\0",
    "'); DROP TABLE user_logins; --",
    "%s %(ip)s {0}", "$1", '"', "'", "\ufeff", "\u2028\u2029", "\x7f\x85", "\u202eabc", "e\u0301",
    "\U0001f600",
    "\ud800", "\udfff\ud800", "\0", "ab\0", "NaN", "null", "x" * 32, "x" * 33, "x" * 128, "x" * 129, "é" * 32,
    "\ufdfa" * 20, "1.2.3", "٣.1", "0", "-1", "1e9", "2147483647.1", "2147483648", "9" * 5000, "1." * 30,
    ".1", "1.",
]  # fmt: skip
ADDRESSES = [
    "10.0.0.1",
    "::ffff:10.0.0.1",
    " 10.0.0.1 ",
    "010.0.0.1",
    "256.1.1.1",
    "1.2.3",
    "fe80::1%eth0",
    "::",
]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, 10**400, [], {}, [[]], {"": ""}, ["a", 1, None],
    {"a": {"b": [{}]}},
]  # fmt: skip
RAW_VALUES = [
    "NaN", "Infinity", "-Infinity", "01", "+1", "1.", ".5", "1e", "1e400", "-", "0x10", "'single'",
    "undefined",
    '"\\ud800"', '"\\uDC00\\uD800"', '"\\u00"', '"\\x41"', '"\x01"', "1" * 10_000, "1e" + "9" * 400,
    "tru", "/**/1",
]  # fmt: skip


def bodies(count: int, seed: int) -> Iterator[bytes]:
    """That many bodies; a fifth of them are good logins."""
    dice = random.Random(seed)
    for number in range(count):
        yield dice.choice(KINDS)(dice, _login(dice, number))


def _login(dice: random.Random, number: int) -> Fields:
    return {
        "user_id": f"hostile-{number}",
        "app_version": f"{number % 9}.{number % 4}",
        "device_type": dice.choice(["android", "ios", None]),
        "ip": f"{ADDRESS_MARK}::{number % 0xFFFF:x}",
        "locale": dice.choice(["RU", None]),
        "device_id": f"{DEVICE_MARK}-{number}",
    }


def _text(fields: Fields, *, ascii_only: bool = True) -> bytes:
    return json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def good(dice: random.Random, fields: Fields) -> bytes:
    return _text(fields)


def odd_text(dice: random.Random, fields: Fields) -> bytes:
    """One to three fields with a text that some layer may trip over."""
    for field in dice.sample(list(fields), dice.randint(1, 3)):
        unusual = dice.choice(ADDRESSES if field == "ip" and dice.random() < 0.5 else TEXTS)
        fields[field] = unusual if dice.random() < 0.5 else f"{fields[field]}{unusual}"
    return _text(fields, ascii_only=dice.random() < 0.5)


def wrong_type(dice: random.Random, fields: Fields) -> bytes:
    fields[dice.choice(list(fields))] = dice.choice(
        [*VALUES, {"ip": fields["ip"], "device": [fields["device_id"]]}]
    )
    return _text(fields)


def wrong_token(dice: random.Random, fields: Fields) -> bytes:
    """What is no JSON value, or one at the edge, in the place of a value known or unknown."""
    field = dice.choice([*fields, "more"])
    marked = {**fields, field: "@@"}
    return _text(marked).replace(b'"@@"', dice.choice(RAW_VALUES).encode())


def other_fields(dice: random.Random, fields: Fields) -> bytes:
    """Fields missing, renamed, unknown or exchanged; values as names."""
    for field in dice.sample(list(fields), dice.randint(1, 3)):
        value = fields.pop(field)
        fields[dice.choice([f"{field}2", field.upper(), str(value), "", f"{field}\\u0000"])] = value
    fields[fields.get("ip") or "ip"] = dice.choice(list(fields.values()))
    return _text(fields)


def twice(dice: random.Random, fields: Fields) -> bytes:
    """Every field two times: the last one counts."""
    other = _login(dice, 99)
    return _text(other)[:-1] + b"," + _text(fields)[1:]


def long_text(dice: random.Random, fields: Fields) -> bytes:
    field = dice.choice(list(fields))
    # Near the limits, or far beyond all of them.
    length = dice.choice([31, 32, 33, 127, 128, 129, 158, 159, 160, 161, 1_000, 20_000])
    fields[field] = (str(fields[field]) * length)[:length]
    return _text(fields)


def deep(dice: random.Random, fields: Fields) -> bytes:
    depth = DEEP if dice.random() < 0.02 else SHALLOW
    opened, closed = dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    nest = opened * depth + b"1" + closed * dice.choice([depth, depth - 1, 0])
    if dice.random() < 0.5:
        return nest
    return _text({**fields, dice.choice([*fields, "more"]): "@@"}).replace(b'"@@"', nest)


def cut(dice: random.Random, fields: Fields) -> bytes:
    body = _text(fields)
    return body[: dice.randrange(len(body))]


def damaged(dice: random.Random, fields: Fields) -> bytes:
    """Some bytes of it are others."""
    body = bytearray(_text(fields, ascii_only=False))
    for _ in range(dice.randint(1, 4)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    return bytes(body)


def spliced(dice: random.Random, fields: Fields) -> bytes:
    """Something put in, left out or repeated."""
    body = _text(fields)
    start, end = sorted(dice.randrange(len(body)) for _ in range(2))
    return (
        body[:start]
        + dice.choice([b"", body[start:end] * 2, b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"}{"])
        + body[end:]
    )


def otherwise_written(dice: random.Random, fields: Fields) -> bytes:
    """JSON in another encoding, with blanks, behind a mark, within something, or several."""
    text = json.dumps(fields)
    ways: list[Callable[[], bytes]] = [
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32-le"),
        lambda: b"\xef\xbb\xbf" + text.encode(),
        lambda: f" \r\n\t{text}\n ".encode(),
        lambda: json.dumps(text).encode(),
        lambda: f"[{text}]".encode(),
        lambda: f"{text}\n{text}".encode(),
        lambda: f"{text},".encode(),
        lambda: text.replace('"', "'").encode(),
        lambda: "".join(f"\\u{ord(one):04x}" for one in text).encode(),
        lambda: json.dumps({"Type": "Notification", "Message": text}).encode(),
    ]
    return dice.choice(ways)()


def noise(dice: random.Random, fields: Fields) -> bytes:
    return dice.choice([b"", fields["ip"].encode()]) + dice.randbytes(dice.randrange(200))


KINDS: list[Callable[[random.Random, Fields], bytes]] = [
    good, good, good, odd_text, odd_text, wrong_type, wrong_token, other_fields, twice, long_text, deep,
    cut, damaged,
    spliced, otherwise_written, noise,
]  # fmt: skip
