"""`/api/v1/fleet` and each kind of thing in it. A body says what a table of the fleet file says, and is judged alike.

Every change is put over the present fleet, judged as a whole, and done as a whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, PathParameter, QueryParameter

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import Form, IfMatch, PathId, check_match, tagged
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.declarations import PLURALS, declare, describe, describe_price, describe_thing
from llmaas.domain.fleet import Change, Fleet, FleetState, FleetStore, Noun
from llmaas.domain.permissions import Permission
from llmaas.errors import ConfigurationError, Conflict, InvalidRequest, NotFound, Outdated

_LONGEST_SECRET = 16 * 1024
_SHOWN_MISTAKES = 50
_NAME = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9:._-]*")
_BAD_NAME = "A name has letters, digits, dots, colons, dashes and underscores, and no spaces."
"""For tiers, providers and machines that are new: what is there already, or in a fleet file, may be called anything."""
Plural = Annotated[
    Literal["tiers", "providers", "backends", "models", "deployments"], PathParameter(description="A kind of thing.")
]
ThingId = Annotated[str, PathParameter(max_length=500, description="A deployment's is MODEL@BACKEND.")]
_NOUNS: dict[str, Noun] = {plural: noun for noun, plural in PLURALS.items()}


class FleetView(msgspec.Struct, frozen=True):
    """`fleet`: tables by kind, as in the fleet file. `skipped`: stored rows that cannot be read, and why."""

    revision: int
    fleet: dict[str, list[dict[str, Any]]]
    skipped: list[str]


class ChangeView(msgspec.Struct, frozen=True):
    action: str
    noun: str
    id: str


class ApplyView(msgspec.Struct, frozen=True):
    """`revision`: after the change; workers report the one that they run."""

    revision: int
    changes: list[ChangeView]


class ThingView(msgspec.Struct, frozen=True):
    """`values`: as in the fleet file. `with_secret`: whether a provider's credential is stored; null for other kinds."""

    values: dict[str, Any]
    with_secret: bool | None = None


class ThingList(msgspec.Struct, frozen=True):
    revision: int
    data: list[ThingView]


class PriceView(msgspec.Struct, frozen=True):
    """`tier` null: for projects on no tier with a price of its own. `price`: by class, per million tokens; also request, documents."""

    version: int
    model: str
    tier: str | None
    since: str
    price: dict[str, str]


class NewSecret(Form, frozen=True):
    secret: str


@get("/api/v1/fleet", opt={"permission": Permission.FLEET_READ})
async def show_fleet(services: TheServices) -> Response[FleetView]:
    """The whole fleet, in the form that `PUT` takes."""
    state = await services.fleet.state()
    view = FleetView(state.revision, describe(state.fleet), list(state.skipped))
    return Response(view, headers={"etag": f'"{state.revision}"'})


@put("/api/v1/fleet", opt={"permission": Permission.FLEET_CHANGE})
async def apply_fleet(
    services: TheServices,
    principal: ThePrincipal,
    data: JSONBody[dict[str, Any]],
    *,
    prune: Annotated[bool, QueryParameter(description="Also remove what the body does not declare.")] = False,
    dry_run: Annotated[bool, QueryParameter(description="Show what would change, and change nothing.")] = False,
    if_match: IfMatch = None,
) -> ApplyView:
    """Put declarations into force, all of them or none."""

    def still(state: FleetState) -> None:
        if if_match is not None and if_match.strip() not in {"*", f'"{state.revision}"'}:
            raise Outdated("The fleet was changed meanwhile. Read it again.")

    state = await services.fleet.state()
    declared = _declared(services.fleet, state.fleet, data, prune=prune)
    changes = await _apply(services, principal, declared, prune=prune, dry_run=dry_run, if_still=still)
    revision = (await services.fleet.state()).revision
    return ApplyView(revision, [ChangeView(change.action, change.noun, change.id) for change in changes])


@get("/api/v1/fleet/{plural:str}", opt={"permission": Permission.FLEET_READ})
async def list_things(services: TheServices, plural: Plural) -> ThingList:
    """All things of a kind."""
    state = await services.fleet.state()
    noun = _NOUNS[plural]
    return ThingList(state.revision, [view_of(state, noun, thing.id) for thing in state.fleet.of(noun)])


