"""`/projects/{id}/keys`: API keys of a project. A key itself is shown after its making only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.keys import (
    Rotation,
    alter_key,
    key_view,
    make_key,
    may_change_others,
    own_key,
    read_key,
    replace_key,
)
from llmaas.admin_api.shapes import After, PathId, check_match, etag
from llmaas.console.charts import Series, stacked_bars
from llmaas.console.pages.fields import RESUMED, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.key_forms import BUDGETS, EXPIRIES, RATES, KeyForm, form_of, read_form
from llmaas.console.pages.key_views import DAYS, is_playground, key_lines, limits_of, may_make
from llmaas.console.pages.model_views import playable
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import day_of, last_days
from llmaas.domain.access import may_use
from llmaas.domain.keys import Key, masked
from llmaas.domain.permissions import Permission

_MOST_KEYS = 100
_MOST_OWNERS = 200
_OVERLAPS = {"overlap_0": 0, "overlap_1h": 3_600, "overlap_24h": 86_400, "overlap_7d": 604_800}
_USUAL_OVERLAP = "overlap_24h"
_FIELDS = {"expires_days": "expires"}
"""Of the form, where the API calls them otherwise."""


@get("/projects/{project_id:str}/keys", opt={"permission": Permission.KEYS_READ})
async def list_keys(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    after: After = None,
    stopped: Annotated[bool, QueryParameter()] = False,  # noqa: FBT002 - a query parameter, by its name
) -> Response[Any]:
    """Those that work; with `stopped` also those that do not any more, and the playground's."""
    working_at = None if stopped else services.clock.now_ms()
    found = await services.keys.page(project_id, after=after, limit=_MOST_KEYS + 1, working_at=working_at)
    kept = [key for key in found[:_MOST_KEYS] if stopped or not is_playground(key)]
    shown = sorted(kept, key=lambda key: -key.created_ms)
    title = page.t("keys.usage_30_long")
    return page.render(
        "keys/list.html",
        lines=await key_lines(services, principal, project_id, shown, title),
        stopped=stopped,
        is_first=after is None,
        following=found[_MOST_KEYS - 1].id if len(found) > _MOST_KEYS else None,
        may_make=may_make(principal),
        has_any=bool(found) or stopped or await _has_any(services, project_id),
    )


@get("/projects/{project_id:str}/keys/new", opt={"permission": Permission.KEYS_CREATE})
async def new_key(page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId) -> Response[Any]:
    owners = await _owners(services, principal, project_id)
    return _form(page, services, KeyForm(expires=EXPIRIES[1]), key=None, owners=owners)


