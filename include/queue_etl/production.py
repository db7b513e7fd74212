"""What is only fit for development, and so refused where QUEUE_ETL_ENV is production. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg.pq import Conninfo

from include.queue_etl.contract import Contract
from include.queue_etl.errors import KeysetError
from include.queue_etl.keys.keyset_document import KeysetDocument, is_development
from include.queue_etl.postgres.connection import parse_dsn

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
        contracts: those the job works for
        keyset: as it is stored; None where it could not be read
        endpoints: URLs of the AWS services
    """

    contracts: Sequence[Contract]
    warehouse_dsn: str
    keyset: KeysetDocument | None
    endpoints: Sequence[str]


def problems(setup: Setup) -> list[str]:
    """Everything that forbids this setup in production, a sentence each; never a secret."""
    return [
        *_key_problems(setup.keyset),
        *_scheme_problems(setup.contracts),
        *_warehouse_problems(setup.warehouse_dsn),
        *_endpoint_problems(setup.endpoints),
    ]


def _key_problems(keyset: KeysetDocument | None) -> Iterable[str]:
    if keyset is None:
        return
    if not keyset.is_wrapped:
        yield "the keyset is in the clear: wrap it with a KMS key (`python -m include.queue_etl keys wrap`)"
    for key_id in _key_ids(keyset):
        if is_development(key_id):
            yield f"key {key_id} was generated for development: add a key, remask, and destroy it"


def _key_ids(keyset: KeysetDocument) -> list[int]:
    try:
        return keyset.key_ids
    except KeysetError:
        return []  # it does not open either, which is reported where it is opened


def _scheme_problems(contracts: Sequence[Contract]) -> Iterable[str]:
    for contract in contracts:
        for column in contract.personal:
            if column.mark.is_weak:
                yield f"{contract.name} masks {column.field} with {column.mark.scheme}, which has no key"


def _warehouse_problems(dsn: str) -> Iterable[str]:
    given = parse_dsn(dsn) or {}  # what cannot be read does not connect either
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