@get("/api/v1/fleet/{plural:str}/{thing_id:path}", opt={"permission": Permission.FLEET_READ})
async def show_thing(services: TheServices, plural: Plural, thing_id: ThingId) -> Response[ThingView]:
    """One thing."""
    state = await services.fleet.state()
    return tagged(view_of(state, _NOUNS[plural], thing_id.removeprefix("/")))


@put("/api/v1/fleet/{plural:str}/{thing_id:path}", opt={"permission": Permission.FLEET_CHANGE})
async def put_thing(
    services: TheServices,
    principal: ThePrincipal,
    plural: Plural,
    thing_id: ThingId,
    data: JSONBody[dict[str, Any]],
    if_match: IfMatch = None,
) -> Response[ThingView]:
    """Add a thing, or replace it as a whole. A changed price is a new version."""
    noun, named = _NOUNS[plural], thing_id.removeprefix("/")
    values = dict(data)
    if noun != "deployment":
        values.setdefault("id", named)
    return tagged(await put_values(services, principal, noun, named, values, if_match))


@delete("/api/v1/fleet/{plural:str}/{thing_id:path}", opt={"permission": Permission.FLEET_CHANGE})
async def remove_thing(
    services: TheServices, principal: ThePrincipal, plural: Plural, thing_id: ThingId, if_match: IfMatch = None
) -> None:
    """Take a thing away. Refused while others need it."""
    await take_away(services, principal, _NOUNS[plural], thing_id.removeprefix("/"), if_match)


@get("/api/v1/prices", opt={"permission": Permission.FLEET_READ})
async def list_prices(
    services: TheServices,
    model: Annotated[str | None, QueryParameter(max_length=300, description="Only those of this model.")] = None,
) -> list[PriceView]:
    """Every version of every price that ever held, newest first."""
    versions = (await services.fleet.price_versions()).values()
    return [
        PriceView(one.version, one.model_id, one.tier_id, iso(one.valid_from_ms), describe_price(one))
        for one in sorted(versions, key=lambda one: -one.version)
        if model is None or one.model_id == model
    ]


@put("/api/v1/providers/{provider_id:str}/secret", opt={"permission": Permission.FLEET_CHANGE}, status_code=204)
async def set_secret(
    services: TheServices, principal: ThePrincipal, provider_id: PathId, data: JSONBody[NewSecret]
) -> None:
    """Store a provider's credential, encrypted. It is never shown again."""
    await store_secret(services, principal, provider_id, data.secret)


@delete("/api/v1/providers/{provider_id:str}/secret", opt={"permission": Permission.FLEET_CHANGE})
async def forget_secret(services: TheServices, principal: ThePrincipal, provider_id: PathId) -> None:
    """Forget a provider's credential."""
    await services.fleet.set_secret(provider_id, None, by=principal.actor)


async def put_values(
    services: Services, principal: Principal, noun: Noun, named: str, values: dict[str, Any], if_match: str | None
) -> ThingView:
    """Add or replace one thing; gives it as it is then. InvalidRequest names the field of `values` that is wrong."""
    state = await services.fleet.state()
    declared = _declared(services.fleet, state.fleet, {PLURALS[noun]: [values]}, within=2)
    if declared.of(noun)[0].id != named:
        raise InvalidRequest("The body declares another thing than the address names.", param="id")
    await _apply(services, principal, declared, if_still=_unchanged(noun, named, if_match))
    return view_of(await services.fleet.state(), noun, named)


