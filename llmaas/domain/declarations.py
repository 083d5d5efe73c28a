"""The fleet as plain values, the way a file or a form says it: into a `Fleet` with every mistake at once, and back.

`domain.values` knows what one value must be, `domain.fleet.check` what must hold among the declarations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from llmaas.domain.fleet import NOUNS, Fleet, Noun, Problem, Thing, check, duplicates
from llmaas.domain.models import Backend, Deployment, Lifecycle, Model, ModelKind, Phase, Provider, ProviderKind
from llmaas.domain.prices import PRICE_CLASSES, Price, format_amount
from llmaas.domain.tiers import Tier
from llmaas.domain.values import Mistake, Table, closest, printable

PLURALS: dict[Noun, str] = {noun: f"{noun}s" for noun in NOUNS}
_TIER_COUNTS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "output_tokens_per_hour",
    "output_tokens_per_day",
)
_PRICED_LIKE = {"cached_input": "input", "reasoning": "output"}
_DAYS = ("released", "deprecated", "retires")
_MANY = 10**12
MAX_TOKENS = 2**31 - 1
Forbidden = Callable[[Fleet], Iterable[Problem]]
"""What the settings do not allow of a fleet."""


def declare(
    root: Mapping[str, object], present: Fleet, forbidden: Forbidden = lambda _: ()
) -> tuple[Fleet, list[Mistake]]:
    """The fleet that `root` declares, and all that is wrong with it once it is put over `present`.

    When there are mistakes the fleet is fit for nothing but looking at.
    """
    plurals = list(PLURALS.values())
    mistakes = [
        Mistake((name,), f'unknown table "{printable(name)}"{closest(name, plurals)}')
        for name in root
        if name not in plurals
    ]
    providers = tuple(_provider(t) for t in _tables(root, "provider", mistakes))
    kinds = {p.id: p.kind for p in (*present.providers, *providers)}
    declared = Fleet(
        tiers=tuple(_tier(t) for t in _tables(root, "tier", mistakes)),
        providers=providers,
        backends=tuple(_backend(t, kinds) for t in _tables(root, "backend", mistakes)),
        models=tuple(_model(t) for t in _tables(root, "model", mistakes)),
        deployments=tuple(_deployment(t) for t in _tables(root, "deployment", mistakes)),
    )
    return declared, [*mistakes, *_contradictions(declared, present, mistakes, forbidden)]


def describe(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    """The values that declare this fleet; `declare` makes the same fleet of them."""
    described = {PLURALS[noun]: [describe_thing(thing) for thing in fleet.of(noun)] for noun in NOUNS}
    return {plural: things for plural, things in described.items() if things}


def describe_thing(thing: Thing) -> dict[str, Any]:
    """The values that declare this one."""
    match thing:
        case Tier():
            return _describe_tier(thing)
        case Provider():
            return _describe_provider(thing)
        case Backend():
            return _describe_backend(thing)
        case Model():
            return _describe_model(thing)
        case Deployment():
            return _describe_deployment(thing)


def _tables(root: Mapping[str, object], noun: Noun, mistakes: list[Mistake]) -> Iterator[Table]:
    plural = PLURALS[noun]
    things = root.get(plural, [])
    if not isinstance(things, list) or not all(isinstance(thing, dict) for thing in things):
        mistakes.append(Mistake((plural,), f"{plural} must be tables, each under its own [[{plural}]]"))
        return
    for index, values in enumerate(things):
        table = Table(f"[[{plural}]]", (plural, index), values, mistakes)
        yield table
        table.refuse_unknown()


def _contradictions(
    declared: Fleet, present: Fleet, mistakes: Sequence[Mistake], forbidden: Forbidden
) -> Iterator[Mistake]:
    """What does not hold among the declarations, without what only follows from a mistake that is known already."""
    known = {m.path[:3] for m in mistakes}
    kinds_known = not any(path[0] == "providers" and path[-1] == "kind" for path in known)
    wanted = present.merged_with(declared)
    places = {noun: {thing.id: index for index, thing in enumerate(declared.of(noun))} for noun in NOUNS}
    found = [(p.noun, p.index, p) for p in duplicates(declared)]
    held = [p for p in check(wanted) if kinds_known or p.keys != ("base_url",)]
    found += [(p.noun, places[p.noun].get(wanted.of(p.noun)[p.index].id, -1), p) for p in [*held, *forbidden(wanted)]]
    for noun, index, problem in found:
        if index < 0:
            yield Mistake((), problem.message)
        elif not any((PLURALS[noun], index, key) in known for key in problem.keys):
            yield Mistake((PLURALS[noun], index, problem.keys[0]), problem.message)


def _tier(table: Table) -> Tier:
    tier_id = table.name("id")
    counts: dict[str, Any] = {name: table.count(name, at_most=_MANY) for name in _TIER_COUNTS}
    prices = (_price(model_id, priced, tier_id) for model_id, priced in table.tables("prices"))
    return Tier(
        id=tier_id,
        monthly_cap=table.amount("monthly_cap"),
        prepaid_credit=table.amount("prepaid_credit"),
        prices=tuple(sorted((price for price in prices if price is not None), key=lambda price: price.model_id)),
        **counts,
    )


def _provider(table: Table) -> Provider:
    provider_id = table.name("id")
    kind = table.choice("kind", ProviderKind, None)
    explain = table.flag("explain_refusals", default=None)
    if explain and kind is ProviderKind.OPENAI:
        table.refuse(
            "explain_refusals",
            "explain_refusals can't be true for a provider of kind openai: outside servers are never quoted; for a server"
            " of your own, declare its kind",
        )
    return Provider(
        id=provider_id,
        kind=kind,
        cancel_stops_billing=table.flag("cancel_stops_billing", default=True),
        api_key_env=table.variable("api_key_env"),
        extra_parameters=frozenset(table.names("extra_parameters")),
        explain_refusals=explain,
    )


def _backend(table: Table, kinds: Mapping[str, ProviderKind]) -> Backend:
    backend_id = table.name("id")
    provider_id = table.name("provider")
    base_url = table.url("base_url")
    if kinds.get(provider_id) is ProviderKind.VLLM and base_url.count("/") == 2:
        base_url += "/v1"  # vLLM has its API nowhere else
    return Backend(
        id=backend_id,
        provider_id=provider_id,
        base_url=base_url,
        machine_name=table.name("machine_name", default=backend_id),
        engine_type=table.name("engine_type", default=str(kinds.get(provider_id, "unknown"))),
        max_concurrency=table.count("max_concurrency", at_most=1_000_000),
        in_service=table.flag("in_service", default=True),
    )


def _model(table: Table) -> Model:
    model_id = table.name("id")
    window, longest = (table.count(key, at_most=MAX_TOKENS) for key in ("max_model_len", "max_output_tokens"))
    if window is not None and longest is not None and longest > window:
        table.refuse("max_output_tokens", f"max_output_tokens of `{model_id}` is more than its max_model_len")
    return Model(
        id=model_id,
        kind=table.choice("kind", ModelKind, ModelKind.CHAT),
        created_ms=0,
        aliases=table.names("aliases"),
        max_model_len=window,
        max_output_tokens=longest,
        owned_by=table.name("owned_by", default="llmaas"),
        capabilities=frozenset(table.names("capabilities")),
        card=table.free_table("card"),
        lifecycle=_lifecycle(table.table("lifecycle")),
        price=_price(model_id, table.table("price")),
    )


def _lifecycle(table: Table | None) -> Lifecycle:
    if table is None:
        return Lifecycle()
    days = {name: table.day(name) for name in _DAYS}
    successor = table.name("successor", default="") or None
    phase = str(table.choice("phase", Phase, Phase.PRODUCTION))
    lifecycle = Lifecycle(phase=phase, successor=successor, **days)
    for earlier, later in itertools.combinations(_DAYS, 2):
        if (first := days[earlier]) and (last := days[later]) and last < first:
            table.refuse(later, f"{later} is {last}, before {earlier} ({first})")
    table.refuse_unknown()
    return lifecycle


def _price(model_id: str, table: Table | None, tier_id: str | None = None) -> Price | None:
    """A class of tokens that has no price of its own costs what the class it belongs to costs."""
    if table is None:
        return None
    amounts = {name: table.amount(name) for name in PRICE_CLASSES}
    table.refuse_unknown()
    for name, whole in _PRICED_LIKE.items():
        if amounts[name] is None:
            amounts[name] = amounts[whole]
    given: dict[str, Any] = {name: amount or 0 for name, amount in amounts.items()}
    return Price(version=0, model_id=model_id, valid_from_ms=0, tier_id=tier_id, **given)


def _deployment(table: Table) -> Deployment:
    model_id = table.name("model")
    return Deployment(
        model_id=model_id,
        backend_id=table.name("backend"),
        root=table.name("root", default=model_id),
        weight=table.count("weight", at_most=1_000_000) or 1,
    )


def _describe_tier(tier: Tier) -> dict[str, Any]:
    values = {"id": tier.id, **{name: getattr(tier, name) for name in _TIER_COUNTS}}
    for name in ("monthly_cap", "prepaid_credit"):
        amount = getattr(tier, name)
        values[name] = None if amount is None else format_amount(amount)
    return _given({**values, "prices": {price.model_id: describe_price(price) for price in tier.prices}})


def describe_price(price: Price) -> dict[str, str]:
    return {name: format_amount(getattr(price, name)) for name in PRICE_CLASSES}


def _describe_provider(provider: Provider) -> dict[str, Any]:
    return _given(
        {
            "id": provider.id,
            "kind": str(provider.kind),
            "api_key_env": provider.api_key_env,
            "cancel_stops_billing": provider.cancel_stops_billing,
            "extra_parameters": sorted(provider.extra_parameters),
            "explain_refusals": provider.explain_refusals,
        }
    )


def _describe_backend(backend: Backend) -> dict[str, Any]:
    return _given(
        {
            "id": backend.id,
            "provider": backend.provider_id,
            "base_url": backend.base_url,
            "machine_name": backend.machine_name,
            "engine_type": backend.engine_type,
            "max_concurrency": backend.max_concurrency,
            "in_service": None if backend.in_service else False,
        }
    )


def _describe_model(model: Model) -> dict[str, Any]:
    lifecycle = model.lifecycle
    price = model.price
    return _given(
        {
            "id": model.id,
            "aliases": list(model.aliases),
            "kind": str(model.kind),
            "max_model_len": model.max_model_len,
            "max_output_tokens": model.max_output_tokens,
            "owned_by": model.owned_by,
            "capabilities": sorted(model.capabilities),
            "price": None if price is None else describe_price(price),
            "card": model.card,
            "lifecycle": _given(
                {
                    "phase": str(lifecycle.phase),
                    **{name: getattr(lifecycle, name) for name in _DAYS},
                    "successor": lifecycle.successor,
                }
            ),
        }
    )


def _describe_deployment(deployment: Deployment) -> dict[str, Any]:
    return {
        "model": deployment.model_id,
        "backend": deployment.backend_id,
        "root": deployment.root,
        "weight": deployment.weight,
    }


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}
