"""The balance: is every message in exactly one place, exactly once, as what it is?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add

from include.queue_etl.transform.masking import Masker
from include.queue_etl.transform.quarantine import PayloadCipher
from tests.faults.bodies import Sent
from tests.faults.servers import QueueUnderTest

ROWS = "SELECT user_id, masked_ip, masked_device_id FROM public.user_logins WHERE user_id LIKE %s"
SEALED = """
    SELECT message_id::text, payload, reason FROM etl.quarantine JOIN etl.queues USING (queue_id)
    WHERE name = %s
"""
LEDGER = "SELECT count(*) FROM etl.ledger JOIN etl.queues USING (queue_id) WHERE name = %s"


@dataclass(frozen=True)
class Balance:
    """Numbers of messages; all are 0 when all is well.

    Attributes:
        lost: neither in the table nor in quarantine
        duplicate: in more than one place, or twice in one
        wrong_kind: good ones in quarantine, bad ones in the table, and rows or reasons that are not theirs
        left_on_queue: visible, in flight or delayed
        stale: rows that do not hold the newest value of their key
    """

    lost: int
    duplicate: int
    wrong_kind: int
    left_on_queue: int
    stale: int = 0

    def __add__(self, other: "Balance") -> "Balance":
        return Balance(*map(add, astuple(self), astuple(other)))


GOOD = Balance(lost=0, duplicate=0, wrong_kind=0, left_on_queue=0)


balances: list[tuple[int, Balance]] = []  # every balance of this process, with its number of messages


def balance(tested: QueueUnderTest, sent: Sequence[Sent]) -> Balance:
    """Compare what was sent with the warehouse and the queue; the result is also kept in `balances`."""
    rows = _rows(tested)
    sealed_away = quarantined(tested)
    loaded = Counter(user_id for user_id, _, _ in rows)
    reasons = Counter(body for body, _ in sealed_away)
    places = [loaded[one.user_id] + reasons[one.body] for one in sent]
    wanted = {(one.user_id, one.ip, one.device_id) for one in sent if one.reason is None}
    sealed = {(one.body, one.reason) for one in sent if one.reason is not None}
    result = Balance(
        lost=places.count(0),
        duplicate=sum(count > 1 for count in places),
        wrong_kind=len(set(rows) - wanted) + len(set(sealed_away) - sealed),
        left_on_queue=tested.on_queue(),
    )
    balances.append((len(sent), result))
    return result


def ledger_entries(tested: QueueUnderTest) -> int:
    return int(tested.servers.rows(LEDGER, tested.contract.queue)[0][0])


def _rows(tested: QueueUnderTest) -> list[tuple[str, str, str]]:
    """User, address and device of every row, unmasked."""
    masker = Masker(tested.contract, tested.keyset())
    address, device = tested.contract.personal
    return [
        (user_id, masker.unmask(address, ip), masker.unmask(device, device_id))
        for user_id, ip, device_id in tested.servers.rows(ROWS, f"{tested.tag}-%")
    ]


def quarantined(tested: QueueUnderTest) -> list[tuple[bytes, str]]:
    """Body and reason of every quarantined message."""
    cipher = PayloadCipher(tested.keyset(), tested.contract.name)
    return [
        (cipher.decrypt(message_id, bytes(payload)).body, reason)
        for message_id, payload, reason in tested.servers.rows(SEALED, tested.contract.queue)
    ]
