"""The fleet: all that an operator declares about tiers, providers, machines and models, and what must hold among it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol, TypeVar

from llmaas.domain.audit import Actor
from llmaas.domain.catalogue import Catalogue
from llmaas.domain.models import Backend, Deployment, Model, Provider, ProviderKind
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier

Noun = Literal["tier", "provider", "backend", "model", "deployment"]
NOUNS: tuple[Noun, ...] = ("tier", "provider", "backend", "model", "deployment")
Thing = Tier | Provider | Backend | Model | Deployment
_Thing = TypeVar("_Thing", Tier, Provider, Backend, Model, Deployment)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A model's `price` has version 0 here: whoever stores it decides whether it is a new version."""

    tiers: tuple[Tier, ...] = ()
    providers: tuple[Provider, ...] = ()
    backends: tuple[Backend, ...] = ()
    models: tuple[Model, ...] = ()
    deployments: tuple[Deployment, ...] = ()

    def of(self, noun: Noun) -> tuple[Thing, ...]:
        by_noun: dict[Noun, tuple[Thing, ...]] = {
            "tier": self.tiers,
            "provider": self.providers,
            "backend": self.backends,
            "model": self.models,
            "deployment": self.deployments,
        }
        return by_noun[noun]

    def find(self, noun: Noun, thing_id: str) -> Thing | None:
        return next((thing for thing in self.of(noun) if thing.id == thing_id), None)

    def without(self, noun: Noun, thing_id: str) -> Fleet:
        def kept(things: tuple[_Thing, ...], its: Noun) -> tuple[_Thing, ...]:
            return tuple(thing for thing in things if its != noun or thing.id != thing_id)

        return Fleet(
            tiers=kept(self.tiers, "tier"),
            providers=kept(self.providers, "provider"),
            backends=kept(self.backends, "backend"),
            models=kept(self.models, "model"),
            deployments=kept(self.deployments, "deployment"),
        )

    @property
    def unpriced(self) -> list[str]:
        """Models in service without a price, which is not a price of 0: nobody has said what they cost. Only projects on a
        tier with a price of its own for them pay anything.
        """
        return [model.id for model in self.models if model.price is None and model.lifecycle.phase != "retired"]

    def newly_prepaid(self, present: Fleet) -> list[str]:
        """Tiers whose projects pay afterwards in the present fleet and in advance in this one."""
        afterwards = {tier.id for tier in present.tiers if tier.prepaid_credit is None}
        return [tier.id for tier in self.tiers if tier.prepaid_credit is not None and tier.id in afterwards]

    def merged_with(self, newer: Fleet) -> Fleet:
        """This fleet with what `newer` declares put over it, thing by thing, by id."""
        return Fleet(
            tiers=_merge(self.tiers, newer.tiers),
            providers=_merge(self.providers, newer.providers),
            backends=_merge(self.backends, newer.backends),
            models=_merge(self.models, newer.models),
            deployments=_merge(self.deployments, newer.deployments),
        )