@post("/projects/{project_id:str}/keys/new", opt={"permission": Permission.KEYS_CREATE, **FORM})
async def create_key(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    form = read_form(fields)
    owners = await _owners(services, principal, project_id)
    if form.faults:
        return _form(page, services, form, key=None, owners=owners)
    with fields.noting("name", "models", "networks", "owner", *_FIELDS, *BUDGETS, *RATES, otherwise="name"):
        token, key = await make_key(services, principal, project_id, form.new_key())
        return page.reveal(f"/projects/{project_id}/keys/{key.id}/made", token=token)
    return _form(page, services, _faulty(form), key=None, owners=owners)


@get("/projects/{project_id:str}/keys/{key_id:str}/made", opt={"permission": Permission.KEYS_CREATE})
async def show_made(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    """The key itself, for some minutes and to who made it."""
    key, token = await own_key(services, principal, project_id, key_id), page.revealed().get("token")
    if token is None:
        return page.redirect(f"/projects/{project_id}/keys/{key_id}", flash="frame.shown_once", tone="warn")
    old = await services.keys.get(key.rotated_from) if key.rotated_from else None
    program = _program(page, services, key, token)
    return page.render(
        "keys/made.html", token=token, key=key, old=old, old_shown=masked(old.id) if old else "", program=program
    )


@get("/projects/{project_id:str}/keys/{key_id:str}", opt={"permission": Permission.KEYS_READ})
async def show_key(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    key = await read_key(services, project_id, key_id)
    title = page.t("keys.usage_30_long")
    (line,) = await key_lines(services, principal, project_id, [key], title)
    days = last_days(day_of(services.clock.now_ms()), DAYS).days
    chart = stacked_bars(title, days, [Series(page.t("usage.requests"), line.recent.by_day)], page.number)
    return page.render("keys/one.html", line=line, key=key, limits=await limits_of(services, key), chart=chart)


@get("/projects/{project_id:str}/keys/{key_id:str}/edit", opt={"permission": Permission.KEYS_CHANGE})
async def edit_key(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    version = etag(key_view(key, services.clock.now_ms()))
    return _form(page, services, dataclasses.replace(form_of(key, page.t), etag=version), key=key)


@post("/projects/{project_id:str}/keys/{key_id:str}/edit", opt={"permission": Permission.KEYS_CHANGE, **FORM})
async def change_key(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    key_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    fields = await read_fields(request, page.t)
    form = read_form(fields)
    if form.faults:
        return _form(page, services, form, key=key)
    names = ("name", "models", "networks", *_FIELDS, *BUDGETS, *RATES)
    with fields.noting(*names, otherwise="name"):
        check_match(form.etag or None, key_view(key, services.clock.now_ms()))
        await alter_key(services, principal, key, form.changes())
        return page.redirect(f"/projects/{project_id}/keys/{key_id}", flash="keys.saved")
    return _form(page, services, _faulty(form), key=key)


@get("/projects/{project_id:str}/keys/{key_id:str}/rotate", opt={"permission": Permission.KEYS_CHANGE})
async def ask_rotate(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    return page.render("keys/rotate.html", key=key, overlaps=list(_OVERLAPS), chosen=_USUAL_OVERLAP)


@post("/projects/{project_id:str}/keys/{key_id:str}/rotate", opt={"permission": Permission.KEYS_CHANGE, **FORM})
async def rotate_key(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    key_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    fields = await read_fields(request, page.t)
    overlap_s = _OVERLAPS.get(fields.value("overlap"), _OVERLAPS[_USUAL_OVERLAP])
    if RESUMED in fields.values:
        return page.redirect(f"/projects/{project_id}/keys/{key_id}/rotate")
    with fields.noting():
        token, successor = await replace_key(services, principal, key, Rotation(overlap_s=overlap_s))
        return page.reveal(f"/projects/{project_id}/keys/{successor.id}/made", token=token)
    return page.redirect(
        f"/projects/{project_id}/keys/{key_id}", flash="keys.not_rotated", tone="bad", why=fields.fault()
    )


@get("/projects/{project_id:str}/keys/{key_id:str}/revoke", opt={"permission": Permission.KEYS_REVOKE})
async def ask_revoke(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    (line,) = await key_lines(services, principal, project_id, [key], page.t("keys.usage_30_long"))
    return page.render("keys/revoke.html", line=line, key=key)


@post("/projects/{project_id:str}/keys/{key_id:str}/revoke", opt={"permission": Permission.KEYS_REVOKE, **FORM})
async def revoke_key(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId
) -> Response[Any]:
    key = await own_key(services, principal, project_id, key_id)
    await services.keys.revoke(key.id, services.clock.now_ms(), by=principal.actor)
    return page.redirect(f"/projects/{project_id}/keys", flash="keys.revoked")


async def _owners(services: Services, principal: Principal, project_id: str) -> list[tuple[str, str]]:
    """Whom a new key may be given to, by user id and name; nobody to choose from for who makes keys of their own only."""
    if not may_change_others(principal):
        return []
    members = await services.members.of_project(project_id, after=None, limit=_MOST_OWNERS)
    return [(one.user_id, one.name or one.email) for one in members if one.user_id != principal.user.id]


def _form(
    page: Page, services: Services, form: KeyForm, *, key: Key | None, owners: Sequence[tuple[str, str]] = ()
) -> Response[Any]:
    known = [entry.model.id for entry in services.live.catalogue.listed()]
    return page.render(
        "keys/form.html",
        status=422 if form.faults else 200,
        form=form,
        key=key,
        models=sorted({*known, *form.models}),
        expiries=EXPIRIES,
        rates=RATES,
        budgets=BUDGETS,
        owners=owners,
    )


def _program(page: Page, services: Services, key: Key, token: str) -> str:
    """A first request with the key; "" when there is no model to send it to."""
    catalogue = services.live.catalogue
    usable = [e.model.id for e in playable(services.live) if may_use(key.allowed_models, catalogue, e)]
    if not usable:
        return ""
    body = json.dumps(
        {"model": usable[0], "messages": [{"role": "user", "content": page.t("playground.hello")}]}, ensure_ascii=False
    )
    quoted = body.replace("'", "'\\''")
    lines = [f"curl {page.api_base_url}/chat/completions", f'-H "authorization: Bearer {token}"']
    return " \\\n  ".join([*lines, '-H "content-type: application/json"', f"-d '{quoted}'"])


def _faulty(form: KeyForm) -> KeyForm:
    """What the API calls otherwise stands at the form's own field."""
    renamed = {_FIELDS.get(name, name): fault for name, fault in form.faults.items()}
    return dataclasses.replace(form, faults=renamed)


async def _has_any(services: Services, project_id: str) -> bool:
    return bool(await services.keys.page(project_id, after=None, limit=1))


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_keys, new_key, create_key, show_made, show_key, edit_key, change_key),
    *(ask_rotate, rotate_key, ask_revoke, revoke_key),
)
