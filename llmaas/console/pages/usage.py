"""`/projects/{id}/usage`: sums of what was used by what one likes, and single requests. Never prompts nor answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.shapes import PathId
from llmaas.admin_api.usage import unknown_in
from llmaas.console.charts import Chart, Series, merged, stacked_bars
from llmaas.console.pages.frame import Page, ThePage
from llmaas.console.pages.key_views import is_playground
from llmaas.console.pages.overview import shown_energy
from llmaas.console.pages.row_search import find_rows, first_day_of
from llmaas.console.pages.usage_filters import Asked, read_asked
from llmaas.console.reports import MOST_LINES, By, Measure, Report, make_report
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import Span, day_of
from llmaas.domain.keys import masked
from llmaas.domain.permissions import Permission
from llmaas.domain.usage import Cursor, Grouping, Outcome, UsageFilter, UsageRow, is_unpriced
from llmaas.errors import NotFound

_MOST_KEYS = 200
_ROWS = 50
_LEAST_RATE_MS = 500
"""Within less a rate says nothing: pieces come in bursts."""
_MOST_ROWS = 25_000


@dataclass(frozen=True, slots=True)
class UsageView:
    """`options`: of each filter, value and what it is called."""

    asked: Asked
    report: Report
    chart: Chart
    options: Mapping[str, list[tuple[str, str]]]


@get("/projects/{project_id:str}/usage", opt={"permission": Permission.USAGE_READ})
async def show_usage(
    page: ThePage, services: TheServices, project_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    today = day_of(services.clock.now_ms())
    asked = await _bounded(services, project_id, read_asked(request.query_params, today), summed=True)
    names = await _Names.read(page, services, project_id)
    plain = await make_report(services.usage, asked.where(project_id), asked.span, asked.by, asked.measure)
    report = plain.named(names.of(asked.by, [line.name for line in plain.lines]))
    show = page.money if asked.measure is Measure.COST else page.number
    title = page.t(
        "usage.chart_monthly" if report.is_monthly else "usage.chart", measure=page.t(f"usage.measure_{asked.measure}")
    )
    series = merged(report.series(), page.t("usage.others"))
    if report.others:
        # After the largest, however much the others come to.
        series.append(Series(page.t("usage.others"), [report.others.get(column, 0) for column in report.columns]))
    view = UsageView(
        asked=asked,
        report=report,
        chart=stacked_bars(title, report.columns, series, show),
        options=names.options(services),
    )
    return page.render("usage/sums.html", view=view, bys=list(By), measures=list(Measure), most=MOST_LINES)


@get("/projects/{project_id:str}/usage/requests", opt={"permission": Permission.USAGE_READ})
async def list_requests(
    page: ThePage, services: TheServices, project_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    today = day_of(services.clock.now_ms())
    asked = await _bounded(services, project_id, read_asked(request.query_params, today))
    answer_id = request.query_params.get("id", "").strip()[:300]
    if answer_id and await _row(services, project_id, answer_id) is not None:
        return page.redirect(f"/projects/{project_id}/usage/requests/{answer_id}")
    try:
        place = Cursor.parse(request.query_params.get("after", ""))
    except ValueError:
        place = None
    found = await find_rows(services.usage, asked.where(project_id), limit=_ROWS + 1, after=place)
    names = await _Names.read(page, services, project_id)
    return page.render(
        "usage/requests.html",
        asked=asked,
        answer_id=answer_id,
        rows=found[:_ROWS],
        key_names=names.keys,
        is_first=place is None,
        following=str(Cursor.after(found[_ROWS - 1])) if len(found) > _ROWS else None,
        options=names.options(services),
        is_unpriced=is_unpriced,
    )


@get("/projects/{project_id:str}/usage/requests/{answer_id:str}", opt={"permission": Permission.USAGE_READ})
async def show_request(page: ThePage, services: TheServices, project_id: PathId, answer_id: PathId) -> Response[Any]:
    row = await _row(services, project_id, answer_id)
    if row is None:
        raise NotFound(page.t("usage.not_found"))
    names = await _Names.read(page, services, project_id)
    made, took_ms = row.output_tokens + row.reasoning_tokens, row.duration_ms - (row.ttft_ms or 0)
    rate = made * 1000 // took_ms if made > 1 and took_ms >= _LEAST_RATE_MS else None
    energy = shown_energy(page, row.energy_uwh)
    return page.render(
        "usage/request.html", row=row, key_names=names.keys, rate=rate, energy=energy, is_unpriced=is_unpriced
    )


async def _bounded(services: Services, project_id: str, asked: Asked, *, summed: bool = False) -> Asked:
    """End users that no sums hold are read from rows: of a span with too many its last days are left, at least one. Names that
    nothing has are noted.
    """
    unknown = await unknown_in(services, asked.where(project_id))
    if unknown is not None:
        return asked.with_unknown(unknown.noun)
    if asked.by is not By.END_USER and not asked.end_user:
        return asked
    # Sums by end user hold nothing by hour: who asks for that, as for single requests, has rows read.
    by = Grouping.END_USER if summed and asked.by is By.END_USER else Grouping.HOUR
    first = await first_day_of(services.usage, asked.where(project_id), [by], most=_MOST_ROWS)
    if first is None:
        return asked
    return dataclasses.replace(asked, span=Span(first, asked.span.last), fault="many_rows")


async def _row(services: Services, project_id: str, answer_id: str) -> UsageRow | None:
    found = await services.usage.page(UsageFilter(project_id=project_id, id=answer_id), limit=1)
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class _Names:
    """What ids of a project are called."""

    page: Page
    keys: Mapping[str, str]
    members: Mapping[str, str]

    @staticmethod
    async def read(page: Page, services: Services, project_id: str) -> _Names:
        found = await services.keys.page(project_id, after=None, limit=_MOST_KEYS)
        newest = sorted(found, key=lambda key: -key.created_ms)
        count = Counter(key.name for key in newest)
        playground = page.t("keys.playground")
        called = {
            key.id: playground
            if is_playground(key)
            else key.name
            if count[key.name] == 1
            else f"{key.name} ({masked(key.id)})"
            for key in newest
        }
        return _Names(page, called, await services.users.names_in(project_id))

    def of(self, by: By, ids: list[str | None]) -> Mapping[str | None, str]:
        names: dict[str | None, str] = {}
        for name in ids:
            if by is By.KEY and name is not None:
                names[name] = self.keys.get(name, masked(name))
            elif by is By.MEMBER:
                names[name] = self.members.get(name, name) if name is not None else self.page.t("usage.none_member")
            elif by is By.END_USER and name is None:
                names[name] = self.page.t("usage.none_end_user")
            elif by is By.OUTCOME:
                names[name] = self.page.t(f"outcome.{name}")
            elif by is By.TOKEN_CLASS:
                names[name] = self.page.t(f"token.{name}")
        return names

    def options(self, services: Services) -> Mapping[str, list[tuple[str, str]]]:
        models = sorted(entry.model.id for entry in services.live.catalogue.entries.values())
        playground = self.page.t("keys.playground")
        return {
            "model": [(model_id, model_id) for model_id in models],
            "key": [(kid, name) for kid, name in self.keys.items() if name != playground],
            "member": sorted(self.members.items(), key=lambda member: member[1]),
            "outcome": [(outcome.value, self.page.t(f"outcome.{outcome}")) for outcome in Outcome],
        }


ROUTES: tuple[HTTPRouteHandler, ...] = (show_usage, list_requests, show_request)
