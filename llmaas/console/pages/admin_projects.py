"""`/admin/projects`: all tenants, for admins: making one, its tier, its credit, its end."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.credit import NewEntry, add_entry, signed_amount
from llmaas.admin_api.projects import (
    NewProject,
    Terms,
    change_terms,
    close_project,
    make_project,
    project_view,
    read_project,
)
from llmaas.admin_api.shapes import After, PathId, check_match, etag
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.form_values import signed_decimal, whole_numbers
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.typed import spelled
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import day_of, month_of
from llmaas.domain.credit import CreditKind
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import format_amount
from llmaas.domain.projects import Project
from llmaas.domain.usage import Grouping, UsageFilter

_MOST = 100
_ENTRIES = 10
_READ = {"permission": Permission.PROJECTS_CREATE}
_CREATE = {"permission": Permission.PROJECTS_CREATE, **FORM}
_TERMS = {"permission": Permission.PROJECTS_SET_TERMS, **FORM}
_CREDIT = {"permission": Permission.CREDIT_ADD, **FORM}
_KINDS = (CreditKind.TOP_UP, CreditKind.GRANT, CreditKind.REFUND, CreditKind.CORRECTION)


@get("/admin/projects", opt=_READ)
async def list_projects(page: ThePage, services: TheServices, after: After = None) -> Response[Any]:
    """With what each cost this month."""
    found = await services.projects.page(of_user=None, after=after, limit=_MOST + 1)
    month = month_of(day_of(services.clock.now_ms()))
    spent: dict[str | None, tuple[int, int]] = {}
    for part in await services.usage.sums(UsageFilter(from_ms=month.from_ms), [Grouping.PROJECT]):
        requests, cost = spent.get(part.group[0], (0, 0))
        own = part.cost_nano if part.currency == services.currency else 0
        spent[part.group[0]] = (requests + part.requests, cost + own)
    lines = [(project, *spent.get(project.id, (0, 0))) for project in found[:_MOST]]
    following = found[_MOST - 1].id if len(found) > _MOST else None
    return page.render("administration/projects.html", lines=lines, following=following, is_first=after is None)


@get("/admin/projects/new", opt=_READ)
async def new_project(page: ThePage, services: TheServices) -> Response[Any]:
    return await _form(page, services, Fields(page.t))


@post("/admin/projects/new", opt=_CREATE)
async def add_project(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("id", "name")
    if fields.good:
        with fields.noting("id", "name", "tier"):
            data = NewProject(fields.value("id").strip(), fields.value("name").strip(), fields.value("tier") or None)
            project = await make_project(services, principal, data)
            return page.redirect(_path(project.id), flash="administration.project_made", name=project.name)
    return await _form(page, services, fields)


@get("/admin/projects/{tenant_id:str}", opt=_READ)
async def show_project(page: ThePage, services: TheServices, tenant_id: PathId) -> Response[Any]:
    return await _one(page, services, await read_project(services, tenant_id))


@post("/admin/projects/{tenant_id:str}/terms", opt=_TERMS)
async def set_terms(
    page: ThePage, services: TheServices, principal: ThePrincipal, tenant_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    project, fields = await read_project(services, tenant_id), await read_fields(request, page.t)
    fields.anew = _path(tenant_id)
    days = whole_numbers(fields, ["retention_days"]).get("retention_days")
    if fields.good:
        with fields.noting("tier", "retention_days", "below_zero", otherwise="tier"):
            check_match(fields.value("etag") or None, project_view(project))
            terms = Terms(fields.value("tier") or None, days, below_zero=fields.value("below_zero") == "on")
            await change_terms(services, principal, project, terms)
            return page.redirect(_path(tenant_id), flash="administration.terms_set", name=project.name)
    if fields.fault("below_zero"):
        left = page.money((await services.credit.balance(project.id)).left_nano)
        fields.faults["below_zero"] = page.t("administration.tier_below_zero", tier=fields.value("tier"), left=left)
    return await _one(page, services, project, terms=fields)


@post("/admin/projects/{tenant_id:str}/credit", opt=_CREDIT)
async def add_credit(
    page: ThePage, services: TheServices, principal: ThePrincipal, tenant_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    """The form carries a key of its own, so that one that is sent twice counts once. An entry can never be changed: the amount is
    shown as it was understood before it is made.
    """
    project, fields = await read_project(services, tenant_id), await read_fields(request, page.t)
    fields.need("amount")
    kind = next((kind for kind in _KINDS if kind == fields.value("kind")), CreditKind.TOP_UP)
    amount = signed_decimal(fields, "amount")
    if fields.good and fields.value("again") != "on":
        with fields.noting("amount", "note", otherwise="amount"):
            nano = signed_amount(amount, kind)
            if fields.value("sure") != amount:
                return await _ask_credit(page, services, project, fields, nano)
            entry = NewEntry(
                amount=amount,
                kind=kind,
                note=fields.value("note").strip(),
                idempotency_key=fields.value("once") or None,
                below_zero=fields.value("below_zero") == "on",
            )
            made = await add_entry(services, principal, tenant_id, entry)
            return page.redirect(
                _path(tenant_id), flash="administration.credit_added", amount=page.money(made.amount_nano)
            )
    return await _one(page, services, project, credit=fields)


async def _ask_credit(page: Page, services: Services, project: Project, fields: Fields, nano: int) -> Response[Any]:
    balance = await services.credit.balance(project.id)
    return page.render(
        "administration/credit_sure.html",
        project=project,
        fields=fields,
        path=f"{_path(project.id)}/credit",
        amount=nano,
        plain=format_amount(nano),
        spelled=spelled(format_amount(abs(nano))),
        left=balance.left_nano,
    )


@get("/admin/projects/{tenant_id:str}/archive", opt={"permission": Permission.PROJECTS_ARCHIVE})
async def ask_archive(page: ThePage, services: TheServices, tenant_id: PathId) -> Response[Any]:
    return page.render("administration/archive.html", project=await read_project(services, tenant_id))


@post("/admin/projects/{tenant_id:str}/archive", opt={"permission": Permission.PROJECTS_ARCHIVE, **FORM})
async def archive(page: ThePage, services: TheServices, principal: ThePrincipal, tenant_id: PathId) -> Response[Any]:
    project = await close_project(services, principal, await read_project(services, tenant_id))
    return page.redirect(_path(tenant_id), flash="administration.archived", name=project.name)


async def _one(
    page: Page, services: Services, project: Project, *, terms: Fields | None = None, credit: Fields | None = None
) -> Response[Any]:
    shown = {"tier": project.tier_id or "", "retention_days": str(project.retention_days or "")}
    terms = terms or Fields(page.t, {**shown, "etag": etag(project_view(project))})
    credit = credit or Fields(page.t, {"kind": CreditKind.TOP_UP, "once": services.ids.uuid7()})
    return page.render(
        "administration/project.html",
        status=200 if terms.good and credit.good else 422,
        project=project,
        tiers=await _tiers(services),
        is_refused=await _is_refused(services, project),
        balance=await services.credit.balance(project.id),
        entries=await services.credit.page(project.id, before=None, limit=_ENTRIES),
        terms=terms,
        credit=credit,
        kinds=_KINDS,
    )


async def _form(page: Page, services: Services, fields: Fields) -> Response[Any]:
    status = 200 if fields.good else 422
    return page.render("administration/new_project.html", status=status, fields=fields, tiers=await _tiers(services))


async def _is_refused(services: Services, project: Project) -> bool:
    """Whether it pays in advance, and has nothing left to pay with."""
    tiers = (await services.fleet.state()).fleet.tiers
    prepaid = any(tier.id == project.tier_id and tier.prepaid_credit is not None for tier in tiers)
    return prepaid and (await services.credit.balance(project.id)).left_nano <= 0


async def _tiers(services: Services) -> list[str]:
    return [tier.id for tier in (await services.fleet.state()).fleet.tiers]


def _path(project_id: str) -> str:
    return f"/admin/projects/{project_id}"


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(list_projects, new_project, add_project, show_project),
    *(set_terms, add_credit, ask_archive, archive),
)
