"""`/projects/{id}/members`: who is in a project, in which role, and who is invited."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.invitations import NewInvitation, make_invitation
from llmaas.admin_api.shapes import After, PathId
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import Services, TheServices
from llmaas.domain.members import Member, Role
from llmaas.domain.permissions import Permission
from llmaas.errors import InvalidRequest, NotFound

_PATH = "/projects/{project_id:str}/members"
_INVITATIONS = "/projects/{project_id:str}/invitations"
_MOST = 100
ROLES = (Role.OWNER, Role.DEVELOPER, Role.VIEWER)


@get(_PATH, opt={"permission": Permission.MEMBERS_READ})
async def list_members(page: ThePage, services: TheServices, project_id: PathId, after: After = None) -> Response[Any]:
    found = await services.members.of_project(project_id, after=after, limit=_MOST + 1)
    invitations = []
    if page.may(Permission.INVITATIONS_READ):
        invitations = await services.invitations.of_project(project_id, after=None, limit=_MOST)
    return page.render(
        "members/list.html",
        members=sorted(found[:_MOST], key=lambda member: (ROLES.index(member.role), member.name.casefold())),
        following=found[_MOST - 1].user_id if len(found) > _MOST else None,
        is_first=after is None,
        invitations=invitations,
        now_ms=services.clock.now_ms(),
    )


@get(f"{_INVITATIONS}/new", opt={"permission": Permission.INVITATIONS_CREATE})
async def new_invitation(page: ThePage) -> Response[Any]:
    return page.render("members/invite.html", fields=Fields(page.t, {"role": Role.DEVELOPER}), roles=ROLES)


@post(f"{_INVITATIONS}/new", opt={"permission": Permission.INVITATIONS_CREATE, **FORM})
async def invite(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("email")
    if fields.good:
        with fields.noting("email", otherwise="email"):
            data = NewInvitation(fields.value("email").strip(), _role(fields.value("role")))
            token, invitation = await make_invitation(services, principal, project_id, data)
            link = f"{page.base_url}/join?invitation={quote(token)}"
            return page.reveal(f"/projects/{project_id}/invitations/{invitation.id}/made", link=link)
    return page.render("members/invite.html", status=422, fields=fields, roles=ROLES)


@get(f"{_INVITATIONS}/{{invitation_id:str}}/made", opt={"permission": Permission.INVITATIONS_CREATE})
async def show_made(page: ThePage, services: TheServices, project_id: PathId, invitation_id: PathId) -> Response[Any]:
    """Its link, for some minutes and to who invited."""
    shown, invited = page.revealed(), await services.invitations.of_project(project_id, after=None, limit=_MOST)
    invitation = next((one for one in invited if one.id == invitation_id), None)
    if not shown or invitation is None:
        return page.redirect(_members(project_id), flash="frame.shown_once", tone="warn")
    return page.render("members/invited.html", link=shown["link"], invitation=invitation)


@post(f"{_INVITATIONS}/{{invitation_id:str}}/revoke", opt={"permission": Permission.INVITATIONS_REVOKE, **FORM})
async def revoke_invitation(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, invitation_id: PathId
) -> Response[Any]:
    now_ms = services.clock.now_ms()
    await services.invitations.revoke(project_id, invitation_id, now_ms, by=principal.actor)
    return page.redirect(_members(project_id), flash="members.invitation_revoked")


@get(f"{_PATH}/{{user_id:str}}", opt={"permission": Permission.MEMBERS_CHANGE})
async def show_member(page: ThePage, services: TheServices, project_id: PathId, user_id: PathId) -> Response[Any]:
    member = await _member(services, project_id, user_id)
    return _form(page, member, Fields(page.t, {"role": member.role}))


@post(f"{_PATH}/{{user_id:str}}", opt={"permission": Permission.MEMBERS_CHANGE, **FORM})
async def change_role(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    user_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    member = await _member(services, project_id, user_id)
    fields = await read_fields(request, page.t)
    if fields.good:
        with fields.noting(otherwise="role"):
            role, seen = _role(fields.value("role")), _role(fields.value("seen"))
            await services.members.change(project_id, user_id, role, seen=seen, by=principal.actor)
            return page.redirect(_members(project_id), flash="members.role_saved", name=member.name or member.email)
    return _form(page, member, fields)


@get(f"{_PATH}/{{user_id:str}}/remove", opt={"permission": Permission.MEMBERS_REMOVE})
async def ask_remove(page: ThePage, services: TheServices, project_id: PathId, user_id: PathId) -> Response[Any]:
    return page.render("members/remove.html", member=await _member(services, project_id, user_id), fault="")


@post(f"{_PATH}/{{user_id:str}}/remove", opt={"permission": Permission.MEMBERS_REMOVE, **FORM})
async def remove_member(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, user_id: PathId
) -> Response[Any]:
    member = await _member(services, project_id, user_id)
    fields = Fields(page.t)
    with fields.noting():
        await services.members.remove(project_id, user_id, by=principal.actor)
        return page.redirect(_members(project_id), flash="members.removed", name=member.name or member.email)
    return page.render("members/remove.html", status=422, member=member, fault=fields.fault())


@get("/projects/{project_id:str}/leave", opt={"permission": Permission.MEMBERS_LEAVE})
async def ask_leave(page: ThePage) -> Response[Any]:
    return page.render("members/leave.html", fault="")


@post("/projects/{project_id:str}/leave", opt={"permission": Permission.MEMBERS_LEAVE, **FORM})
async def leave(page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId) -> Response[Any]:
    fields = Fields(page.t)
    with fields.noting():
        await services.members.remove(project_id, principal.user.id, by=principal.actor)
        return page.redirect("/", flash="members.left")
    return page.render("members/leave.html", status=422, fault=fields.fault())


def _form(page: Page, member: Member, fields: Fields) -> Response[Any]:
    return page.render(
        "members/one.html", status=200 if fields.good else 422, member=member, fields=fields, roles=ROLES
    )


def _members(project_id: str) -> str:
    return f"/projects/{quote(project_id)}/members"


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        raise InvalidRequest("There is no such role.", param="role") from error


async def _member(services: Services, project_id: str, user_id: str) -> Member:
    """Raises NotFound."""
    role = await services.members.role(project_id, user_id)
    user = await services.users.get(user_id) if role is not None else None
    if role is None or user is None:
        raise NotFound("There is no such member.")
    return Member(project_id, user_id, role, user.created_ms, user.email, user.name)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_members, new_invitation, invite, show_made, revoke_invitation, show_member, change_role),
    *(ask_remove, remove_member, ask_leave, leave),
)
