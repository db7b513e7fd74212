"""A contract in forms that others read: data catalogues, producers of messages, people. Pure."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from include.queue_etl.contract import comments
from include.queue_etl.contract.columns import Column, Form, MaskedField
from include.queue_etl.contract.contract import Contract
from include.queue_etl.contract.event_types import Annotation, decoding_type, fields_of, is_struct
from include.queue_etl.contract.marks import Jsonb, Personal

# Open Data Contract Standard -----------------------------------------------------------------------

ODCS_VERSION = "v3.1.0"  # https://bitol-io.github.io/open-data-contract-standard/v3.1.0/
_LOGICAL_TYPES = {
    "varchar": "string",
    "text": "string",
    "uuid": "string",
    "boolean": "boolean",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "number",
    "double precision": "number",
    "timestamptz": "timestamp",
    "date": "date",
    "jsonb": "object",
}


def odcs(contract: Contract, version: str) -> dict[str, Any]:
    """The contract by the Open Data Contract Standard: its table, without servers.

    Args:
        contract: to describe
        version: of the project, since a contract has none of its own
    """
    schema, _, table = contract.table.partition(".")
    return {
        "apiVersion": ODCS_VERSION,
        "kind": "DataContract",
        "id": contract.name,
        "name": contract.name,
        "version": version,
        "status": "active",
        "description": {"purpose": comments.of_table(contract)},
        "team": {"name": contract.owner},
        "tags": list(contract.tags),
        "schema": [
            {
                "name": table,
                "physicalName": f"{schema}.{table}",
                "physicalType": "table",
                "logicalType": "object",
                "description": comments.of_table(contract),
                "properties": [_property(contract, column) for column in contract.columns],
            }
        ],
        "customProperties": [
            {"property": "queue", "value": contract.queue},
            {"property": "unknownFields", "value": contract.unknown_fields},
            {"property": "personalDataCheck", "value": contract.personal_data_check},
            *([{"property": "retainDays", "value": contract.retain_days}] if contract.retain_days else []),
        ],
    }


def _property(contract: Contract, column: Column) -> dict[str, Any]:
    by = contract.partition_by
    found: dict[str, Any] = {
        "name": column.name,
        "logicalType": _LOGICAL_TYPES[column.sql_type.partition("(")[0]],
        "physicalType": column.sql_type,
        "description": comments.of_column(column),
        "required": not column.nullable,
    }
    if column.form is Form.UUID or column.form is Form.MESSAGE_ID:
        found["logicalTypeOptions"] = {"format": "uuid"}
    elif length := re.fullmatch(r"varchar\((\d+)\)", column.sql_type):
        found["logicalTypeOptions"] = {"maxLength": int(length[1])}
    if column.name == contract.key:
        found |= {"primaryKey": True, "primaryKeyPosition": 1, "unique": True}
    if by and column.name == by.column:
        found |= {"partitioned": True, "partitionKeyPosition": 1}
    if column.masked:
        found["classification"] = "personal, masked"
        found["customProperties"] = [{"property": "masked", "value": _masking(one)} for one in column.masked]
    if column.choices:
        found["quality"] = [_valid_values(column)]
    return found


def _masking(masked: MaskedField) -> dict[str, str]:
    return {"field": masked.field, **_mark(masked.mark)}


def _mark(mark: Personal) -> dict[str, str]:
    return {"scheme": str(mark.scheme), "normalization": comments.normalization(mark)}


def _valid_values(column: Column) -> dict[str, Any]:
    return {
        "type": "library",
        "metric": "invalidValues",
        "arguments": {"validValues": list(column.choices)},
        "mustBe": 0,
    }


# JSON Schema ---------------------------------------------------------------------------------------


def json_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of a message's body: what the contract accepts, what of it is personal.

    `x-personal` stands at each personal property, `x-personal-inside` where Jsonb names paths inside, and
    `x-columns` at the top: path of the field -> column. `x-message-attributes` are those that are read.
    """
    decoded = decoding_type(contract.event, strict=contract.unknown_fields == "reject")
    pairs = list(_structs(contract.event, decoded))
    references, definitions = msgspec.json.schema_components([one for _, one in pairs])
    for (struct, _), reference in zip(pairs, references, strict=True):
        definition = definitions[reference["$ref"].rpartition("/")[2]]
        definition["description"] = comments.first_paragraph(struct)
        for found, annotation in fields_of(struct):
            definition["properties"][found.encode_name] |= _extensions(annotation)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": contract.name,
        **references[0],
        "x-columns": {column.field: column.name for column in contract.columns if column.attributes},
        **_message_attributes(contract),
        "$defs": _with_numbers(definitions),
    }


