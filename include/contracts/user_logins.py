"""Login events of the queue `login-queue` -> table `public.user_logins`.

The only file that knows their fields.
"""

import re
from typing import Annotated

from msgspec import Meta, Struct

from include.queue_etl.contract import Contract, Derived, Month, Normalization, Personal, Rejected, SentDay

MAX_INT4 = 2**31 - 1
# [0-9], not \d: \d and int() also take digits such as the Arabic-Indic three.
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")

ShortName = Annotated[str, Meta(max_length=32)]
Secret = Annotated[str, Meta(max_length=159)]


def major(version: str | None) -> int | Rejected | None:
    """The part before the first period: "2.3.0" -> 2. Never through float: "2.00" and "6.02" occur."""
    if version is None:
        return None
    # 40 characters: int() of a long text takes quadratic time, and past 4,300 digits it raises.
    if len(version) > 40 or not _VERSION.fullmatch(version):
        return Rejected("bad_version")
    number = int(version.partition(".")[0])
    return number if number <= MAX_INT4 else Rejected("version_range")


class LoginEvent(Struct, frozen=True, gc=False):
    """A login. Every field must be there; those with `None` may be null."""

    user_id: Annotated[str, Meta(min_length=1, max_length=128)]
    device_type: ShortName | None
    ip: Annotated[Secret | None, Personal(Normalization.IP, "masked_ip", token_chars=256)]
    device_id: Annotated[Secret | None, Personal(column="masked_device_id", token_chars=256)]
    locale: ShortName | None
    app_version: Annotated[str | None, Derived(major, int)]


CONTRACT = Contract(
    name="user_logins",
    queue="login-queue",
    table="public.user_logins",
    event=LoginEvent,
    message=(SentDay("create_date"),),
    partition_by=Month("create_date"),
)
