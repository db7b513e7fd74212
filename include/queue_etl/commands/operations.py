"""What operators do: redrive, dead letters, reconcile, maintenance."""

from typing import Any

from include.contracts import any_contract, load_contract, load_contracts
from include.queue_etl.commands import connections
from include.queue_etl.commands.terminal import Arguments, add, positive, show
from include.queue_etl.errors import SettingsError, StagedFileDamaged


def add_to(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    one = add(commands, redrive)
    one.add_argument("--reason", help="only messages rejected for it; default: any but too_many_receives")
    one.add_argument(
        "--since", metavar="TIME", help="only those quarantined then or later: 2026-11-21[T08:30[+01:00]]"
    )
    one.add_argument("--until", metavar="TIME", help="only those quarantined before")
    dead = add(commands, dead_letters)
    dead.add_argument("--max", type=positive, help="take at most this many messages")
    for changing in (one, dead):
        changing.add_argument("--apply", action="store_true", help="do it")
    for each in (one, dead, add(commands, reconcile), add(commands, maintain)):
        each.add_argument("--json", action="store_true", help="print one JSON object")


def redrive(arguments: Arguments) -> None:
    """Replay quarantined messages through the current contract; without --apply only say what would be."""
    from include.queue_etl.operations import redrive as engine

    with connections.upkeep(arguments) as pipeline:
        try:
            selection = engine.selection(pipeline, arguments.reason, arguments.since, arguments.until)
        except SettingsError as error:
            arguments.misused("; ".join(error.problems))
        show(engine.redrive(pipeline, selection, dry_run=not arguments.apply), arguments.json)


def reconcile(arguments: Arguments) -> None:
    """After a restore: load from the retained masked files what the ledger misses, of every contract."""
    from include.queue_etl.operations.reconcile import reconcile as again

    with connections.upkeep(arguments, any_contract()) as pipeline:
        result = again(pipeline, load_contract)
    show(result, arguments.json)
    if result["damaged"]:
        raise StagedFileDamaged(f"{result['damaged']} batches could not be read; -v names them")


def dead_letters(arguments: Arguments) -> None:
    """Empty the dead-letter queue: delete what is committed, send back the rest; --apply does it."""
    from include.queue_etl.operations.dead_letters import bring_back

    with connections.upkeep(arguments) as pipeline:
        result = bring_back(pipeline, max_messages=arguments.max, dry_run=not arguments.apply)
    show(result, arguments.json)


def maintain(arguments: Arguments) -> None:
    """Ledger days, expired quarantine, unfinished runs, staged files; of every contract."""
    from include.queue_etl.operations.maintenance import maintain as upkeep

    contracts = load_contracts()
    with connections.upkeep(arguments, any_contract()) as pipeline:
        show(upkeep(pipeline, contracts.usable(), contracts.broken), arguments.json)
