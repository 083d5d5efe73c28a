"""`/admin/tiers` and `/admin/prices`: the terms that projects are on, and what models cost, with every version that ever held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.fleet import put_new, put_values, take_away, view_of
from llmaas.admin_api.shapes import PathId, etag
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.form_values import amounts, filled, price, whole_numbers
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.typed import shown
from llmaas.control.context import Services, TheServices
from llmaas.domain.models import Model
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import PRICE_CLASSES, Price
from llmaas.domain.tiers import Tier
from llmaas.errors import Conflict, NotFound

_READ = {"permission": Permission.FLEET_READ}
_ASK = {"permission": Permission.FLEET_CHANGE}
_CHANGE = {"permission": Permission.FLEET_CHANGE, **FORM}
COUNTS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "output_tokens_per_hour",
    "output_tokens_per_day",
)
MONEY = ("monthly_cap", "prepaid_credit")
_MOST_MODELS = 1_000


@dataclass(frozen=True, slots=True)
class PriceLine:
    """`until_ms`: when the next one began; None: it `holds` now, or was taken away."""

    price: Price
    until_ms: int | None
    holds: bool


AModel = Annotated[str, QueryParameter(max_length=200)]


@get("/admin/tiers", opt=_READ)
async def list_tiers(page: ThePage, services: TheServices) -> Response[Any]:
    fleet = (await services.fleet.state()).fleet
    return page.render("administration/tiers.html", tiers=fleet.tiers, counts=COUNTS)


@get("/admin/tiers/new", opt=_ASK)
async def new_tier(page: ThePage, services: TheServices) -> Response[Any]:
    return await _form(page, services, Fields(page.t), None)


@post("/admin/tiers/new", opt=_CHANGE)
async def add_tier(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("id")
    values = _values(fields)
    if fields.good:
        with fields.noting(*COUNTS, *MONEY, otherwise="id"):
            tier_id = fields.value("id").strip()
            await put_new(services, principal, {"tiers": [{"id": tier_id, **values}]})
            return page.redirect("/admin/tiers", flash="tiers.added", name=tier_id)
    return await _form(page, services, fields, None)


@get("/admin/tiers/{tier_id:str}", opt=_ASK)
async def edit_tier(page: ThePage, services: TheServices, tier_id: PathId) -> Response[Any]:
    state = await services.fleet.state()
    thing = view_of(state, "tier", tier_id)
    filled_in = {name: str(thing.values.get(name, "")) for name in COUNTS}
    filled_in |= {name: shown(thing.values.get(name, ""), page.t.point) for name in MONEY}
    prices: Mapping[str, Mapping[str, str]] = thing.values.get("prices", {})
    for number, model in enumerate(state.fleet.models):
        filled_in[_field(number, "id")] = model.id
        for name in PRICE_CLASSES:
            filled_in[_field(number, name)] = shown(prices.get(model.id, {}).get(name, ""), page.t.point)
    return await _form(page, services, Fields(page.t, {**filled_in, "etag": etag(thing)}), tier_id)


@post("/admin/tiers/{tier_id:str}", opt=_CHANGE)
async def change_tier(
    page: ThePage, services: TheServices, principal: ThePrincipal, tier_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Projects on it have the new limits within a second. It is asked before any are refused because they have no credit."""
    present = view_of(await services.fleet.state(), "tier", tier_id).values
    fields = await read_fields(request, page.t)
    values = _values(fields)
    if fields.good and "prepaid_credit" in values and "prepaid_credit" not in present and fields.value("sure") != "on":
        stopped = await services.projects.without_credit(tier_id)
        if stopped:
            fields.faults["sure"] = page.t.count("tiers.stops", stopped)
    if fields.good:
        with fields.noting(*COUNTS, *MONEY):
            if_match = fields.value("etag") or None
            await put_values(services, principal, "tier", tier_id, {"id": tier_id, **values}, if_match)
            return page.redirect("/admin/tiers", flash="tiers.changed", name=tier_id)
    return await _form(page, services, fields, tier_id)


