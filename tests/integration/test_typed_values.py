"""What Postgres returns is what the JSON said, for every type: the two are read by other code than ours."""

import json
import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import Meta
from psycopg import sql

from include.queue_etl.contract import Contract, Jsonb, MessageId, Numeric, SentAt, Zone
from include.queue_etl.keys.keyset_document import KeysetDocument
from include.queue_etl.postgres.connection import table_identifier
from include.queue_etl.settings import Settings
from include.queue_etl.transform.batch import mask_batch
from include.queue_etl.transform.batches import RawBatch
from tests.integration.scratch import Database
from tests.support.resources import open_store

# 100,000 take three minutes: TYPED_EVENTS=100000 ./dev test integration -k typed_values
COUNT = int(os.environ.get("TYPED_EVENTS", "3000"))
BATCH = 1_000
NOW_MS = 1_769_903_999_000
BERLIN = ZoneInfo("Europe/Berlin")
KEYSET = KeysetDocument.new().open()


class Inner(msgspec.Struct):
    number: int
    text: str | None = None


class Everything(msgspec.Struct):
    text: str
    short: Annotated[str, Meta(max_length=20)] | None
    flag: bool
    small: Annotated[int, Meta(ge=-32768, le=32767)]
    whole: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
    big: int
    real: float
    amount: Annotated[Decimal, Numeric(12, 3)]
    any_amount: Decimal
    moment: datetime
    local: Annotated[datetime, Zone("Europe/Berlin")]
    day: date
    uid: UUID
    choice: Literal["a", "b\tc", "é"]
    inner: Inner
    maybe: Inner | None
    whole_inner: Annotated[Inner, Jsonb()]
    numbers: list[int]
    items: list[Inner]
    by_name: dict[str, float]
    anything: Any


CONTRACT = Contract(
    name="everything",
    queue="everything",
    table="public.everything",
    event=Everything,
    message=(SentAt("sent_at"), MessageId("message_id")),
)


@pytest.fixture
def database(clean_database: Database) -> Iterator[Database]:
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.sql_type))
        for column in CONTRACT.columns
    ]
    create = sql.SQL("CREATE TABLE {} ({})").format(
        table_identifier(CONTRACT.table), sql.SQL(", ").join(columns)
    )
    with clean_database.owner() as connection:
        connection.execute(create)
        connection.execute("SELECT etl.grant_contract('public.everything', '{}')")
        yield clean_database
        connection.execute("DROP TABLE public.everything")


class Chance:
    """Values that are likely to go wrong."""

    TEXTS = (
        "",
        " ",
        "\\N",
        "\\.",
        "a\tb",
        "a\nb\r",
        "\\",
        '"',
        "é",
        "\u2028",
        "😀",
        "null",
        "'; DROP",
        "\x01\x7f",
    )

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, most: int = 60) -> str:
        pieces = [self.random.choice((*self.TEXTS, "x" * 9)) for _ in range(self.random.randrange(5))]
        return "".join(pieces)[:most]

    def integer(self, low: int, high: int) -> int:
        return self.random.choice((low, high, 0, -1, 1, self.random.randint(low, high)))

    def real(self) -> float:
        edges = (0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e22, 123456789.123456789)
        return self.random.choice((*edges, self.random.uniform(-1e9, 1e9)))

    def decimal(self, digits: int, scale: int) -> Decimal:
        whole = self.random.choice((0, 1, 10**digits - 1, self.random.randrange(10**digits)))
        return Decimal(whole * self.random.choice((1, -1))).scaleb(-self.random.randint(0, scale))

    def moment(self) -> datetime:
        zone = timezone(timedelta(minutes=self.random.choice((0, 60, -720, 840, 330))))
        edges = (
            datetime(1, 1, 2),
            datetime(9999, 12, 30),
            datetime(1970, 1, 1),
            datetime(2024, 2, 29, 23, 59, 59),
        )
        spread = datetime(1900, 1, 1) + timedelta(microseconds=self.random.randrange(10**16))
        return self.random.choice((*edges, spread)).replace(tzinfo=zone)

    def inner(self) -> dict[str, Any]:
        found: dict[str, Any] = {"number": self.integer(-(2**63), 2**63 - 1)}
        if self.random.random() < 0.5:
            found["text"] = self.random.choice((None, self.text()))
        return found

    def json(self, depth: int = 0) -> Any:
        leaf = self.random.random() < 0.4 + depth * 0.2
        if leaf:
            return self.random.choice(
                (None, True, 7, Decimal("1.10"), Decimal("1E+300"), self.text(), 10**300)
            )
        if self.random.random() < 0.5:
            return [self.json(depth + 1) for _ in range(self.random.randrange(4))]
        return {self.text(9): self.json(depth + 1) for _ in range(self.random.randrange(4))}

    def event(self) -> dict[str, Any]:
        return {
            "text": self.text(),
            "short": self.random.choice((None, self.text(20))),
            "flag": self.random.random() < 0.5,
            "small": self.integer(-32768, 32767),
            "whole": self.integer(-(2**31), 2**31 - 1),
            "big": self.integer(-(2**63), 2**63 - 1),
            "real": self.real(),
            "amount": self.decimal(9, 3),
            "any_amount": self.decimal(30, 12),
            "moment": self.moment().isoformat(),
            "local": datetime(2026, 3, 1).replace(hour=self.random.randrange(24)).isoformat(),
            "day": self.moment().date().isoformat(),
            "uid": str(UUID(int=self.random.getrandbits(128))),
            "choice": self.random.choice(("a", "b\tc", "é")),
            "inner": self.inner(),
            "maybe": self.random.choice((None, self.inner())),
            "whole_inner": self.inner(),
            "numbers": [self.integer(-(2**63), 2**63 - 1) for _ in range(self.random.randrange(4))],
            "items": [self.inner() for _ in range(self.random.randrange(3))],
            "by_name": {self.text(5): self.real() for _ in range(self.random.randrange(3))},
            "anything": self.json(),
        }


