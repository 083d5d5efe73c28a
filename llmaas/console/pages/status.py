"""`/status`: for everybody, whether the service and its models work. The figures come from real traffic."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import PUBLIC
from llmaas.console.pages.frame import ThePage
from llmaas.control.context import TheServices


@get("/status", opt={"permission": PUBLIC})
async def show_status(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    """With the header `x-fragment` only the part that changes by itself."""
    template = "status/figures.html" if "x-fragment" in request.headers else "status/page.html"
    return page.render(template, status_now=await services.platform.status())


ROUTES: tuple[HTTPRouteHandler, ...] = (show_status,)
