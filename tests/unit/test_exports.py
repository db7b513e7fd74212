"""Contracts in the forms that others read."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from msgspec import Meta, Struct

from include.contracts import load_contracts
from include.contracts.user_logins import CONTRACT as USER_LOGINS
from include.queue_etl.contract import Contract, Day, Jsonb, Month, Personal, Rejected, SentDay, export
from include.queue_etl.transform.parsing import Parser
from tests.contracts.newsletter_signups import CONTRACT as SIGNUPS
from tests.support import every_type
from tests.support.every_type import GOOD

ROOT = Path(__file__).resolve().parents[2]
STANDARD = json.loads(
    files("open_data_contract_standard").joinpath("schema.json").read_text(encoding="utf-8")
)
CONTRACTS = {
    "user_logins": USER_LOGINS,
    "signups": SIGNUPS,
    "keyed": every_type.contract(key="code"),
    "partitioned": every_type.contract(
        partition_by=Day("day"), retain_days=400, unknown_fields="reject", owner="shop", tags=("sales",)
    ),
}


def column(contract: Contract, name: str) -> dict[str, Any]:
    (table,) = export.odcs(contract, "1.2.3")["schema"]
    return next(one for one in table["properties"] if one["name"] == name)


# Open Data Contract Standard


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_odcs_export_is_valid_by_the_published_schema(name):
    document = json.loads(json.dumps(export.odcs(CONTRACTS[name], "1.2.3")))
    jsonschema.Draft201909Validator(STANDARD).validate(document)


def test_the_published_schema_refuses_what_is_no_contract():
    document = export.odcs(USER_LOGINS, "1.2.3")
    for wrong in ({"kind": "Table"}, {"colour": "red"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft201909Validator(STANDARD).validate({**document, **wrong})


def test_an_odcs_export_says_what_the_contract_says():
    document = export.odcs(CONTRACTS["partitioned"], "1.2.3")
    assert (document["id"], document["version"]) == ("everything", "1.2.3")
    assert (document["team"], document["tags"]) == ({"name": "shop"}, ["sales"])
    assert document["customProperties"] == [
        {"property": "queue", "value": "everything"},
        {"property": "unknownFields", "value": "reject"},
        {"property": "personalDataCheck", "value": "count"},
        {"property": "retainDays", "value": 400},
    ]
    assert column(CONTRACTS["partitioned"], "day") == {
        "name": "day",
        "logicalType": "date",
        "physicalType": "date",
        "description": "From `day`.",
        "required": True,
        "partitioned": True,
        "partitionKeyPosition": 1,
    }
    assert column(USER_LOGINS, "masked_ip") == {
        "name": "masked_ip",
        "logicalType": "string",
        "physicalType": "varchar(256)",
        "description": "From `ip`. Masked: recoverable token, normalized as ip.",
        "required": False,
        "logicalTypeOptions": {"maxLength": 256},
        "classification": "personal, masked",
        "customProperties": [
            {
                "property": "masked",
                "value": {"field": "ip", "scheme": "recoverable", "normalization": "ip"},
            }
        ],
    }
    assert column(CONTRACTS["keyed"], "code")["primaryKey"] is True
    assert column(CONTRACTS["keyed"], "order")["logicalTypeOptions"] == {"format": "uuid"}
    assert column(CONTRACTS["keyed"], "size")["quality"][0]["arguments"] == {"validValues": [-1, 2]}


def test_every_type_of_column_has_a_logical_type():
    kinds = {one.sql_type: column(every_type.contract(), one.name) for one in every_type.contract().columns}
    assert {kind: one["logicalType"] for kind, one in kinds.items()} == {
        "varchar(40)": "string",
        "text": "string",
        "varchar(32)": "string",
        "boolean": "boolean",
        "smallint": "integer",
        "integer": "integer",
        "bigint": "integer",
        "double precision": "number",
        "numeric(12,2)": "number",
        "numeric": "number",
        "timestamptz": "timestamp",
        "varchar(160)": "string",
        "date": "date",
        "uuid": "string",
        "varchar(10)": "string",
        "jsonb": "object",
    }


# JSON Schema


@pytest.mark.parametrize(
    ("changes", "is_good"),
    [
        ({}, True),
        ({"total": "12.50"}, True),
        ({"unknown": 1}, True),
        ({"size": -1}, True),
        ({"size": 3}, False),
        ({"code": "x" * 33}, False),
        ({"small": 101}, False),
        ({"large": 2**63}, False),
        ({"currency": "USD"}, False),
        ({"paid": "yes"}, False),
        ({"items": [{"phone": "1"}]}, False),
        ({"address": {}}, False),
        ({"middle": 2.5}, False),
    ],
)
def test_the_json_schema_accepts_what_the_pipeline_accepts(changes, is_good):
    contract, event = every_type.contract(), {**GOOD, **changes}
    found = Parser(contract, 1_000_000).parse(json.dumps(event).encode())
    assert isinstance(found, Rejected) != is_good
    validator = jsonschema.Draft202012Validator(export.json_schema(contract))
    assert validator.is_valid(event) == is_good


def test_a_missing_field_is_refused_by_the_json_schema_too():
    validator = jsonschema.Draft202012Validator(export.json_schema(every_type.contract()))
    refused = [name for name in GOOD if not validator.is_valid({n: v for n, v in GOOD.items() if n != name})]
    assert refused == [name for name in GOOD if name != "address"]


def test_where_unknown_fields_are_rejected_the_json_schema_refuses_them():
    contract = every_type.contract(unknown_fields="reject")
    validator = jsonschema.Draft202012Validator(export.json_schema(contract))
    assert validator.is_valid(GOOD)
    assert not validator.is_valid({**GOOD, "unknown": 1})


def test_the_json_schema_marks_what_is_personal_and_names_the_columns():
    schema = export.json_schema(every_type.contract())
    text = {"scheme": "recoverable", "normalization": "text"}
    marked = {
        f"{struct}.{name}": one["x-personal"]
        for struct, definition in schema["$defs"].items()
        for name, one in definition.get("properties", {}).items()
        if "x-personal" in one
    }
    assert marked == {"Everything.born": text, "Everything.eMail": text, "Item.phone": text}
    inside = {"extra": {"who": {"scheme": "one_way", "normalization": "text"}}}
    properties = schema["$defs"]["Everything"]["properties"]
    assert {
        name: one["x-personal-inside"] for name, one in properties.items() if "x-personal-inside" in one
    } == inside
    assert schema["x-columns"]["address.city"] == "address_city"
    assert schema["x-columns"]["eMail"] == "select"
    assert schema["$defs"]["Item"]["description"] == "Inside a list, which becomes jsonb."
    assert "sent_on" not in schema["x-columns"].values()


class Tree(Struct):
    """It holds itself."""

    name: Annotated[str, Personal()]
    below: Annotated["list[Tree]", Jsonb()]


def test_the_json_schema_of_a_struct_that_holds_itself():
    schema = export.json_schema(Contract("tree", "tree", "public.tree", Tree))
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"name": "a", "below": [{"name": "b", "below": []}]})
    assert not validator.is_valid({"name": "a", "below": [{"name": 1, "below": []}]})


# Markdown


@pytest.mark.parametrize("name", load_contracts().good)
def test_the_page_of_each_contract_is_true(name):
    page = ROOT / "docs" / "contracts" / f"{name}.md"
    command = f"contract export {name} --format markdown --output {page.relative_to(ROOT)}"
    assert page.read_text(encoding="utf-8") == export.markdown(load_contracts().good[name]), command


class Noted(Struct):
    """A note | two."""

    code: Annotated[str, Meta(max_length=9, description="One | two\nthree")]


def test_a_page_says_what_is_special():
    contract = Contract(
        "c",
        "q",
        "public.c",
        Noted,
        message=(SentDay("day"),),
        partition_by=Month("day"),
        retain_days=30,
        indexes=(("code", "day"),),
        schedule=None,
    )
    page = export.markdown(contract)
    assert "| partitions | a month of `day` each; rows are dropped after 30 days |" in page
    assert "| indexes | `code`, `day` |" in page
    assert "| schedule | none: somebody starts it |" in page
    assert "| elsewhere | nothing: queue and warehouse are the deployment's own |" in page
    assert "| `code` | `varchar(9)` | no | `code` |  | One \\| two three |" in page
    assert "| `day` | `date` | no | the message's SentTimestamp |  |  |" in page
    keyed = export.markdown(CONTRACTS["keyed"])
    assert "| key | `code` |" in keyed
    assert "| `size` | `bigint`: `-1`, `2` | yes | `size` |" in keyed
