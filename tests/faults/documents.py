"""Messages of contracts with types, structs and jsonb, whose fate is known, and what became of each.

`orders` replaces rows: each key comes in several versions, of which the one that was sent last must stand in
the table. `deliveries` appends, with personal values at every depth of two jsonb columns.

New places in which messages carry personal values (attributes, undeclared fields that are kept) get canaries
in `order()`; new places that keep what was received get a line in `canaries.PLACES`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from include.queue_etl.contract import Form, MaskedField
from include.queue_etl.transform.json_values import changed
from include.queue_etl.transform.masking import Masker
from tests.faults.bodies import ADDRESS_MARK, DEVICE_MARK, PHONE_MARK
from tests.faults.reconciliation import Balance, balances, quarantined
from tests.faults.servers import QueueUnderTest

# At least two calls of SQS lie between the versions of a key: it then gives them different times.
KEYS_AT_LEAST = 20
VERSIONS = 4
ORDERED = datetime(2026, 1, 31, 10, tzinfo=UTC)
STATUSES = ("placed", "paid", "shipped", "cancelled")

Row = dict[str, Any]  # by column, personal values in the clear


@dataclass(frozen=True)
class Document:
    """A message.

    Attributes:
        key: first column of its row; unique in its table
        reason: for quarantine; None: it is to be loaded
        row: what is to be loaded
    """

    key: str
    body: bytes
    reason: str | None
    row: Row


# Orders -----------------------------------------------------------------------------------------------------


def some_orders(tag: str, count: int) -> list[Document]:
    """That many, each fifth of them bad; versions of a key follow each other."""
    keys = max(KEYS_AT_LEAST, count // VERSIONS)
    return [
        _bad_order(tag, number) if number % 5 == 4 else order(tag, number % keys, number)
        for number in range(count)
    ]


def order(tag: str, key: int, version: int) -> Document:
    """A good order, other in each version, with canaries in a struct, inside jsonb and in what is ignored."""
    phone = f"{PHONE_MARK}{version % 100:02}"
    moment = ORDERED + timedelta(seconds=version, microseconds=version)
    event = {
        "order_id": f"{tag}-{key:06}",
        "status": STATUSES[version % 4],
        "placed_at": moment.isoformat(),
        "total": version + 0.25,
        "currency": ("EUR", "GBP", "USD")[version % 3],
        "customer": {
            "id": version + 1,
            "email": f"{DEVICE_MARK}-Mail-{version:06}@Example.ORG",
            "phone": (f"+49{phone}", f"0049 {phone}", f"0{phone}", None)[version % 4],
            "nickname": f"{DEVICE_MARK} that nobody declared",
        },
        "items": _items(version),
        "note": (None, "tab\there", 'quo"te\\back', "é")[version % 4],
    }
    row = {
        "order_id": event["order_id"],
        "status": event["status"],
        "placed_at": moment,
        "total": Decimal(version) + Decimal("0.25"),
        "currency": event["currency"],
        "customer_id": version + 1,
        "customer_email": f"{DEVICE_MARK}-mail-{version:06}@example.org",
        "customer_phone": None if version % 4 == 3 else f"+49{phone}",
        "items": _exact([{"gift_for": None, **item} for item in _items(version)]),
        "note": event["note"],
    }
    return Document(f"{tag}-{key:06}", json.dumps(event).encode(), None, row)


def _items(version: int) -> list[dict[str, Any]]:
    gifts = [
        {"sku": f"S-{n}", "quantity": n + 1, "price": 0.1, "gift_for": f"{DEVICE_MARK} ü {version}.{n}"}
        for n in range(version % 3)
    ]
    return [{"sku": "S", "quantity": 1, "price": version + 0.5}, *gifts]


def _bad_order(tag: str, number: int) -> Document:
    good = json.loads(order(tag, number, number).body)
    good["order_id"] = f"{tag}-bad-{number:06}"
    item = {"sku": "a", "quantity": 1, "price": 1}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("bad_value status", {"status": f"{DEVICE_MARK} lost"}),
        ("out_of_range total", {"total": 1.005}),
        ("missing_field customer.id", {"customer": {"email": f"{DEVICE_MARK}@example.org"}}),
        ("out_of_range items", {"items": [{**item, "price": "NaN", "gift_for": DEVICE_MARK}]}),
        ("bad_type items[*].gift_for", {"items": [{**item, "gift_for": [DEVICE_MARK]}]}),
        ("nul_char items", {"items": [{**item, "gift_for": f"{DEVICE_MARK}\0"}]}),
        ("nul_char customer.email", {"customer": {"id": 1, "email": f"{DEVICE_MARK}\0@example.org"}}),
    ]
    reason, changes = wrong[number // 5 % len(wrong)]
    body = json.dumps({**good, **changes}).encode()
    return Document(good["order_id"], body, reason, {})


def balance_of_orders(tested: QueueUnderTest, sent: Sequence[Document]) -> Balance:
    """Every message is in the ledger or the quarantine once, and every key has its newest version."""
    versions: dict[str, list[Row]] = {}
    for one in sent:
        if one.reason is None:
            versions.setdefault(one.key, []).append(one.row)
    found = {row["order_id"]: row for row in rows(tested)}
    stale = sum(row in versions.get(key, [])[:-1] for key, row in found.items())
    strange = sum(row not in versions.get(key, []) for key, row in found.items())
    loaded = sum(map(len, versions.values()))
    entries = int(tested.servers.rows(LOADED, tested.contract.queue)[0][0])
    lost = len(versions.keys() - found.keys()) + max(0, loaded - entries)
    return _with_quarantine(tested, sent, Balance(lost, max(0, entries - loaded), strange, 0, stale))


LOADED = "SELECT count(*) FROM etl.ledger JOIN etl.queues USING (queue_id) WHERE name = %s AND status = 'L'"


# Deliveries -------------------------------------------------------------------------------------------------


def some_deliveries(tag: str, count: int) -> list[Document]:
    """That many, each fifth of them bad."""
    return [
        _bad_delivery(tag, number) if number % 5 == 4 else delivery(tag, number) for number in range(count)
    ]


def delivery(tag: str, number: int) -> Document:
    """A good delivery, with canaries in a text, in a list of structs and in what is not declared further."""
    phone, ip = f"{DEVICE_MARK}-{number}", f"{ADDRESS_MARK}::{number + 1:x}"
    contacts = [
        {"role": "neighbour", "phone": phone, "ip": ip, "member": member}
        for member in [None, f"{DEVICE_MARK}-{number}"][: number % 3]
    ]
    by = [{"who": f"{DEVICE_MARK} ü {number}", "at": 1.5}, {"at": None}]
    notes = {"by": by, "free": [1, "é"]} if number % 2 else None
    event = {
        "parcel": f"{tag}-{number:06}",
        "customer": f"{tag} customer",
        "sender_ip": None if number % 3 == 1 else ip,
        "contacts": contacts,
        "notes": notes,
    }
    tokens = [{**contact, "member": contact["member"] and ONE_WAY} for contact in contacts]
    row = {**event, "contacts": _exact(tokens), "notes": _exact(notes)}
    return Document(f"{tag}-{number:06}", json.dumps(event).encode(), None, row)


def _bad_delivery(tag: str, number: int) -> Document:
    good = json.loads(delivery(tag, number).body)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("bad_type contacts", {"contacts": {"phone": DEVICE_MARK}}),
        ("bad_type notes", {"notes": {"by": f"{DEVICE_MARK} alone"}}),
        ("missing_field contacts[*].role", {"contacts": [{"phone": DEVICE_MARK}]}),
        ("nul_char notes", {"notes": {"by": [{"who": f"{DEVICE_MARK}\0"}]}}),
    ]
    reason, changes = wrong[number // 5 % len(wrong)]
    return Document(good["parcel"], json.dumps({**good, **changes}).encode(), reason, {})


def balance_of_deliveries(tested: QueueUnderTest, sent: Sequence[Document]) -> Balance:
    """Every message is in the table or the quarantine, once, and every jsonb column has what was sent."""
    wanted = {one.key: one.row for one in sent if one.reason is None}
    found = rows(tested)
    times = Counter(row["parcel"] for row in found)
    strange = sum(row != wanted.get(row["parcel"]) for row in found)
    twice = sum(count > 1 for count in times.values())
    return _with_quarantine(tested, sent, Balance(len(wanted.keys() - times.keys()), twice, strange, 0))


# Both -------------------------------------------------------------------------------------------------------

ONE_WAY = "a token that nothing opens"


def rows(tested: QueueUnderTest) -> list[Row]:
    """The rows of the queue's messages, without columns of the message; personal values are opened."""
    contract = tested.contract
    columns = [column for column in contract.columns if column.attributes]
    selected = ", ".join(f"{one.name}::text" if one.form is Form.JSON else one.name for one in columns)
    statement = f"SELECT {selected} FROM {contract.table} WHERE {columns[0].name} LIKE %s"  # noqa: S608
    masker = Masker(contract, tested.keyset())
    found = []
    for values in tested.servers.rows(statement, f"{tested.tag}-%"):
        row = dict(zip([column.name for column in columns], values, strict=True))
        for masked in contract.personal:
            row[masked.column] = _opened(row[masked.column], masked, masker)
        documents = {one.name: _loads(row[one.name]) for one in columns if one.form is Form.JSON}
        found.append({**row, **documents})
    return found


def _opened(value: str | None, masked: MaskedField, masker: Masker) -> str | None:
    """A token's value, or a jsonb text with the values of all its tokens at the field's path."""

    def opened(token: str) -> str:
        return masker.unmask(masked, token) if masked.mark.is_recoverable else ONE_WAY

    if value is None:
        return None
    return changed(value, masked.path, opened) if masked.path else opened(value)


def _exact(value: Any) -> Any:
    """A JSON value with Decimals in place of floats."""
    return None if value is None else _loads(json.dumps(value))


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text, parse_float=Decimal)


def _with_quarantine(tested: QueueUnderTest, sent: Sequence[Document], of_rows: Balance) -> Balance:
    """The balance of the good messages, with that of the bad ones and of the queue."""
    wanted = {(one.body, one.reason) for one in sent if one.reason is not None}
    found = Counter(quarantined(tested))
    result = of_rows + Balance(
        lost=len(wanted - found.keys()),
        duplicate=sum(count > 1 for count in found.values()),
        wrong_kind=len(found.keys() - wanted),
        left_on_queue=tested.on_queue(),
    )
    balances.append((len(sent), result))
    return result
