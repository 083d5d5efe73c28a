"""`/api/v1/projects/{id}/members`: who is in a project, as what."""

from __future__ import annotations

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import After, Form, Limit, Page, PathId, page_of
from llmaas.clock import iso
from llmaas.control.context import TheServices
from llmaas.domain.members import Member, Role
from llmaas.domain.permissions import Permission

_PATH = "/api/v1/projects/{project_id:str}/members"


class NewMember(Form, frozen=True):
    user_id: str
    role: Role


class NewRole(Form, frozen=True):
    """`seen`: the role that you read; when it is another one by now nothing changes."""

    role: Role
    seen: Role | None = None


class MemberView(msgspec.Struct, frozen=True):
    user_id: str
    email: str
    name: str
    role: Role
    since: str


def _view(member: Member) -> MemberView:
    return MemberView(member.user_id, member.email, member.name, member.role, iso(member.created_ms))


@get(_PATH, opt={"permission": Permission.MEMBERS_READ})
async def list_members(
    services: TheServices, project_id: PathId, after: After = None, limit: Limit = 50
) -> Page[MemberView]:
    """The members of a project."""
    found = await services.members.of_project(project_id, after=after, limit=limit + 1)
    return page_of(found, limit, _view, lambda member: member.user_id)


@post(_PATH, opt={"permission": Permission.MEMBERS_ADD}, status_code=204)
async def add_member(
    services: TheServices, principal: ThePrincipal, project_id: PathId, data: JSONBody[NewMember]
) -> None:
    """Make a user a member without an invitation."""
    member = Member(project_id, data.user_id, data.role, services.clock.now_ms())
    await services.members.add(member, by=principal.actor)


@patch(_PATH + "/{user_id:str}", opt={"permission": Permission.MEMBERS_CHANGE})
async def change_role(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    user_id: PathId,
    data: JSONBody[NewRole],
) -> MemberView:
    """Give a member another role. A project keeps an owner."""
    changed = await services.members.change(project_id, user_id, data.role, seen=data.seen, by=principal.actor)
    return _view(changed)


@delete(_PATH + "/{user_id:str}", opt={"permission": Permission.MEMBERS_REMOVE})
async def remove_member(services: TheServices, principal: ThePrincipal, project_id: PathId, user_id: PathId) -> None:
    """End a membership. The keys that the member made stay with the project."""
    await services.members.remove(project_id, user_id, by=principal.actor)


@post("/api/v1/projects/{project_id:str}/leave", opt={"permission": Permission.MEMBERS_LEAVE}, status_code=204)
async def leave(services: TheServices, principal: ThePrincipal, project_id: PathId) -> Response[None]:
    """End your own membership."""
    await services.members.remove(project_id, principal.user.id, by=principal.actor)
    return Response(None)


ROUTES: tuple[HTTPRouteHandler, ...] = (list_members, add_member, change_role, remove_member, leave)
