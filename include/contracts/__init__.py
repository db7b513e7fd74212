"""One module a pipeline; `load_contract` finds them by name.

A file that cannot be used stops its own pipeline only: `load_contracts` returns it apart from the others.
"""

import logging
import os
import pkgutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from include.queue_etl.contract import Contract
from include.queue_etl.errors import ContractBroken, SettingsError
from include.queue_etl.settings import queue_suffix

DEFAULT_CONTRACT = "user_logins"  # of commands and forms where nobody names one
PROJECT = Path(__file__).parents[2]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedContracts:
    """What the files of this folder hold.

    Attributes:
        good: contracts by name
        broken: name -> what is wrong with its file, and where
    """

    good: Mapping[str, Contract]
    broken: Mapping[str, str]

    def usable(self) -> Mapping[str, Contract]:
        """The good ones, for what can do without the others; each of those is logged as left out."""
        for name, problem in self.broken.items():
            log.warning("contract %s is left out: %s", name, problem)
        return self.good

    def complete(self) -> Mapping[str, Contract]:
        """The good ones, for what needs all of them.

        Raises:
            ContractBroken: one is broken; lists each
        """
        if self.broken:
            raise ContractBroken(list(self.broken.values()))
        return self.good


def contract_names() -> list[str]:
    """Names of all contracts, broken ones too, sorted; each is also a DAG id."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_contract(name: str) -> Contract:
    """The contract of that name; its queue has the suffix of this environment, as everything else takes it.

    Raises:
        KeyError: there is no such contract
        ContractBroken: its file cannot be used, or QUEUE_ETL_QUEUE_SUFFIX does not fit its queue
    """
    if name not in contract_names():
        raise KeyError(f"no contract {name!r}; there are: {', '.join(contract_names())}")
    file = _file_of(name)
    try:
        contract = getattr(import_module(f"{__name__}.{name}"), "CONTRACT", None)
    except Exception as error:  # it runs code of its own, so anything can come
        raise ContractBroken([_problem(error, file)]) from error
    if not isinstance(contract, Contract):
        raise ContractBroken([f"{shown(file)}: it has no CONTRACT = Contract(...): add one"])
    if contract.name != name:
        raise ContractBroken(
            [f"{shown(file)}: its contract has the name {contract.name!r}: give both the same name"]
        )
    return _in_this_environment(contract)


def load_contracts() -> LoadedContracts:
    """Every contract; a file that cannot be used does not keep the others from being loaded."""
    good: dict[str, Contract] = {}
    broken: dict[str, str] = {}
    for name in contract_names():
        try:
            good[name] = load_contract(name)
        except ContractBroken as error:
            broken[name] = error.problems[0]
    taken = _taken(good)
    return LoadedContracts(
        {name: one for name, one in good.items() if name not in taken}, {**broken, **taken}
    )


def _taken(good: Mapping[str, Contract]) -> dict[str, str]:
    """Contracts with a queue that another one has where there is no suffix, and what to do."""
    suffix = queue_suffix(os.environ) if good else ""
    if not suffix:
        return {}
    plain = {name: replace(one, queue=one.queue.removesuffix(suffix)) for name, one in good.items()}
    owners = {queue: name for name, one in plain.items() for queue in (one.queue, one.dead_letter_queue)}
    return {
        name: f"QUEUE_ETL_QUEUE_SUFFIX={suffix!r}: {one.queue} is the queue of contract {owners[queue]} "
        "without a suffix: give another suffix"
        for name, one in good.items()
        for queue in (one.queue, one.dead_letter_queue)
        if queue in owners
    }


def _in_this_environment(contract: Contract) -> Contract:
    try:
        suffix = queue_suffix(os.environ)
        return replace(contract, queue=contract.queue + suffix) if suffix else contract
    except SettingsError as error:
        raise ContractBroken(error.problems) from None
    except ValueError as error:
        raise ContractBroken([f"QUEUE_ETL_QUEUE_SUFFIX={suffix!r}: {error}"]) from None


def shown(file: Path) -> str:
    """A file's path as people read it: from the project's folder, where it is in there."""
    return str(file.relative_to(PROJECT) if file.is_relative_to(PROJECT) else file)


def _file_of(name: str) -> Path:
    spec = find_spec(f"{__name__}.{name}")
    return Path(spec.origin if spec and spec.origin else name)


def _problem(error: Exception, file: Path) -> str:
    """File, line and reason. What a contract refuses says itself what to do."""
    if isinstance(error, SyntaxError):
        return f"{shown(file)}, line {error.lineno}: {error.msg}: correct the Python there"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    where = f"{shown(file)}, line {lines[-1]}" if lines else shown(file)
    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return f"{where}: {reason}"
