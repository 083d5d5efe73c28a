"""Alerts in SQL, with what is still to be told of them: written in the transaction that raises or resolves an alert."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.alerts import CAP_PERCENTS, LOW_CREDIT, MOST_CHANNELS, Alert, Channel, ChannelKind, Delivery
from llmaas.domain.audit import Act, Actor
from llmaas.domain.budgets import project_month
from llmaas.errors import Conflict, NotFound
from llmaas.ids import IdSource
from llmaas.storage.audit import record
from llmaas.storage.credit import balances_of
from llmaas.storage.database import Database
from llmaas.storage.tables import alert_channels, alert_deliveries, alerts, budget_shares, projects, tiers


class SqlAlertStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, project_id: str, *, limit: int) -> list[Alert]:
        newest = (alerts.c.created_ms.desc(), alerts.c.id.desc())
        query = sa.select(alerts).where(alerts.c.project_id == project_id).order_by(*newest).limit(limit)
        async with self._database.connect() as connection:
            return [Alert(**row) for row in (await connection.execute(query)).mappings()]

    async def channels(self, project_id: str) -> list[Channel]:
        query = sa.select(alert_channels).where(alert_channels.c.project_id == project_id)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.order_by(alert_channels.c.created_ms, alert_channels.c.id))
            return [_to_channel(row) for row in rows.mappings()]

    async def add_channel(self, channel: Channel, *, by: Actor) -> None:
        query = sa.select(alert_channels.c.kind, alert_channels.c.target)
        async with self._database.begin() as connection:
            of_project = query.where(alert_channels.c.project_id == channel.project_id)
            present = [(row.kind, row.target) for row in await connection.execute(of_project)]
            if (channel.kind, channel.target) in present:
                raise Conflict("Alerts are told there already.", param="target")
            if len(present) >= MOST_CHANNELS:
                raise Conflict(f"A project has at most {MOST_CHANNELS} places that alerts are told at.")
            await connection.execute(sa.insert(alert_channels).values(**dataclasses.asdict(channel)))
            await record(connection, _act("create", channel.id, channel.project_id, by, after=_plain(channel)))

    async def remove_channel(self, project_id: str, channel_id: str, *, by: Actor) -> None:
        mine = sa.and_(alert_channels.c.id == channel_id, alert_channels.c.project_id == project_id)
        async with self._database.begin() as connection:
            row = (await connection.execute(sa.select(alert_channels).where(mine))).mappings().first()
            if row is None:
                raise NotFound("There is no such channel.", param="channel_id")
            await connection.execute(sa.delete(alert_deliveries).where(alert_deliveries.c.channel_id == channel_id))
            await connection.execute(sa.delete(alert_channels).where(mine))
            await record(connection, _act("delete", channel_id, project_id, by, before=_plain(_to_channel(row))))

    async def due(self, now_ms: int, *, limit: int) -> list[Delivery]:
        joined = (
            sa.select(
                alert_deliveries.c.id,
                alert_deliveries.c.event,
                alert_deliveries.c.created_ms,
                alert_deliveries.c.attempts,
                projects.c.name,
                *(column.label(f"channel_{column.name}") for column in alert_channels.c),
                *(column.label(f"alert_{column.name}") for column in alerts.c),
            )
            .join(alert_channels, alert_channels.c.id == alert_deliveries.c.channel_id)
            .join(alerts, alerts.c.id == alert_deliveries.c.alert_id)
            .join(projects, projects.c.id == alerts.c.project_id)
        )
        query = (
            joined.where(alert_deliveries.c.due_ms <= now_ms)
            .order_by(alert_deliveries.c.attempts, alert_deliveries.c.id)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [_to_delivery(row) for row in (await connection.execute(query)).mappings()]

    async def settle(self, delivery: Delivery, *, now_ms: int, fault: str | None, again_ms: int | None) -> None:
        mine = alert_deliveries.c.id == delivery.id
        channel = sa.update(alert_channels).where(alert_channels.c.id == delivery.channel.id)
        async with self._database.begin(one_at_a_time=False) as connection:
            if again_ms is None:
                await connection.execute(sa.delete(alert_deliveries).where(mine))
            else:
                later = {"due_ms": again_ms, "attempts": delivery.attempts + 1}
                await connection.execute(sa.update(alert_deliveries).where(mine).values(later))
            await connection.execute(channel.values(told_ms=now_ms, fault=fault))

    async def watch_credit(self, ids: IdSource, now_ms: int) -> list[str]:
        """An alert for each project whose balance fell below its threshold, until it is above again; gives the new ones' projects."""
        watched = sa.select(projects.c.id, projects.c.low_credit_nano).where(projects.c.low_credit_nano.is_not(None))
        async with self._database.begin() as connection:
            thresholds = {row.id: row.low_credit_nano for row in await connection.execute(watched)}
            balances = await balances_of(connection, list(thresholds))
            holding = {
                project_id: {"balance_nano": balances[project_id].left_nano, "threshold_nano": threshold}
                for project_id, threshold in thresholds.items()
                if balances[project_id].left_nano < threshold
            }
            return await _note(connection, LOW_CREDIT, holding, ids, now_ms)

    async def watch_caps(self, ids: IdSource, now_ms: int) -> list[str]:
        """The same for projects that spent a part of their tier's cap of this month."""
        capped = sa.select(projects.c.id, tiers.c.limits).join(tiers, tiers.c.id == projects.c.tier_id)
        spent_nano = sa.func.sum(budget_shares.c.spent_nano)
        noted = []
        async with self._database.begin() as connection:
            rows = await connection.execute(capped.where(projects.c.archived_ms.is_(None)))
            caps = {row.id: cap for row in rows if (cap := row.limits.get("monthly_cap"))}
            budgets = {project_month(project_id, now_ms): project_id for project_id in caps}
            shares = sa.select(budget_shares.c.budget_id, spent_nano).group_by(budget_shares.c.budget_id)
            spent = {
                budgets[budget_id]: int(nano)
                for budget_id, nano in await connection.execute(shares.where(budget_shares.c.budget_id.in_(budgets)))
            }
            for percent in CAP_PERCENTS:
                holding = {
                    project_id: {"percent": percent, "spent_nano": nano, "cap_nano": caps[project_id]}
                    for project_id, nano in spent.items()
                    if nano * 100 >= caps[project_id] * percent
                }
                noted += await _note(connection, f"cap_{percent}", holding, ids, now_ms)
        return noted


