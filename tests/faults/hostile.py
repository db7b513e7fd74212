"""Hostile bodies through parser, masking and COPY text: `python -m tests.faults.hostile --bodies 1000000`.

Every body must become one row or one quarantined message, as a second opinion made of Python's own JSON
parser has it; no exception, and no personal value in what is said. Exit code 0 when all holds, 1 otherwise.
"""

import argparse
import io
import ipaddress
import itertools
import json
import logging
import re
import sys
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from include.contracts.user_logins import CONTRACT
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import MaskedBatch, RawBatch, RejectedBatch
from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import PayloadCipher
from tests.faults import canaries, mutations
from tests.unit.copy_decoder import decoded, decoded_entries

BATCH = 2_000
SENT_MS = 1_769_900_000_000
DAY = date(2026, 1, 31).isoformat()
LIMITS = {"user_id": 128, "device_type": 32, "locale": 32, "ip": 159, "device_id": 159, "app_version": 10**9}
VERSION = re.compile(r"([0-9]+)(\.[0-9]+)*", re.ASCII)
WRONG = ("exceptions", "misplaced", "wrong_rows", "leaks")
Row = tuple[str | None, ...]


class Number(str):
    """A number as it was written: Python refuses to read whole numbers of more than 4,300 digits."""


@dataclass
class Result:
    """What came of the bodies; the four of WRONG should be 0.

    Attributes:
        exceptions: batches that raised
        misplaced: bodies not in the one place where the second opinion has them
        wrong_rows: rows that do not read, unmasked, as their body does
        leaks: forms of a personal value in messages of exceptions, in logs, in the ledger or in quarantine
        reasons: of the rejected bodies
    """

    bodies: int = 0
    exceptions: int = 0
    misplaced: int = 0
    wrong_rows: int = 0
    leaks: int = 0
    accepted: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[bytes] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not any(getattr(self, name) for name in WRONG)


class Checker:
    """Puts batches through the product's `mask_batch` and looks at all that comes out."""

    def __init__(self) -> None:
        self._keyset = Keyset.from_json(KeysetDocument.new().text)
        self._settings = Settings(staging="/nowhere")
        self._masker = Masker(CONTRACT, self._keyset)
        self._cipher = PayloadCipher(self._keyset, CONTRACT.name)
        self.result = Result()

    def check(self, bodies: list[bytes]) -> None:
        ids = sorted(str(uuid.uuid4()) for _ in bodies)
        raw = RawBatch(1, ids, [SENT_MS] * len(ids), [1] * len(ids), bodies)
        self.result.bodies += len(bodies)
        try:
            masked, rejected = mask_batch(raw, CONTRACT, self._keyset, self._settings, uuid.UUID(int=7))
        except Exception as error:
            self.result.exceptions += 1
            self.result.leaks += canaries.hits(f"{error!r}\n{error}".encode("utf-8", "surrogatepass"))
            return
        self.result.leaks += canaries.hits(masked.entries + b"\n" + rejected.lines)
        self.result.leaks += canaries.hits(repr((masked.rejected, masked.anomalies)).encode())
        self.result.accepted += masked.accepted
        self.result.reasons.update(masked.rejected)
        self._compare(raw, masked, rejected)

    def _compare(self, raw: RawBatch, masked: MaskedBatch, rejected: RejectedBatch) -> None:
        """Walk over the messages in their order, and over rows and quarantine along with them."""
        ledger, rows = decoded_entries(masked.entries), iter(decoded(masked.rows))
        sealed = iter(decoded(rejected.lines))
        places = {message_id: status for _, _, message_id, _, status in ledger}
        if [line[2] for line in ledger] != raw.ids:
            self._wrong("misplaced", b"the ledger")
        for message_id, body in zip(raw.ids, raw.bodies, strict=True):
            expected = row_of(body)
            if places.get(message_id) != ("Q" if expected is None else "L"):
                self._wrong("misplaced", body)
            if places.get(message_id) == "L":
                self._compare_row(next(rows, None), expected, body)
            elif self._quarantined(next(sealed, None)) != (message_id, body):
                self._wrong("misplaced", body)
        if next(rows, None) or next(sealed, None):
            self._wrong("misplaced", b"more lines than messages")

    def _compare_row(self, row: list[str | None] | None, expected: Row | None, body: bytes) -> None:
        try:
            is_right = row is not None and self._unmasked(row) == expected
        except KeysetError:  # what stands in a masked column is no token of it
            is_right = False
        if not is_right:
            self._wrong("wrong_rows", body)

    def _unmasked(self, row: list[str | None]) -> Row:
        user_id, device_type, ip, device_id, locale, version, day = row
        address, device = CONTRACT.personal
        values = [
            None if token is None else self._masker.unmask(column, token)
            for column, token in ((address, ip), (device, device_id))
        ]
        return (user_id, device_type, *values, locale, version, day)

    def _quarantined(self, line: list[str | None] | None) -> tuple[str, bytes] | None:
        if line is None:
            return None
        message_id, payload = str(line[2]), str(line[5]).removeprefix("\\x")
        return message_id, self._cipher.decrypt(message_id, bytes.fromhex(payload)).body

    def _wrong(self, what: str, body: bytes) -> None:
        setattr(self.result, what, getattr(self.result, what) + 1)
        if len(self.result.examples) < 10:
            self.result.examples.append(what.encode() + b": " + body[:400])


