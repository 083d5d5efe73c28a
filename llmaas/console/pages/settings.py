"""`/admin/settings`: what is set and where it comes from. Nothing is changed here: settings are the operator's, outside."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.console.pages.frame import ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission

Only = Annotated[str, QueryParameter(max_length=20)]


@get("/admin/settings", opt={"permission": Permission.FLEET_READ}, sync_to_thread=False)
def show_settings(page: ThePage, services: TheServices, only: Only = "") -> Response[Any]:
    """`only`: `set` leaves out defaults."""
    lines = [line for line in services.settings if only != "set" or line.origin != "default"]
    return page.render("system/settings.html", lines=lines, only_set=only == "set")


ROUTES: tuple[HTTPRouteHandler, ...] = (show_settings,)
