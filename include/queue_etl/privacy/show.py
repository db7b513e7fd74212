"""A look at one quarantined message, or at what is kept of one: for the privacy officer, on record."""

from collections.abc import Iterator, Sequence

from include.queue_etl.contract import Contract
from include.queue_etl.privacy.audit import AuditLog, Purpose
from include.queue_etl.privacy.officer_store import KeptFields, StoredMessage
from include.queue_etl.resources import Resources
from include.queue_etl.transform import kept
from include.queue_etl.transform.quarantine import Original, PayloadCipher


def show(
    resources: Resources,
    audit: AuditLog,
    contract: Contract,
    messages: Sequence[StoredMessage | KeptFields],
    purpose: Purpose,
    *,
    shape_alone: bool = False,
) -> Iterator[tuple[StoredMessage | KeptFields, Original]]:
    """Put the request on record, then open the messages.

    Args:
        resources: as role pii_officer
        audit: gets the request
        contract: whose messages they are
        messages: at least one, all of one message id
        purpose: why
        shape_alone: nobody will see a value; so it costs nothing of the hour's allowance

    Returns:
        each message as it was received, or with what is kept of it as its body, as they are opened. Opening
        raises KeysetError where the keyset lacks the key.

    Raises:
        RateExceeded: more messages than the hour has room for; the attempt is on record
        KeysetError, WarehouseRefused, WarehouseUnavailable: nothing was opened
    """
    of_messages = PayloadCipher(resources.keyset, contract.name)
    of_fields = kept.cipher(resources.keyset, contract.name)

    def opened(message: StoredMessage | KeptFields) -> Original:
        if isinstance(message, StoredMessage):
            return of_messages.decrypt(message.message_id, message.payload)
        return Original(kept.Document.unpack(of_fields.decrypt(message.message_id, message.payload)).named)

    details = {"contract": contract.name, "message": messages[0].message_id}
    if shape_alone:
        audit.record("show shape", purpose, details)
    else:
        most = resources.settings.unmask_per_hour
        audit.record_tokens("show", purpose, details, len(messages), most)
    return ((message, opened(message)) for message in messages)
