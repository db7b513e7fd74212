"""The benchmark's messages, and what must come of them.

Shaped like the exercise's login events. Half of the messages come from users seen before, one in a hundred is
no login event. The same count and seed give the same messages.
"""

import json
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

DISTINCT = 200_000  # a longer feed repeats its bodies in turn, under new message ids: the stub stays small
MALFORMED = (b'{"foo": "oops_wrong_msg_type", "bar": "123"}', b'{"user_id": "cut off in the mid')
VERSIONS = [f"{major}.{minor}.{patch}" for major in range(5) for minor in range(4) for patch in range(3)]
DEVICES = ("android", "ios", "web")
# 29 of the exercise's 100 messages have no locale.
LOCALES = (None,) * 29 + tuple(f"{first}{second}" for first in "ABCDEFG" for second in "ABCDEFGHIJ")

User = dict[str, str | None]


@dataclass(frozen=True)
class Totals:
    """What a table must hold after the feed: equal values are masked alike, so their numbers are too."""

    rows: int
    users: int
    addresses: int
    devices: int
    versions: int  # sum of the major versions


@dataclass(frozen=True)
class Feed:
    """`count` messages: the bodies in turn."""

    bodies: list[bytes]
    count: int

    @cached_property
    def events(self) -> list[tuple[dict[str, Any], int]]:
        """The well-formed events and how often each is sent."""
        rounds, rest = divmod(self.count, len(self.bodies))
        numbered = [(body, rounds + (index < rest)) for index, body in enumerate(self.bodies)]
        return [(json.loads(body), times) for body, times in numbered if body not in MALFORMED]

    @cached_property
    def totals(self) -> Totals:
        """What must be in the table."""
        sent = [(event, times) for event, times in self.events if times]
        return Totals(
            rows=sum(times for _, times in sent),
            users=len({event["user_id"] for event, _ in sent}),
            addresses=len({event["ip"] for event, _ in sent}),
            devices=len({event["device_id"] for event, _ in sent}),
            versions=sum(int(event["app_version"].split(".")[0]) * times for event, times in sent),
        )

    @property
    def rejected(self) -> int:
        """How many messages are no login events."""
        return self.count - self.totals.rows

    @cached_property
    def secrets(self) -> Counter[tuple[str, str, str]]:
        """(user, address, device) -> messages: what unmasked rows must show."""
        found: Counter[tuple[str, str, str]] = Counter()
        for event, times in self.events:
            found[event["user_id"], event["ip"], event["device_id"]] += times
        return found


def feed(count: int, seed: int = 1) -> Feed:
    """A feed of that many messages."""
    draw = random.Random(seed)
    users: list[User] = []
    return Feed([_body(number, draw, users) for number in range(min(count, DISTINCT))], count)


def _body(number: int, draw: random.Random, users: list[User]) -> bytes:
    if number % 100 == 57:
        return MALFORMED[number // 100 % len(MALFORMED)]
    if number % 2 == 0 or not users:
        users.append(_user(draw))
        user = users[-1]
    else:
        user = draw.choice(users)
    event = {"user_id": user["user_id"], "app_version": draw.choice(VERSIONS), **user}
    return json.dumps(event).encode()


def _user(draw: random.Random) -> User:
    return {
        "user_id": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        "device_type": draw.choice(DEVICES),
        "ip": ".".join(str(draw.randint(1, 254)) for _ in range(4)),
        "locale": draw.choice(LOCALES),
        "device_id": f"{draw.randrange(1000):03}-{draw.randrange(100):02}-{draw.randrange(10_000):04}",
    }