@dataclass(frozen=True, slots=True)
class FleetState:
    """The fleet at one moment. `with_secret`: providers with a stored credential. `skipped`: rows that cannot be read."""

    revision: int
    fleet: Fleet
    with_secret: frozenset[str] = frozenset()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold, and which declaration it is about (`index` counts within its noun).

    `keys`: which of its values it follows from; the first is the one to look at.
    """

    noun: Noun
    index: int
    message: str
    keys: tuple[str, ...] = ("id",)


@dataclass(frozen=True, slots=True)
class Change:
    """`fields`: which of its fields are others after a change."""

    action: Literal["add", "change", "remove"]
    noun: Noun
    id: str
    fields: tuple[str, ...] = field(default=(), compare=False)


class FleetStore(Protocol):
    """The one catalogue behind `llmaas apply`, the commands and the admin API."""

    async def state(self) -> FleetState: ...

    async def load(self) -> Catalogue:
        """As requests see it."""
        ...

    async def apply(
        self,
        declared: Fleet,
        *,
        now_ms: int,
        prune: bool,
        dry_run: bool = False,
        remove: Iterable[tuple[Noun, str]] = (),
        by: Actor,
        if_still: Callable[[FleetState], None] | None = None,
    ) -> list[Change]:
        """Put the declared fleet over the present one, or with `prune` in its place, then take away `remove`.

        All of it or nothing; every change is in the audit log. `if_still` sees the present state in the same transaction
        and raises when the caller's picture of it is old. Raises ConfigurationError when the result would not hold together.
        """
        ...

    def forbidden(self, present: Fleet, wanted: Fleet) -> Iterable[Problem]:
        """What the settings do not allow of what is new or changed; `apply` refuses it."""
        ...

    async def price_versions(self) -> dict[int, Price]:
        """Every price that ever held, by its version."""
        ...

    async def set_secret(self, provider_id: str, sealed: bytes | None, *, by: Actor) -> None:
        """Keep a credential, or with None forget it. Raises NotFound when there is no such provider."""
        ...


def check(fleet: Fleet) -> list[Problem]:
    """Every contradiction among the declarations: duplicates, dangling references, clashing names, redirect cycles."""
    problems = [*duplicates(fleet), *_dangling(fleet), *_addresses(fleet), *_names(fleet), *_redirects(fleet)]
    order = {noun: position for position, noun in enumerate(NOUNS)}
    return sorted(problems, key=lambda p: (order[p.noun], p.index))


def changes(old: Fleet, new: Fleet) -> list[Change]:
    """What turns one fleet into the other: additions and changes first, then removals so that nothing dangles."""
    out: list[Change] = []
    for noun in NOUNS:
        before = {thing.id: thing for thing in old.of(noun)}
        for thing in new.of(noun):
            if thing.id not in before:
                out.append(Change("add", noun, thing.id))
            elif before[thing.id] != thing:
                was = before[thing.id]
                names = [f.name for f in fields(thing) if getattr(was, f.name) != getattr(thing, f.name)]
                out.append(Change("change", noun, thing.id, tuple(names)))
    for noun in reversed(NOUNS):
        kept = {thing.id for thing in new.of(noun)}
        out += [Change("remove", noun, thing.id) for thing in old.of(noun) if thing.id not in kept]
    return out


def _merge(old: tuple[_Thing, ...], new: tuple[_Thing, ...]) -> tuple[_Thing, ...]:
    merged = {thing.id: thing for thing in old}
    merged.update({thing.id: thing for thing in new})
    return tuple(merged.values())


def duplicates(fleet: Fleet) -> Iterator[Problem]:
    """Also part of `check`; for a fleet that is going to be merged, where the later one would silently win."""
    for noun in NOUNS:
        seen: set[str] = set()
        keys = ("model", "backend") if noun == "deployment" else ("id",)
        for index, thing in enumerate(fleet.of(noun)):
            if thing.id in seen:
                yield Problem(noun, index, f"{noun} `{thing.id}` is declared twice", keys)
            seen.add(thing.id)


def _dangling(fleet: Fleet) -> Iterator[Problem]:
    providers = {p.id for p in fleet.providers}
    backends = {b.id for b in fleet.backends}
    models = {m.id for m in fleet.models}
    for index, backend in enumerate(fleet.backends):
        if backend.provider_id not in providers:
            yield Problem(
                "backend", index, f"backend `{backend.id}`: there is no provider `{backend.provider_id}`", ("provider",)
            )
    for index, deployment in enumerate(fleet.deployments):
        if deployment.model_id not in models:
            yield Problem("deployment", index, f"deployment: there is no model `{deployment.model_id}`", ("model",))
        if deployment.backend_id not in backends:
            yield Problem(
                "deployment", index, f"deployment: there is no backend `{deployment.backend_id}`", ("backend",)
            )
    for index, tier in enumerate(fleet.tiers):
        for price in tier.prices:
            if price.model_id not in models:
                yield Problem("tier", index, f"tier `{tier.id}`: there is no model `{price.model_id}`", ("prices",))


def _addresses(fleet: Fleet) -> Iterator[Problem]:
    kinds = {p.id: p.kind for p in fleet.providers}
    for index, backend in enumerate(fleet.backends):
        if backend.provider_id not in kinds:
            continue
        embedded = kinds[backend.provider_id] is ProviderKind.EMBEDDED
        if embedded and backend.base_url:
            yield Problem("backend", index, f"backend `{backend.id}` is embedded, so it has no base_url", ("base_url",))
        elif not embedded and not backend.base_url:
            yield Problem("backend", index, f"backend `{backend.id}` lacks a base_url", ("base_url",))


def _names(fleet: Fleet) -> Iterator[Problem]:
    ids = {m.id.casefold(): m.id for m in fleet.models}
    owners: dict[str, str] = {}
    for index, model in enumerate(fleet.models):
        if ids[model.id.casefold()] != model.id:
            yield Problem("model", index, f"model `{model.id}` differs from `{ids[model.id.casefold()]}` in case only")
        for alias in model.aliases:
            name = alias.casefold()
            other = ids.get(name, model.id)
            if other != model.id:
                yield Problem(
                    "model", index, f"model `{model.id}`: alias `{alias}` is the id of another model", ("aliases",)
                )
            elif owners.setdefault(name, model.id) != model.id:
                yield Problem(
                    "model",
                    index,
                    f"model `{model.id}`: alias `{alias}` belongs to `{owners[name]}` already",
                    ("aliases",),
                )


def _redirects(fleet: Fleet) -> Iterator[Problem]:
    successors = {m.id: m.lifecycle.successor for m in fleet.models if m.lifecycle.successor}
    ids = {m.id for m in fleet.models}
    for index, model in enumerate(fleet.models):
        successor = model.lifecycle.successor
        if successor and successor not in ids:
            yield Problem("model", index, f"model `{model.id}`: there is no successor `{successor}`", ("lifecycle",))
        elif model.id in _follow(successors, successor):
            yield Problem("model", index, f"model `{model.id}`: its successors lead back to it", ("lifecycle",))


def _follow(successors: dict[str, str], start: str | None) -> Iterable[str]:
    seen: list[str] = []
    while start and start not in seen:
        seen.append(start)
        start = successors.get(start)
    return seen
