"""`/admin/providers`: who supplies inference, and the credential that they are shown. A credential goes in and never comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.fleet import check_secret, put_new, put_values, store_secret, take_away, view_of
from llmaas.admin_api.machines import BackendTest, ask
from llmaas.admin_api.shapes import PathId, etag
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.form_values import filled, words
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import Services, TheServices
from llmaas.domain.models import Backend, Provider, ProviderKind
from llmaas.domain.permissions import Permission
from llmaas.errors import Conflict, InvalidRequest, NotFound

_READ = {"permission": Permission.FLEET_READ}
_ASK = {"permission": Permission.FLEET_CHANGE}
_CHANGE = {"permission": Permission.FLEET_CHANGE, **FORM}
_NAMES = ("id", "kind", "api_key_env", "extra_parameters", "explain_refusals")
_EXPLAIN = {"": None, "yes": True, "no": False}
"""What the field for explained refusals may hold; empty: by kind."""


@dataclass(frozen=True, slots=True)
class ProviderLine:
    """`credential`: `stored`, `variable` or `none`."""

    provider: Provider
    credential: str
    machines: Sequence[Backend]


@get("/admin/providers", opt=_READ)
async def list_providers(page: ThePage, services: TheServices) -> Response[Any]:
    return page.render("providers/list.html", lines=await _lines(services))


@get("/admin/providers/new", opt=_ASK)
async def new_provider(page: ThePage) -> Response[Any]:
    return _form(page, Fields(page.t, {"kind": ProviderKind.OPENAI, "cancel_stops_billing": "on"}), None)


@post("/admin/providers/new", opt=_CHANGE)
async def add_provider(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    """With its credential, when one is given."""
    fields = await read_fields(request, page.t)
    fields.need("id")
    secret = fields.value("secret").strip()
    if secret:
        with fields.noting("secret"):
            check_secret(secret)
    provider_id = fields.value("id").strip()
    if fields.good:
        with fields.noting(*_NAMES, otherwise="id"):
            await put_new(services, principal, {"providers": [{"id": provider_id, **_values(fields)}]})
            if secret:
                await store_secret(services, principal, provider_id, secret)
            return page.redirect(_path(provider_id), flash="providers.added", name=provider_id)
    return _form(page, fields, None)


@get("/admin/providers/{provider_id:str}", opt=_READ)
async def show_provider(page: ThePage, services: TheServices, provider_id: PathId) -> Response[Any]:
    return _one(page, await _line(services, provider_id))


@post("/admin/providers/{provider_id:str}/test", opt=_CHANGE, status_code=200)
async def check_machines(page: ThePage, services: TheServices, provider_id: PathId) -> Response[Any]:
    """Connects to each of its machines."""
    line = await _line(services, provider_id)
    tests = await asyncio.gather(*(ask(services, line.provider, backend) for backend in line.machines))
    return _one(page, line, tests={test.backend: test for test in tests})


@get("/admin/providers/{provider_id:str}/edit", opt=_ASK)
async def edit_provider(page: ThePage, services: TheServices, provider_id: PathId) -> Response[Any]:
    thing = view_of(await services.fleet.state(), "provider", provider_id)
    shown = {name: str(thing.values.get(name, "")) for name in ("id", "kind", "api_key_env")}
    shown["extra_parameters"] = ", ".join(thing.values.get("extra_parameters", []))
    explain = thing.values.get("explain_refusals")
    shown["explain_refusals"] = next(word for word, value in _EXPLAIN.items() if value is explain)
    shown["cancel_stops_billing"] = "on" if thing.values.get("cancel_stops_billing", True) else ""
    return _form(page, Fields(page.t, {**shown, "etag": etag(thing)}), provider_id)


@post("/admin/providers/{provider_id:str}/edit", opt=_CHANGE)
async def change_provider(
    page: ThePage, services: TheServices, principal: ThePrincipal, provider_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    if fields.good:
        with fields.noting(*_NAMES):
            values = {"id": provider_id, **_values(fields)}
            await put_values(services, principal, "provider", provider_id, values, fields.value("etag") or None)
            return page.redirect(_path(provider_id), flash="providers.changed", name=provider_id)
    return _form(page, fields, provider_id)


@post("/admin/providers/{provider_id:str}/secret", opt=_CHANGE)
async def set_secret(
    page: ThePage, services: TheServices, principal: ThePrincipal, provider_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    line = await _line(services, provider_id)
    fields = await read_fields(request, page.t)
    fields.need("secret")
    if fields.good:
        with fields.noting("secret"):
            await store_secret(services, principal, provider_id, fields.value("secret").strip())
            return page.redirect(_path(provider_id), flash="providers.secret_set", name=provider_id)
    return _one(page, line, Fields(page.t, faults=fields.faults))


@get("/admin/providers/{provider_id:str}/forget-secret", opt=_ASK)
async def ask_forget(page: ThePage, services: TheServices, provider_id: PathId) -> Response[Any]:
    return page.render("providers/forget.html", line=await _line(services, provider_id))


@post("/admin/providers/{provider_id:str}/forget-secret", opt=_CHANGE)
async def forget_secret(
    page: ThePage, services: TheServices, principal: ThePrincipal, provider_id: PathId
) -> Response[Any]:
    await services.fleet.set_secret(provider_id, None, by=principal.actor)
    return page.redirect(_path(provider_id), flash="providers.secret_forgotten", name=provider_id)


@get("/admin/providers/{provider_id:str}/remove", opt=_ASK)
async def ask_remove(page: ThePage, services: TheServices, provider_id: PathId) -> Response[Any]:
    return page.render("providers/remove.html", line=await _line(services, provider_id), fault="")


@post("/admin/providers/{provider_id:str}/remove", opt=_CHANGE)
async def remove_provider(
    page: ThePage, services: TheServices, principal: ThePrincipal, provider_id: PathId
) -> Response[Any]:
    """Refused while it has machines."""
    line = await _line(services, provider_id)
    try:
        await take_away(services, principal, "provider", provider_id)
    except Conflict:
        fault = page.t("providers.has_machines")
        return page.render("providers/remove.html", status=422, line=line, fault=fault)
    return page.redirect("/admin/providers", flash="providers.removed", name=provider_id)


def _values(fields: Fields) -> dict[str, Any]:
    explain = _EXPLAIN.get(fields.value("explain_refusals"))
    if explain and fields.value("kind") == ProviderKind.OPENAI:
        raise InvalidRequest(fields.t("providers.explain_never"), param="explain_refusals")
    typed = {
        "kind": fields.value("kind"),
        "api_key_env": fields.value("api_key_env").strip(),
        "extra_parameters": words(fields.value("extra_parameters")),
        "explain_refusals": explain,
    }
    return {**filled(typed), "cancel_stops_billing": fields.value("cancel_stops_billing") == "on"}


async def _lines(services: Services) -> list[ProviderLine]:
    state = await services.fleet.state()
    lines = []
    for provider in state.fleet.providers:
        stored = provider.id in state.with_secret
        credential = "stored" if stored else "variable" if provider.api_key_env else "none"
        machines = [backend for backend in state.fleet.backends if backend.provider_id == provider.id]
        lines.append(ProviderLine(provider, credential, machines))
    return lines


async def _line(services: Services, provider_id: str) -> ProviderLine:
    line = next((line for line in await _lines(services) if line.provider.id == provider_id), None)
    if line is None:
        raise NotFound(f"There is no provider `{provider_id[:200]}`.", param="id")
    return line


def _one(
    page: Page, line: ProviderLine, fields: Fields | None = None, tests: dict[str, BackendTest] | None = None
) -> Response[Any]:
    status = 200 if fields is None or fields.good else 422
    return page.render(
        "providers/one.html", status=status, line=line, fields=fields or Fields(page.t), tests=tests or {}
    )


def _form(page: Page, fields: Fields, provider_id: str | None) -> Response[Any]:
    return page.render(
        "providers/form.html",
        status=200 if fields.good else 422,
        fields=fields,
        provider_id=provider_id,
        kinds=list(ProviderKind),
    )


def _path(provider_id: str) -> str:
    return f"/admin/providers/{quote(provider_id)}"


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_providers, new_provider, add_provider, show_provider, check_machines, edit_provider, change_provider),
    *(set_secret, ask_forget, forget_secret, ask_remove, remove_provider),
)
