"""How a pipeline is declared: everything that a contract's file imports."""

from include.queue_etl.contract.columns import Column, Form, MaskedField
from include.queue_etl.contract.contract import Contract
from include.queue_etl.contract.marks import (
    WEAK,
    Day,
    Derived,
    Jsonb,
    MessageColumn,
    MessageId,
    Month,
    Name,
    Normalization,
    Numeric,
    Personal,
    ReceiveCount,
    Rejected,
    Scheme,
    SentAt,
    SentDay,
    Subject,
    Zone,
)

__all__ = [
    "WEAK",
    "Column",
    "Contract",
    "Day",
    "Derived",
    "Form",
    "Jsonb",
    "MaskedField",
    "MessageColumn",
    "MessageId",
    "Month",
    "Name",
    "Normalization",
    "Numeric",
    "Personal",
    "ReceiveCount",
    "Rejected",
    "Scheme",
    "SentAt",
    "SentDay",
    "Subject",
    "Zone",
]
