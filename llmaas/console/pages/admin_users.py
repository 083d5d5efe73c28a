"""`/admin/users`: the people of the installation, for admins. A one-time password is shown after its making only."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import After, PathId, check_match, etag
from llmaas.admin_api.users import NewUser, UserChanges, alter_user, any_user, make_user, new_password, read_user
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.users import User

_MOST = 100
_READ = {"permission": Permission.USERS_READ}
_CREATE = {"permission": Permission.USERS_CREATE}
_CHANGE = {"permission": Permission.USERS_CHANGE, **FORM}
_ASKED = {"disable": "disabled", "reset-password": "password_reset", "end-second-factor": "second_factor_ended"}
"""What is asked about on a page of its own, and the text that is shown once it is done."""


@get("/admin/users", opt=_READ)
async def list_users(page: ThePage, services: TheServices, after: After = None) -> Response[Any]:
    found = await services.users.page(after=after, limit=_MOST + 1)
    following = found[_MOST - 1].id if len(found) > _MOST else None
    return page.render("administration/users.html", users=found[:_MOST], following=following, is_first=after is None)


@get("/admin/users/new", opt=_CREATE)
async def new_user(page: ThePage) -> Response[Any]:
    return page.render("administration/new_user.html", fields=Fields(page.t))


@post("/admin/users/new", opt={**_CREATE, **FORM})
async def add_user(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("email")
    if fields.good:
        with fields.noting("email", "name"):
            admin = fields.value("is_admin") == "on"
            data = NewUser(fields.value("email").strip(), fields.value("name").strip(), admin)
            made = await make_user(services, principal, data)
            return page.reveal(f"/admin/users/{made.id}/password", password=made.one_time_password, is_new="on")
    return page.render("administration/new_user.html", status=422, fields=fields)


@get("/admin/users/{user_id:str}", opt=_READ)
async def show_user(page: ThePage, services: TheServices, user_id: PathId) -> Response[Any]:
    user = await read_user(services, user_id)
    return _one(page, user, Fields(page.t, {**_shown(user), "etag": etag(any_user(user))}))


@post("/admin/users/{user_id:str}", opt=_CHANGE)
async def change_user(
    page: ThePage, services: TheServices, principal: ThePrincipal, user_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    """Name and rights."""
    user, fields = await read_user(services, user_id), await read_fields(request, page.t)
    changes = UserChanges(is_admin=fields.value("is_admin") == "on")
    if fields.value("name").strip():
        changes = UserChanges(name=fields.value("name").strip(), is_admin=changes.is_admin)
    if fields.good:
        with fields.noting("name", otherwise="is_admin"):
            check_match(fields.value("etag") or None, any_user(user))
            await alter_user(services, principal, user, changes)
            return page.redirect(f"/admin/users/{user_id}", flash="administration.user_changed", name=user.email)
    return _one(page, user, fields)


@get("/admin/users/{user_id:str}/password", opt={"permission": Permission.USERS_CHANGE})
async def show_password(page: ThePage, services: TheServices, user_id: PathId) -> Response[Any]:
    """A one-time password, for some minutes and to who made it."""
    user, shown = await read_user(services, user_id), page.revealed()
    if not shown:
        return page.redirect(f"/admin/users/{user_id}", flash="frame.shown_once", tone="warn")
    return page.render("administration/password.html", user=user, password=shown["password"], is_new="is_new" in shown)


@post("/admin/users/{user_id:str}/enable", opt=_CHANGE)
async def enable_user(page: ThePage, services: TheServices, principal: ThePrincipal, user_id: PathId) -> Response[Any]:
    user = await read_user(services, user_id)
    await alter_user(services, principal, user, UserChanges(disabled=False))
    return page.redirect(f"/admin/users/{user_id}", flash="administration.enabled", name=user.email)


@get([f"/admin/users/{{user_id:str}}/{act}" for act in _ASKED], opt={"permission": Permission.USERS_CHANGE})
async def ask(page: ThePage, services: TheServices, user_id: PathId) -> Response[Any]:
    user, act = await read_user(services, user_id), page.path.rpartition("/")[2]
    return page.render("administration/ask_user.html", user=user, act=act.replace("-", "_"), path=act, fault="")


@post([f"/admin/users/{{user_id:str}}/{act}" for act in _ASKED], opt=_CHANGE)
async def do(page: ThePage, services: TheServices, principal: ThePrincipal, user_id: PathId) -> Response[Any]:
    user, act = await read_user(services, user_id), page.path.rpartition("/")[2]
    fields = Fields(page.t)
    with fields.noting():
        if act == "reset-password":
            made = await new_password(services, principal, user)
            return page.reveal(f"/admin/users/{user_id}/password", password=made.one_time_password)
        if act == "disable":
            await alter_user(services, principal, user, UserChanges(disabled=True))
        else:
            await services.users.end_second_factor(user.id, by=principal.actor)
        return page.redirect(f"/admin/users/{user_id}", flash=f"administration.{_ASKED[act]}", name=user.email)
    return page.render(
        "administration/ask_user.html",
        status=422,
        user=user,
        act=act.replace("-", "_"),
        path=act,
        fault=fields.fault(),
    )


def _shown(user: User) -> dict[str, str]:
    return {"name": user.name, "is_admin": "on" if user.is_admin else ""}


def _one(page: Page, user: User, fields: Fields) -> Response[Any]:
    return page.render("administration/user.html", status=200 if fields.good else 422, user=user, fields=fields)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_users, new_user, add_user, show_user, change_user),
    *(show_password, enable_user, ask, do),
)
