"""A hand-written order and hostile events, for the tests of `contract new`."""

import json
from typing import Any

from include.queue_etl.onboarding import draft, personal, survey

ORDER: dict[str, Any] = {
    "orderId": "ord-77123",
    "placedAt": "2026-03-01T10:11:12.5+01:00",
    "shipBy": "2026-03-04",
    "pickedAt": "2026-03-02T08:00:00",
    "traceId": "7f1b6d0e-63f4-4a57-9c3f-5a5c4f6a1b20",
    "total": 129.9,
    "currency": "EUR",
    "express": True,
    "itemCount": 2,
    "weight": 1.3333,
    "customer": {
        "id": 991823,
        "email": "zoe.quill@corp.test",
        "name": "Zoe Quill",
        "address": {"line1": "17 Larch Lane", "city": "Sometown", "geo": {"lat": 52.5163, "lon": 13.3777}},
    },
    "items": [
        {"sku": "LAMP-9", "price": 64.95, "gift": {"phone": "+4930901820"}},
        {"sku": "SHADE-3", "price": 64.95, "gift": None},
    ],
    "tags": ["fragile", "insured"],
    "scores": {"ord-77123": 4, "zoe.quill@corp.test": 5},
    "class": "first",
    "coupon": None,
}


def order(**changes: Any) -> dict[str, Any]:
    """The order with other fields."""
    return {**ORDER, **changes}


def bodies(*events: Any) -> list[bytes]:
    """The events as messages have them."""
    return [json.dumps(event, ensure_ascii=False).encode() for event in events]


def surveyed(*events: Any) -> survey.Survey:
    return survey.survey(bodies(*events))


def fields(*events: Any) -> dict[str, survey.Field]:
    """Path -> what is there."""
    return {found.path: found for found in surveyed(*events).event.walk() if found.path}


def drafted(*events: Any, choices: tuple[str, ...] = (), **decided: Any) -> draft.Draft:
    found = surveyed(*events)
    proposals = personal.proposals(found.event, **decided)
    return draft.draft(found, "orders", proposals, choices, decided.get("not_personal", ()))


def columns(*events: Any, **decided: Any) -> dict[str, draft.Member]:
    """Path -> member with a column."""
    return {member.found.path: member for member in drafted(*events, **decided).event.columns()}
