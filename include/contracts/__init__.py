"""One module a pipeline; `load_contract` finds them by name."""

import pkgutil
from importlib import import_module

from include.queue_etl.contract import Contract

DEFAULT_CONTRACT = "user_logins"  # of commands and forms where nobody names one


def contract_names() -> list[str]:
    """Names of all contracts, sorted; each is also a DAG id."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_contract(name: str) -> Contract:
    """The contract of that name.

    Raises:
        KeyError: there is no such contract
    """
    if name not in contract_names():
        raise KeyError(f"no contract {name!r}; there are: {', '.join(contract_names())}")
    contract: Contract = import_module(f"{__name__}.{name}").CONTRACT
    return contract


def load_contracts() -> dict[str, Contract]:
    """Every contract, by name."""
    return {name: load_contract(name) for name in contract_names()}
