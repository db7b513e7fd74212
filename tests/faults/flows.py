"""The pipelines of a kill run, each with its messages and what accounts for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts import orders, user_logins
from include.queue_etl.contract import Contract
from tests.contracts import deliveries
from tests.faults import bodies, documents, reconciliation
from tests.faults.reconciliation import Balance
from tests.faults.servers import QueueUnderTest, Servers

DELIVERIES = Path(deliveries.__file__).with_suffix(".sql")


@dataclass(frozen=True)
class Flow:
    """How the messages of a contract are made, given a tag and a count, and accounted for."""

    contract: Contract
    some: Callable[[str, int], Sequence[Any]]
    balance: Callable[[QueueUnderTest, Sequence[Any]], Balance]


# Rows appended, rows replaced by key, and rows with personal values inside jsonb.
FLOWS = (
    Flow(user_logins.CONTRACT, bodies.some, reconciliation.balance),
    Flow(orders.CONTRACT, documents.some_orders, documents.balance_of_orders),
    Flow(deliveries.CONTRACT, documents.some_deliveries, documents.balance_of_deliveries),
)


def make_tables(servers: Servers) -> None:
    """The tables that no revision makes; a second time changes nothing."""
    with servers.owner() as connection:
        if connection.execute("SELECT to_regclass('public.deliveries')").fetchone() == (None,):
            connection.execute(DELIVERIES.read_text().encode())
