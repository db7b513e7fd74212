"""How Alembic reaches the warehouse: one transaction, on the connection that `upgrade` hands over."""

from alembic import context
from sqlalchemy import create_engine, pool, text

# Any number: it only has to differ from those of other programs in the same database.
MIGRATION_LOCK = 7_205_319_140

engine = create_engine(
    "postgresql+psycopg://", creator=context.config.attributes["connect"], poolclass=pool.NullPool
)
with engine.begin() as connection:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    # Not in `public`, where Airflow's own revision would be if it shared the database.
    if not connection.scalar(text("SELECT to_regnamespace('etl')")):
        connection.execute(text("CREATE SCHEMA etl"))
    context.configure(connection, version_table="schema_revision", version_table_schema="etl")
    with context.begin_transaction():
        context.run_migrations()
