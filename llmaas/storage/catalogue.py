"""The catalogue in SQL: loading snapshots, and replacing the declared fleet in one transaction.

Prices are versions: an unchanged price keeps its version, a changed one is a new row, and no row is ever changed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.catalogue import Catalogue
from llmaas.domain.fleet import Change, Fleet, Problem, changes, check, duplicates
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.errors import ConfigurationError, NotFound
from llmaas.storage.database import Database, bump
from llmaas.storage.tables import backends, deployments, models, prices, providers, revisions, tiers

_PRICE_CLASSES = ("input", "cached_input", "output", "reasoning", "request", "documents")


class SqlCatalogueStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Catalogue:
        async with self._database.connect() as connection:
            query = sa.select(revisions.c.number).where(revisions.c.name == "catalogue")
            revision = (await connection.execute(query)).scalar_one()
            fleet = await _read_fleet(connection, versions=True)
        return Catalogue(
            revision=revision,
            models=fleet.models,
            providers=fleet.providers,
            backends=fleet.backends,
            deployments=fleet.deployments,
        )

    async def fleet(self) -> Fleet:
        async with self._database.connect() as connection:
            return await _read_fleet(connection, versions=False)

    async def apply(self, declared: Fleet, *, now_ms: int, prune: bool, dry_run: bool = False) -> list[Change]:
        """Put the declared fleet over the present one, or with `prune` in its place. All of it or nothing.

        Raises ConfigurationError when the result would not hold together.
        """
        async with self._database.begin() as connection:
            present = await _read_fleet(connection, versions=False)
            wanted = declared if prune else present.merged_with(declared)
            wanted = _keep_created(present, wanted, now_ms)
            problems: list[Problem] = [*duplicates(declared), *check(wanted)]
            if problems:
                raise ConfigurationError([p.message for p in problems])
            todo = changes(present, wanted)
            if todo and not dry_run:
                await _write_fleet(connection, wanted, now_ms)
                await bump(connection, "catalogue")
        return todo

    async def price_versions(self) -> dict[int, Price]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(prices))).mappings().all()
        return {row["version"]: Price(**row) for row in rows}

    async def sealed_secrets(self) -> dict[str, bytes]:
        """The stored credential of each provider that has one, still sealed."""
        query = sa.select(providers.c.id, providers.c.secret).where(providers.c.secret.is_not(None))
        async with self._database.connect() as connection:
            return {row.id: row.secret for row in await connection.execute(query)}

    async def set_secret(self, provider_id: str, sealed: bytes | None) -> None:
        """Raises NotFound when there is no such provider."""
        async with self._database.begin() as connection:
            change = sa.update(providers).where(providers.c.id == provider_id).values(secret=sealed)
            if (await connection.execute(change)).rowcount == 0:
                raise NotFound(f"There is no provider `{provider_id}`.", param="provider")
            await bump(connection, "catalogue")


async def _read_fleet(connection: AsyncConnection, *, versions: bool) -> Fleet:
    async def rows(table: sa.Table, *order: sa.Column[Any]) -> list[dict[str, Any]]:
        return [dict(r) for r in (await connection.execute(sa.select(table).order_by(*order))).mappings()]

    known_prices = {row["version"]: Price(**row) for row in await rows(prices, prices.c.version)}
    return Fleet(
        tiers=tuple(Tier(id=row["id"], **row["limits"]) for row in await rows(tiers, tiers.c.id)),
        providers=tuple(
            Provider(
                id=row["id"],
                kind=ProviderKind(row["kind"]),
                cancel_stops_billing=row["cancel_stops_billing"],
                api_key_env=row["api_key_env"],
                extra_parameters=frozenset(row["extra_parameters"]),
            )
            for row in await rows(providers, providers.c.id)
        ),
        backends=tuple(Backend(**row) for row in await rows(backends, backends.c.id)),
        models=tuple(_to_model(row, known_prices, versions=versions) for row in await rows(models, models.c.position)),
        deployments=tuple(
            Deployment(row["model_id"], row["backend_id"], row["root"], row["weight"])
            for row in await rows(deployments, deployments.c.position)
        ),
    )


def _to_model(row: dict[str, Any], known: dict[int, Price], *, versions: bool) -> Model:
    price = known.get(row["price_version"])
    if price is not None and not versions:
        price = dataclasses.replace(price, version=0, valid_from_ms=0)
    return Model(
        id=row["id"],
        kind=ModelKind(row["kind"]),
        created_ms=row["created_ms"],
        aliases=tuple(row["aliases"]),
        max_model_len=row["max_model_len"],
        max_output_tokens=row["max_output_tokens"],
        owned_by=row["owned_by"],
        capabilities=frozenset(row["capabilities"]),
        card=row["card"],
        lifecycle=Lifecycle(**row["lifecycle"]),
        price=price,
    )


def _keep_created(present: Fleet, wanted: Fleet, now_ms: int) -> Fleet:
    born = {m.id: m.created_ms for m in present.models}
    dated = tuple(dataclasses.replace(m, created_ms=born.get(m.id, now_ms)) for m in wanted.models)
    return dataclasses.replace(wanted, models=dated)


async def _write_fleet(connection: AsyncConnection, fleet: Fleet, now_ms: int) -> None:
    secrets = {row.id: row.secret for row in await connection.execute(sa.select(providers.c.id, providers.c.secret))}
    price_versions = await _write_prices(connection, fleet, now_ms)
    for table in (deployments, models, backends, providers, tiers):
        await connection.execute(sa.delete(table))
    written: list[tuple[sa.Table, list[dict[str, Any]]]] = [
        (tiers, [_tier_row(t) for t in fleet.tiers]),
        (providers, [{**_provider_row(p), "secret": secrets.get(p.id)} for p in fleet.providers]),
        (backends, [dataclasses.asdict(b) for b in fleet.backends]),
        (models, [_model_row(m, position, price_versions.get(m.id)) for position, m in enumerate(fleet.models)]),
        (deployments, [{**dataclasses.asdict(d), "position": n} for n, d in enumerate(fleet.deployments)]),
    ]
    for table, table_rows in written:
        if table_rows:
            await connection.execute(sa.insert(table), table_rows)


async def _write_prices(connection: AsyncConnection, fleet: Fleet, now_ms: int) -> dict[str, int]:
    """The price version of each priced model, newly written where the price is not the one that is in force."""
    in_force = {r.id: r.price_version for r in await connection.execute(sa.select(models.c.id, models.c.price_version))}
    known = {row["version"]: row for row in (await connection.execute(sa.select(prices))).mappings()}
    versions: dict[str, int] = {}
    for model in fleet.models:
        if model.price is None:
            continue
        wanted = {name: getattr(model.price, name) for name in _PRICE_CLASSES}
        current = known.get(in_force.get(model.id) or 0)
        if current is not None and all(current[name] == wanted[name] for name in _PRICE_CLASSES):
            versions[model.id] = current["version"]
            continue
        values = {"model_id": model.id, "valid_from_ms": now_ms, **wanted}
        inserted = await connection.execute(sa.insert(prices).values(values).returning(prices.c.version))
        versions[model.id] = inserted.scalar_one()
    return versions


def _tier_row(tier: Tier) -> dict[str, Any]:
    limits = {k: v for k, v in dataclasses.asdict(tier).items() if k not in ("id", "prices") and v is not None}
    return {"id": tier.id, "limits": limits}


def _provider_row(provider: Provider) -> dict[str, Any]:
    return {**dataclasses.asdict(provider), "extra_parameters": sorted(provider.extra_parameters)}


def _model_row(model: Model, position: int, price_version: int | None) -> dict[str, Any]:
    return {
        "id": model.id,
        "position": position,
        "kind": model.kind,
        "created_ms": model.created_ms,
        "aliases": list(model.aliases),
        "max_model_len": model.max_model_len,
        "max_output_tokens": model.max_output_tokens,
        "owned_by": model.owned_by,
        "capabilities": sorted(model.capabilities),
        "card": model.card,
        "lifecycle": dataclasses.asdict(model.lifecycle),
        "price_version": price_version,
    }
