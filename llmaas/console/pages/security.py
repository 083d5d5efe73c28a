"""`/profile/security`: the second factor, and the browsers that one is signed in with."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.console.admin.access import ThePrincipal
from llmaas.console.admin.services import TheServices
from llmaas.console.admin.shapes import PathId
from llmaas.console.pages.browsers import browser_name
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, ThePage
from llmaas.console.pages.qr import qr_svg
from llmaas.domain.permissions import Permission

_PATH = "/profile/security"
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


@get("/profile/second-factor", opt={"permission": Permission.ACCOUNT_CHANGE})
async def ask_password(page: ThePage, principal: ThePrincipal) -> Response[Any]:
    return page.render("profile/factor_password.html", user=principal.user, fields=Fields(page.t))


@post("/profile/second-factor", opt=_MAY_CHANGE)
async def begin(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Shows the secret, which is not shown again: a wrong code later begins anew."""
    fields = await read_fields(request, page.t)
    fields.need("password")
    if fields.good:
        with fields.noting(otherwise="password"):
            await services.sign_in.confirm(principal.user, fields.value("password"))
            secret, uri = await services.sign_in.second_factor.begin(principal.user, by=principal.actor)
            return page.render(
                "profile/factor_code.html", secret=secret, uri=uri, code_image=qr_svg(uri), fields=Fields(page.t)
            )
    return page.render("profile/factor_password.html", status=422, user=principal.user, fields=fields)


@post("/profile/second-factor/confirm", opt=_MAY_CHANGE)
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
            return page.render("profile/factor_done.html", codes=codes)
    return page.render("profile/factor_code.html", status=422, secret="", uri="", code_image="", fields=fields)


@post("/profile/second-factor/end", opt=_MAY_CHANGE)
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


ROUTES: tuple[HTTPRouteHandler, ...] = (show_security, end_session, ask_password, begin, confirm, end)