async def put_new(services: Services, principal: Principal, values: dict[str, list[dict[str, Any]]]) -> None:
    """Add all these things, or none of them. Raises Conflict when one is there already, InvalidRequest that names a field."""
    declared = _declared(services.fleet, (await services.fleet.state()).fleet, values, within=2)
    ids = [*(one.id for one in declared.tiers), *(one.id for one in declared.providers)]
    if not all(_NAME.fullmatch(name) for name in (*ids, *(one.id for one in declared.backends))):
        raise InvalidRequest(_BAD_NAME, param="id")
    for model in declared.models:
        if any(c.isspace() or not c.isprintable() for c in model.id):
            raise InvalidRequest("A model's name has no spaces.", param="model")

    def still_new(state: FleetState) -> None:
        for noun in PLURALS:
            for thing in declared.of(noun):
                if state.fleet.find(noun, thing.id) is not None:
                    raise Conflict(f"There is a {noun} `{thing.id}` already.", param=noun)

    await _apply(services, principal, declared, if_still=still_new)


async def take_away(
    services: Services,
    principal: Principal,
    noun: Noun,
    thing_id: str,
    if_match: str | None = None,
    also: Iterable[tuple[Noun, str]] = (),
) -> None:
    """`also`: what goes with it. Raises Conflict while others need it, NotFound, Outdated."""
    try:
        await services.fleet.apply(
            Fleet(),
            now_ms=services.clock.now_ms(),
            prune=False,
            remove=[*also, (noun, thing_id)],
            by=principal.actor,
            if_still=_unchanged(noun, thing_id, if_match or "*"),
        )
    except ConfigurationError as error:
        raise Conflict(f"It is needed still: {_told(error.problems)}.", param="id") from error


async def store_secret(services: Services, principal: Principal, provider_id: str, secret: str) -> None:
    """Raises InvalidRequest, and NotFound for a provider that is not there."""
    check_secret(secret)
    await services.fleet.set_secret(provider_id, services.sealer.seal(provider_id, secret), by=principal.actor)


def check_secret(secret: str) -> None:
    if not secret or len(secret) > _LONGEST_SECRET or not secret.isascii() or not secret.isprintable():
        raise InvalidRequest("`secret` must be one line of printable ASCII characters.", param="secret")


async def _apply(
    services: Services,
    principal: Principal,
    declared: Fleet,
    *,
    prune: bool = False,
    dry_run: bool = False,
    if_still: Callable[[FleetState], None],
) -> list[Change]:
    try:
        return await services.fleet.apply(
            declared,
            now_ms=services.clock.now_ms(),
            prune=prune,
            dry_run=dry_run,
            by=principal.actor,
            if_still=if_still,
        )
    except ConfigurationError as error:
        raise InvalidRequest(f"{_told(error.problems)}.", param=error.param) from error


def _declared(
    store: FleetStore, present: Fleet, values: dict[str, Any], *, prune: bool = False, within: int = 0
) -> Fleet:
    """`within`: how many steps of a path to leave out when telling where a mistake is."""
    over = Fleet() if prune else present
    fleet, mistakes = declare(values, over, lambda wanted: store.forbidden(present, wanted))
    if mistakes:
        param = ".".join(map(str, mistakes[0].path[within:])) or None
        raise InvalidRequest(f"{_told([mistake.message for mistake in mistakes])}.", param=param)
    return fleet


def _unchanged(noun: Noun, thing_id: str, if_match: str | None) -> Callable[[FleetState], None]:
    """Sees to `if-match`: the thing is there and is as the caller read it."""

    def still(state: FleetState) -> None:
        if if_match is not None:
            check_match(if_match, view_of(state, noun, thing_id))

    return still


def view_of(state: FleetState, noun: Noun, thing_id: str) -> ThingView:
    thing = state.fleet.find(noun, thing_id)
    if thing is None:
        raise NotFound(f"There is no {noun} `{thing_id[:200]}`.", param="id")
    return ThingView(describe_thing(thing), thing_id in state.with_secret if noun == "provider" else None)


def _told(problems: Sequence[str]) -> str:
    shown = list(dict.fromkeys(problems))
    more = f"; and {len(shown) - _SHOWN_MISTAKES} more" if len(shown) > _SHOWN_MISTAKES else ""
    return "; ".join(shown[:_SHOWN_MISTAKES]) + more


ROUTES: tuple[HTTPRouteHandler, ...] = (
    show_fleet,
    apply_fleet,
    list_things,
    show_thing,
    put_thing,
    remove_thing,
    list_prices,
    set_secret,
    forget_secret,
)
