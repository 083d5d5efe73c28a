"""`/profile/security`: the second factor, and the browsers that one is signed in with."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import PathId
from llmaas.console.pages.browsers import browser_name
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission

_PATH, _FACTOR = "/profile/security", "/profile/second-factor"
_MAY_CHANGE = {"permission": Permission.ACCOUNT_CHANGE, **FORM}


@get(_PATH, opt={"permission": Permission.SESSIONS_READ})
async def show_security(page: ThePage, services: TheServices, principal: ThePrincipal) -> Response[Any]:
    now_ms = services.clock.now_ms()
    found = await services.sessions.of_user(principal.user.id)
    sessions = [session for session in found if session.usable_at(now_ms, services.session_idle_ms)]
    sessions.sort(key=lambda session: (session.id != principal.credential_id, -session.seen_ms))
    return page.render(
        "profile/security.html",
        user=principal.user,
        sessions=sessions,
        current_id=principal.credential_id,
        browser_name=browser_name,
    )


@post("/profile/sessions/{session_id:str}/end", opt={"permission": Permission.SESSIONS_REVOKE, **FORM})
async def end_session(
    page: ThePage, services: TheServices, principal: ThePrincipal, session_id: PathId
) -> Response[Any]:
    await services.sessions.end(principal.user.id, session_id, by=principal.actor)
    return page.redirect(_PATH, flash="profile.session_ended")


@get(_FACTOR, opt={"permission": Permission.ACCOUNT_CHANGE})
async def ask_password(page: ThePage, principal: ThePrincipal) -> Response[Any]:
    return page.render("profile/factor_password.html", user=principal.user, fields=Fields(page.t))


@post(_FACTOR, opt=_MAY_CHANGE)
async def begin(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("password")
    if fields.good:
        with fields.noting(otherwise="password"):
            await services.sign_in.confirm(principal.user, fields.value("password"))
            secret, uri = await services.sign_in.second_factor.begin(principal.user, by=principal.actor)
            return page.reveal(f"{_FACTOR}/confirm", secret=secret, uri=uri)
    return page.render("profile/factor_password.html", status=422, user=principal.user, fields=fields)


@get(f"{_FACTOR}/confirm", opt={"permission": Permission.ACCOUNT_CHANGE})
async def ask_code(page: ThePage, principal: ThePrincipal) -> Response[Any]:
    """With the secret, for some minutes and to who made it."""
    if principal.user.has_second_factor or not page.revealed():
        return page.redirect(_PATH, flash="frame.shown_once", tone="warn")
    return _code_form(page, Fields(page.t))


@post(f"{_FACTOR}/confirm", opt=_MAY_CHANGE)
async def confirm(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("code")
    if fields.good:
        with fields.noting("code", otherwise="code"):
            with services.sign_in.guessing(principal.address):
                codes = await services.sign_in.second_factor.confirm(
                    principal.user, fields.value("code"), keep_session=principal.credential_id, by=principal.actor
                )
            return page.reveal(f"{_FACTOR}/codes", codes="\n".join(codes))
    return _code_form(page, fields)


@get(f"{_FACTOR}/codes", opt={"permission": Permission.ACCOUNT_CHANGE})
async def show_codes(page: ThePage) -> Response[Any]:
    """The recovery codes, for some minutes and to who made them."""
    shown = page.revealed()
    if not shown:
        return page.redirect(_PATH, flash="frame.shown_once", tone="warn")
    return page.render("profile/factor_done.html", codes=shown["codes"])


@post(f"{_FACTOR}/end", opt=_MAY_CHANGE)
async def end(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("password")
    if fields.good:
        with fields.noting(otherwise="password"):
            await services.sign_in.confirm(principal.user, fields.value("password"))
            await services.users.end_second_factor(principal.user.id, by=principal.actor, verified=principal.user)
            return page.redirect(_PATH, flash="profile.factor_ended")
    return page.render("profile/factor_password.html", status=422, user=principal.user, fields=fields)


def _code_form(page: Page, fields: Fields) -> Response[Any]:
    """The secret stands there for as long as this browser may see it."""
    shown, status = page.revealed(), 200 if fields.good else 422
    return page.render(
        "profile/factor_code.html",
        status=status,
        fields=fields,
        secret=shown.get("secret", ""),
        uri=shown.get("uri", ""),
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(show_security, end_session, ask_password),
    *(begin, ask_code, confirm, show_codes, end),
)
