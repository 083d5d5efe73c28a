"""`/api/v1/projects/{id}/alerts`: what a project's owners should know of; `/alert-channels`: where they are told."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import Form, Page, PathId, moment
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.alerts import Alert, Channel, ChannelKind, Delivery, NotDelivered, channel_fault
from llmaas.domain.permissions import Permission
from llmaas.domain.projects import Project, unknown_project
from llmaas.errors import InvalidRequest, NotFound, RateLimited

_MOST_ALERTS = 50
_BETWEEN_TESTS_MS = 20_000
"""An owner may name any address: nobody is to be flooded from here."""


class NewChannel(Form, frozen=True):
    """`target`: an e-mail address, or the URL of a webhook."""

    kind: ChannelKind
    target: str


class AlertView(msgspec.Struct, frozen=True):
    """`resolved` null: it still holds. Numbers of `detail` whose names end in `_nano` are billionths of the currency."""

    id: str
    kind: str
    created: str
    resolved: str | None
    detail: dict[str, Any]


class ChannelView(msgspec.Struct, frozen=True):
    """`told`: when something was last sent there; `fault`: why that failed, null when it did not."""

    id: str
    kind: ChannelKind
    target: str
    created: str
    told: str | None
    fault: str | None


class NewChannelView(msgspec.Struct, frozen=True):
    """`secret`: what signatures of the webhook are checked with, shown only now; null for e-mail."""

    channel: ChannelView
    secret: str | None


class TestView(msgspec.Struct, frozen=True):
    """`fault`: why it did not arrive; null when it did."""

    delivered: bool
    fault: str | None


@get("/api/v1/projects/{project_id:str}/alerts", opt={"permission": Permission.CREDIT_READ})
async def list_alerts(services: TheServices, project_id: PathId) -> Page[AlertView]:
    """The latest alerts of a project, newest first."""
    await _project(services, project_id)
    found = await services.alerts.latest(project_id, limit=_MOST_ALERTS)
    return Page([AlertView(a.id, a.kind, iso(a.created_ms), moment(a.resolved_ms), dict(a.detail)) for a in found])


@get("/api/v1/projects/{project_id:str}/alert-channels", opt={"permission": Permission.PROJECTS_CHANGE})
async def list_channels(services: TheServices, project_id: PathId) -> Page[ChannelView]:
    """Where alerts of a project are told, oldest first."""
    await _project(services, project_id)
    return Page([_view(channel) for channel in await services.alerts.channels(project_id)])


@post("/api/v1/projects/{project_id:str}/alert-channels", opt={"permission": Permission.PROJECTS_CHANGE})
async def create_channel(
    services: TheServices, principal: ThePrincipal, project_id: PathId, data: JSONBody[NewChannel]
) -> NewChannelView:
    """Tell alerts of a project somewhere from now on."""
    channel, secret = await add_channel(services, principal, project_id, data)
    return NewChannelView(_view(channel), secret)


@delete(
    "/api/v1/projects/{project_id:str}/alert-channels/{channel_id:str}", opt={"permission": Permission.PROJECTS_CHANGE}
)
async def delete_channel(
    services: TheServices, principal: ThePrincipal, project_id: PathId, channel_id: PathId
) -> None:
    """Tell nothing there any more."""
    await services.alerts.remove_channel(project_id, channel_id, by=principal.actor)


@post(
    "/api/v1/projects/{project_id:str}/alert-channels/{channel_id:str}/test",
    status_code=200,
    opt={"permission": Permission.PROJECTS_CHANGE},
)
async def test_channel(services: TheServices, project_id: PathId, channel_id: PathId) -> TestView:
    """Send a test there now."""
    fault = await try_channel(services, project_id, channel_id)
    return TestView(fault is None, fault)


async def add_channel(
    services: Services, principal: Principal, project_id: str, data: NewChannel
) -> tuple[Channel, str | None]:
    """The channel, and for a webhook its secret. Raises InvalidRequest, Conflict, NotFound."""
    await _project(services, project_id)
    target = data.target.strip()
    if fault := channel_fault(data.kind, target):
        raise InvalidRequest(f"`target` {fault}.", param="target")
    channel = Channel(f"channel-{services.ids.uuid7()}", project_id, data.kind, target, services.clock.now_ms())
    await services.alerts.add_channel(channel, by=principal.actor)
    return channel, services.webhook_secret(channel.id) if data.kind is ChannelKind.WEBHOOK else None


async def try_channel(services: Services, project_id: str, channel_id: str) -> str | None:
    """Why a test did not arrive; None when it did. Raises NotFound, and RateLimited right after something was told there."""
    project, now_ms = await _project(services, project_id), services.clock.now_ms()
    channel = next((one for one in await services.alerts.channels(project_id) if one.id == channel_id), None)
    if channel is None:
        raise NotFound("There is no such channel.", param="channel_id")
    # By the project, and before anything is sent: channels can be made anew, and tests be started together.
    services.alert_tests.spend(project_id)
    wait_ms = _BETWEEN_TESTS_MS - (now_ms - channel.told_ms) if channel.told_ms is not None else 0
    if wait_ms > 0:
        raise RateLimited("Something was told there a moment ago. Wait a little.", retry_after_s=wait_ms / 1000)
    alert = Alert("alert-test", project_id, "test", now_ms, {})
    delivery = Delivery(f"notice-{services.ids.uuid7()}", "test", now_ms, channel, alert, project.name)
    fault: str | None = None
    try:
        await services.teller.tell(delivery)
    except NotDelivered as error:
        fault = str(error)
    await services.alerts.settle(delivery, now_ms=now_ms, fault=fault, again_ms=None)
    return fault


async def _project(services: Services, project_id: str) -> Project:
    project = await services.projects.get(project_id)
    if project is None:
        raise unknown_project(project_id)
    return project


def _view(channel: Channel) -> ChannelView:
    return ChannelView(
        channel.id, channel.kind, channel.target, iso(channel.created_ms), moment(channel.told_ms), channel.fault
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (list_alerts, list_channels, create_channel, delete_channel, test_channel)
