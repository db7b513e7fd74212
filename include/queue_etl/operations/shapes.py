"""Shapes of quarantined messages: for who is on call, and filled in where an earlier version made none."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from include.queue_etl.contract import Contract
from include.queue_etl.errors import PreflightError
from include.queue_etl.operations.store import KeptGroup, MaintenanceStore, OnCallStore, ShapeGroup
from include.queue_etl.postgres import checks
from include.queue_etl.postgres.connection import Database
from include.queue_etl.resources import Resources
from include.queue_etl.transform.quarantine import PayloadCipher, QuarantinedMessage
from include.queue_etl.transform.shapes import Shapes

MESSAGES = 100  # in memory at once, of up to 1 MiB each
UNKNOWN = "unknown"  # no maintenance has run since an earlier version quarantined them, or no key opens them

log = logging.getLogger(__name__)


def waiting_shapes(
    database: Database, contract: Contract, reason: str | None, groups: int
) -> tuple[list[dict[str, Any]], int]:
    """What waits in quarantine by reason and shape, the largest groups first; no value of any message.

    Args:
        database: as role ops_ro, which has no way to a body
        contract: the one of today; each group says how it differs from it
        reason: only these: a code with its path, or a code for all its paths
        groups: at most so many

    Returns:
        for each group its figures, "missing", "extra" and "other_type" paths, and the "shape"; and how many
        groups there are

    Raises:
        PreflightError: the warehouse is of another revision, or does not answer
    """
    if problems := checks.schema_problems(database):
        raise PreflightError(problems)
    found, total = OnCallStore(database).shapes(contract.queue, reason, groups)
    shapes = Shapes(contract)
    return [_facts(group, shapes) for group in found], total


def kept_shapes(database: Database, contract: Contract, groups: int) -> tuple[list[dict[str, Any]], int]:
    """The undeclared fields that are kept, by shape, the largest groups first; no value of any message.

    Args:
        database: as role ops_ro
        contract: whose messages had them
        groups: at most so many

    Returns:
        for each group its figures and the "shape"; and how many groups there are

    Raises:
        PreflightError: the warehouse is of another revision, or does not answer
    """
    if problems := checks.schema_problems(database):
        raise PreflightError(problems)
    found, total = OnCallStore(database).kept_shapes(contract.queue, groups)
    return [_kept_facts(group) for group in found], total


def _kept_facts(group: KeptGroup) -> dict[str, Any]:
    return {name: value if name == "messages" else str(value) for name, value in group._asdict().items()}


def _facts(group: ShapeGroup, shapes: Shapes) -> dict[str, Any]:
    least, most = group.least_bytes, group.most_bytes
    return {
        "waiting": group.waiting,
        "reason": group.reason,
        **shapes.differences(group.shape or "")._asdict(),
        "shape": group.shape or UNKNOWN,
        "bytes": f"{least}" if least == most else f"{least} to {most}",
        "first_at": group.first_at.isoformat(timespec="seconds"),
        "last_at": group.last_at.isoformat(timespec="seconds"),
        "newest_message": str(group.newest_message),
    }


def fill_shapes(resources: Resources, contracts: Mapping[str, Contract]) -> dict[str, int]:
    """Give each waiting message that has none its shape: an earlier version quarantined it.

    Args:
        resources: as role etl_maintainer
        contracts: by name; messages of others are left alone

    Returns:
        "shapes_filled"; "shapes_unopened": messages that the keyset does not open, which stay without

    Raises:
        KeysetError: there is something to open, and no keyset
        WarehouseUnavailable, WarehouseRefused: a repetition does the rest
    """
    counts = Counter(shapes_filled=0, shapes_unopened=0)
    for contract in contracts.values():
        last: QuarantinedMessage | None = None
        store = MaintenanceStore(resources.database)
        while page := store.without_shape(contract.queue, last, MESSAGES):
            made = _shapes_of(page, PayloadCipher(resources.keyset, contract.name), Shapes(contract))
            if made:
                store.set_shapes(made)
            counts["shapes_filled"] += len(made)
            counts["shapes_unopened"] += len(page) - len(made)
            last = page[-1]
    if counts["shapes_unopened"]:
        log.warning("%d quarantined messages do not open with this keyset", counts["shapes_unopened"])
    return dict(counts)


def _shapes_of(
    page: list[QuarantinedMessage], cipher: PayloadCipher, shapes: Shapes
) -> list[tuple[QuarantinedMessage, str]]:
    opened = [(message, cipher.decrypt_or_none(message.message_id, message.payload)) for message in page]
    return [
        (message, shapes.of_rejected(original.body, message.reason))
        for message, original in opened
        if original is not None
    ]
