"""Roles, the tables of the engine, and the table of the contract `user_logins`."""

from pathlib import Path
from typing import Any

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything, or nothing: the SQL runs in Alembic's transaction."""
    # Straight to the driver: SQLAlchemy would read % and : in the SQL as its own.
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(script)


def downgrade() -> None:
    """Refuse: without the ledger, messages still on the queue would load a second time."""
    raise NotImplementedError("the first revision cannot be undone: drop the database, or restore a backup")
