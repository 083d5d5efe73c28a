"""Rows that somebody spoiled: they and what needs them are left out, the rest goes on, and nothing becomes free."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.errors import Unavailable
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.tables import backends, deployments, models, providers, tiers

OWN, TIERS = Price(0, "m", 0, input=9), Price(0, "m", 0, input=5, tier_id="gold")
FLEET = Fleet(
    tiers=(Tier("gold", prices=(TIERS,)), Tier("plain")),
    providers=(Provider("p", ProviderKind.VLLM), Provider("q", ProviderKind.OLLAMA)),
    backends=(Backend("b", "p", "http://b:1/v1", "b", "vllm"), Backend("c", "q", "http://c:1", "c", "ollama")),
    models=(Model("m", ModelKind.CHAT, 0, price=OWN), Model("n", ModelKind.CHAT, 0)),
    deployments=(Deployment("m", "b", "m"), Deployment("n", "c", "n"), Deployment("m", "c", "m")),
)


@pytest.fixture
async def store(database: Database) -> SqlCatalogueStore:
    store = SqlCatalogueStore(database)
    await store.apply(FLEET, now_ms=1, prune=False)
    return store


async def spoil(database: Database, table: sa.Table, row_id: str, **values: object) -> None:
    async with database.begin() as connection:
        await connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))


async def test_F15_a_poisoned_provider_is_skipped_with_what_is_on_it(
    store: SqlCatalogueStore, database: Database
) -> None:
    await spoil(database, providers, "p", kind="nonsense")
    catalogue = await store.load()
    assert set(catalogue.providers) == {"q"}
    assert set(catalogue.backends) == {"c"}
    assert [t.backend.id for t in catalogue.entries["m"].targets] == ["c"]
    assert [line.partition(":")[0] for line in catalogue.skipped] == [
        "provider `p`",
        "backend `b`",
        "deployment `m@b`",
    ]


@pytest.mark.parametrize(
    ("table", "row_id", "values", "gone"),
    [
        (backends, "b", {"base_url": "file:///etc/passwd"}, "backend `b`"),
        (backends, "b", {"base_url": "http://user:canary@b/v1"}, "backend `b`"),
        (models, "m", {"kind": "poem"}, "model `m`"),
        (models, "m", {"aliases": {"not": "a list"}}, "model `m`"),
        (models, "m", {"lifecycle": [1]}, "model `m`"),
        (models, "m", {"card": "text"}, "model `m`"),
        (tiers, "gold", {"limits": {"requests_per_minute": "many"}}, "tier `gold`"),
        (tiers, "gold", {"limits": {"request_per_minute": 5}}, "tier `gold`"),
        (tiers, "gold", {"limits": {"requests_per_minute": 5.5}}, "tier `gold`"),
    ],
)
async def test_F15_a_poisoned_row_is_skipped_and_the_others_go_on(
    store: SqlCatalogueStore, database: Database, table: sa.Table, row_id: str, values: dict[str, object], gone: str
) -> None:
    await spoil(database, table, row_id, **values)
    catalogue = await store.load()
    assert catalogue.skipped[0].startswith(f"{gone}: ")
    assert "canary" not in catalogue.skipped[0]
    assert catalogue.entries["n"].targets


async def test_F15_what_has_lost_its_price_is_not_free(store: SqlCatalogueStore, database: Database) -> None:
    await spoil(database, tiers, "gold", price_versions={"m": 99})
    catalogue = await store.load()
    assert catalogue.tier_of(None) is None
    assert catalogue.tier_of("plain") == FLEET.tiers[1]
    with pytest.raises(Unavailable):
        catalogue.tier_of("gold")
    async with database.begin() as connection:
        # Another model's price is no price of this one.
        other = sa.select(models.c.price_version).where(models.c.id == "m").scalar_subquery()
        await connection.execute(sa.update(models).where(models.c.id == "n").values(price_version=other))
    assert set((await store.load()).entries) == {"m"}


async def test_F15_an_apply_mends_a_poisoned_row_and_leaves_others_alone(
    store: SqlCatalogueStore, database: Database
) -> None:
    await spoil(database, models, "m", kind="poem")
    await spoil(database, tiers, "plain", limits=[1])
    await store.apply(Fleet(models=(FLEET.models[0],), deployments=FLEET.deployments[:1]), now_ms=2, prune=False)
    state = await store.state()
    assert [line.partition(":")[0] for line in state.skipped] == ["tier `plain`"]
    assert state.fleet.find("model", "m") is not None
    assert {d.id for d in state.fleet.deployments} == {"m@b", "n@c", "m@c"}
    await store.apply(state.fleet, now_ms=3, prune=True)
    state = await store.state()
    assert state.skipped == ()
    assert state.fleet.find("tier", "plain") is None


async def test_a_secret_outlives_the_mending_of_its_provider(store: SqlCatalogueStore, database: Database) -> None:
    await store.set_secret("p", b"sealed")
    await spoil(database, providers, "p", extra_parameters={"no": "list"})
    assert (await store.load()).skipped
    await store.apply(FLEET, now_ms=2, prune=False)
    assert (await store.load()).skipped == ()
    assert await store.sealed_secrets() == {"p": b"sealed"}


async def test_order_is_kept_in_rows(store: SqlCatalogueStore, database: Database) -> None:
    async with database.connect() as connection:
        kept = (await connection.execute(sa.select(deployments.c.model_id).order_by(deployments.c.position))).all()
    assert [row.model_id for row in kept] == ["m", "n", "m"]
