"""What tokens promise, checked on many: python -m docs.privacy.tokens [--count 1000000] [--json].

COUNT different values of each kind go through the pipeline's own path, a column of a batch at a time. A value
that breaks a promise is counted, and the exit code is 1. Times are of one core's CPU.
"""

# ruff: noqa: T201 - it prints

import argparse
import json
import resource
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from msgspec import structs

from include.contracts.user_logins import CONTRACT
from include.queue_etl.contract import MaskedField, Scheme
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.transform.masking import Masker

BATCH = 10_000
IP, DEVICE = CONTRACT.personal
# The same field in another contract; a token must be worth nothing there either.
OTHER_CONTRACT = replace(CONTRACT, name="other")
PROMISES = ("deterministic", "one token a value", "one value a token", "field-separated", "round trip")
SCATTER = 2_654_435_761  # odd, so that different numbers stay different within 2**32 and 2**96


@dataclass(frozen=True)
class Kind:
    """One kind of personal value.

    Attributes:
        spelled: number -> spellings of one value, the canonical one first; another number, another value
    """

    name: str
    column: MaskedField
    spelled: Callable[[int], tuple[str, ...]]


@dataclass
class Result:
    """What became of the values of one kind.

    Attributes:
        broken: promise -> values that break it
        seconds: "mask" a column, "mask one" alone, "recover" -> CPU seconds for all tokens
    """

    kind: Kind
    tokens: int
    broken: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def facts(self) -> dict[str, Any]:
        """For --json."""
        return {
            "kind": self.kind.name,
            "scheme": self.kind.column.mark.scheme.value,
            "tokens": self.tokens,
            "broken": {promise: self.broken[promise] for promise in PROMISES},
            "microseconds_a_token": {
                name: round(seconds / self.tokens * 1e6, 2) for name, seconds in self.seconds.items()
            },
        }


def ipv4(number: int) -> tuple[str, ...]:
    """An IPv4 address: dotted, and as IPv6 programs write it."""
    packed = number * SCATTER % 2**32
    text = str(IPv4Address(packed))
    return text, f"::ffff:{text}", f"::FFFF:{packed >> 16:04X}:{packed & 0xFFFF:04x}", f" {text}\t"


def ipv6(number: int) -> tuple[str, ...]:
    """An IPv6 address of the block for documentation: short, in full, in capitals, with blanks."""
    address = IPv6Address((0x20010DB8 << 96) + number * SCATTER**3 % 2**96)
    return str(address), address.exploded, address.exploded.upper(), f" {address} "


def device(number: int) -> tuple[str, ...]:
    """A device id as the exercise has them."""
    text = f"{number // 10**6:03}-{number // 10**4 % 100:02}-{number % 10**4:04}"
    return text, f" {text}", f"{text}\r\n"


def accented(number: int) -> tuple[str, ...]:
    """A text beyond ASCII, composed and decomposed."""
    text = f"téléphone d'Åsa n°{number}"
    return text, unicodedata.normalize("NFD", text), f"\u00a0{text} "


def one_way(masked: MaskedField) -> MaskedField:
    """The same field, masked one-way."""
    return structs.replace(masked, mark=structs.replace(masked.mark, scheme=Scheme.ONE_WAY))


KINDS = (
    Kind("IPv4", IP, ipv4),
    Kind("IPv6", IP, ipv6),
    Kind("no address", IP, accented),
    Kind("device id", DEVICE, device),
    Kind("accented text", DEVICE, accented),
    Kind("device id", one_way(DEVICE), device),
)


