"""Changes of the contract of every type: what `contract plan` says of each.

COMPATIBLE: name -> contract, what is said, cost. BREAKING: name -> contract, one of the things that are said.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import Meta, defstruct

from include.queue_etl.contract import Contract, Jsonb, Month, Name, Normalization, Numeric, Personal, Scheme
from include.queue_etl.postgres.table_plan import AT_ONCE, READS, WRITES
from tests.support import every_type

# Cases of COMPATIBLE that Alembic does not see.
UNSEEN = ("another choice", "no choices", "any digits")


def event(**fields: Any) -> Contract:
    """The contract of every type, with these annotations in place of its own."""
    base = every_type.Everything
    names = {"__doc__": base.__doc__}
    made = defstruct("Changed", list(fields.items()), bases=(base,), namespace=names, kw_only=True)
    return every_type.contract(event=made)


COMPATIBLE = {
    "new column": (event(extra_note=str | None), ["column extra_note is new: text"], AT_ONCE),
    "new token": (
        event(phone=Annotated[str | None, Meta(max_length=95), Personal(token_chars=160)]),
        ["column phone is new: varchar(160)"],
        AT_ONCE,
    ),
    "new choice column": (
        event(state=Literal["new", "old"] | None),
        ["column state is new: text"],
        READS,
    ),
    "wider varchar": (
        event(code=Annotated[str, Meta(max_length=64)]),
        ["column code is varchar(32), and becomes varchar(64)"],
        AT_ONCE,
    ),
    "varchar becomes text": (event(code=str), ["column code is varchar(32), and becomes text"], AT_ONCE),
    "wider token": (
        event(born=Annotated[date | None, Personal()]),
        ["column born is varchar(160), and becomes text"],
        AT_ONCE,
    ),
    "larger integer": (
        event(small=Annotated[int, Meta(ge=0, le=100_000)]),
        ["column small is smallint, and becomes integer"],
        WRITES,
    ),
    "largest integer": (event(middle=int | None), ["column middle is integer, and becomes bigint"], WRITES),
    "more digits": (
        event(total=Annotated[Decimal, Numeric(14, 2)]),
        ["column total is numeric(12,2), and becomes numeric(14,2)"],
        AT_ONCE,
    ),
    "more digits behind the point": (
        event(total=Annotated[Decimal, Numeric(14, 4)]),
        ["column total is numeric(12,2), and becomes numeric(14,4)"],
        WRITES,
    ),
    "any digits": (event(total=Decimal), ["column total is numeric(12,2), and becomes numeric"], AT_ONCE),
    "may be null": (event(placed_at=datetime | None), ["column placed_at may be NULL"], AT_ONCE),
    "another choice": (
        event(currency=Literal["EUR", "USD", "GBP", "o'clock"]),
        ["column currency may also be USD"],
        READS,
    ),
    "no choices": (event(currency=str), ["column currency may have any value"], AT_ONCE),
    "new index": (
        every_type.contract(indexes=(("code",), ("customer", "placed_at"), ("day", "User"))),
        ["index on day, User"],
        READS,
    ),
    "comment": (
        event(code=Annotated[str, Meta(max_length=32, description="It's theirs")]),
        ["comment of column code"],
        AT_ONCE,
    ),
}


BREAKING = {
    "new column without null": (event(must=str), "column must is new: text NOT NULL"),
    "narrower varchar": (
        event(code=Annotated[str, Meta(max_length=16)]),
        "column code is varchar(32), and becomes varchar(16)",
    ),
    "text becomes varchar": (
        event(note=Annotated[str, Meta(max_length=16, description=every_type.HOSTILE)]),
        "column note is text, and becomes varchar(16)",
    ),
    "smaller integer": (
        event(large=Annotated[int, Meta(ge=0, le=9)]),
        "column large is bigint, and becomes smallint",
    ),
    "fewer digits": (
        event(total=Annotated[Decimal, Numeric(12, 4)]),
        "column total is numeric(12,2), and becomes numeric(12,4)",
    ),
    "another type": (event(ratio=bool), "column ratio is double precision, and becomes boolean"),
    "no longer null": (
        event(middle=Annotated[int, Meta(ge=0, le=100_000)]),
        "column middle may no longer be NULL",
    ),
    "fewer choices": (event(currency=Literal["EUR"]), "column currency may have fewer values"),
    "choices where there were none": (
        event(note=Annotated[Literal["a"], Meta(description=every_type.HOSTILE)]),
        "column note may have fewer values",
    ),
    "another key": (every_type.contract(key="code"), "the key is code"),
    "partitions": (
        every_type.contract(partition_by=Month("placed_at")),
        "the table is partitioned by nothing, and not by placed_at",
    ),
    "becomes personal": (
        event(note=Annotated[str | None, Personal()]),
        "column note becomes personal: note",
    ),
    "becomes personal inside": (
        event(
            extra=Annotated[
                dict[str, Any],
                Jsonb(personal={"who": Personal(scheme=Scheme.ONE_WAY), "phone": Personal()}),
            ]
        ),
        "column extra becomes personal: extra.phone",
    ),
    "no longer personal": (
        event(born=Annotated[str | None, Meta(max_length=160)]),
        "column born: born is no longer masked",
    ),
    "no longer personal inside": (event(extra=dict[str, Any]), "column extra: extra.who is no longer masked"),
    "another scheme": (
        event(born=Annotated[date | None, Personal(token_chars=160, scheme=Scheme.ONE_WAY)]),
        "column born: born is masked in another way",
    ),
    "another normalization": (
        event(born=Annotated[date | None, Personal(Normalization.IP, token_chars=160)]),
        "column born: born is masked in another way",
    ),
    "tokens of another field": (
        event(
            born=Annotated[date | None, Name("birthday")],
            words=Annotated[str | None, Personal(column="born")],
        ),
        "column born gets the tokens of words",
    ),
    "a field that is gone": (
        event(words=Annotated[str | None, Name("other")]),
        "column User is not in the contract",
    ),
}
