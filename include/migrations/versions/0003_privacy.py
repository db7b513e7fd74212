"""The audit becomes a chain only the database can extend; the role `etl_remasker`; rights to erase."""

from pathlib import Path
from typing import Any

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the role, chain what the audit holds, and grant."""
    # Straight to the driver: SQLAlchemy would read % and : in the SQL as its own.
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(script)


def downgrade() -> None:
    """Refuse, as the first revision does: the way back is a backup."""
    raise NotImplementedError("this revision cannot be undone: restore a backup")