async def _note(
    connection: AsyncConnection, kind: str, holding: Mapping[str, dict[str, Any]], ids: IdSource, now_ms: int
) -> list[str]:
    """Raise what holds and is not raised yet, resolve what does not hold any more; gives the projects of the first."""
    present = sa.select(alerts.c.id, alerts.c.project_id).where(alerts.c.kind == kind, alerts.c.resolved_ms.is_(None))
    raised = {row.project_id: row.id for row in await connection.execute(present)}
    new = [project_id for project_id in holding if project_id not in raised]
    for project_id in new:
        alert_id = f"alert-{ids.uuid7()}"
        values = {"id": alert_id, "project_id": project_id, "kind": kind, "created_ms": now_ms}
        await connection.execute(sa.insert(alerts).values(**values, detail=holding[project_id]))
        await _to_be_told(connection, alert_id, project_id, "raised", ids, now_ms)
    for project_id, alert_id in raised.items():
        if project_id not in holding:
            await connection.execute(sa.update(alerts).where(alerts.c.id == alert_id).values(resolved_ms=now_ms))
            await _to_be_told(connection, alert_id, project_id, "resolved", ids, now_ms)
    return new


async def _to_be_told(
    connection: AsyncConnection, alert_id: str, project_id: str, event: str, ids: IdSource, now_ms: int
) -> None:
    channels = sa.select(alert_channels.c.id).where(alert_channels.c.project_id == project_id)
    rows = [
        {
            "id": f"notice-{ids.uuid7()}",
            "alert_id": alert_id,
            "channel_id": channel_id,
            "event": event,
            "created_ms": now_ms,
            "due_ms": now_ms,
            "attempts": 0,
        }
        for channel_id in (await connection.execute(channels)).scalars().all()
    ]
    if rows:
        await connection.execute(sa.insert(alert_deliveries), rows)


def _act(
    verb: str,
    channel_id: str,
    project_id: str,
    by: Actor,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Act:
    return Act(by, f"alert_channel.{verb}", "alert_channel", channel_id, project_id, before, after)


def _plain(channel: Channel) -> dict[str, Any]:
    """Of a URL only where it leads: its path may hold a secret of the other side."""
    whole = channel.kind is ChannelKind.EMAIL
    return {"kind": channel.kind.value, "target": channel.target if whole else "/".join(channel.target.split("/")[:3])}


def _to_channel(row: sa.RowMapping, prefix: str = "") -> Channel:
    values = {field.name: row[prefix + field.name] for field in dataclasses.fields(Channel)}
    return Channel(**{**values, "kind": ChannelKind(values["kind"])})


def _to_delivery(row: sa.RowMapping) -> Delivery:
    alert = Alert(**{field.name: row[f"alert_{field.name}"] for field in dataclasses.fields(Alert)})
    channel = _to_channel(row, "channel_")
    return Delivery(row["id"], row["event"], row["created_ms"], channel, alert, row["name"], row["attempts"])
