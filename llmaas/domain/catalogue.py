"""The catalogue snapshot: one immutable view of models, aliases, deployments, prices and tiers that a request works from."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from llmaas.domain.energy import rate_of
from llmaas.domain.models import Backend, Deployment, Model, Provider
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.errors import Unavailable

_REDIRECTS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment with all that an attempt on it needs to know."""

    deployment: Deployment
    backend: Backend
    provider: Provider
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A published model and its targets, in the order of the fleet file."""

    model: Model
    targets: tuple[Target, ...]
    energy_rate: int = 0
    """Micro-watt-hours per million tokens, from the model's card."""


class Catalogue:
    def __init__(
        self,
        *,
        revision: int,
        models: Iterable[Model],
        providers: Iterable[Provider],
        backends: Iterable[Backend],
        deployments: Iterable[Deployment],
        tiers: Iterable[Tier] = (),
        skipped: Iterable[str] = (),
    ) -> None:
        """`skipped`: what is stored and cannot be read, a line for each; nothing that needs it is here either."""
        self.revision = revision
        self.skipped = tuple(skipped)
        self.tiers = {t.id: t for t in tiers}
        self._tier_prices = {(price.model_id, t.id): price for t in self.tiers.values() for price in t.prices}
        self.providers = {p.id: p for p in providers}
        self.backends = {b.id: b for b in backends}
        known = {m.id: m for m in models}
        targets: dict[str, list[Target]] = {}
        for d in deployments:
            backend = self.backends[d.backend_id]
            if not backend.in_service:
                continue
            target = Target(d, backend, self.providers[backend.provider_id], known[d.model_id].max_model_len)
            targets.setdefault(d.model_id, []).append(target)
        self.entries = {m.id: Entry(m, tuple(targets.get(m.id, ())), rate_of(m.card)) for m in known.values()}
        self._names: dict[str, str] = {}
        for model_id, entry in self.entries.items():
            for alias in entry.model.aliases:
                self._names[alias.casefold()] = model_id
        for model_id in self.entries:
            self._names[model_id.casefold()] = model_id

    def on(self, day: str) -> Catalogue:
        """The same on an ISO day: models whose dates have come are deprecated, or retired."""
        dated = copy.copy(self)
        dated.entries = {
            model_id: dataclasses.replace(entry, model=entry.model.on(day)) for model_id, entry in self.entries.items()
        }
        return dated

    def resolve(self, name: str) -> Entry | None:
        """The model that a caller's name means: exact id, else id or alias in any case; a retired one's successor."""
        entry = self.entries.get(name)
        if entry is None:
            model_id = self._names.get(name.casefold())
            if model_id is None:
                return None
            entry = self.entries[model_id]
        for _ in range(_REDIRECTS):
            lifecycle = entry.model.lifecycle
            if lifecycle.phase != "retired":
                return entry
            successor = self.entries.get(lifecycle.successor) if lifecycle.successor else None
            if successor is None:
                return None
            entry = successor
        return None

    def listed(self) -> list[Entry]:
        return [e for e in self.entries.values() if e.model.lifecycle.phase != "retired"]

    def tier_of(self, tier_id: str | None) -> Tier | None:
        """None: on no tier, so without its limits. Raises Unavailable for a tier that is not here: never unlimited."""
        if tier_id is None:
            return None
        tier = self.tiers.get(tier_id)
        if tier is None:
            hint = f"tier `{tier_id}` is not in the catalogue; the log says why"
            raise Unavailable("The terms of this project cannot be read.", hint=hint)
        return tier

    def price_of(self, model_id: str, tier_id: str | None) -> Price | None:
        """What a project on that tier pays for a model: the tier's own price, else the model's; None: nothing."""
        if tier_id is not None:
            price = self._tier_prices.get((model_id, tier_id))
            if price is not None:
                return price
        entry = self.entries.get(model_id)
        return None if entry is None else entry.model.price
