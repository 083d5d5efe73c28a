"""The tables, as the newest migration leaves them (a test compares the two). Times are ms since 1970, money nano-units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData()


class Bytes(LargeBinary):
    """In a damaged SQLite there may be a text or a number. It is read as no bytes at all, which are nobody's hash and open nothing,
    and the rows beside it are as they were.
    """

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], bytes | None]:
        return _bytes


def _bytes(value: Any) -> bytes | None:
    return value if value is None else bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""


projects = Table(
    "projects",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("tier_id", String),
    Column("created_ms", BigInteger, nullable=False),
    Column("retention_days", Integer),
    Column("low_credit_nano", BigInteger),
    Column("archived_ms", BigInteger),
)

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("email", String, nullable=False, unique=True),
    Column("password_hash", String, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("must_change_password", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("name", String, nullable=False, server_default=""),
    Column("totp_secret", Bytes),
    Column("totp_last_step", BigInteger),
    Column("oidc_issuer", String),
    Column("oidc_subject", String),
    Column("disabled_ms", BigInteger),
    Index("users_by_oidc", "oidc_issuer", "oidc_subject", unique=True),
)

memberships = Table(
    "memberships",
    metadata,
    Column("project_id", String, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    Column("role", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("email", String, nullable=False),
    Column("role", String, nullable=False),
    Column("token_hash", Bytes, nullable=False, unique=True),
    Column("invited_by", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("accepted_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("user_id", String, ForeignKey("users.id"), primary_key=True),
    Column("code_hash", Bytes, primary_key=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("token_hash", Bytes, nullable=False, unique=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("address", String, nullable=False),
    Column("user_agent", String, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", String, ForeignKey("users.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("secret_hash", Bytes, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("secret_hash", Bytes, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("allowed_models", JSON, nullable=False),
    Column("permissions", JSON, nullable=False),
    Column("rotated_from", String),
    Column("owner_id", String),
    Column("limits", JSON, nullable=False, server_default="{}"),
    Column("networks", JSON, nullable=False, server_default="[]"),
    Column("first_id", String),
)

tiers = Table(
    "tiers",
    metadata,
    Column("id", String, primary_key=True),
    Column("limits", JSON, nullable=False),
    Column("price_versions", JSON, nullable=False, server_default="{}"),
)

providers = Table(
    "providers",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("cancel_stops_billing", Boolean, nullable=False),
    Column("api_key_env", String),
    Column("extra_parameters", JSON, nullable=False),
    Column("secret", Bytes),
    Column("explain_refusals", Boolean),
)

backends = Table(
    "backends",
    metadata,
    Column("id", String, primary_key=True),
    Column("provider_id", String, ForeignKey("providers.id"), nullable=False),
    Column("base_url", String, nullable=False),
    Column("machine_name", String, nullable=False),
    Column("engine_type", String, nullable=False),
    Column("max_concurrency", Integer),
    Column("in_service", Boolean, nullable=False, server_default=sa.true()),
)

prices = Table(
    "prices",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=True),
    Column("model_id", String, nullable=False),
    Column("valid_from_ms", BigInteger, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("request", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("tier_id", String),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("id", String, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("max_model_len", Integer),
    Column("max_output_tokens", Integer),
    Column("owned_by", String, nullable=False),
    Column("capabilities", JSON, nullable=False),
    Column("card", JSON, nullable=False),
    Column("lifecycle", JSON, nullable=False),
    Column("price_version", Integer, ForeignKey("prices.version")),
)

deployments = Table(
    "deployments",
    metadata,
    Column("model_id", String, ForeignKey("models.id"), primary_key=True),
    Column("backend_id", String, ForeignKey("backends.id"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("root", String, nullable=False),
    Column("weight", Integer, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("name", String, primary_key=True),
    Column("number", Integer, nullable=False),
)

vault = Table(
    "vault",
    metadata,
    Column("name", String, primary_key=True),
    Column("sealed", Bytes, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("id", String, primary_key=True),
    Column("request_id", String, nullable=False),
    Column("project_id", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("end_user", String),
    Column("endpoint", String, nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger),
    Column("model_id", String, nullable=False),
    Column("requested_model", String, nullable=False),
    Column("provider_id", String),
    Column("backend_id", String),
    Column("engine_type", String),
    Column("machine_name", String),
    Column("routing_reason", String),
    Column("attempts", Integer, nullable=False),
    Column("catalogue_revision", Integer, nullable=False),
    Column("outcome", String, nullable=False),
    Column("error_code", String),
    Column("finish_reason", String),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", String, nullable=False),
    Column("usage_suspect", Boolean, nullable=False),
    Column("billing_reason", String, nullable=False),
    Column("price_version", Integer),
    Column("currency", String, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("tier_id", String),
    Column("hold_nano", BigInteger),
    Column("documents", BigInteger, nullable=False, server_default="0"),
    Column("energy_uwh", BigInteger, nullable=False, server_default="0"),
    Column("corrects", String),
    Index("usage_by_project_time", "project_id", "started_ms"),
    Index("usage_by_time", "started_ms"),
)

usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model_id", String, primary_key=True),
    Column("backend_id", String, primary_key=True),
    Column("outcome", String, primary_key=True),
    Column("price_version", Integer, primary_key=True, autoincrement=False),
    Column("currency", String, primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("energy_uwh", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger, nullable=False),
    Column("ttft_requests", BigInteger, nullable=False),
    Index("usage_hours_by_project", "project_id", "hour_ms"),
    Index("usage_hours_fresh", "hour_ms", sqlite_where=sa.text("shard >= 0"), postgresql_where=sa.text("shard >= 0")),
)

usage_days = Table(
    "usage_days",
    metadata,
    Column("day_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model_id", String, primary_key=True),
    Column("backend_id", String, primary_key=True),
    Column("outcome", String, primary_key=True),
    Column("price_version", Integer, primary_key=True, autoincrement=False),
    Column("currency", String, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("energy_uwh", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger, nullable=False),
    Column("ttft_requests", BigInteger, nullable=False),
    Index("usage_days_by_project", "project_id", "day_ms"),
    sqlite_with_rowid=False,
)

usage_months = Table(
    "usage_months",
    metadata,
    Column("month_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("project_id", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model_id", String, primary_key=True),
    Column("backend_id", String, primary_key=True),
    Column("outcome", String, primary_key=True),
    Column("price_version", Integer, primary_key=True, autoincrement=False),
    Column("currency", String, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("energy_uwh", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger, nullable=False),
    Column("ttft_requests", BigInteger, nullable=False),
    Index("usage_months_by_project", "project_id", "month_ms"),
    sqlite_with_rowid=False,
)

usage_end_users = Table(
    "usage_end_users",
    metadata,
    Column("project_id", String, primary_key=True),
    Column("unit_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("end_user", String, primary_key=True),
    Column("currency", String, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("documents", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("energy_uwh", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger, nullable=False),
    Column("ttft_requests", BigInteger, nullable=False),
    Column("unpriced_requests", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

usage_end_user_parts = Table(
    "usage_end_user_parts",
    metadata,
    Column("unit_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("maker", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

usage_removed = Table(
    "usage_removed",
    metadata,
    Column("project_id", String, primary_key=True),
    Column("before_ms", BigInteger, nullable=False),
)

credit_entries = Table(
    "credit_entries",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("note", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("idempotency_key", String, unique=True),
    Index("credit_entries_by_project", "project_id", "created_ms"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String, primary_key=True),
)

budget_shares = Table(
    "budget_shares",
    metadata,
    Column("budget_id", String, primary_key=True),
    Column("worker_id", String, primary_key=True),
    Column("spent_nano", BigInteger, nullable=False),
    Column("leased_nano", BigInteger, nullable=False),
    Column("net_nano", BigInteger, nullable=False, server_default="0"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("catalogue_revision", Integer, nullable=False),
)

duties = Table(
    "duties",
    metadata,
    Column("name", String, primary_key=True),
    Column("worker_id", String, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("resolved_ms", BigInteger),
    Index("alerts_by_project", "project_id", "created_ms"),
)

alert_channels = Table(
    "alert_channels",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("target", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("told_ms", BigInteger),
    Column("fault", String),
)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("id", String, primary_key=True),
    Column("alert_id", String, ForeignKey("alerts.id"), nullable=False),
    Column("channel_id", String, ForeignKey("alert_channels.id"), nullable=False, index=True),
    Column("event", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor_kind", String, nullable=False),
    Column("actor_id", String, nullable=False),
    Column("address", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject_kind", String, nullable=False),
    Column("subject_id", String, nullable=False),
    Column("project_id", String),
    Column("before", JSON),
    Column("after", JSON),
    Column("previous_hash", Bytes, nullable=False),
    Column("hash", Bytes, nullable=False),
    Index("audit_by_project", "project_id", "seq"),
)
