"""`/api/v1/audit`, and for its owners `/api/v1/projects/{id}/audit`: what was done, by whom. Nobody changes it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.shapes import Limit, Page, PathId, page_of
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.audit import AuditFilter, Line
from llmaas.domain.permissions import Permission

Before = Annotated[
    int | None, QueryParameter(ge=1, le=2**63 - 1, description="`next` of the page before.", name="after")
]
Word = Annotated[str | None, QueryParameter(max_length=200)]


class ActorView(msgspec.Struct, frozen=True):
    kind: str
    id: str
    address: str


class SubjectView(msgspec.Struct, frozen=True):
    kind: str
    id: str


class LineView(msgspec.Struct, frozen=True):
    """`before`, `after`: null where the thing was not, or is not any more. `hash`: over the line and the one before it."""

    seq: int
    at: str
    by: ActorView
    action: str
    subject: SubjectView
    project: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    hash: str


class VerdictView(msgspec.Struct, frozen=True):
    ok: bool
    lines: int
    seq: int
    hash: str
    faults: list[str]


def _view(line: Line) -> LineView:
    act = line.act
    return LineView(
        seq=line.seq,
        at=iso(line.at_ms),
        by=ActorView(act.by.kind, act.by.id, act.by.address),
        action=act.action,
        subject=SubjectView(act.subject_kind, act.subject_id),
        project=act.project_id,
        before=None if act.before is None else dict(act.before),
        after=None if act.after is None else dict(act.after),
        hash=line.hash.hex(),
    )


async def _page(services: Services, where: AuditFilter, before: int | None, limit: int) -> Page[LineView]:
    found = await services.audit.page(where, before=before, limit=limit + 1)
    return page_of(found, limit, _view, lambda line: str(line.seq))


@get("/api/v1/audit", opt={"permission": Permission.AUDIT_READ})
async def list_acts(
    services: TheServices,
    *,
    project: Word = None,
    by: Word = None,
    action: Word = None,
    subject: Word = None,
    before: Before = None,
    limit: Limit = 50,
) -> Page[LineView]:
    """All acts, newest first. `action`: a whole one such as `key.create`, or a noun such as `key`."""
    where = AuditFilter(project_id=project, actor_id=by, action=action, subject_id=subject)
    return await _page(services, where, before, limit)


@get("/api/v1/audit/verify", opt={"permission": Permission.AUDIT_READ})
async def verify(services: TheServices) -> VerdictView:
    """Whether a line was changed, removed, put in or moved. Note `seq` and `hash` elsewhere."""
    found = await services.audit.verify()
    return VerdictView(not found.faults, found.lines, found.seq, found.hash, list(found.faults))


@get("/api/v1/projects/{project_id:str}/audit", opt={"permission": Permission.AUDIT_READ})
async def list_acts_of_project(
    services: TheServices,
    project_id: PathId,
    *,
    by: Word = None,
    action: Word = None,
    subject: Word = None,
    before: Before = None,
    limit: Limit = 50,
) -> Page[LineView]:
    """Acts in a project, newest first."""
    where = AuditFilter(project_id=project_id, actor_id=by, action=action, subject_id=subject)
    return await _page(services, where, before, limit)


ROUTES: tuple[HTTPRouteHandler, ...] = (list_acts, verify, list_acts_of_project)