def dumped(value: Any) -> str:
    """JSON with the digits of a Decimal as they are."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}: {dumped(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dumped, value)) + "]"
    return json.dumps(value)


def expected(event: dict[str, Any]) -> dict[str, Any]:
    """What the columns should hold, from the event as the sender meant it."""
    maybe = event["maybe"] or {}
    return {
        **{
            name: event[name] for name in ("text", "short", "flag", "small", "whole", "big", "real", "choice")
        },
        "amount": event["amount"],
        "any_amount": event["any_amount"],
        "moment": datetime.fromisoformat(event["moment"]).astimezone(UTC),
        "local": datetime.fromisoformat(event["local"]).replace(tzinfo=BERLIN).astimezone(UTC),
        "day": date.fromisoformat(event["day"]),
        "uid": UUID(event["uid"]),
        "inner_number": event["inner"]["number"],
        "inner_text": event["inner"].get("text"),
        "maybe_number": maybe.get("number"),
        "maybe_text": maybe.get("text"),
        "whole_inner": {"text": None, **event["whole_inner"]},
        "numbers": event["numbers"],
        "items": [{"text": None, **item} for item in event["items"]],
        "by_name": event["by_name"],
        "anything": event["anything"],
    }


def load(database: Database, messages: list[tuple[str, int, str]]) -> None:
    run_id = uuid4()
    with open_store(database.dsn("etl_loader")) as store:
        run = store.open_run(run_id, CONTRACT, f"run {run_id}", {})
        ids, sent_ms, bodies = (list(values) for values in zip(*sorted(messages), strict=True))
        raw = RawBatch(run.queue_id, ids, sent_ms, [1] * len(ids), [body.encode() for body in bodies])
        masked, rejected = mask_batch(raw, CONTRACT, KEYSET, Settings(staging="/nowhere"), run_id)
        assert masked.rejected == {}
        assert store.load(run_id, CONTRACT, "0000", masked, rejected).loaded == len(ids)


def rows(database: Database) -> dict[str, dict[str, Any]]:
    """Message id -> row, its jsonb read with the digits that it has, its moments in UTC."""
    with database.owner() as connection:
        connection.execute("SET timezone = 'UTC'")
        names = sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(column.name))
            if column.sql_type == "jsonb"
            else sql.Identifier(column.name)
            for column in CONTRACT.columns
        )
        found = connection.execute(sql.SQL("SELECT {} FROM public.everything").format(names)).fetchall()
    kinds = {column.name: column.sql_type for column in CONTRACT.columns}
    return {
        str(row[-1]): {
            name: json.loads(value, parse_float=Decimal) if kinds[name] == "jsonb" and value else value
            for name, value in zip(CONTRACT.column_names, row, strict=True)
        }
        for row in found
    }


def comparable(value: Any) -> Any:
    """Numbers of JSON by their value: Postgres keeps them as numeric, whatever they are written like."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Decimal(repr(value)) + 0
    if isinstance(value, dict):
        return {name: comparable(inner) for name, inner in value.items()}
    return [comparable(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(max(1, COUNT // BATCH)))
def test_what_postgres_returns_is_what_the_json_said(database: Database, seed: int) -> None:
    chance = Chance(seed)
    events = {str(uuid4()): chance.event() for _ in range(min(BATCH, COUNT))}
    load(
        database,
        [(key, NOW_MS + number, dumped(event)) for number, (key, event) in enumerate(events.items())],
    )
    found = rows(database)
    assert found.keys() == events.keys()
    for number, (key, event) in enumerate(events.items()):
        row = found[key]
        assert row.pop("sent_at") == datetime.fromtimestamp((NOW_MS + number) / 1000, UTC)
        assert str(row.pop("message_id")) == key
        assert comparable(row) == comparable(expected(event))
