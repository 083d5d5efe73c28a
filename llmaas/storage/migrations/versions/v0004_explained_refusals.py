"""Whether a provider's engines are quoted when they refuse a request. Null, also of those declared before: by its kind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("providers", sa.Column("explain_refusals", sa.Boolean))
