"""`/projects/{id}/playground`: talking with models from the browser.

The page asks `/v1` as any program would, with a key that it makes for itself over the admin API and keeps with the tab;
so what is metered, limited and charged is what always is.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.console.pages.frame import Page, ThePage
from llmaas.console.pages.key_views import may_make
from llmaas.console.pages.model_views import playable
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission

_FIGURES = ("ttft", "speed", "input", "output", "cost", "backend", "routing")
_SAID = ("loading", "retry", "stopped", "hello", "bad_number", "bad_stop", "bad_schema", "bad_tools")
_FAULTS = ("network", "broken", "signed_out")
_MOST_CHARS = 200
_ROUTINGS = ("failover", "last_resort", "least_busy", "only")


@get("/projects/{project_id:str}/playground", opt={"permission": Permission.PROJECTS_READ})
async def show_playground(
    page: ThePage,
    services: TheServices,
    principal: ThePrincipal,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    models = [entry.model.id for entry in playable(services.live)]
    wanted = request.query_params.get("model", "")[:_MOST_CHARS]
    asked = services.live.catalogue.resolve(wanted)
    chosen = asked.model.id if asked is not None else ""
    return page.render(
        "playground/page.html",
        models=models,
        chosen=chosen if chosen in models else "",
        unknown=wanted if wanted and chosen not in models else "",
        may_ask=may_make(principal),
        words=_words(page),
    )


def _words(page: Page) -> dict[str, Any]:
    """What the page's module says."""
    return {
        **{name: page.t(f"playground.fig_{name}") for name in _FIGURES},
        **{name: page.t(f"playground.{name}") for name in _SAID},
        "sign_in": page.t("frame.sign_in"),
        "routings": {name: page.t(f"reason.routing_{name}") for name in _ROUTINGS},
        "faults": {name: page.t(f"playground.fault_{name}") for name in _FAULTS},
    }


ROUTES: tuple[HTTPRouteHandler, ...] = (show_playground,)
