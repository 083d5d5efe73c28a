"""Edits of the catalogue: prices of tiers are versions, every change is in the audit log, old pictures are refused."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from llmaas.domain.audit import Actor, AuditFilter
from llmaas.domain.fleet import Change, Fleet, FleetState
from llmaas.domain.models import Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.errors import ConfigurationError, NotFound, Outdated
from llmaas.storage.audit import SqlAuditLog
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.projects import SqlProjectStore

ADA = Actor("user", "user-ada", "10.0.0.7")
OWN = Price(0, "m", 0, input=9 * NANO)
GOLD = Tier("gold", 10, prices=(Price(0, "m", 0, input=5 * NANO, tier_id="gold"),))
FLEET = Fleet(
    tiers=(GOLD, Tier("plain", 5)),
    models=(Model("m", ModelKind.CHAT, 1, price=OWN), Model("n", ModelKind.CHAT, 1)),
)


@pytest.fixture
def store(database: Database) -> SqlCatalogueStore:
    return SqlCatalogueStore(database)


async def test_a_tier_has_prices_of_its_own(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1, prune=False)
    assert await store.fleet() == FLEET
    catalogue = await store.load()
    own, gold = catalogue.price_of("m", None), catalogue.price_of("m", "gold")
    assert own is not None
    assert gold is not None
    assert (own.input, own.tier_id, gold.input, gold.tier_id) == (9 * NANO, None, 5 * NANO, "gold")
    assert catalogue.price_of("m", "plain") == own
    assert catalogue.price_of("n", "gold") is None
    assert own.version != gold.version


async def test_a_price_of_a_tier_is_a_version(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1, prune=False)
    old = await store.price_versions()
    assert await store.apply(FLEET, now_ms=2, prune=True) == []
    more_requests = dataclasses.replace(GOLD, requests_per_minute=99)
    await store.apply(Fleet(tiers=(more_requests,)), now_ms=3, prune=False)
    assert await store.price_versions() == old
    dearer = dataclasses.replace(GOLD, prices=(dataclasses.replace(GOLD.prices[0], output=7),))
    assert await store.apply(Fleet(tiers=(dearer,)), now_ms=4, prune=False) == [Change("change", "tier", "gold")]
    versions = await store.price_versions()
    assert {v: p for v, p in versions.items() if v in old} == old
    (new,) = [p for v, p in versions.items() if v not in old]
    assert (new.tier_id, new.output, new.valid_from_ms) == ("gold", 7, 4)
    await store.apply(Fleet(tiers=(Tier("gold"),)), now_ms=5, prune=False)
    price = (await store.load()).price_of("m", "gold")
    assert price is not None
    assert price.tier_id is None


async def test_a_model_with_a_tiers_price_is_not_removed_alone(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1, prune=False)
    with pytest.raises(ConfigurationError, match="tier `gold`: there is no model `m`"):
        await store.apply(Fleet(), now_ms=2, prune=False, remove=[("model", "m")])
    await store.apply(Fleet(), now_ms=2, prune=False, remove=[("model", "m"), ("tier", "gold")])
    assert [m.id for m in (await store.fleet()).models] == ["n"]


async def test_a_tier_with_projects_on_it_stays(store: SqlCatalogueStore, database: Database) -> None:
    await store.apply(FLEET, now_ms=1, prune=False)
    await SqlProjectStore(database).add(Project("lab", "Lab", 1, tier_id="plain"))
    with pytest.raises(ConfigurationError, match="tier `plain` has projects on it: lab"):
        await store.apply(Fleet(), now_ms=2, prune=False, remove=[("tier", "plain")])
    with pytest.raises(ConfigurationError, match="tier `plain` has projects on it"):
        await store.apply(Fleet(), now_ms=2, prune=True)
    assert await store.fleet() == FLEET


async def test_every_changed_thing_is_in_the_audit_log(store: SqlCatalogueStore, database: Database) -> None:
    log = SqlAuditLog(database)
    await store.apply(FLEET, now_ms=1, prune=False, by=ADA)
    assert [line.act.action for line in await log.page(AuditFilter(), before=None, limit=9)] == [
        *["model.add"] * 2,
        *["tier.add"] * 2,
    ]
    await store.apply(FLEET, now_ms=2, prune=False, by=ADA)
    await store.apply(Fleet(), now_ms=2, prune=True, dry_run=True, by=ADA)
    assert (await log.verify()).lines == 4
    await store.apply(Fleet(tiers=(Tier("plain", 6),)), now_ms=3, prune=False, remove=[("model", "n")], by=ADA)
    removed, changed = await log.page(AuditFilter(), before=None, limit=2)
    assert (changed.act.action, changed.act.by, changed.at_ms) == ("tier.change", ADA, 3)
    assert changed.act.before == {"id": "plain", "requests_per_minute": 5}
    assert changed.act.after == {"id": "plain", "requests_per_minute": 6}
    assert (removed.act.action, removed.act.subject_id, removed.act.after) == ("model.remove", "n", None)
    assert (await log.verify()).faults == ()


async def test_a_secret_is_no_part_of_its_line(store: SqlCatalogueStore, database: Database) -> None:
    await store.apply(Fleet(providers=(Provider("p", ProviderKind.VLLM),)), now_ms=1, prune=False)
    await store.set_secret("p", b"canary", by=ADA)
    await store.set_secret("p", None, by=ADA)
    forgotten, kept = await SqlAuditLog(database).page(AuditFilter(action="provider"), before=None, limit=2)
    assert (kept.act.action, forgotten.act.action) == ("provider.set-secret", "provider.forget-secret")
    assert kept.act.after is None
    assert (await store.state()).with_secret == frozenset()
    with pytest.raises(NotFound):
        await store.set_secret("nobody", b"canary", by=ADA)
    assert (await SqlAuditLog(database).verify()).lines == 3


async def test_an_old_picture_is_refused_and_changes_nothing(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1, prune=False)
    seen = (await store.state()).revision

    def still(state: FleetState) -> None:
        if state.revision != seen:
            raise Outdated("old")

    async def edit(n: int) -> bool:
        try:
            model = Model(f"x{n}", ModelKind.CHAT, 0)
            await store.apply(Fleet(models=(model,)), now_ms=2, prune=False, if_still=still)
        except Outdated:
            return False
        return True

    assert sorted(await asyncio.gather(*map(edit, range(6)))) == [False] * 5 + [True]
    assert len((await store.fleet()).models) == 3
    assert (await store.state()).revision == seen + 1
