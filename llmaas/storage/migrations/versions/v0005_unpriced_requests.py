"""Sums by end user count the requests without a price. They are made from rows anew, so nothing says that they are whole."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("usage_end_users", sa.Column("unpriced_requests", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("DELETE FROM usage_end_user_parts")
