"""Contracts of the tests' own: one of the project, with another annotation on some of its fields."""

from dataclasses import replace
from typing import Any, get_type_hints

import msgspec

from include.queue_etl.contract import Contract


def redeclared(contract: Contract, **annotations: Any) -> Contract:
    """The contract with these annotations on its fields; a field that it has not comes last."""
    hints = {**get_type_hints(contract.event, include_extras=True), **annotations}
    event = msgspec.defstruct("Redeclared", list(hints.items()), bases=(contract.event,), kw_only=True)
    return replace(contract, event=event)
