"""`/admin/health`: database, counters, ledger, spool, disk and processes at this moment, as the process that answers finds them."""

from __future__ import annotations

import contextlib
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas import __version__
from llmaas.console.pages.frame import ThePage
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.workers import Worker
from llmaas.errors import Unavailable


@get("/admin/health", opt={"permission": Permission.FLEET_READ})
async def show_health(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    """With the header `x-fragment` only the part that changes by itself."""
    workers: list[Worker] = []
    with contextlib.suppress(Unavailable):  # the page says so of the database
        workers = [worker for worker in await services.workers() if worker.seen_ms]
    return page.render(
        "system/figures.html" if "x-fragment" in request.headers else "system/health.html",
        system=services.system,
        health=await services.system.look(),
        workers=workers,
        skipped=services.live.catalogue.skipped,
        version=__version__,
        now_ms=services.clock.now_ms(),
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (show_health,)