@get("/admin/tiers/{tier_id:str}/remove", opt=_ASK)
async def ask_remove(page: ThePage, services: TheServices, tier_id: PathId) -> Response[Any]:
    _ = view_of(await services.fleet.state(), "tier", tier_id)
    return page.render("administration/remove_tier.html", tier_id=tier_id, fault="")


@post("/admin/tiers/{tier_id:str}/remove", opt=_CHANGE)
async def remove_tier(page: ThePage, services: TheServices, principal: ThePrincipal, tier_id: PathId) -> Response[Any]:
    """Refused while projects are on it."""
    try:
        await take_away(services, principal, "tier", tier_id)
    except Conflict as error:
        return page.render(
            "administration/remove_tier.html", status=422, tier_id=tier_id, fault=page.t.said(error.message)
        )
    return page.redirect("/admin/tiers", flash="tiers.removed", name=tier_id)


@get("/admin/prices", opt=_READ)
async def list_prices(page: ThePage, services: TheServices, model: AModel = "") -> Response[Any]:
    """What each model costs now; with `model` every version of its prices."""
    fleet = (await services.fleet.state()).fleet
    if not model:
        overrides = {one.id: _tiers_with(one.id, fleet.tiers) for one in fleet.models}
        return page.render("administration/prices.html", models=fleet.models, overrides=overrides)
    chosen = next((one for one in fleet.models if one.id == model), None)
    if chosen is None:
        raise NotFound(f"There is no model `{model[:200]}`.", param="model")
    lines = price_lines(chosen, fleet.tiers, list((await services.fleet.price_versions()).values()))
    return page.render("administration/price_versions.html", model=chosen, lines=lines, classes=PRICE_CLASSES)


def price_lines(model: Model, tiers: Sequence[Tier], versions: Sequence[Price]) -> list[PriceLine]:
    """Newest first. A version ends where the next of the same tier begins; when a price was taken away is in the audit log."""
    present = {price.tier_id for tier in tiers for price in tier.prices if price.model_id == model.id}
    if model.price is not None:
        present.add(None)
    its = sorted((one for one in versions if one.model_id == model.id), key=lambda one: -one.version)
    ends: dict[str | None, int] = {}
    lines = []
    for one in its:
        until_ms = ends.get(one.tier_id)
        lines.append(PriceLine(one, until_ms, holds=until_ms is None and one.tier_id in present))
        ends[one.tier_id] = one.valid_from_ms
    return lines


def _tiers_with(model_id: str, tiers: Sequence[Tier]) -> list[Price]:
    return [price for tier in tiers for price in tier.prices if price.model_id == model_id]


def _values(fields: Fields) -> dict[str, Any]:
    """Prices are sent with the ids of their models: the fleet may have changed since the form was made."""
    prices: dict[str, dict[str, str]] = {}
    for number in range(_MOST_MODELS):
        model_id = fields.value(_field(number, "id"))
        if not model_id:
            break
        prices[model_id] = price(fields, _field(number, ""))
    return filled({**whole_numbers(fields, COUNTS), **amounts(fields, MONEY), "prices": filled(prices)})


async def _form(page: Page, services: Services, fields: Fields, tier_id: str | None) -> Response[Any]:
    models = (await services.fleet.state()).fleet.models
    return page.render(
        "administration/tier.html",
        status=200 if fields.good else 422,
        fields=fields,
        tier_id=tier_id,
        path=f"/admin/tiers/{quote(tier_id)}" if tier_id else "/admin/tiers/new",
        counts=COUNTS,
        money_names=MONEY,
        models=models,
        classes=PRICE_CLASSES,
        field_of=_field,
    )


def _field(number: int, name: str) -> str:
    return f"model_{number}_{name}"


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_tiers, new_tier, add_tier, edit_tier, change_tier, ask_remove, remove_tier),
    list_prices,
)
