"""The catalogue in SQL: it comes back as it was put, an apply is atomic, prices are versions, secrets stay put."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from llmaas.domain.fleet import Change, Fleet
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.errors import ConfigurationError, NotFound
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.revisions import SqlRevisionStore

NASTY = "x'); DROP TABLE models; -- {{7*7}} %s \u202e ñ\U0001f600 \\ \" ' \r\n\t\x01"
FLEET = Fleet(
    tiers=(
        Tier("a", 1, 2, 3, 10**12, 10**15),
        Tier("b"),
    ),
    providers=(
        Provider("p", ProviderKind.VLLM, False, "LLMAAS_PROVIDER_LAB_KEY", frozenset({"top_k", "min_p"}), False),
        Provider("q", ProviderKind.EMBEDDED),
    ),
    backends=(Backend("b1", "p", "http://b1:8000/v1", "ma02", "vllm", 64), Backend("b2", "q", "", NASTY, "llama.cpp")),
    models=(
        Model(
            "granite3.3:8b",
            ModelKind.CHAT,
            0,
            ("granite", NASTY),
            60_000,
            8_192,
            "CloudTemple",
            frozenset({"tools", "reasoning"}),
            {"editor": NASTY, "n": [1, 2.5, True, None, {"deep": [-(2**63), 2**63 - 1]}]},
            Lifecycle("deprecated", "2025-01-01", "2026-01-01", "2026-06-01", "org/m"),
            Price(0, "granite3.3:8b", 0, 1, 2, 3, 4, 5, 10**15),
        ),
        Model("org/m", ModelKind.EMBEDDING, 0),
    ),
    deployments=(Deployment("org/m", "b2", NASTY, 3), Deployment("granite3.3:8b", "b1", "root")),
)


@pytest.fixture
def store(database: Database) -> SqlCatalogueStore:
    return SqlCatalogueStore(database)


async def test_a_fleet_comes_back_as_it_was_put(store: SqlCatalogueStore) -> None:
    todo = await store.apply(FLEET, now_ms=1000, prune=False)
    assert [(c.action, c.noun) for c in todo] == [
        *[("add", "tier")] * 2,
        *[("add", "provider")] * 2,
        *[("add", "backend")] * 2,
        *[("add", "model")] * 2,
        *[("add", "deployment")] * 2,
    ]
    dated = tuple(dataclasses.replace(m, created_ms=1000) for m in FLEET.models)
    assert await store.fleet() == dataclasses.replace(FLEET, models=dated)


async def test_applying_the_same_again_changes_nothing(store: SqlCatalogueStore, database: Database) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    before, revision = await store.fleet(), await SqlRevisionStore(database).read()
    for declared in (FLEET, before):
        for prune in (False, True):
            assert await store.apply(declared, now_ms=2000, prune=prune) == []
    assert await store.fleet() == before
    assert await SqlRevisionStore(database).read() == revision
    assert len(await store.price_versions()) == 1


async def test_a_snapshot_has_targets_in_order_and_the_price_version(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    catalogue = await store.load()
    entry = catalogue.resolve("GRANITE")
    assert entry is not None
    assert [t.backend.id for t in entry.targets] == ["b1"]
    assert entry.targets[0].provider == FLEET.providers[0]
    assert entry.model.price is not None
    assert entry.model.price.version > 0
    assert entry.model.price.valid_from_ms == 1000
    assert (await store.price_versions())[entry.model.price.version] == entry.model.price


async def test_a_changed_price_is_a_new_version_and_the_old_one_stays(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    old = await store.price_versions()
    granite, other = FLEET.models
    assert granite.price is not None
    dearer = dataclasses.replace(granite, price=dataclasses.replace(granite.price, output=99))
    changed = await store.apply(dataclasses.replace(FLEET, models=(dearer, other)), now_ms=2000, prune=False)
    assert changed == [Change("change", "model", "granite3.3:8b")]
    versions = await store.price_versions()
    assert {v: p for v, p in versions.items() if v in old} == old
    (new,) = [p for v, p in versions.items() if v not in old]
    assert (new.output, new.valid_from_ms) == (99, 2000)
    await store.apply(FLEET, now_ms=3000, prune=False)
    assert len(await store.price_versions()) == 3
    without = dataclasses.replace(granite, price=None)
    await store.apply(dataclasses.replace(FLEET, models=(without, other)), now_ms=4000, prune=False)
    assert (await store.load()).entries["granite3.3:8b"].model.price is None
    assert len(await store.price_versions()) == 3


async def test_models_keep_the_day_they_were_made(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    await store.apply(Fleet(models=(Model("new", ModelKind.CHAT, 7),)), now_ms=2000, prune=False)
    assert {m.id: m.created_ms for m in (await store.fleet()).models} == {
        "granite3.3:8b": 1000,
        "org/m": 1000,
        "new": 2000,
    }


async def test_a_contradiction_changes_nothing_and_names_everything(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    before = await store.fleet()
    bad = Fleet(
        models=(Model("x", ModelKind.CHAT, 0, ("Granite",)), Model("x", ModelKind.CHAT, 0)),
        deployments=(Deployment("nothing", "b1", "r"),),
    )
    with pytest.raises(ConfigurationError) as caught:
        await store.apply(bad, now_ms=2000, prune=False)
    assert caught.value.problems == (
        "model `x` is declared twice",
        "deployment: there is no model `nothing`",
    )
    with pytest.raises(ConfigurationError):
        await store.apply(dataclasses.replace(FLEET, providers=()), now_ms=2000, prune=True)
    assert await store.fleet() == before


async def test_a_dry_run_tells_and_changes_nothing(store: SqlCatalogueStore, database: Database) -> None:
    revision = await SqlRevisionStore(database).read()
    assert len(await store.apply(FLEET, now_ms=1000, prune=False, dry_run=True)) == 10
    assert await store.fleet() == Fleet()
    assert await SqlRevisionStore(database).read() == revision


async def test_every_change_is_noticed_by_its_revision(store: SqlCatalogueStore, database: Database) -> None:
    revisions = SqlRevisionStore(database)
    first = await revisions.read()
    await store.apply(FLEET, now_ms=1000, prune=False)
    second = await revisions.read()
    await store.set_secret("p", b"sealed")
    third = await revisions.read()
    assert first.catalogue < second.catalogue < third.catalogue == (await store.load()).revision
    assert first.keys == third.keys


async def test_a_secret_stays_with_its_provider_through_an_apply(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    await store.set_secret("p", b"\x00sealed\xff")
    renamed = dataclasses.replace(FLEET.providers[0], cancel_stops_billing=True)
    await store.apply(Fleet(providers=(renamed,)), now_ms=2000, prune=False)
    assert await store.sealed_secrets() == {"p": b"\x00sealed\xff"}
    await store.set_secret("p", None)
    assert await store.sealed_secrets() == {}
    with pytest.raises(NotFound):
        await store.set_secret("nobody", b"sealed")


async def test_a_removed_provider_takes_its_secret_along(store: SqlCatalogueStore) -> None:
    await store.apply(FLEET, now_ms=1000, prune=False)
    await store.set_secret("p", b"sealed")
    await store.apply(Fleet(), now_ms=2000, prune=True)
    await store.apply(FLEET, now_ms=3000, prune=False)
    assert await store.sealed_secrets() == {}


async def test_applies_at_once_do_not_lose_each_other(store: SqlCatalogueStore) -> None:
    fleets = [Fleet(models=(Model(f"m{n}", ModelKind.CHAT, 0),)) for n in range(8)]
    await asyncio.gather(*(store.apply(fleet, now_ms=1000, prune=False) for fleet in fleets))
    assert {m.id for m in (await store.fleet()).models} == {f"m{n}" for n in range(8)}
