"""`/projects/{id}/billing/alerts`: where a project's alerts are told."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.alerts import NewChannel, add_channel, try_channel
from llmaas.admin_api.shapes import PathId
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import Services, TheServices
from llmaas.domain.alerts import CAP_PERCENTS, Channel, ChannelKind
from llmaas.domain.permissions import Permission
from llmaas.errors import NotFound

_PATH = "/projects/{project_id:str}/billing/alerts"
_ONE = _PATH + "/{channel_id:str}"
_MOST_TOLD = 500
_OWNERS = {"permission": Permission.PROJECTS_CHANGE}


@get(_PATH, opt=_OWNERS)
async def list_channels(page: ThePage, services: TheServices, project_id: PathId) -> Response[Any]:
    return await _render(page, services, project_id, Fields(page.t))


@post(_PATH, opt={**_OWNERS, **FORM})
async def create_channel(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    fields = await read_fields(request, page.t)
    fields.need("target")
    if fields.good:
        target = fields.value("target").strip()
        kind = ChannelKind.WEBHOOK if "://" in target else ChannelKind.EMAIL
        with fields.noting("target", otherwise="target"):
            channel, secret = await add_channel(services, principal, project_id, NewChannel(kind, target))
            if secret is None:
                return page.redirect(_path(project_id), flash="alerts.added")
            return page.reveal(f"{_path(project_id)}/{channel.id}/made", secret=secret)
    return await _render(page, services, project_id, fields, status=422)


@get(f"{_ONE}/made", opt=_OWNERS)
async def show_made(page: ThePage, services: TheServices, project_id: PathId, channel_id: PathId) -> Response[Any]:
    """The secret of a webhook, for some minutes and to who made it."""
    channel, shown = await _channel(services, project_id, channel_id), page.revealed()
    if not shown:
        return page.redirect(_path(project_id), flash="frame.shown_once", tone="warn")
    return page.render("billing/channel_made.html", channel=channel, secret=shown["secret"], back=_path(project_id))


@post(f"{_ONE}/test", opt={**_OWNERS, **FORM})
async def test_channel(page: ThePage, services: TheServices, project_id: PathId, channel_id: PathId) -> Response[Any]:
    fields = Fields(page.t)
    with fields.noting():
        fields.faults.update({"": reason} if (reason := await try_channel(services, project_id, channel_id)) else {})
    if fields.good:
        return page.redirect(_path(project_id), flash="alerts.arrived")
    reason = fields.fault()[:_MOST_TOLD]
    return page.redirect(_path(project_id), flash="alerts.not_arrived", tone="bad", reason=reason)


@get(f"{_ONE}/remove", opt=_OWNERS)
async def ask_remove(page: ThePage, services: TheServices, project_id: PathId, channel_id: PathId) -> Response[Any]:
    channel = await _channel(services, project_id, channel_id)
    return page.render("billing/channel_remove.html", channel=channel, back=_path(project_id))


@post(f"{_ONE}/remove", opt={**_OWNERS, **FORM})
async def remove_channel(
    page: ThePage, services: TheServices, principal: ThePrincipal, project_id: PathId, channel_id: PathId
) -> Response[Any]:
    await services.alerts.remove_channel(project_id, channel_id, by=principal.actor)
    return page.redirect(_path(project_id), flash="alerts.removed")


async def _render(
    page: Page, services: Services, project_id: str, fields: Fields, *, status: int = 200
) -> Response[Any]:
    return page.render(
        "billing/channels.html",
        status=status,
        channels=await services.alerts.channels(project_id),
        fields=fields,
        here=_path(project_id),
        percents=" % / ".join(map(str, CAP_PERCENTS)) + " %",
    )


async def _channel(services: Services, project_id: str, channel_id: str) -> Channel:
    for channel in await services.alerts.channels(project_id):
        if channel.id == channel_id:
            return channel
    raise NotFound("There is no such channel.")


def _path(project_id: str) -> str:
    return _PATH.replace("{project_id:str}", project_id)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    list_channels,
    create_channel,
    show_made,
    test_channel,
    ask_remove,
    remove_channel,
)
