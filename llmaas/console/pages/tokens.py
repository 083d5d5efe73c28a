"""`/profile/tokens`: personal access tokens, for programs that act in one's name on the admin API."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import PathId
from llmaas.admin_api.tokens import NewToken, make_token
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.tokens import Token
from llmaas.errors import NotFound

_PATH = "/profile/tokens"
_MOST = 200
_LIFETIMES = ("30", "90", "365", "")


@get(_PATH, opt={"permission": Permission.TOKENS_READ})
async def list_tokens(page: ThePage, services: TheServices, principal: ThePrincipal) -> Response[Any]:
    tokens = await services.tokens.of_user(principal.user.id, after=None, limit=_MOST)
    tokens.sort(key=lambda token: -token.created_ms)
    return page.render("profile/tokens.html", tokens=tokens, now_ms=services.clock.now_ms())


@get(f"{_PATH}/new", opt={"permission": Permission.TOKENS_CREATE})
async def new_token(page: ThePage) -> Response[Any]:
    return page.render("profile/token_form.html", fields=Fields(page.t, {"expires": "90"}), lifetimes=_LIFETIMES)


@post(f"{_PATH}/new", opt={"permission": Permission.TOKENS_CREATE, **FORM})
async def create_token(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("name")
    if fields.good:
        days = fields.value("expires")
        with fields.noting("name", "expires_days", otherwise="name"):
            data = NewToken(fields.value("name").strip(), int(days) if days in _LIFETIMES[:-1] else None)
            text, token = await make_token(services, principal, data)
            return page.reveal(f"{_PATH}/{token.id}/made", text=text, name=token.name)
    return page.render("profile/token_form.html", status=422, fields=fields, lifetimes=_LIFETIMES)


@get(f"{_PATH}/{{token_id:str}}/made", opt={"permission": Permission.TOKENS_CREATE})
async def show_made(page: ThePage, token_id: PathId) -> Response[Any]:  # noqa: ARG001 - in the path
    """The token itself, for some minutes and to who made it."""
    shown = page.revealed()
    if not shown:
        return page.redirect(_PATH, flash="frame.shown_once", tone="warn")
    return page.render("profile/token_made.html", text=shown["text"], name=shown["name"])


@get(f"{_PATH}/{{token_id:str}}/revoke", opt={"permission": Permission.TOKENS_REVOKE})
async def ask_revoke(page: ThePage, services: TheServices, principal: ThePrincipal, token_id: PathId) -> Response[Any]:
    found: list[Token] = await services.tokens.of_user(principal.user.id, after=None, limit=_MOST)
    token = next((one for one in found if one.id == token_id), None)
    if token is None:
        raise NotFound("There is no such token of yours.")
    return page.render("profile/token_revoke.html", token=token)


@post(f"{_PATH}/{{token_id:str}}/revoke", opt={"permission": Permission.TOKENS_REVOKE, **FORM})
async def revoke_token(
    page: ThePage, services: TheServices, principal: ThePrincipal, token_id: PathId
) -> Response[Any]:
    await services.tokens.revoke(principal.user.id, token_id, services.clock.now_ms(), by=principal.actor)
    return page.redirect(_PATH, flash="profile.token_revoked")


ROUTES: tuple[HTTPRouteHandler, ...] = (list_tokens, new_token, create_token, show_made, ask_revoke, revoke_token)
