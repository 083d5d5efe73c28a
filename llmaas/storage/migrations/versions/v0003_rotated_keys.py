"""Keys of one rotation count on one set of limits. Keys that were rotated before have their own already: each got what was left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("keys", sa.Column("first_id", sa.String))