def row_of(body: bytes) -> Row | None:
    """The row of a body, unmasked; None where it is for quarantine. Slow, and written without the product."""
    try:
        event = json.loads(body.decode(), parse_constant=_refused, parse_int=Number, parse_float=Number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not set(LIMITS) <= set(event) or _has_lone_surrogate(event):
        return None
    values = [event[name] for name in LIMITS]
    if not all(_is_text(value, LIMITS[name]) for name, value in zip(LIMITS, values, strict=True)):
        return None
    version = _major(event["app_version"])
    ip, device_id = _address(event["ip"]), _plain(event["device_id"])
    if version == "" or not event["user_id"] or any(_too_long(event[name]) for name in ("ip", "device_id")):
        return None
    return (event["user_id"], event["device_type"], ip, device_id, event["locale"], version, DAY)


def _refused(constant: str) -> None:
    raise ValueError(constant)


def _is_text(value: Any, longest: int) -> bool:
    if value is None:
        return True
    return type(value) is str and len(value) <= longest and "\0" not in value


def _has_lone_surrogate(event: dict[str, Any]) -> bool:
    """Anywhere: the product takes such a body for no JSON, also where it would not look at the field."""
    text = json.dumps(event, ensure_ascii=False)
    return any("\ud800" <= one <= "\udfff" for one in text) if not text.isascii() else False


def _major(version: str | None) -> str | None:
    """The number before the first period; empty where it is none."""
    if version is None:
        return None
    found = VERSION.fullmatch(version)
    if not found or len(version) > 40 or int(found[1]) >= 2**31:
        return ""
    return str(int(found[1]))


def _plain(value: str | None) -> str | None:
    return unicodedata.normalize("NFC", value.strip()) or None if value is not None else None


def _address(value: str | None) -> str | None:
    plain = _plain(value)
    try:
        # Without a zone, which inet_pton does not know.
        address = ipaddress.ip_address(plain if plain and "%" not in plain else "")
    except ValueError:
        return plain
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _too_long(value: str | None) -> bool:
    return value is not None and len(unicodedata.normalize("NFC", value).encode()) > 159


def run(count: int, seed: int) -> Result:
    """Put that many bodies through; whatever any logger says meanwhile is searched too."""
    said = io.StringIO()
    listener = logging.StreamHandler(said)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    checker, started = Checker(), time.monotonic()
    try:
        for batch in _batches(mutations.bodies(count, seed)):
            checker.check(batch)
    finally:
        root.removeHandler(listener)
        root.setLevel(level)
    checker.result.leaks += canaries.hits(said.getvalue().encode("utf-8", "surrogatepass"))
    checker.result.seconds = round(time.monotonic() - started, 1)
    return checker.result


def _batches(bodies: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(bodies, BATCH)):
        yield batch


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hostile", description=__doc__)
    parser.add_argument("--bodies", type=int, default=20_000, help="how many (default: 20,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (default: 1)")
    options = parser.parse_args()
    result = run(options.bodies, options.seed)
    for name in ("bodies", "accepted", *WRONG, "seconds"):
        wrong = "   <- should be 0" if name in WRONG and getattr(result, name) else ""
        print(f"{name:<15}{getattr(result, name):>10,}{wrong}")
    print("\nrejected as")
    for reason, times in result.reasons.most_common():
        print(f"  {reason:<15}{times:>8,}")
    for example in result.examples:
        print(example, file=sys.stderr)
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
