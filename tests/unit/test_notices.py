"""Telling people through Apprise: real HTTP, receivers that are down, slow or wrong; no secret anywhere."""

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest

from include.queue_etl.errors import SettingsError
from include.queue_etl.operations import notices
from include.queue_etl.operations.alerts import Alert, Notice
from include.queue_etl.operations.notices import VARIABLE, Receiver, deliver, receivers, send_test
from tests.support.receiver import Inbox, inbox

__all__ = ["inbox"]
# Apprise, as it loads its services.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
SECRET = "hunter2-and-more"  # pragma: allowlist secret
SINCE = datetime(2026, 11, 26, 12, tzinfo=UTC)


def alert(number: int) -> Alert:
    place, remedy = "on the queue", "`python -m include.queue_etl check`"
    return Alert(number, "stalled", "orders", "orders", SINCE, SINCE, None, "7 messages wait", place, remedy)


class Store:
    """What AlertStore would do, without a database."""

    def __init__(self, *found: Notice) -> None:
        self.found, self.told, self.given_back = found, list[tuple[str, Notice]](), list[Notice]()

    def enqueue(self, names: list[str]) -> None:
        self.names = names

    def claim(self, receiver: str) -> list[Notice]:
        return list(self.found)

    def sent(self, receiver: str, notice: Notice) -> None:
        self.told.append((receiver, notice))

    def give_back(self, receiver: str, left: list[Notice]) -> None:
        self.given_back += left


def of(*addresses: str) -> list[Receiver]:
    return receivers({VARIABLE: " ".join(addresses)})


def delivered(store: Store, *addresses: str, seconds: float = 30) -> dict[str, int]:
    return deliver(store, of(*addresses), seconds)  # type: ignore[arg-type]


def test_an_alert_says_what_since_when_where_and_what_helps(inbox: Inbox) -> None:
    store = Store(Notice("raised", alert(1)))
    assert delivered(store, inbox.address()) == {"sent": 1, "unsent": 0}
    assert inbox.titles() == ["queue_etl alert: orders: stalled"]
    assert inbox.messages() == [
        "7 messages wait.\nSince: 2026-11-26 12:00 UTC\nWhere: on the queue\n"
        "What helps: `python -m include.queue_etl check`"
    ]


def test_the_notice_of_its_end_says_how_long_it_was_so(inbox: Inbox) -> None:
    over = alert(1)._replace(ended_at=SINCE + timedelta(minutes=25))
    delivered(Store(Notice("ended", over)), inbox.address())
    assert inbox.titles() == ["queue_etl ended: orders: stalled"]
    assert inbox.messages() == [
        "It is over: 7 messages wait.\n"
        "It was so from 2026-11-26 12:00 UTC to 2026-11-26 12:25 UTC: 25 minutes."
    ]


def test_a_receiver_that_is_down_waits_and_the_others_are_told(
    inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Notice("raised", alert(1)), Notice("raised", alert(2))
    store = Store(first, second)
    inbox.answers["/down"] = 500
    assert delivered(store, inbox.address("down"), inbox.address()) == {"sent": 2, "unsent": 2}
    assert store.given_back == [first, second]
    assert len(inbox.titles("/down")) == 1  # it is not asked again in this pass
    assert "did not take the first of them: 2 notices wait for the next pass" in caplog.text


def test_a_receiver_that_is_slow_holds_nobody(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(Notice("raised", alert(1)))
    inbox.delays["/slow"] = 30.0
    started = time.monotonic()
    patient = inbox.address("slow?rto=60")  # Apprise's own limit is four seconds
    assert delivered(store, patient, inbox.address(), seconds=1) == {"sent": 1, "unsent": 1}
    assert time.monotonic() - started < 20
    assert store.given_back == []  # it may have been told: it stays claimed for a while
    assert "has not answered in time" in caplog.text


def test_an_address_that_apprise_does_not_know_is_unsent() -> None:
    store = Store(Notice("raised", alert(1)))
    assert delivered(store, "nosuch://somewhere") == {"sent": 0, "unsent": 1}


def test_what_is_no_address_is_refused_by_its_place_alone() -> None:
    with pytest.raises(SettingsError) as caught:
        receivers({VARIABLE: f"json://127.0.0.1 {SECRET}"})
    assert "number 2 is no address of Apprise" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_without_the_setting_nobody_is_told() -> None:
    assert receivers({}) == []
    assert delivered(Store(Notice("raised", alert(1)))) == {"sent": 0, "unsent": 0}


def test_a_receiver_has_the_same_name_each_time_and_another_than_others() -> None:
    one, again, other = of("json://a/x", "json://a/x", "json://a/y")
    assert one.name == again.name != other.name
    assert one.name.startswith("json-")


@pytest.mark.parametrize(
    ("address", "takes"),
    [
        (f"json://user:{SECRET}@127.0.0.1:PORT/{SECRET}", True),
        (f"json://127.0.0.1:PORT/down/{SECRET}", False),
        (f"json://127.0.0.1:1/{SECRET}", False),
        (f"nosuch://{SECRET}", False),
    ],
)
def test_no_secret_of_an_address_is_logged_or_shown(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, address: str, takes: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in notices.HEARD_OF:  # as in a process that has sent nothing yet
        logging.getLogger(name).setLevel(logging.NOTSET)
    inbox.answers[f"/down/{SECRET}"] = 500
    address = address.replace("PORT", str(inbox.port))
    (receiver,) = of(address)
    delivered(Store(Notice("raised", alert(1))), address)
    told = send_test([receiver])
    assert told == {receiver.name: takes}
    for shown in (caplog.text, repr(receiver), str(told)):
        assert SECRET not in shown


def test_an_error_of_a_service_is_told_by_its_kind_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError(f"cannot reach json://{SECRET}")

    monkeypatch.setattr(Receiver, "send", fail)
    assert delivered(Store(Notice("raised", alert(1))), "json://127.0.0.1") == {"sent": 0, "unsent": 1}
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text
