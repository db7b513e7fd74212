"""Telling people: alerts through Apprise, to the receivers of QUEUE_ETL_ALERT_URLS.

An address holds a secret: it is shown nowhere, and what Apprise and its HTTP client would log is cut off. A
receiver that is down or slow keeps no other from being told: each has a thread of its own, and what was not
sent stays in the warehouse for the next pass. One that takes longer than TIME_LIMIT_SECONDS for its answer
may be told twice, since nobody knows whether it was told.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from queue import Empty, SimpleQueue

from include.queue_etl.errors import SettingsError
from include.queue_etl.operations.alerts import AlertStore, Notice

VARIABLE = "QUEUE_ETL_ALERT_URLS"
TIME_LIMIT_SECONDS = 60.0  # for all receivers together; well below CLAIM_SECONDS
HEARD_OF = ("apprise", "requests", "urllib3")  # they log addresses
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is told. Its address does not show where a receiver is printed.

    Attributes:
        name: for people and for the warehouse: the service, and the start of a hash of the address
    """

    address: str = field(repr=False)
    name: str

    def send(self, title: str, text: str) -> bool:
        """Tell it; whether it took it. Takes as long as the service does."""
        import apprise

        told = apprise.Apprise()
        return bool(told.add(self.address) and told.notify(body=text, title=title))


def receivers(environment: Mapping[str, str]) -> list[Receiver]:
    """Those of QUEUE_ETL_ALERT_URLS, with blanks or new lines between them.

    Raises:
        SettingsError: one has no `://`; tells its place in the list, not the text
    """
    addresses = environment.get(VARIABLE, "").split()
    problems = [
        f"{VARIABLE}: number {place} is no address of Apprise: give one such as slack://... or mailtos://..."
        for place, address in enumerate(addresses, start=1)
        if "://" not in address
    ]
    if problems:
        raise SettingsError(problems)
    return [
        Receiver(one, f"{one.partition('://')[0]}-{sha256(one.encode()).hexdigest()[:8]}")
        for one in addresses
    ]


def deliver(
    store: AlertStore, to: Sequence[Receiver], time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> dict[str, int]:
    """Tell each receiver what it has not been told yet; stops with a receiver at its first failure.

    Returns:
        "sent", and "unsent": notices that wait for the next pass
    """
    store.enqueue([one.name for one in to])
    unsent = {one.name: store.claim(one.name) for one in to}
    claimed = sum(map(len, unsent.values()))
    answers: SimpleQueue[tuple[str, Notice | None]] = SimpleQueue()
    under_way = {name for name, notices in unsent.items() if notices}
    silence()
    for one in to:
        if one.name in under_way:
            work = (one, tuple(unsent[one.name]), answers)
            threading.Thread(target=_tell, args=work, daemon=True).start()
    for name, notice in _until(answers, under_way, time.monotonic() + time_limit_seconds):
        if notice:
            store.sent(name, notice)
            unsent[name].remove(notice)
    for name in unsent:
        _leave(store, name, unsent[name], is_silent=name in under_way)
    left = sum(map(len, unsent.values()))
    return {"sent": claimed - left, "unsent": left}


def send_test(to: Sequence[Receiver]) -> dict[str, bool]:
    """Send each receiver a message that is none; its name -> whether it took it."""
    text = "This is a test of queue_etl's alerts. Nothing is wrong."
    silence()
    return {one.name: _took(one, "queue_etl: test", text) for one in to}


def title_of(notice: Notice) -> str:
    """One line: about what, and whether it is over."""
    word = "ended" if notice.event == "ended" else "alert"
    return f"queue_etl {word}: {notice.alert.subject}: {notice.alert.kind}"


def text_of(notice: Notice) -> str:
    """What, since when, where the messages are, and what helps; of one that ended, how long it was so."""
    alert = notice.alert
    if notice.event == "ended" and alert.ended_at:
        span = f"from {_utc(alert.since)} to {_utc(alert.ended_at)}"
        return (
            f"It is over: {alert.what}.\nIt was so {span}: {_minutes(alert.ended_at - alert.since)} minutes."
        )
    lines = (
        f"{alert.what}.",
        f"Since: {_utc(alert.since)}",
        f"Where: {alert.place}",
        f"What helps: {alert.remedy}",
    )
    return "\n".join(lines)


def _minutes(lasted: timedelta) -> int:
    return max(0, int(lasted.total_seconds()) // 60)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _tell(
    one: Receiver, notices: Sequence[Notice], answers: "SimpleQueue[tuple[str, Notice | None]]"
) -> None:
    """In a thread: send in order until one fails; each answer is put, and None at the end."""
    for notice in notices:
        if not _took(one, title_of(notice), text_of(notice)):
            break
        answers.put((one.name, notice))
    answers.put((one.name, None))


def _took(one: Receiver, title: str, text: str) -> bool:
    try:
        return one.send(title, text)
    except Exception as error:  # of any of a hundred services; its text may quote the address
        log.error("receiver %s: %s", one.name, type(error).__name__)
        return False


def _until(
    answers: "SimpleQueue[tuple[str, Notice | None]]", under_way: set[str], deadline: float
) -> Iterator[tuple[str, Notice | None]]:
    """Answers as they come, until nobody is under way or the time is over; takes out who has ended."""
    while under_way and (left := deadline - time.monotonic()) > 0:
        try:
            name, notice = answers.get(timeout=left)
        except Empty:
            return
        if notice is None:
            under_way.remove(name)
        yield name, notice


def _leave(store: AlertStore, name: str, unsent: Sequence[Notice], *, is_silent: bool) -> None:
    """Say what was not sent. Of a silent receiver the first notice may arrive yet: it stays claimed."""
    if not unsent:
        return
    why = "has not answered in time" if is_silent else "did not take the first of them"
    log.warning("receiver %s %s: %d notices wait for the next pass", name, why, len(unsent))
    if not is_silent:
        store.give_back(name, unsent)


def silence() -> None:
    """Keep the libraries that know addresses from logging them, for as long as this process lives.

    A receiver that is slow goes on in its thread when everybody else is done.
    """
    for name in HEARD_OF:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
