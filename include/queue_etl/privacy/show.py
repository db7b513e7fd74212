"""A look at one quarantined message: for the privacy officer, with a reason, a ticket and an audit entry."""

from collections.abc import Iterator, Sequence

from include.queue_etl.contract import Contract
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.officer_store import StoredMessage
from include.queue_etl.resources import Resources
from include.queue_etl.transform.quarantine import Original, PayloadCipher


def show(
    resources: Resources,
    audit: AuditLog,
    contract: Contract,
    messages: Sequence[StoredMessage],
    purpose: Purpose,
    *,
    shape_alone: bool = False,
) -> Iterator[tuple[StoredMessage, Original]]:
    """Put the request on record, then open the messages.

    Args:
        resources: as role pii_officer
        audit: gets the request
        contract: whose messages they are
        messages: at least one, all of one message id
        purpose: why
        shape_alone: nobody will see a value; so it costs nothing of the hour's allowance

    Returns:
        each message as it was received, as they are opened. Opening raises KeysetError where the keyset lacks
        the key.

    Raises:
        RateExceeded: more messages than the hour has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was opened
    """
    cipher = PayloadCipher(resources.keyset, contract.name)
    details = {"contract": contract.name, "message": messages[0].message_id}
    if shape_alone:
        audit.record("show shape", purpose, details)
    else:
        most = resources.settings.unmask_per_hour
        audit.record_tokens("show", purpose, details, len(messages), most)
    return ((message, cipher.decrypt(message.message_id, message.payload)) for message in messages)
