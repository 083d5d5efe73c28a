"""`/welcome`: the first steps, in a new password, a name for the project, and a first answer of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ALSO_ONE_TIME, ThePrincipal
from llmaas.admin_api.account import NewPassword, replace_password
from llmaas.admin_api.keys import NewKey, make_key
from llmaas.admin_api.shapes import checked_name
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.model_views import playable
from llmaas.control.context import Services, TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.projects import DEFAULT_PROJECT, Project

_UNNAMED = "Default"
_KEY_NAME = "first steps"


@get("/welcome", opt={"permission": Permission.ACCOUNT_READ})
async def ask_password(page: ThePage, principal: ThePrincipal) -> Response[Any]:
    if not principal.user.must_change_password:
        return page.redirect(_after_password(page))
    return page.render("welcome/password.html", fields=Fields(page.t), is_first=_is_first(page))


@post("/welcome", opt={"permission": Permission.ACCOUNT_CHANGE, **FORM, **ALSO_ONE_TIME})
async def change_password(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("current", "password")
    if fields.good:
        data = NewPassword(fields.value("current"), fields.value("password"))
        with fields.noting("password", otherwise="current"):
            await replace_password(services, principal, data)
            return page.redirect(_after_password(page))
    return page.render("welcome/password.html", status=422, fields=fields, is_first=_is_first(page))


@get("/welcome/project", opt={"permission": Permission.PROJECTS_CHANGE})
async def ask_name(page: ThePage) -> Response[Any]:
    if page.project is None:
        return page.redirect("/")
    name = "" if page.project.name == _UNNAMED else page.project.name
    return page.render("welcome/project.html", fields=Fields(page.t, {"name": name}))


@post("/welcome/project", opt={"permission": Permission.PROJECTS_CHANGE, **FORM})
async def name_project(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    project = page.project
    if project is None:
        return page.redirect("/")
    fields = await read_fields(request, page.t)
    fields.need("name")
    if fields.good:
        with fields.noting("name", otherwise="name"):
            changed = dataclasses.replace(project, name=checked_name(fields.value("name").strip()))
            await services.projects.change(project, changed, by=principal.actor)
            return page.redirect("/welcome/answer")
    return page.render("welcome/project.html", status=422, fields=fields)


@get("/welcome/answer", opt={"permission": Permission.KEYS_CREATE})
async def offer_answer(page: ThePage, services: TheServices) -> Response[Any]:
    return page.render("welcome/offer.html", models=_chat_models(services))


@post("/welcome/answer", opt={"permission": Permission.KEYS_CREATE, **FORM})
async def first_answer(page: ThePage, services: TheServices, principal: ThePrincipal) -> Response[Any]:
    """With a real key of the project, which stays: the answer is a request like any other."""
    models = _chat_models(services)
    if page.project is None or not models:
        return page.redirect("/welcome/answer")
    token, _ = await make_key(services, principal, page.project.id, NewKey(_KEY_NAME))
    return page.reveal("/welcome/answer/made", token=token, model=models[0])


@get("/welcome/answer/made", opt={"permission": Permission.KEYS_CREATE})
async def show_answer(page: ThePage) -> Response[Any]:
    shown = page.revealed()
    if not shown:
        return page.redirect("/welcome/answer", flash="frame.shown_once", tone="warn")
    return page.render("welcome/answer.html", token=shown["token"], model=shown["model"])


def _chat_models(services: Services) -> list[str]:
    return [entry.model.id for entry in playable(services.live) if entry.targets]


def _is_first(page: Page) -> bool:
    """Whether this is an installation that nobody has named yet, in the hands of who may."""
    project: Project | None = page.project
    is_admin = page.principal is not None and page.principal.user.is_admin
    return is_admin and project is not None and project.id == DEFAULT_PROJECT and project.name == _UNNAMED


def _after_password(page: Page) -> str:
    return "/welcome/project" if _is_first(page) else "/"


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(ask_password, change_password, ask_name, name_project),
    *(offer_answer, first_answer, show_answer),
)
