"""`/admin/fleet/models`: a model of the catalogue with its machines, its form, and its deployments one by one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.fleet import ThingId, put_values, take_away, view_of
from llmaas.admin_api.shapes import etag
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.fleet_views import ModelLine, fleet_view
from llmaas.console.pages.form_values import filled, whole_numbers
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.model_forms import NAMES, read_model, shown_model
from llmaas.control.context import Services, TheServices
from llmaas.domain.fleet import Noun
from llmaas.domain.models import Deployment, ModelKind, Phase
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import PRICE_CLASSES
from llmaas.errors import Conflict, NotFound

_READ = {"permission": Permission.FLEET_READ}
_ASK = {"permission": Permission.FLEET_CHANGE}
_CHANGE = {"permission": Permission.FLEET_CHANGE, **FORM}


@get("/admin/fleet/models/{thing_id:path}", opt=_READ)
async def show_model(page: ThePage, services: TheServices, thing_id: ThingId) -> Response[Any]:
    line = await _model(services, thing_id)
    prices = [(name, getattr(line.model.price, name)) for name in PRICE_CLASSES] if line.model.price else []
    return page.render("fleet/model.html", line=line, prices=[one for one in prices if one[1]])


@get("/admin/fleet/edit-model/{thing_id:path}", opt=_ASK)
async def edit_model(page: ThePage, services: TheServices, thing_id: ThingId) -> Response[Any]:
    thing = view_of(await services.fleet.state(), "model", _id(thing_id))
    return await _form(
        page, services, _id(thing_id), Fields(page.t, {**shown_model(thing.values, page.t.point), "etag": etag(thing)})
    )


@post("/admin/fleet/edit-model/{thing_id:path}", opt=_CHANGE)
async def change_model(
    page: ThePage, services: TheServices, principal: ThePrincipal, thing_id: ThingId, request: Request[Any, Any, Any]
) -> Response[Any]:
    """A changed price is a new version and holds from now on."""
    model_id = _id(thing_id)
    present = view_of(await services.fleet.state(), "model", model_id).values
    fields = await read_fields(request, page.t)
    values = read_model(fields, present)
    if fields.good:
        with fields.noting(*NAMES):
            await put_values(services, principal, "model", model_id, values, fields.value("etag") or None)
            path, now = f"/admin/fleet/models/{_quoted(model_id)}", (await _model(services, model_id)).model.lifecycle
            if now.phase != (fields.value("phase") or now.phase):  # by a date that has come
                told = "fleet.model_changed_retired" if now.phase == Phase.RETIRED else "fleet.model_changed_deprecated"
                return page.redirect(
                    path,
                    flash=told,
                    tone="warn",
                    name=model_id,
                    day=(now.retires if now.phase == Phase.RETIRED else now.deprecated) or "",
                )
            return page.redirect(path, flash="fleet.model_changed", name=model_id)
    return await _form(page, services, model_id, fields)


@get("/admin/fleet/remove-model/{thing_id:path}", opt=_ASK)
async def ask_remove_model(page: ThePage, services: TheServices, thing_id: ThingId) -> Response[Any]:
    return page.render("fleet/remove_model.html", line=await _model(services, thing_id), fault="")


@post("/admin/fleet/remove-model/{thing_id:path}", opt=_CHANGE)
async def remove_model(
    page: ThePage, services: TheServices, principal: ThePrincipal, thing_id: ThingId
) -> Response[Any]:
    """With its deployments; refused while a tier has a price for it or a retired model leads to it."""
    line = await _model(services, thing_id)
    deployments: list[tuple[Noun, str]] = [("deployment", one.deployment.id) for one in line.deployments]
    try:
        await take_away(services, principal, "model", line.model.id, also=deployments)
    except Conflict as error:
        return page.render("fleet/remove_model.html", status=422, line=line, fault=page.t.said(error.message))
    return page.redirect("/admin/fleet", flash="fleet.model_removed", name=line.model.id)


@get("/admin/fleet/deployments/{thing_id:path}", opt=_ASK)
async def edit_deployment(page: ThePage, services: TheServices, thing_id: ThingId) -> Response[Any]:
    one = await _deployment(services, thing_id)
    return page.render("fleet/deployment.html", one=one, fields=Fields(page.t, _shown(one)))


@post("/admin/fleet/deployments/{thing_id:path}", opt=_CHANGE)
async def change_deployment(
    page: ThePage, services: TheServices, principal: ThePrincipal, thing_id: ThingId, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Its weight and the engine's name."""
    one = await _deployment(services, thing_id)
    fields = await read_fields(request, page.t)
    back = f"/admin/fleet/machines/{_quoted(one.backend_id)}"
    fields.need("root")
    numbers = whole_numbers(fields, ["weight"])
    if fields.good:
        root = {"root": fields.value("root").strip()}
        values = {"model": one.model_id, "backend": one.backend_id, **filled(root), **numbers}
        with fields.noting("root", "weight"):
            await put_values(services, principal, "deployment", one.id, values, None)
            return page.redirect(back, flash="fleet.deployment_changed", model=one.model_id, machine=one.backend_id)
    return page.render("fleet/deployment.html", status=422, one=one, fields=fields)


@get("/admin/fleet/unpublish/{thing_id:path}", opt=_ASK)
async def ask_unpublish(page: ThePage, services: TheServices, thing_id: ThingId) -> Response[Any]:
    one = await _deployment(services, thing_id)
    line = await _model(services, one.model_id)
    return page.render("fleet/unpublish.html", one=one, is_last=len(line.deployments) == 1)


@post("/admin/fleet/unpublish/{thing_id:path}", opt=_CHANGE)
async def unpublish(page: ThePage, services: TheServices, principal: ThePrincipal, thing_id: ThingId) -> Response[Any]:
    """The model stays in the catalogue, without this machine."""
    one = await _deployment(services, thing_id)
    await take_away(services, principal, "deployment", one.id)
    back = f"/admin/fleet/machines/{_quoted(one.backend_id)}"
    return page.redirect(back, flash="fleet.deployment_removed", model=one.model_id, machine=one.backend_id)


async def _form(page: Page, services: Services, model_id: str, fields: Fields) -> Response[Any]:
    others = [model.id for model in (await services.fleet.state()).fleet.models if model.id != model_id]
    return page.render(
        "fleet/edit_model.html",
        status=200 if fields.good else 422,
        model_id=model_id,
        fields=fields,
        kinds=list(ModelKind),
        phases=(Phase.EVALUATION, Phase.PRODUCTION, Phase.DEPRECATED, Phase.RETIRED),
        classes=PRICE_CLASSES,
        others=others,
    )


async def _model(services: Services, thing_id: str) -> ModelLine:
    line = (await fleet_view(services)).model(_id(thing_id))
    if line is None:
        raise NotFound(f"There is no model `{_id(thing_id)[:200]}`.", param="id")
    return line


async def _deployment(services: Services, thing_id: str) -> Deployment:
    one = (await services.fleet.state()).fleet.find("deployment", _id(thing_id))
    if not isinstance(one, Deployment):
        raise NotFound(f"There is no deployment `{_id(thing_id)[:200]}`.", param="id")
    return one


def _shown(one: Deployment) -> dict[str, str]:
    return {"root": one.root, "weight": str(one.weight)}


def _id(thing_id: str) -> str:
    return thing_id.removeprefix("/")


def _quoted(text: str) -> str:
    return quote(text, safe="/")


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(show_model, edit_model, change_model, ask_remove_model, remove_model),
    *(edit_deployment, change_deployment, ask_unpublish, unpublish),
)
