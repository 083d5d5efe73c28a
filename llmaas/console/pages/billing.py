"""`/projects/{id}/billing`: the tier with its limits, credit and its entries, what the month will cost, alerts."""

from __future__ import annotations

import dataclasses
from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import After, PathId
from llmaas.console.charts import Chart, Series, stacked_bars
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.form_values import amount_field, amounts
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.terms import bars_of, pace_of
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import day_of, month_of, months_before
from llmaas.domain.permissions import RULES, Permission
from llmaas.domain.prices import parse_amount
from llmaas.domain.projects import Project, unknown_project
from llmaas.domain.usage import Grouping, UsageFilter

_ENTRIES = 20
_ALERTS = 10
_MONTHS = 6


@get("/projects/{project_id:str}/billing", opt={"permission": Permission.CREDIT_READ})
async def show_billing(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, after: After = None
) -> Response[Any]:
    return await _render(page, services, principal, await _project(services, project_id), after=after)


@post("/projects/{project_id:str}/billing", opt={"permission": Permission.PROJECTS_CHANGE, **FORM})
async def set_threshold(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """The balance to warn at."""
    project = await _project(services, project_id)
    fields = await read_fields(request, page.t)
    typed = amounts(fields, ["low_credit"]).get("low_credit")
    if not fields.good:
        return await _render(page, services, principal, project, fields=fields)
    threshold = None if typed is None else parse_amount(typed)
    changed = dataclasses.replace(project, low_credit_nano=threshold)
    await services.projects.change(project, changed, by=principal.actor)
    return page.redirect(f"/projects/{project_id}/billing", flash="billing.warn_saved")


async def _render(
    page: Page,
    services: Services,
    principal: Principal,
    project: Project,
    *,
    after: str | None = None,
    fields: Fields | None = None,
) -> Response[Any]:
    tier = services.live.catalogue.tier_of(project.tier_id)
    entries = await services.credit.page(project.id, before=after, limit=_ENTRIES + 1)
    balance = await services.credit.balance(project.id)
    fields = fields or Fields(page.t, {"low_credit": amount_field(project.low_credit_nano, page.t)})
    rule = RULES[Permission.PROJECTS_CHANGE]
    return page.render(
        "billing/page.html",
        status=200 if fields.good else 422,
        project=project,
        tier=tier,
        is_prepaid=balance.credited_nano != 0 or (tier is not None and tier.prepaid_credit is not None),
        balance=balance,
        bars=await bars_of(services, project.id, tier),
        pace=await pace_of(services, project.id),
        months=await _months(page, services, project.id),
        entries=entries[:_ENTRIES],
        is_first=after is None,
        following=entries[_ENTRIES - 1].id if len(entries) > _ENTRIES else None,
        alerts=await services.alerts.latest(project.id, limit=_ALERTS),
        fields=fields,
        may_change=rule.allows(admin=principal.user.is_admin, role=principal.role),
    )


async def _months(page: Page, services: Services, project_id: str) -> Chart:
    months = list(reversed(months_before(day_of(services.clock.now_ms()), _MONTHS)))
    first = month_of(day_of(services.clock.now_ms()).fromisoformat(f"{months[0]}-01"))
    where = UsageFilter(project_id=project_id, from_ms=first.from_ms)
    costs = {
        part.group[0]: part.cost_nano
        for part in await services.usage.sums(where, [Grouping.MONTH])
        if part.currency == services.currency
    }
    title = page.t("billing.months")
    return stacked_bars(title, months, [Series(title, [costs.get(month, 0) for month in months])], page.money)


async def _project(services: Services, project_id: str) -> Project:
    project = await services.projects.get(project_id)
    if project is None:
        raise unknown_project(project_id)
    return project


ROUTES: tuple[HTTPRouteHandler, ...] = (show_billing, set_threshold)
