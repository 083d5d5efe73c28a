"""The installation itself: its health, its settings, what runs where at this moment; and what everybody may know of it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas import __version__
from llmaas.admin_api.access import PUBLIC
from llmaas.clock import iso
from llmaas.control.context import TheServices
from llmaas.control.status.models import State
from llmaas.control.status.process import Answered
from llmaas.control.status.public import ModelStatus, PlatformState
from llmaas.domain.permissions import Permission
from llmaas.errors import UnknownModel


class ModelStatusView(msgspec.Struct, frozen=True):
    """`last_ttft_ms` and `tokens_per_s` are measured from real traffic of a day; null when there was none."""

    id: str
    ok: bool
    state: State
    last_ttft_ms: int | None
    tokens_per_s: int | None


class PlatformStatusView(msgspec.Struct, frozen=True):
    """`operational`: how many of `total` models answer."""

    state: PlatformState
    operational: int
    total: int
    models: list[ModelStatusView]
    at: str


class HealthView(msgspec.Struct, frozen=True):
    """Of the process that answers. `database_ms`, `counters_ms`: how long an answer took, null when there was none.

    `counters`: where limits are counted, null when that is in memory. `spooled`: usage rows that wait for the database.
    """

    ok: bool
    version: str
    worker: str
    database: str
    database_ms: float | None
    counters: str | None
    counters_ms: float | None
    accepting: bool
    draining: bool
    in_flight: int
    spooled: int
    disk_free_bytes: int
    disk_bytes: int


class SettingView(msgspec.Struct, frozen=True):
    """`origin`: `flag`, `environment`, `default` or the path of a file. Secrets are masked."""

    name: str
    value: Any
    origin: str
    variable: str
    help: str


class LiveView(msgspec.Struct, frozen=True):
    """A deployment as the process that answers sees it. `aside`: it failed lately and is left out for a while."""

    model: str
    backend: str
    aside: bool
    in_flight: int


class LiveList(msgspec.Struct, frozen=True):
    """`revision`: of the catalogue that this process works by."""

    worker: str
    revision: int
    data: list[LiveView]


@get("/api/platform-status", opt={"permission": PUBLIC})
async def platform_status(
    services: TheServices,
    model: Annotated[str | None, QueryParameter(max_length=300, description="Only this model, by id or alias.")] = None,
) -> PlatformStatusView:
    """Whether the service and its models work, and how fast they were lately."""
    status = await services.platform.status()
    shown = status.models
    if model is not None:
        entry = services.live.catalogue.resolve(model)
        if entry is None:
            raise UnknownModel(model)
        shown = tuple(one for one in shown if one.id == entry.model.id)
    return PlatformStatusView(
        status.state, status.operational, len(status.models), list(map(_status, shown)), iso(status.at_ms)
    )


@get("/api/v1/health", opt={"permission": Permission.FLEET_READ})
async def show_health(services: TheServices) -> HealthView:
    """Database, counters, ledger, spool and disk, as the process that answers finds them now."""
    system = services.system
    health = await system.look()
    return HealthView(
        ok=health.ok,
        version=__version__,
        worker=system.worker_id,
        database=system.database_place,
        database_ms=_took(health.database),
        counters=system.counters_place or None,
        counters_ms=None if health.counters is None else _took(health.counters),
        accepting=health.accepting,
        draining=health.draining,
        in_flight=health.in_flight,
        spooled=health.spooled,
        disk_free_bytes=health.disk_free,
        disk_bytes=health.disk_size,
    )


@get("/api/v1/settings", opt={"permission": Permission.FLEET_READ}, sync_to_thread=False)
def list_settings(services: TheServices) -> list[SettingView]:
    """All settings of the process that answers, and where each comes from. They are changed outside, and need a restart."""
    return [SettingView(one.name, one.value, one.origin, one.variable, one.help) for one in services.settings]


@get("/api/v1/live", opt={"permission": Permission.FLEET_READ}, sync_to_thread=False)
def show_live(services: TheServices) -> LiveList:
    """Deployments in service as the process that answers sees them: in flight, and set aside after failures."""
    live = services.live
    targets = [target for entry in live.catalogue.entries.values() for target in entry.targets]
    return LiveList(
        services.system.worker_id,
        live.catalogue.revision,
        [
            LiveView(
                target.deployment.model_id,
                target.backend.id,
                live.health.is_aside(target),
                live.load.of_deployment(target),
            )
            for target in targets
        ],
    )


def _status(model: ModelStatus) -> ModelStatusView:
    return ModelStatusView(model.id, model.ok, model.state, model.last_ttft_ms, model.tokens_per_s)


def _took(answered: Answered) -> float | None:
    return None if answered.took_ms is None else round(answered.took_ms, 1)


ROUTES: tuple[HTTPRouteHandler, ...] = (platform_status, show_health, list_settings, show_live)
