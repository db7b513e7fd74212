"""Sessions that wait for a lock notice when their client has gone."""

from pathlib import Path
from typing import Any

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Set it for the roles that write."""
    # Straight to the driver: SQLAlchemy would read % and : in the SQL as its own.
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(script)


def downgrade() -> None:
    """Refuse, as the first revision does: the way back is a backup."""
    raise NotImplementedError("this revision cannot be undone: restore a backup")