class Check:
    """The promises, tried with one keyset."""

    def __init__(self, keyset_json: str) -> None:
        self.masker = Masker(CONTRACT, Keyset.from_json(keyset_json))
        self.another_process = Masker(CONTRACT, Keyset.from_json(keyset_json))
        self.another_contract = Masker(OTHER_CONTRACT, Keyset.from_json(keyset_json))

    def run(self, kind: Kind, count: int) -> Result:
        """Mask `count` values of a kind, a batch at a time; all of their tokens stay in memory."""
        result, distinct = Result(kind, count), set[str]()
        for first in range(0, count, BATCH):
            values = [kind.spelled(number) for number in range(first, min(first + BATCH, count))]
            distinct.update(self._batch(result, values))
        result.broken["one value a token"] = count - len(distinct)
        return result

    def _batch(self, result: Result, values: Sequence[tuple[str, ...]]) -> list[str]:
        column, spellings = result.kind.column, list(zip(*values, strict=True))
        canonical = spellings[0]
        tokens = timed(result, "mask", lambda: self.masker.mask(column, canonical, ""))
        alone = timed(
            result, "mask one", lambda: [self.masker.mask(column, [value], "")[0] for value in canonical]
        )
        backwards = self.another_process.mask(column, canonical[::-1], "")[::-1]
        result.broken["deterministic"] += differ(tokens, alone) + differ(tokens, backwards)
        for others in spellings[1:]:
            result.broken["one token a value"] += differ(tokens, self.masker.mask(column, others, ""))
        result.broken["field-separated"] += self._joinable(column, canonical, tokens)
        result.broken["round trip"] += self._lost(result, canonical, tokens)
        return tokens

    def _joinable(self, column: MaskedField, values: Sequence[str], tokens: Sequence[str]) -> int:
        """Tokens that another field or contract has too, or opens."""
        elsewhere = IP if column.field == DEVICE.field else DEVICE
        other = structs.replace(elsewhere, mark=structs.replace(elsewhere.mark, scheme=column.mark.scheme))
        return sum(
            masked == token or opened(masker, elsewhere, token) is not None
            for masker, elsewhere in ((self.masker, other), (self.another_contract, column))
            for token, masked in zip(tokens, masker.mask(elsewhere, values, ""), strict=True)
        )

    def _lost(self, result: Result, values: Sequence[str], tokens: Sequence[str]) -> int:
        """Tokens whose value does not come back; of one-way fields, those whose value does."""
        column = result.kind.column
        if column.mark.scheme is Scheme.ONE_WAY:
            return sum(opened(self.masker, column, token) is not None for token in tokens)
        found = timed(result, "recover", lambda: [opened(self.masker, column, token) for token in tokens])
        return differ(values, found)


def timed(result: Result, name: str, work: Callable[[], list[Any]]) -> list[Any]:
    """What the work gives; its CPU time goes into the result."""
    started = time.process_time()
    found = work()
    result.seconds[name] += time.process_time() - started
    return found


def opened(masker: Masker, column: MaskedField, token: str) -> str | None:
    """The value behind a token; None where it does not open."""
    try:
        return masker.unmask(column, token)
    except KeysetError:
        return None


def differ(some: Sequence[object], others: Sequence[object]) -> int:
    """At how many places they differ."""
    return sum(one != other for one, other in zip(some, others, strict=True))


def table(results: Sequence[Result]) -> str:
    """A line a kind, in Markdown: docs/privacy.md holds it."""
    names = ("mask", "mask one", "recover")
    head = ["values", "scheme", "tokens", *PROMISES, *(f"µs to {name}" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for facts in (result.facts() for result in results):
        cells = [facts["kind"], facts["scheme"], f"{facts['tokens']:,}"]
        cells += ["holds" if not broken else f"{broken:,} break it" for broken in facts["broken"].values()]
        cells += [f"{facts['microseconds_a_token'].get(name, '-')}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a kind of value; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="values of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    check, started = Check(KeysetDocument.new().text), time.monotonic()
    results = [check.run(kind, options.count) for kind in KINDS]
    broken = sum(result.broken.total() for result in results)
    facts = {
        "broken": broken,
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if options.json:
        print(json.dumps({**facts, "kinds": [result.facts() for result in results]}))
    else:
        print(table(results))
        print(f"\n{broken} promises broken; {facts['seconds']} s, {facts['peak_mib']} MiB at most")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
