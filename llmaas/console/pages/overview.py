"""`/projects/{id}/overview`: what a project uses today and this month, and whether its models work. A part of it is fetched anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import PathId
from llmaas.console.charts import Chart, Series, stacked_bars
from llmaas.console.pages.frame import Page, ThePage
from llmaas.console.pages.key_views import may_make
from llmaas.console.pages.row_search import latest_failures
from llmaas.console.reports import Line
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import day_of, last_days, month_of
from llmaas.control.status.models import State
from llmaas.domain.catalogue import Entry
from llmaas.domain.credit import Balance
from llmaas.domain.permissions import Permission
from llmaas.domain.projects import Project, unknown_project
from llmaas.domain.usage import Grouping, UsageFilter, UsageRow, UsageSum

_DAYS = 30
_FAILURES = 5
_MODELS = 8
CLASSES = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class ModelLine:
    entry: Entry
    state: State
    in_flight: int
    percent: int | None


@dataclass(frozen=True, slots=True)
class OverviewView:
    """`balance` None: the project pays afterwards and has no credit. `is_new`: nothing was asked in 30 days.

    `models`: what it uses most comes first.
    """

    project: Project
    today: Line
    month: Line
    balance: Balance | None
    energy: str
    chart: Chart
    models: list[ModelLine]
    failures: list[UsageRow]
    is_new: bool


@get("/projects/{project_id:str}/overview", opt={"permission": Permission.USAGE_READ})
async def show_overview(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """With the header `x-fragment` only the part that changes by itself."""
    project = await services.projects.get(project_id)
    if project is None:
        raise unknown_project(project_id)
    view = await _view(page, services, project)
    template = "overview/figures.html" if "x-fragment" in request.headers else "overview/page.html"
    return page.render(template, view=view, may_make=may_make(principal))


async def _view(page: Page, services: Services, project: Project) -> OverviewView:
    now_ms = services.clock.now_ms()
    today = day_of(now_ms)
    month, lately = month_of(today), last_days(today, _DAYS)
    where = UsageFilter(project_id=project.id, from_ms=min(month.from_ms, lately.from_ms))
    days: dict[str, Line] = {}
    for part in await services.usage.sums(where, [Grouping.DAY]):
        _add(days, part, services.currency)
    balance = await services.credit.balance(project.id)
    tier = services.live.catalogue.tier_of(project.tier_id)
    is_prepaid = balance.credited_nano != 0 or (tier is not None and tier.prepaid_credit is not None)
    first = str(month.first)
    this_month = _sum([line for day, line in days.items() if day >= first], services.currency)
    live = services.live
    used = await services.usage.sums(UsageFilter(project_id=project.id, from_ms=lately.from_ms), [Grouping.MODEL])
    requests: Counter[str | None] = Counter()
    for part in used:
        requests[part.group[0]] += part.requests
    entries = sorted(live.working_first(live.catalogue.listed()), key=lambda entry: -requests[entry.model.id])
    return OverviewView(
        project=project,
        today=days.get(str(today), Line(None, services.currency)),
        month=this_month,
        balance=balance if is_prepaid else None,
        energy=shown_energy(page, this_month.energy_uwh),
        chart=_chart(page, lately.days, days),
        models=[ModelLine(e, live.state(e), live.in_flight(e), live.percent(e)) for e in entries[:_MODELS]],
        failures=await latest_failures(services.usage, project.id, now_ms, _FAILURES),
        is_new=not days,
    )


def shown_energy(page: Page, uwh: int) -> str:
    """Micro-watt-hours in watt-hours or kilowatt-hours, to two places."""
    unit, size = ("kWh", 10**9) if uwh >= 10**9 else ("Wh", 10**6)
    return f"{page.number(uwh / size, 2)} {unit}"


def _add(days: dict[str, Line], part: UsageSum, currency: str) -> None:
    """Tokens of every currency; money only of the present one."""
    line = days.setdefault(part.group[0] or "", Line(None, currency))
    cost_nano = line.cost_nano
    line.add(part)
    if part.currency != currency:
        line.cost_nano = cost_nano


def _sum(lines: Sequence[Line], currency: str) -> Line:
    total = Line(None, currency)
    for line in lines:
        total.add(line)
    return total


def _chart(page: Page, days: Sequence[str], by_day: dict[str, Line]) -> Chart:
    nothing = Line(None, "")
    series = [
        Series(
            page.t(f"token.{name.removesuffix('_tokens')}"), [getattr(by_day.get(day, nothing), name) for day in days]
        )
        for name in CLASSES
    ]
    return stacked_bars(page.t("overview.by_class"), days, series, page.number)


ROUTES: tuple[HTTPRouteHandler, ...] = (show_overview,)
