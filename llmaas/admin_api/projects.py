"""`/api/v1/projects`: the tenants."""

from __future__ import annotations

import dataclasses

import msgspec
from litestar import Response, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import (
    After,
    Form,
    IfMatch,
    Limit,
    Page,
    PathId,
    check_match,
    checked_name,
    moment,
    page_of,
    tagged,
)
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import format_amount, parse_amount
from llmaas.domain.projects import Project, unknown_project, valid_id
from llmaas.errors import Conflict, InvalidRequest

_MAX_RETENTION_DAYS = 36_500


class NewProject(Form, frozen=True):
    id: str
    name: str
    tier: str | None = None


class ProjectChanges(Form, frozen=True):
    """What is not sent stays as it is. `low_credit`: the balance to warn at, as a decimal such as "5.00"; null: never."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    low_credit: str | msgspec.UnsetType | None = msgspec.UNSET


class Terms(Form, frozen=True):
    """`retention_days`: age at which usage rows go, while sums stay; null: never. `below_zero`: a project that has spent more than
    its credit may go to a tier that is paid in advance.
    """

    tier: str | None
    retention_days: int | None
    below_zero: bool = False


class ProjectView(msgspec.Struct, frozen=True):
    id: str
    name: str
    tier: str | None
    retention_days: int | None
    low_credit: str | None
    created: str
    archived: str | None


def project_view(project: Project) -> ProjectView:
    return ProjectView(
        id=project.id,
        name=project.name,
        tier=project.tier_id,
        retention_days=project.retention_days,
        low_credit=None if project.low_credit_nano is None else format_amount(project.low_credit_nano),
        created=iso(project.created_ms),
        archived=moment(project.archived_ms),
    )


async def read_project(services: Services, project_id: str) -> Project:
    project = await services.projects.get(project_id)
    if project is None:
        raise unknown_project(project_id)
    return project


async def _change(
    services: Services, principal: Principal, seen: Project, if_match: str | None, changes: dict[str, object]
) -> Response[ProjectView]:
    check_match(if_match, project_view(seen))
    changed = dataclasses.replace(seen, **changes)  # type: ignore[arg-type]
    await services.projects.change(seen, changed, by=principal.actor)
    return tagged(project_view(changed))


@get("/api/v1/projects", opt={"permission": Permission.PROJECTS_LIST})
async def list_projects(
    services: TheServices, principal: ThePrincipal, after: After = None, limit: Limit = 50
) -> Page[ProjectView]:
    """Your projects; for an admin, all."""
    of_user = None if principal.user.is_admin else principal.user.id
    found = await services.projects.page(of_user=of_user, after=after, limit=limit + 1)
    return page_of(found, limit, project_view, lambda project: project.id)


@post("/api/v1/projects", opt={"permission": Permission.PROJECTS_CREATE})
async def create_project(
    services: TheServices, principal: ThePrincipal, data: JSONBody[NewProject]
) -> Response[ProjectView]:
    """Make a project."""
    return tagged(project_view(await make_project(services, principal, data)), 201)


async def make_project(services: Services, principal: Principal, data: NewProject) -> Project:
    """Raises Conflict when the id is taken, InvalidRequest."""
    if not valid_id(data.id):
        form = "1 to 64 lower-case letters, digits, dots, dashes and underscores, a letter or digit at both ends"
        raise InvalidRequest(f"`id` must be {form}.", param="id")
    project = Project(data.id, checked_name(data.name), services.clock.now_ms(), tier_id=data.tier)
    await services.projects.add(project, by=principal.actor)
    return project


@get("/api/v1/projects/{project_id:str}", opt={"permission": Permission.PROJECTS_READ})
async def show_project(services: TheServices, project_id: PathId) -> Response[ProjectView]:
    """One project."""
    return tagged(project_view(await read_project(services, project_id)))


@patch("/api/v1/projects/{project_id:str}", opt={"permission": Permission.PROJECTS_CHANGE})
async def change_project(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    data: JSONBody[ProjectChanges],
    if_match: IfMatch = None,
) -> Response[ProjectView]:
    """Change what an owner may."""
    changes: dict[str, object] = {}
    if data.name is not msgspec.UNSET:
        changes["name"] = checked_name(data.name)
    if data.low_credit is not msgspec.UNSET:
        changes["low_credit_nano"] = None if data.low_credit is None else _amount(data.low_credit, "low_credit")
    return await _change(services, principal, await read_project(services, project_id), if_match, changes)


@put("/api/v1/projects/{project_id:str}/terms", opt={"permission": Permission.PROJECTS_SET_TERMS})
async def set_terms(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    data: JSONBody[Terms],
    if_match: IfMatch = None,
) -> Response[ProjectView]:
    """Put the project on a tier, and say how long its usage rows are kept."""
    seen = await read_project(services, project_id)
    check_match(if_match, project_view(seen))
    return tagged(project_view(await change_terms(services, principal, seen, data)))


async def change_terms(services: Services, principal: Principal, seen: Project, data: Terms) -> Project:
    """Raises InvalidRequest, NotFound for a tier that is not there, Outdated, and Conflict when its balance would be below zero."""
    days = data.retention_days
    if days is not None and not 1 <= days <= _MAX_RETENTION_DAYS:
        raise InvalidRequest(f"`retention_days` must be between 1 and {_MAX_RETENTION_DAYS}.", param="retention_days")
    changed = dataclasses.replace(seen, tier_id=data.tier, retention_days=days)
    await services.projects.change(seen, changed, by=principal.actor, below_zero=data.below_zero)
    return changed


@post("/api/v1/projects/{project_id:str}/archive", opt={"permission": Permission.PROJECTS_ARCHIVE}, status_code=200)
async def archive_project(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    if_match: IfMatch = None,
) -> Response[ProjectView]:
    """Close the project: its keys stop, its usage stays."""
    seen = await read_project(services, project_id)
    check_match(if_match, project_view(seen))
    return tagged(project_view(await close_project(services, principal, seen)))


async def close_project(services: Services, principal: Principal, seen: Project) -> Project:
    """Raises Conflict when it is archived already, Outdated."""
    if seen.archived_ms is not None:
        raise Conflict("The project is archived already.")
    archived = dataclasses.replace(seen, archived_ms=services.clock.now_ms())
    await services.projects.change(seen, archived, by=principal.actor)
    return archived


def _amount(text: str, field: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise InvalidRequest(f"`{field}` {error}.", param=field) from error


ROUTES: tuple[HTTPRouteHandler, ...] = (
    list_projects,
    create_project,
    show_project,
    change_project,
    set_terms,
    archive_project,
)
