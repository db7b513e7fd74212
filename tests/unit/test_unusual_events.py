"""Every line of tests/events/*.jsonl ends as its verdict says, through the whole of mask."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from include.contracts import user_logins
from include.queue_etl.contract import Contract
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from include.queue_etl.transform.masking import Masker
from tests.contracts import newsletter_signups
from tests.unit.copy_decoder import decoded

EVENTS = Path(__file__).parent.parent / "events"
SETTINGS = Settings(staging="/staging")
RUN = UUID("00000000-0000-4000-8000-00000000000a")
SENT_MS = 1_769_903_999_999  # the last millisecond of 2026-01-31, UTC
ORDINARY = {
    "user_logins": {
        "user_id": "u-1",
        "app_version": "2.3.0",
        "device_type": "ios",
        "ip": "192.0.2.7",
        "locale": "DE",
        "device_id": "123-45-6789",
    },
    "newsletter_signups": {
        "email": "ann@example.org",
        "newsletter": "weekly",
        "doubleOptIn": "yes",
        "referrer": "friend",
    },
}
Case = dict[str, Any]


def cases(contract: Contract) -> list[Any]:
    lines = (EVENTS / f"{contract.name}.jsonl").read_text(encoding="utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    return [pytest.param(contract, case, id=f"{contract.name}: {case['case']}") for case in found]


def pieces(contract: Contract, given: str | Iterable[Any]) -> bytes:
    return b"".join(piece(contract, one) for one in ([given] if isinstance(given, str) else given))


def piece(contract: Contract, given: Any) -> bytes:
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, list):
        text, times = given
        return text.encode() * times
    return bytes.fromhex(given["hex"]) if "hex" in given else event(contract, {"event": given["event"]})


def event(contract: Contract, case: Case) -> bytes:
    fields = {**ORDINARY[contract.name], **case["event"]}
    for field in case.get("without", ()):
        del fields[field]
    body = json.dumps(fields, ensure_ascii=False).encode()
    return body[:-1] + b"," + pieces(contract, case["also"]) + b"}" if "also" in case else body


def body(contract: Contract, case: Case) -> bytes:
    if "body" in case:
        return pieces(contract, case["body"])
    inner = event(contract, case)
    if not contract.sns_envelope or not case.get("envelope", True):
        return inner
    notification = {"Type": "Notification", "MessageId": str(RUN), "Message": inner.decode()}
    return json.dumps(notification).encode()


def unmasked(contract: Contract, keyset: Keyset, row: list[str | None]) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(contract.column_names, row, strict=True))
    for personal in contract.personal:
        token = values[personal.column]
        values[personal.column] = token and Masker(contract, keyset).unmask(personal, token)
    if contract is user_logins.CONTRACT and values["app_version"] is not None:
        values["app_version"] = int(values["app_version"])
    return values


@pytest.mark.parametrize(
    ("contract", "case"), [*cases(user_logins.CONTRACT), *cases(newsletter_signups.CONTRACT)]
)
def test_an_unusual_message_ends_as_its_verdict_says(contract: Contract, case: Case, keyset: Keyset) -> None:
    raw = RawBatch(1, [str(RUN)], [SENT_MS], [1], [body(contract, case)])
    masked, rejected = mask_batch(raw, contract, keyset, SETTINGS, RUN)
    assert masked.anomalies == case.get("anomalies", {})
    if case["verdict"] != "loads":
        assert (masked.rejected, masked.accepted, masked.rows) == ({case["verdict"]: 1}, 0, b"")
        assert decoded(rejected.lines)[0][4] == case["verdict"]
        return
    assert (masked.rejected, masked.accepted, rejected.lines) == ({}, 1, b"")
    (row,) = decoded(masked.rows)
    found = unmasked(contract, keyset, row)
    assert found == {**found, **case.get("row", {})}


@pytest.mark.parametrize("contract", [user_logins.CONTRACT, newsletter_signups.CONTRACT])
def test_no_two_cases_have_one_name_and_no_key_is_misspelt(contract: Contract) -> None:
    found = [param.values[1] for param in cases(contract)]
    names = [case["case"] for case in found]
    assert len(set(names)) == len(names) > 20
    known = {"case", "verdict", "event", "without", "also", "body", "envelope", "row", "anomalies"}
    assert set().union(*found) <= known
    assert all(("event" in case) != ("body" in case) for case in found)
