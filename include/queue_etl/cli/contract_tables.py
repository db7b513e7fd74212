"""What is made of contracts: their tables, their documents, a list of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include import VERSION
from include.contracts import contract_names, load_contract, load_contracts, shown
from include.queue_etl.cli import wiring
from include.queue_etl.cli.arguments import Arguments, Parser, add, add_json
from include.queue_etl.cli.output import show_table
from include.queue_etl.contract import Contract
from include.queue_etl.errors import BreakingChange, WarehouseRefused

if TYPE_CHECKING:
    from include.queue_etl.postgres.table_plan import Change, Found

FORMATS = ("odcs", "jsonschema", "markdown")


def add_to(actions: Any) -> None:
    """Add the commands of this module to the group `contract`."""
    one = add(actions, plan, group="contract", examples=example("plan user_logins"))
    _add_name(one)
    add_json(one)
    _add_name(add(actions, migration, group="contract", examples=example("migration orders")))
    one = add(
        actions,
        export,
        group="contract",
        examples=example("export user_logins --format markdown --output docs/contracts/user_logins.md"),
    )
    _add_name(one)
    one.add_argument(
        "--format",
        choices=FORMATS,
        required=True,
        help="odcs: the Open Data Contract Standard, for catalogues, as JSON, which is YAML too; "
        "jsonschema: of a message's body; markdown: a page for people",
    )
    one.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    add_json(add(actions, list_contracts, "list", group="contract", examples=example("list --json")))


def example(call: str) -> str:
    """An example of a command of this group, for its help."""
    return f"example: python -m include.queue_etl contract {call}"


def _add_name(parser: Parser) -> None:
    parser.add_argument("contract_name", metavar="NAME", choices=contract_names(), help="of the contract")


# Tables


def plan(arguments: Arguments) -> None:
    """Compare a contract with its table, and show the SQL of each change; exit code 3: one is breaking."""
    from include.queue_etl.postgres import table_plan

    planned = []
    for contract in load_contract(arguments.contract_name).each_table():
        found = _found(contract)
        changes = table_plan.changes(contract, found) if found else [table_plan.creation(contract)]
        planned.append((contract, changes))
    if arguments.json:
        own, *others = [
            {"table": contract.table, "changes": [*map(_facts, changes)]} for contract, changes in planned
        ]
        print(json.dumps({**own, **({"replay_tables": others} if others else {})}))
    else:
        for contract, changes in planned:
            _show(contract, changes)
    every = [change for _, changes in planned for change in changes]
    _refuse_breaking(every, [change.what for change in every if change.is_breaking])


def migration(arguments: Arguments) -> None:
    """Write the next revision: of a new table, or of the changes that `contract plan` shows.

    A new table, which no revision makes yet, needs no database. Exit code 3 and no file: a change is
    breaking.
    """
    from include.queue_etl.postgres import revisions, table_plan

    texts = []
    for contract in load_contract(arguments.contract_name).each_table():
        found = _found(contract) if revisions.makes_table(contract.table) else None
        changes = table_plan.changes(contract, found) if found else []
        _refuse_breaking(changes, [f"{one.what}: {one.instead}" for one in changes if one.is_breaking])
        if not found:
            texts.append(revisions.creation(contract))
        elif changes:
            texts.append(revisions.alteration(contract, changes))
        else:
            print(f"table {contract.table} is as the contract says: nothing to do")
    if texts:
        path = revisions.write(arguments.contract_name, "\n".join(texts))
        print(f"wrote {shown(path)}: read it, then run `migrate`. To write it again, delete it before that")


def _found(contract: Contract) -> "Found | None":
    """The contract's table in the warehouse, which has to be at the newest revision: others may change it."""
    from include.queue_etl.postgres import catalogue, checks
    from include.queue_etl.postgres.connection import Database

    with Database(wiring.owner_dsn(contract.warehouse, [contract.name])) as database:
        if problems := checks.schema_problems(database):
            raise WarehouseRefused("; ".join(problems))
        return database.transaction(lambda connection: catalogue.find(connection, contract.table))


def _refuse_breaking(changes: Sequence["Change"], problems: Sequence[str]) -> None:
    if any(change.is_breaking for change in changes):
        raise BreakingChange(problems)


def _facts(change: "Change") -> dict[str, Any]:
    kind = "breaking" if change.is_breaking else "compatible"
    return {
        "change": kind,
        "what": change.what,
        "cost": change.cost,
        "sql": change.sql,
        "instead": change.instead,
    }


def _show(contract: Contract, changes: Sequence["Change"]) -> None:
    breaking = sum(change.is_breaking for change in changes)
    if not changes:
        print(f"table {contract.table} is as the contract says: nothing to do")
        return
    print(f"table {contract.table}: compatible changes {len(changes) - breaking}, breaking {breaking}")
    for change in changes:
        print(f"\n{change.what} ({'breaking' if change.is_breaking else change.cost})")
        for statement in change.sql:
            print("\n".join(f"    {line}" for line in statement.split("\n")))
        if change.is_breaking:
            print(f"    {change.instead}")


# Documents


def export(arguments: Arguments) -> None:
    """Write a contract in a form that others read; no database is needed."""
    from include.queue_etl.contract import export as exports

    contract = load_contract(arguments.contract_name)
    if arguments.format == "odcs":
        text = _as_json(exports.odcs(contract, VERSION))
    elif arguments.format == "jsonschema":
        text = _as_json(exports.json_schema(contract))
    else:
        text = exports.markdown(contract)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
        print(f"wrote {arguments.output}")
    else:
        print(text, end="")


def _as_json(document: dict[str, Any]) -> str:
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def list_contracts(arguments: Arguments) -> None:
    """List all contracts, and what is wrong with those that cannot be used."""
    loaded = load_contracts()
    rows = [*map(_row, loaded.good.values())]
    if arguments.json:
        print(json.dumps({"contracts": rows, "broken": dict(loaded.broken)}))
        return
    show_table(rows)
    for name, problem in loaded.broken.items():
        print(f"{name} cannot be used: {problem}")


def _row(contract: Contract) -> dict[str, Any]:
    by = contract.partition_by
    return {
        "name": contract.name,
        "queue": contract.queue,
        "table": contract.table,
        "columns": len(contract.columns),
        "personal": len(contract.personal),
        "key": contract.key or None,
        "partitions": f"{by.kind} of {by.column}" if by else None,
        "schedule": contract.schedule,
        "owner": contract.owner,
        "elsewhere": contract.elsewhere or None,
    }
