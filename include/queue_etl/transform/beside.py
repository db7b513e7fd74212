"""What stands beside the body of a message: texts that SQS was asked for, and which of them load. Pure.

Reasons name the field behind a blank, as in `too_long attribute:trace-id`: bad_type (binary, or no UTF-8),
nul_char, too_long, and bad_value where a sequence number is none.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from include.queue_etl.contract import Column, Contract, Rejected
from include.queue_etl.transform.parsing import character_check

_NUMBER = re.compile(r"[0-9]{1,39}")
Values = Sequence[str | bytes | None]


def rejected(contract: Contract, facts: Mapping[str, Values]) -> dict[int, Rejected]:
    """Number of a message -> the first of the contract's columns that cannot hold what it says.

    Args:
        contract: names the columns
        facts: of a raw batch
    """
    found: dict[int, Rejected] = {}
    for column in contract.asked_for:
        check = _check(column)
        for number, value in enumerate(facts.get(column.field, ())):
            if value is not None and (code := check(value)):
                found.setdefault(number, Rejected(f"{code} {column.field}"))
    return found


def _check(column: Column) -> Callable[[str | bytes], str | None]:
    characters = character_check(column)

    def check(value: str | bytes) -> str | None:
        if isinstance(value, bytes):
            return "bad_type"
        if len(value) > column.max_length:
            return "too_long"
        if column.sql_type.startswith("numeric") and not _NUMBER.fullmatch(value):
            return "bad_value"
        return characters(value) if characters else None

    return check
