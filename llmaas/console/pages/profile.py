"""`/profile`: one's name, password, language and theme."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.account import NewPassword, rename, replace_password
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.users import User

_MAY_CHANGE = {"permission": Permission.ACCOUNT_CHANGE, **FORM}


@get("/profile", opt={"permission": Permission.ACCOUNT_READ})
async def show_profile(page: ThePage, principal: ThePrincipal) -> Response[Any]:
    return _show(page, principal.user)


@post("/profile/name", opt=_MAY_CHANGE)
async def change_name(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("name")
    if fields.good:
        with fields.noting("name", otherwise="name"):
            await rename(services, principal, fields.value("name").strip())
            return page.redirect("/profile", flash="profile.name_saved")
    return _show(page, principal.user, name=fields)


@post("/profile/password", opt=_MAY_CHANGE)
async def change_password(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("current", "password")
    if fields.good:
        data = NewPassword(fields.value("current"), fields.value("password"))
        with fields.noting("password", otherwise="current"):
            await replace_password(services, principal, data)
            return page.redirect("/profile", flash="profile.password_saved")
    return _show(page, principal.user, password=fields)


def _show(page: Page, user: User, *, name: Fields | None = None, password: Fields | None = None) -> Response[Any]:
    return page.render(
        "profile/account.html",
        status=200 if name is None and password is None else 422,
        user=user,
        name=name or Fields(page.t, {"name": user.name}),
        password=password or Fields(page.t),
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (show_profile, change_name, change_password)
