"""The fleet's rows: read into declarations, and made of them. A row that cannot be read is skipped, with what needs it.

Nothing becomes free or unlimited by that: a model whose price cannot be read is skipped too, and so is a tier.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.fleet import Fleet, Noun
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, Provider
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.domain.values import name_fault, url_fault
from llmaas.storage.tables import backends, deployments, models, prices, providers, tiers

TABLES: dict[Noun, sa.Table] = {
    "tier": tiers,
    "provider": providers,
    "backend": backends,
    "model": models,
    "deployment": deployments,
}
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A row that cannot be read. `key`: its primary key."""

    noun: Noun
    key: tuple[Any, ...]
    reason: str

    @property
    def line(self) -> str:
        return f"{self.noun} `{'@'.join(map(str, self.key))}`: {self.reason}"


@dataclass(slots=True)
class StoredFleet:
    """`fleet` in the order in which it is kept. `versions`: price versions in force, by model and tier (None: the model's own)."""

    fleet: Fleet
    poisoned: list[Poisoned] = field(default_factory=list)
    versions: dict[tuple[str, str | None], int] = field(default_factory=dict)


async def read_fleet(connection: AsyncConnection, *, with_versions: bool) -> StoredFleet:
    """Without versions, prices are as declarations have them, so that two fleets can be compared."""
    reader = _Reader(await _prices(connection), with_versions=with_versions)
    found: dict[Noun, list[Any]] = {}
    steps: dict[Noun, tuple[Callable[[Mapping[str, Any]], Any], list[sa.Column[Any]]]] = {
        "tier": (reader.tier, [tiers.c.id]),
        "provider": (reader.provider, [providers.c.id]),
        "backend": (reader.backend, [backends.c.id]),
        "model": (reader.model, [models.c.position, models.c.id]),
        "deployment": (reader.deployment, [deployments.c.position, deployments.c.model_id, deployments.c.backend_id]),
    }
    for noun, (read, order) in steps.items():
        rows = _plain(await connection.execute(_selected(TABLES[noun]).order_by(*order)))
        found[noun] = list(reader.each(noun, rows, read))
    fleet = Fleet(
        tiers=tuple(found["tier"]),
        providers=tuple(found["provider"]),
        backends=tuple(found["backend"]),
        models=tuple(found["model"]),
        deployments=tuple(found["deployment"]),
    )
    return StoredFleet(fleet, reader.poisoned, reader.versions)


class _Reader:
    def __init__(self, known: Mapping[int, Price], *, with_versions: bool) -> None:
        self._known = known
        self._with_versions = with_versions
        self._seen: dict[Noun, set[str]] = {"provider": set(), "backend": set(), "model": set()}
        self.poisoned: list[Poisoned] = []
        self.versions: dict[tuple[str, str | None], int] = {}

    def each(
        self, noun: Noun, rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], _Read]
    ) -> Iterator[_Read]:
        for row in rows:
            try:
                thing = read(row)
            except (ValueError, TypeError, KeyError, LookupError) as error:
                key = tuple(row[column.name] for column in TABLES[noun].primary_key.columns)
                self.poisoned.append(Poisoned(noun, key, str(error)))
                continue
            if noun in self._seen:
                self._seen[noun].add(row["id"])
            yield thing

    def tier(self, row: Mapping[str, Any]) -> Tier:
        limits = _object(row["limits"])
        unknown = set(limits) - {f.name for f in dataclasses.fields(Tier)} | set(limits) & {"id", "prices"}
        if unknown:
            raise ValueError(f"unknown limits {', '.join(sorted(unknown))}")
        found = [
            self._price(version, model_id, row["id"]) for model_id, version in _object(row["price_versions"]).items()
        ]
        listed = tuple(sorted(found, key=lambda price: price.model_id))
        return dataclasses.replace(msgspec.convert({"id": _name(row["id"]), **limits}, Tier), prices=listed)

    def provider(self, row: Mapping[str, Any]) -> Provider:
        explain = row["explain_refusals"]
        values = {
            **row,
            "cancel_stops_billing": bool(row["cancel_stops_billing"]),
            "extra_parameters": json.loads(row["extra_parameters"]),
            "explain_refusals": None if explain is None else bool(explain),
        }
        return msgspec.convert(values, Provider)

    def backend(self, row: Mapping[str, Any]) -> Backend:
        self._require("provider", row["provider_id"])
        backend = msgspec.convert({**row, "in_service": bool(row["in_service"])}, Backend)
        if backend.base_url and (fault := url_fault(backend.base_url)):
            raise ValueError(f"base_url {fault}")
        return backend

    def model(self, row: Mapping[str, Any]) -> Model:
        parsed = {name: json.loads(row[name]) for name in ("aliases", "capabilities", "card", "lifecycle")}
        lifecycle = msgspec.convert(parsed["lifecycle"], Lifecycle)
        model = msgspec.convert({**row, **parsed, "lifecycle": {}, "price": None}, Model)
        price = None if row["price_version"] is None else self._price(row["price_version"], _name(row["id"]), None)
        return dataclasses.replace(model, lifecycle=lifecycle, price=price)

    def deployment(self, row: Mapping[str, Any]) -> Deployment:
        self._require("model", row["model_id"])
        self._require("backend", row["backend_id"])
        return msgspec.convert(row, Deployment)

    def _require(self, noun: Noun, thing_id: str) -> None:
        if thing_id not in self._seen[noun]:
            raise LookupError(f"its {noun} `{thing_id}` is not there")

    def _price(self, version: int, model_id: str, tier_id: str | None) -> Price:
        price = self._known.get(version)
        if price is None or (price.model_id, price.tier_id) != (model_id, tier_id):
            raise LookupError(f"its price version {version} is not there")
        self.versions[model_id, tier_id] = version
        return price if self._with_versions else dataclasses.replace(price, version=0, valid_from_ms=0)


