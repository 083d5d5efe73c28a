"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("tier_id", sa.String),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("email", sa.String, nullable=False, unique=True),
        sa.Column("password_hash", sa.String, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("must_change_password", sa.Boolean, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("allowed_models", sa.JSON, nullable=False),
        sa.Column("permissions", sa.JSON, nullable=False),
        sa.Column("rotated_from", sa.String),
    )
    op.create_table(
        "tiers",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("limits", sa.JSON, nullable=False),
    )
    op.create_table(
        "providers",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("cancel_stops_billing", sa.Boolean, nullable=False),
        sa.Column("api_key_env", sa.String),
        sa.Column("extra_parameters", sa.JSON, nullable=False),
        sa.Column("secret", sa.LargeBinary),
    )
    op.create_table(
        "backends",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("provider_id", sa.String, sa.ForeignKey("providers.id"), nullable=False),
        sa.Column("base_url", sa.String, nullable=False),
        sa.Column("machine_name", sa.String, nullable=False),
        sa.Column("engine_type", sa.String, nullable=False),
        sa.Column("max_concurrency", sa.Integer),
    )
    op.create_table(
        "prices",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model_id", sa.String, nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger, nullable=False),
        sa.Column("input", sa.BigInteger, nullable=False),
        sa.Column("cached_input", sa.BigInteger, nullable=False),
        sa.Column("output", sa.BigInteger, nullable=False),
        sa.Column("reasoning", sa.BigInteger, nullable=False),
        sa.Column("request", sa.BigInteger, nullable=False),
        sa.Column("documents", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("aliases", sa.JSON, nullable=False),
        sa.Column("max_model_len", sa.Integer),
        sa.Column("max_output_tokens", sa.Integer),
        sa.Column("owned_by", sa.String, nullable=False),
        sa.Column("capabilities", sa.JSON, nullable=False),
        sa.Column("card", sa.JSON, nullable=False),
        sa.Column("lifecycle", sa.JSON, nullable=False),
        sa.Column("price_version", sa.Integer, sa.ForeignKey("prices.version")),
    )
    op.create_table(
        "deployments",
        sa.Column("model_id", sa.String, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("backend_id", sa.String, sa.ForeignKey("backends.id"), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("root", sa.String, nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
    )
    op.create_table(
        "revisions",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("end_user", sa.String),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.BigInteger),
        sa.Column("model_id", sa.String, nullable=False),
        sa.Column("requested_model", sa.String, nullable=False),
        sa.Column("provider_id", sa.String),
        sa.Column("backend_id", sa.String),
        sa.Column("engine_type", sa.String),
        sa.Column("machine_name", sa.String),
        sa.Column("routing_reason", sa.String),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("catalogue_revision", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("error_code", sa.String),
        sa.Column("finish_reason", sa.String),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("usage_source", sa.String, nullable=False),
        sa.Column("usage_suspect", sa.Boolean, nullable=False),
        sa.Column("billing_reason", sa.String, nullable=False),
        sa.Column("price_version", sa.Integer),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_by_project_time", "usage", ["project_id", "started_ms"])
    op.execute(sa.text("INSERT INTO revisions (name, number) VALUES ('catalogue', 1), ('keys', 1)"))
