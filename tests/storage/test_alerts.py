"""Alerts of the monthly cap, and the places that they are told at."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from llmaas.domain.alerts import MOST_CHANNELS, Channel, ChannelKind
from llmaas.domain.audit import SYSTEM
from llmaas.domain.fleet import Fleet
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.errors import Conflict, NotFound
from llmaas.ids import IdSource
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.tables import alerts, audit, budget_shares

NOVEMBER_MS, DECEMBER_MS = 1_793_620_800_000, 1_796_126_400_000
ids = IdSource()


@pytest.fixture
async def store(database: Database) -> SqlAlertStore:
    await SqlCatalogueStore(database).apply(Fleet(tiers=(Tier("team", monthly_cap=1_000),)), now_ms=1, prune=False)
    projects = SqlProjectStore(database)
    await projects.add(Project("lab", "Lab", 1, tier_id="team"))
    await projects.add(Project("free", "Free", 1))
    return SqlAlertStore(database)


async def spend(database: Database, budget_id: str, worker: str, nano: int) -> None:
    async with database.begin() as connection:
        share = {"budget_id": budget_id, "worker_id": worker, "spent_nano": nano, "leased_nano": 0}
        await connection.execute(sa.insert(budget_shares).values(share))


async def told(database: Database) -> list[tuple[str, str, int | None]]:
    async with database.connect() as connection:
        query = sa.select(alerts.c.project_id, alerts.c.kind, alerts.c.resolved_ms).order_by(alerts.c.id)
        return [tuple(row) for row in await connection.execute(query)]


async def test_a_cap_is_told_at_each_of_its_parts_once_a_month(store: SqlAlertStore, database: Database) -> None:
    await spend(database, "project:free:2026-11", "a", 10**6)
    await spend(database, "project:lab:2026-11", "a", 799)
    assert await store.watch_caps(ids, NOVEMBER_MS) == []
    await spend(database, "project:lab:2026-11", "b", 1)
    assert await store.watch_caps(ids, NOVEMBER_MS) == ["lab"]
    assert await store.watch_caps(ids, NOVEMBER_MS) == []
    await spend(database, "project:lab:2026-11", "c", 200)
    assert await store.watch_caps(ids, NOVEMBER_MS) == ["lab"]
    assert await told(database) == [("lab", "cap_80", None), ("lab", "cap_100", None)]
    assert await store.watch_caps(ids, DECEMBER_MS) == []
    assert {resolved for _, _, resolved in await told(database)} == {DECEMBER_MS}


async def test_a_cap_that_is_raised_ends_its_alerts(store: SqlAlertStore, database: Database) -> None:
    await spend(database, "project:lab:2026-11", "a", 1_000)
    assert await store.watch_caps(ids, NOVEMBER_MS) == ["lab", "lab"]
    fleet = Fleet(tiers=(Tier("team", monthly_cap=10_000),))
    await SqlCatalogueStore(database).apply(fleet, now_ms=2, prune=False)
    assert await store.watch_caps(ids, NOVEMBER_MS + 1) == []
    assert {resolved for _, _, resolved in await told(database)} == {NOVEMBER_MS + 1}


async def test_places_are_a_projects_own_and_not_too_many(store: SqlAlertStore, database: Database) -> None:
    def place(number: int) -> Channel:
        return Channel(f"channel-{number:02}", "lab", ChannelKind.EMAIL, f"n{number}@example.org", number)

    for number in range(MOST_CHANNELS):
        await store.add_channel(place(number), by=SYSTEM)
    with pytest.raises(Conflict):
        await store.add_channel(place(99), by=SYSTEM)
    with pytest.raises(NotFound):
        await store.remove_channel("free", "channel-00", by=SYSTEM)
    await store.remove_channel("lab", "channel-00", by=SYSTEM)
    with pytest.raises(Conflict, match="already"):
        await store.add_channel(place(1), by=SYSTEM)
    hook = Channel("channel-x", "lab", ChannelKind.WEBHOOK, "https://example.org/hooks/T0P5ECRET", 50)
    await store.add_channel(hook, by=SYSTEM)
    assert [one.id for one in await store.channels("lab")][-1] == "channel-x"
    assert await store.channels("free") == []
    async with database.connect() as connection:
        lines = (await connection.execute(sa.select(audit).order_by(audit.c.seq.desc()).limit(1))).mappings().one()
    assert lines["after"] == {"kind": "webhook", "target": "https://example.org"}, "its path may be a secret"
