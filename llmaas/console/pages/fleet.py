"""`/admin/fleet`: machines, models and processes with their state at this moment; one machine, and what is done with it."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.fleet import ThingView, put_values, take_away, view_of
from llmaas.admin_api.machines import BackendTest, ask
from llmaas.admin_api.shapes import PathId, etag
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.fleet_views import MachineLine, fleet_view
from llmaas.console.pages.form_values import filled, whole_numbers
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import Services, TheServices
from llmaas.domain.fleet import Noun
from llmaas.domain.models import ProviderKind
from llmaas.domain.permissions import Permission
from llmaas.errors import NotFound

_READ = {"permission": Permission.FLEET_READ}
_ASK = {"permission": Permission.FLEET_CHANGE}
_CHANGE = {"permission": Permission.FLEET_CHANGE, **FORM}
_EDITED = ("base_url", "machine_name", "engine_type", "max_concurrency")


@get("/admin/fleet", opt=_READ)
async def show_fleet(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    """With the header `x-fragment` only the part that changes by itself."""
    template = "fleet/figures.html" if "x-fragment" in request.headers else "fleet/page.html"
    return page.render(template, view=await fleet_view(services), now_ms=services.clock.now_ms())


@get("/admin/fleet/machines/{backend_id:str}", opt=_READ)
async def show_machine(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    return await _show(page, services, await _machine(services, backend_id))


@post("/admin/fleet/machines/{backend_id:str}/test", opt=_CHANGE, status_code=200)
async def check_machine(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    """Connects to it and says what it is and serves, and which of it is published."""
    line = await _machine(services, backend_id)
    return await _show(page, services, line, await ask(services, line.provider, line.backend))


@get("/admin/fleet/machines/{backend_id:str}/edit", opt=_ASK)
async def edit_machine(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    line, thing = await _machine(services, backend_id), await _thing(services, backend_id)
    values = {name: str(value) for name, value in thing.values.items()}
    return _form(page, line, Fields(page.t, {**values, "etag": etag(thing)}))


@post("/admin/fleet/machines/{backend_id:str}/edit", opt=_CHANGE)
async def change_machine(
    page: ThePage, services: TheServices, principal: ThePrincipal, backend_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    line, thing = await _machine(services, backend_id), await _thing(services, backend_id)
    fields = await read_fields(request, page.t)
    typed = filled({name: fields.value(name).strip() for name in _EDITED})
    if line.provider.kind is not ProviderKind.EMBEDDED:
        fields.need("base_url")
    numbers = whole_numbers(fields, ["max_concurrency"])
    if fields.good:
        kept = {name: value for name, value in thing.values.items() if name not in _EDITED}
        values = {**kept, **typed, **numbers}
        with fields.noting(*_EDITED):
            await put_values(services, principal, "backend", backend_id, values, fields.value("etag") or None)
            return page.redirect(f"/admin/fleet/machines/{backend_id}", flash="fleet.machine_changed", name=backend_id)
    return _form(page, line, fields)


@get("/admin/fleet/machines/{backend_id:str}/out-of-service", opt=_ASK)
async def ask_out_of_service(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    line = await _machine(services, backend_id)
    alone = [one.deployment.model_id for one in line.deployments if await _is_alone(services, one.deployment.model_id)]
    return page.render("fleet/out_of_service.html", line=line, alone=alone)


@post("/admin/fleet/machines/{backend_id:str}/out-of-service", opt=_CHANGE)
async def take_out_of_service(
    page: ThePage, services: TheServices, principal: ThePrincipal, backend_id: PathId
) -> Response[Any]:
    """Answers under way go on; nothing new is sent there."""
    values = (await _thing(services, backend_id)).values
    await put_values(services, principal, "backend", backend_id, {**values, "in_service": False}, None)
    return page.redirect(f"/admin/fleet/machines/{backend_id}", flash="fleet.is_out", name=backend_id)


@post("/admin/fleet/machines/{backend_id:str}/in-service", opt=_CHANGE)
async def take_in_service(
    page: ThePage, services: TheServices, principal: ThePrincipal, backend_id: PathId
) -> Response[Any]:
    values = (await _thing(services, backend_id)).values
    await put_values(services, principal, "backend", backend_id, {**values, "in_service": True}, None)
    return page.redirect(f"/admin/fleet/machines/{backend_id}", flash="fleet.is_back", name=backend_id)


@get("/admin/fleet/machines/{backend_id:str}/remove", opt=_ASK)
async def ask_remove(page: ThePage, services: TheServices, backend_id: PathId) -> Response[Any]:
    return page.render("fleet/remove_machine.html", line=await _machine(services, backend_id))


@post("/admin/fleet/machines/{backend_id:str}/remove", opt=_CHANGE)
async def remove_machine(
    page: ThePage, services: TheServices, principal: ThePrincipal, backend_id: PathId
) -> Response[Any]:
    """With its deployments."""
    line = await _machine(services, backend_id)
    deployments: list[tuple[Noun, str]] = [("deployment", one.deployment.id) for one in line.deployments]
    await take_away(services, principal, "backend", backend_id, also=deployments)
    return page.redirect("/admin/fleet", flash="fleet.machine_removed", name=backend_id)


async def _show(page: Page, services: Services, line: MachineLine, tested: BackendTest | None = None) -> Response[Any]:
    priced = {model.id for model in (await services.fleet.state()).fleet.models if model.price is not None}
    unpriced = sorted({one.deployment.model_id for one in line.deployments} - priced)
    return page.render("fleet/machine.html", line=line, tested=tested, unpriced=unpriced)


async def _machine(services: Services, backend_id: str) -> MachineLine:
    line = (await fleet_view(services)).machine(backend_id)
    if line is None:
        raise NotFound(f"There is no backend `{backend_id[:200]}`.", param="id")
    return line


async def _thing(services: Services, backend_id: str) -> ThingView:
    return view_of(await services.fleet.state(), "backend", backend_id)


async def _is_alone(services: Services, model_id: str) -> bool:
    """Whether only one machine in service has the model."""
    entry = services.live.catalogue.entries.get(model_id)
    return entry is not None and len(entry.targets) == 1


def _form(page: Page, line: MachineLine, fields: Fields) -> Response[Any]:
    return page.render("fleet/edit_machine.html", status=200 if fields.good else 422, line=line, fields=fields)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(show_fleet, show_machine, check_machine, edit_machine, change_machine),
    *(ask_out_of_service, take_out_of_service, take_in_service, ask_remove, remove_machine),
)