def _structs(given: Any, decoded: Any, seen: frozenset[Any] = frozenset()) -> Iterator[tuple[Any, Any]]:
    """Each struct of the event, and the one that msgspec decodes into; the event's own first."""
    if is_struct(given):
        if given in seen:
            return
        yield given, decoded
        types = {found.name: annotation.type for found, annotation in fields_of(decoded)}
        for found, annotation in fields_of(given):
            yield from _structs(annotation.type, types[found.name], seen | {given})
    for one, other in zip(get_args(given), get_args(decoded), strict=False):
        yield from _structs(Annotation.parse(one).type, Annotation.parse(other).type, seen)


def _extensions(annotation: Annotation) -> dict[str, Any]:
    """What a property's marks say of personal values."""
    found: dict[str, Any] = {}
    if mark := annotation.mark(Personal):
        found["x-personal"] = _mark(mark)
    if (jsonb := annotation.mark(Jsonb)) and jsonb.personal:
        found["x-personal-inside"] = {path: _mark(one) for path, one in jsonb.personal.items()}
    return found


def _message_attributes(contract: Contract) -> dict[str, Any]:
    """Name of a message attribute -> its column and what bounds it; nothing where the contract reads none."""
    found = {one.message_attribute: _attribute(one) for one in contract.columns if one.message_attribute}
    return {"x-message-attributes": found} if found else {}


def _attribute(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"column": column.name}
    if column.max_length != float("inf"):
        found["maxLength"] = column.max_length
    if column.masked:
        found["x-personal"] = _mark(column.masked[0].mark)
    return found


def _with_numbers(schema: Any) -> Any:
    """The schema, where a Decimal may also be a number: msgspec decodes both, and names the text alone."""
    if isinstance(schema, list):
        return [_with_numbers(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return {**schema, "type": ["number", "string"]}
    return {name: _with_numbers(value) for name, value in schema.items()}


# Markdown ------------------------------------------------------------------------------------------


def markdown(contract: Contract) -> str:
    """A page for people: what the table holds, column by column."""
    facts = {
        "owner": contract.owner,
        "schedule": f"`{contract.schedule}`" if contract.schedule else "none: somebody starts it",
        "queue": f"`{contract.queue}`",
        "table": f"`{contract.table}`",
        "elsewhere": contract.elsewhere or "nothing: queue and warehouse are the deployment's own",
        "key": f"`{contract.key}`" if contract.key else "none: one row for each message",
        "partitions": _partitions(contract),
        "indexes": "; ".join(_code_list(index) for index in contract.indexes) or "none",
        "fields that nobody declared": contract.unknown_fields,
        "personal data check": contract.personal_data_check,
    }
    return "\n".join(
        [
            f"# {contract.name}",
            "",
            f"Written by `contract export {contract.name} --format markdown`: change the contract instead.",
            "",
            comments.of_table(contract),
            "",
            *_table(["contract", contract.name], ([name, value] for name, value in facts.items())),
            "",
            "## Columns",
            "",
            *_table(["column", "type", "null", "from", "personal", "meaning"], map(_cells, contract.columns)),
            "",
        ]
    )


def _partitions(contract: Contract) -> str:
    by = contract.partition_by
    if not by:
        return "none"
    kept = f"; rows are dropped after {contract.retain_days} days" if contract.retain_days else ""
    return f"a {by.kind} of `{by.column}` each{kept}"


def _cells(column: Column) -> list[str]:
    kind = f"`{column.sql_type}`"
    if column.choices:
        kind += f": {', '.join(f'`{choice}`' for choice in column.choices)}"
    return [
        f"`{column.name}`",
        kind,
        "yes" if column.nullable else "no",
        comments.source(column).removeprefix("From "),
        "; ".join(map(comments.masked_words, column.masked)),
        column.comment,
    ]


def _code_list(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heading: list[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * len(heading)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
