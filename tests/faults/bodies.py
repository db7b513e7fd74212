"""Messages whose fate is known, with personal values that can be looked for everywhere."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Every personal value on the queue begins with one of these: a leak of any of them shows.
ADDRESS_MARK = "2001:db8:cafe:f00d"
DEVICE_MARK = "cnry-dev-5f9c"
PHONE_MARK = "151555792"  # behind +49, and before two more digits


@dataclass(frozen=True)
class Sent:
    """A message on the queue.

    Attributes:
        user_id: unique, also where the body does not show it
        reason: for quarantine; None: it is to be loaded
        ip: normalized, as `unmask` returns it
    """

    user_id: str
    body: bytes
    reason: str | None
    ip: str
    device_id: str


def login(tag: str, number: int, **changed: object) -> Sent:
    """A good login; `changed` fields make it another one."""
    ip, device = f"{ADDRESS_MARK}::{number + 1:x}", f"{DEVICE_MARK}-{number:08d}"
    fields = {
        "user_id": f"{tag}-{number:08d}",
        "app_version": f"{number % 7}.{number % 10}.0",
        "device_type": ("android", "ios")[number % 2],
        "ip": ip,
        "locale": (None, "RU", "tab\there", 'quo"te\\back')[number % 4],
        "device_id": device,
        **changed,
    }
    return Sent(f"{tag}-{number:08d}", json.dumps(fields).encode(), None, ip, device)


def _bad(tag: str, number: int) -> Sent:
    good = login(tag, number)
    bodies = [
        (
            "missing_field user_id",
            f'{{"foo": "oops_wrong_msg_type", "bar": "{good.user_id} {good.device_id}"}}',
        ),
        ("bad_json", good.body.decode()[:-1]),
        ("bad_type app_version", login(tag, number, app_version=3).body.decode()),
        ("too_long device_type", login(tag, number, device_type=good.device_id * 3).body.decode()),
        ("nul_char locale", login(tag, number, locale=f"{number}\0").body.decode()),
        ("bad_version app_version", login(tag, number, app_version="v2").body.decode()),
        ("no_value user_id", json.dumps({**json.loads(good.body), "user_id": None})),
        ("not_object", json.dumps([good.user_id, good.ip, good.device_id])),
    ]
    reason, body = bodies[number // 5 % len(bodies)]
    return Sent(good.user_id, body.encode(), reason, good.ip, good.device_id)


def some(tag: str, count: int, first: int = 0) -> list[Sent]:
    """That many messages, each fifth of them bad, in an order that is always the same."""
    sent = [
        _bad(tag, number) if number % 5 == 4 else login(tag, number) for number in range(first, first + count)
    ]
    random.Random(first).shuffle(sent)
    return sent


class HasBody(Protocol):
    """A message of any contract."""

    @property
    def body(self) -> bytes: ...


def texts(sent: Sequence[HasBody]) -> list[bytes]:
    return [one.body for one in sent]
