"""The control plane: people, limits, credit, budgets, rollups, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _widen()
    _people()
    _money()
    _usage_at_size()
    _operation()
    op.execute(sa.text("INSERT INTO revisions (name, number) VALUES ('money', 1)"))


def _widen() -> None:
    op.add_column("projects", sa.Column("retention_days", sa.Integer))
    op.add_column("projects", sa.Column("low_credit_nano", sa.BigInteger))
    op.add_column("projects", sa.Column("archived_ms", sa.BigInteger))
    op.add_column("users", sa.Column("name", sa.String, nullable=False, server_default=""))
    op.add_column("users", sa.Column("totp_secret", sa.LargeBinary))
    op.add_column("users", sa.Column("totp_last_step", sa.BigInteger))
    op.add_column("users", sa.Column("oidc_issuer", sa.String))
    op.add_column("users", sa.Column("oidc_subject", sa.String))
    op.add_column("users", sa.Column("disabled_ms", sa.BigInteger))
    op.add_column("keys", sa.Column("owner_id", sa.String))
    op.add_column("keys", sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("keys", sa.Column("networks", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("backends", sa.Column("in_service", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("prices", sa.Column("tier_id", sa.String))
    op.add_column("tiers", sa.Column("price_versions", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("usage", sa.Column("tier_id", sa.String))
    op.add_column("usage", sa.Column("hold_nano", sa.BigInteger))
    op.add_column("usage", sa.Column("documents", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("energy_uwh", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("corrects", sa.String))
    op.create_index("users_by_oidc", "users", ["oidc_issuer", "oidc_subject"], unique=True)


def _people() -> None:
    op.create_table(
        "memberships",
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("email", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("invited_by", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("accepted_ms", sa.BigInteger),
        sa.Column("revoked_ms", sa.BigInteger),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("code_hash", sa.LargeBinary, primary_key=True),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("user_agent", sa.String, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("used_ms", sa.BigInteger),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("revoked_ms", sa.BigInteger),
    )


def _money() -> None:
    op.create_table(
        "credit_entries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("amount_nano", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String, unique=True),
    )
    op.create_index("credit_entries_by_project", "credit_entries", ["project_id", "created_ms"])
    op.create_table(
        "budgets",
        sa.Column("id", sa.String, primary_key=True),
    )
    op.create_table(
        "budget_shares",
        sa.Column("budget_id", sa.String, primary_key=True),
        sa.Column("worker_id", sa.String, primary_key=True),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        sa.Column("leased_nano", sa.BigInteger, nullable=False),
        sa.Column("net_nano", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "usage_hours",
        sa.Column("hour_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("project_id", sa.String, primary_key=True),
        sa.Column("key_id", sa.String, primary_key=True),
        sa.Column("model_id", sa.String, primary_key=True),
        sa.Column("backend_id", sa.String, primary_key=True),
        sa.Column("outcome", sa.String, primary_key=True),
        sa.Column("price_version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("currency", sa.String, primary_key=True),
        sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("documents", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
        sa.Column("energy_uwh", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.BigInteger, nullable=False),
        sa.Column("ttft_requests", sa.BigInteger, nullable=False),
    )
    op.create_index("usage_hours_by_project", "usage_hours", ["project_id", "hour_ms"])
    fresh = sa.text("shard >= 0")
    op.create_index("usage_hours_fresh", "usage_hours", ["hour_ms"], sqlite_where=fresh, postgresql_where=fresh)
    op.create_table(
        "alerts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("resolved_ms", sa.BigInteger),
    )
    op.create_index("alerts_by_project", "alerts", ["project_id", "created_ms"])
    op.create_table(
        "alert_channels",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", sa.String, sa.ForeignKey("projects.id"), nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("told_ms", sa.BigInteger),
        sa.Column("fault", sa.String),
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("alert_id", sa.String, sa.ForeignKey("alerts.id"), nullable=False),
        sa.Column("channel_id", sa.String, sa.ForeignKey("alert_channels.id"), nullable=False, index=True),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
    )


def _usage_at_size() -> None:
    op.create_index("usage_by_time", "usage", ["started_ms"])
    for table, time in (("usage_days", "day_ms"), ("usage_months", "month_ms")):
        op.create_table(
            table,
            sa.Column(time, sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("project_id", sa.String, primary_key=True),
            sa.Column("key_id", sa.String, primary_key=True),
            sa.Column("model_id", sa.String, primary_key=True),
            sa.Column("backend_id", sa.String, primary_key=True),
            sa.Column("outcome", sa.String, primary_key=True),
            sa.Column("price_version", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("currency", sa.String, primary_key=True),
            sa.Column("requests", sa.BigInteger, nullable=False),
            sa.Column("input_tokens", sa.BigInteger, nullable=False),
            sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
            sa.Column("output_tokens", sa.BigInteger, nullable=False),
            sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
            sa.Column("documents", sa.BigInteger, nullable=False),
            sa.Column("cost_nano", sa.BigInteger, nullable=False),
            sa.Column("energy_uwh", sa.BigInteger, nullable=False),
            sa.Column("duration_ms", sa.BigInteger, nullable=False),
            sa.Column("ttft_ms", sa.BigInteger, nullable=False),
            sa.Column("ttft_requests", sa.BigInteger, nullable=False),
            sqlite_with_rowid=False,
        )
        op.create_index(f"{table}_by_project", table, ["project_id", time])
    op.create_table(
        "usage_end_users",
        sa.Column("project_id", sa.String, primary_key=True),
        sa.Column("unit_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("end_user", sa.String, primary_key=True),
        sa.Column("currency", sa.String, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("documents", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
        sa.Column("energy_uwh", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.BigInteger, nullable=False),
        sa.Column("ttft_requests", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_end_user_parts",
        sa.Column("unit_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("maker", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_removed",
        sa.Column("project_id", sa.String, primary_key=True),
        sa.Column("before_ms", sa.BigInteger, nullable=False),
    )
    op.execute(_roll_up("usage_hours", 3_600_000, ", -1"))
    op.execute(_roll_up("usage_days", 86_400_000, ""))
    op.execute(_months())
    op.execute(_spent())


def _roll_up(table: str, unit_ms: int, shard: str) -> sa.TextClause:
    """The rows of before, rolled up. Columns are in the order of the table; the hours count as folded."""
    names = "project_id, key_id, model_id, coalesce(backend_id, ''), outcome, coalesce(price_version, 0), currency"
    summed = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents", "cost_nano")
    sums = ", ".join(f"sum({name})" for name in (*summed, "energy_uwh", "duration_ms"))
    return sa.text(
        f"INSERT INTO {table} SELECT started_ms / {unit_ms} * {unit_ms}, {names}{shard},"  # noqa: S608 - our own names
        f" count(*), {sums}, coalesce(sum(ttft_ms), 0), count(ttft_ms)"
        f" FROM usage GROUP BY started_ms / {unit_ms} * {unit_ms}, {names}"
    )


def _months() -> sa.TextClause:
    """The days, added up."""
    month = (
        "CAST(extract(epoch FROM date_trunc('month', to_timestamp(day_ms / 1000) AT TIME ZONE 'UTC')) AS bigint) * 1000"
        if op.get_bind().dialect.name == "postgresql"
        else "CAST(strftime('%s', day_ms / 1000, 'unixepoch', 'start of month') AS integer) * 1000"
    )
    names = "project_id, key_id, model_id, backend_id, outcome, price_version, currency"
    numbers = (
        *("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents"),
        *("cost_nano", "energy_uwh", "duration_ms", "ttft_ms", "ttft_requests"),
    )
    return sa.text(
        f"INSERT INTO usage_months SELECT {month}, {names}, {', '.join(f'sum({name})' for name in numbers)}"  # noqa: S608 - our own names
        f" FROM usage_days GROUP BY {month}, {names}"
    )


def _spent() -> sa.TextClause:
    """What the rows of before cost, by budget; no worker answers for it."""
    day = (
        "to_char(to_timestamp(day_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        if op.get_bind().dialect.name == "postgresql"
        else "strftime('%Y-%m-%d', day_ms / 1000, 'unixepoch')"
    )
    of_key, of_project = "'key:' || key_id || ':'", "'project:' || project_id || ':'"
    ids = [f"{of} || {time}" for of in (of_key, of_project) for time in ("'total'", f"substr({day}, 1, 7)")]
    costs = " UNION ALL ".join(
        f"SELECT {name} AS id, cost_nano FROM usage_days WHERE cost_nano <> 0"  # noqa: S608 - our own names
        for name in (*ids, f"{of_key} || {day}")
    )
    return sa.text(
        "INSERT INTO budget_shares (budget_id, worker_id, spent_nano, leased_nano)"  # noqa: S608 - our own names
        f" SELECT id, '', sum(cost_nano), 0 FROM ({costs}) AS costs GROUP BY id"
    )


def _operation() -> None:
    op.create_table(
        "vault",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("catalogue_revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "duties",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("worker_id", sa.String, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("actor_kind", sa.String, nullable=False),
        sa.Column("actor_id", sa.String, nullable=False),
        sa.Column("address", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject_kind", sa.String, nullable=False),
        sa.Column("subject_id", sa.String, nullable=False),
        sa.Column("project_id", sa.String),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.Column("previous_hash", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_by_project", "audit", ["project_id", "seq"])