async def _prices(connection: AsyncConnection) -> dict[int, Price]:
    found = {}
    for row in _plain(await connection.execute(sa.select(prices))):
        try:
            found[row["version"]] = msgspec.convert(row, Price)
        except ValueError:
            continue  # what it is the price of is skipped, and says so
    return found


def _plain(result: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    """SQLAlchemy's names of columns are a kind of text of their own, which msgspec does not take."""
    return [{str(name): value for name, value in row.items()} for row in result.mappings()]


def _selected(table: sa.Table) -> sa.Select[Any]:
    """JSON and truth values as they lie there, so that a bad one spoils its own row only. Secrets stay where they are."""
    columns: list[sa.ColumnElement[Any]] = []
    for column in table.columns:
        if isinstance(column.type, sa.JSON):
            columns.append(sa.cast(column, sa.Text).label(column.name))
        elif isinstance(column.type, sa.Boolean):
            columns.append(sa.cast(column, sa.Integer).label(column.name))
        elif not isinstance(column.type, sa.LargeBinary):
            columns.append(column)
    return sa.select(*columns)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("is not a JSON object")
    return value


def _name(text: str) -> str:
    if not isinstance(text, str) or not text:
        raise ValueError(f"its id {name_fault(str(text)) or 'is no text'}")
    return text


def rows_of(fleet: Fleet, versions: Mapping[tuple[str, str | None], int]) -> dict[Noun, dict[tuple[Any, ...], Any]]:
    """The rows of a fleet, by primary key, without secrets."""
    return {
        "tier": {(t.id,): _tier_row(t, versions) for t in fleet.tiers},
        "provider": {(p.id,): _provider_row(p) for p in fleet.providers},
        "backend": {(b.id,): dataclasses.asdict(b) for b in fleet.backends},
        "model": {(m.id,): _model_row(m, n, versions.get((m.id, None))) for n, m in enumerate(fleet.models)},
        "deployment": {
            (d.model_id, d.backend_id): {**dataclasses.asdict(d), "position": n}
            for n, d in enumerate(fleet.deployments)
        },
    }


def _tier_row(tier: Tier, versions: Mapping[tuple[str, str | None], int]) -> dict[str, Any]:
    limits = {k: v for k, v in dataclasses.asdict(tier).items() if k not in ("id", "prices") and v is not None}
    its_versions = {price.model_id: versions[price.model_id, tier.id] for price in tier.prices}
    return {"id": tier.id, "limits": limits, "price_versions": its_versions}


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
