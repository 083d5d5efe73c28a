"""`/projects/{id}/models`: the catalogue as cards, and a model's own page with programs and how fast it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.shapes import PathId
from llmaas.console.charts import Chart, Series, lines
from llmaas.console.pages.frame import Page, ThePage
from llmaas.console.pages.model_views import capabilities_of, card_of, programs, read_wanted
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import day_of, last_days
from llmaas.control.status.speeds import Speed, daily_speeds, model_speeds
from llmaas.domain.models import ModelKind, Phase
from llmaas.domain.permissions import Permission
from llmaas.domain.projects import Project, unknown_project
from llmaas.errors import NotFound

_DAYS = 30
_RECENT_DAYS = 7
_UNKNOWN = Speed(0, None, None)


@get("/projects/{project_id:str}/models", opt={"permission": Permission.PROJECTS_READ})
async def list_models(
    page: ThePage, services: TheServices, project_id: PathId, request: Request[Any, Any, Any]
) -> Response[Any]:
    project = await _project(services, project_id)
    entries = services.live.catalogue.listed()
    since_ms = last_days(day_of(services.clock.now_ms()), _RECENT_DAYS).from_ms
    speeds = await model_speeds(services.usage, since_ms)
    cards = [card_of(services.live, entry, project.tier_id, speeds) for entry in entries]
    wanted = read_wanted(request.query_params)
    return page.render(
        "models/list.html",
        cards=[card for card in cards if wanted.takes(card)],
        has_any=bool(cards),
        wanted=wanted,
        kinds=list(ModelKind),
        capabilities=capabilities_of(entries),
    )


@get("/projects/{project_id:str}/models/{model_id:path}", opt={"permission": Permission.PROJECTS_READ})
async def show_model(page: ThePage, services: TheServices, project_id: PathId, model_id: PathId) -> Response[Any]:
    """Ids hold slashes and colons; a retired model is still shown."""
    project = await _project(services, project_id)
    entry = services.live.catalogue.entries.get(model_id.removeprefix("/"))
    if entry is None:
        raise NotFound(f"There is no model `{model_id[1:200]}`.", param="model_id")
    span = last_days(day_of(services.clock.now_ms()), _DAYS)
    daily = await daily_speeds(services.usage, entry.model.id, span.from_ms)
    recent = await model_speeds(services.usage, last_days(span.last, _RECENT_DAYS).from_ms)
    retired = entry.model.lifecycle.phase == Phase.RETIRED
    return page.render(
        "models/one.html",
        card=card_of(services.live, entry, project.tier_id, recent),
        programs=[] if retired else programs(entry.model, page.api_base_url),
        latency=_chart(page, "latency", span.days, daily),
        throughput=_chart(page, "throughput", span.days, daily),
        daily=[(day, daily[day]) for day in reversed(span.days) if day in daily],
    )


async def _project(services: Services, project_id: str) -> Project:
    project = await services.projects.get(project_id)
    if project is None:
        raise unknown_project(project_id)
    return project


def _chart(page: Page, name: str, days: Sequence[str], daily: Mapping[str | None, Speed]) -> Chart:
    measured = [daily.get(day, _UNKNOWN) for day in days]
    if name == "latency":
        values, unit = [speed.ttft_ms for speed in measured], "models.ms"
    else:
        values, unit = [speed.tokens_per_s for speed in measured], "models.tokens_per_s"
    title = page.t(f"models.{name}")
    return lines(title, days, [Series(title, values)], lambda value: page.t(unit, count=page.number(value)))


ROUTES: tuple[HTTPRouteHandler, ...] = (list_models, show_model)
