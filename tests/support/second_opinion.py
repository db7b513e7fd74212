"""What Alembic says of a contract and its table: another comparison, made by others.

It sees neither CHECKs nor partitions, takes partitions for tables that nobody wants, and compares indexes by
their names: docs/decisions has the reasons for a comparison of our own.
"""

from typing import Any

import psycopg
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql

from include.queue_etl.contract import Contract
from include.queue_etl.postgres import tables

TYPES = {
    "bigint": sa.BigInteger(),
    "boolean": sa.Boolean(),
    "date": sa.Date(),
    "double precision": sa.Double(),
    "integer": sa.Integer(),
    "jsonb": postgresql.JSONB(),
    "numeric": sa.Numeric(),
    "numeric(12,2)": sa.Numeric(12, 2),
    "numeric(14,2)": sa.Numeric(14, 2),
    "numeric(14,4)": sa.Numeric(14, 4),
    "smallint": sa.SmallInteger(),
    "text": sa.Text(),
    "timestamptz": sa.DateTime(timezone=True),
    "uuid": sa.Uuid(),
}


def differences(contract: Contract, dsn: str) -> list[str]:
    """Names of the operations with which Alembic would make the table what the contract says."""
    wanted = tables.of_contract(contract)
    schema_name, _, name = contract.table.partition(".")
    schema = (
        None if schema_name == "public" else schema_name
    )  # SQLAlchemy's name of the first one on the path
    metadata = sa.MetaData()
    table = sa.Table(
        name,
        metadata,
        *(
            sa.Column(one.name, _type(one.sql_type), nullable=one.nullable, comment=one.comment)
            for one in wanted.columns
        ),
        comment=wanted.comment,
        schema=schema,
    )
    for index in wanted.indexes:
        made = tables.create_index(contract.table, index).split('"')[1]
        sa.Index(made, *(table.c[column] for column in index.columns), unique=index.unique)
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sa.pool.NullPool
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda found, kind, _: (
                    found == {"schema": schema, "table": name}.get(kind, found)
                ),
            },
        )
        found = compare_metadata(context, metadata)
    engine.dispose()
    return [one[0] if isinstance(one, tuple) else one[0][0] for one in found]


def _type(sql_type: str) -> Any:
    if sql_type.startswith("varchar("):
        return sa.String(int(sql_type[8:-1]))
    return TYPES[sql_type]
