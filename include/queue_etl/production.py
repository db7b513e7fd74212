"""What is only fit for development, and so refused where QUEUE_ETL_ENV is production. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg.pq import Conninfo

from include.queue_etl.contract import Contract
from include.queue_etl.keyset import is_development, is_wrapped
from include.queue_etl.postgres import parsed

# Those of images, tutorials and examples; a password that repeats the user's name is refused as well.
DEFAULT_PASSWORDS = frozenset(
    {
        "",
        "postgres",
        "password",
        "secret",
        "admin",
        "root",
        "airflow",
        "test",
        "changeme",
        "changeit",
        "example",
    }
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is about to use.

    Attributes:
        keyset_json: "" where it could not be read
        endpoints: URLs of the AWS services
    """

    contract: Contract
    warehouse_dsn: str
    keyset_json: str
    endpoints: Sequence[str]


def problems(setup: Setup) -> list[str]:
    """Everything that forbids this setup in production, a sentence each; never a secret."""
    return [
        *_key_problems(setup.keyset_json),
        *_scheme_problems(setup.contract),
        *_warehouse_problems(setup.warehouse_dsn),
        *_endpoint_problems(setup.endpoints),
    ]


def _key_problems(text: str) -> Iterable[str]:
    if text and not is_wrapped(text):
        yield "the keyset is in the clear: wrap it with a KMS key (`python -m include.queue_etl keys wrap`)"
    for key_id in _key_ids(text):
        if is_development(key_id):
            yield f"key {key_id} was generated for development: add a key, remask, and destroy it"


def _key_ids(text: str) -> list[int]:
    """A wrapped keyset names its keys in the clear."""
    try:
        found = json.loads(text)
        keys = found["keysetInfo"]["keyInfo"] if is_wrapped(text) else found["key"]
        return [key["keyId"] for key in keys]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []  # it does not open either, which is said where it is opened


def _scheme_problems(contract: Contract) -> Iterable[str]:
    for column in contract.personal:
        if column.is_weak:
            yield f"{contract.name} masks {column.field} with {column.scheme}, which has no key"


def _warehouse_problems(dsn: str) -> Iterable[str]:
    given = parsed(dsn) or {}  # what cannot be read does not connect either
    sslmode = given.get("sslmode") or _default("sslmode")
    if sslmode != "verify-full":
        yield f"the warehouse is reached with sslmode {sslmode}: verify-full alone proves whom it talks to"
    password = str(given.get("password") or _default("password"))
    if password.lower() in DEFAULT_PASSWORDS or password == given.get("user"):
        yield f"role {given.get('user')} has no password of its own, or one that anybody would try"


def _default(keyword: str) -> str:
    """What libpq takes where the DSN says nothing: from its variables, else built in."""
    option = next(option for option in Conninfo.get_defaults() if option.keyword.decode() == keyword)
    return (option.val or option.compiled or b"").decode()


def _endpoint_problems(endpoints: Sequence[str]) -> Iterable[str]:
    for endpoint in sorted(set(endpoints)):
        if not endpoint.startswith("https://"):
            yield f"{endpoint} is reached without TLS: give an https endpoint, or none to use AWS's own"
