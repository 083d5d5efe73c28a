"""Every route of the admin API with a request that a holder of its permission may make, and who else may try."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from llmaas.domain.permissions import Permission

PATHS = {
    "{project_id:str}": "lab",
    "{user_id:str}": "user-target",
    "{session_id:str}": "session-target",
    "{token_id:str}": "token-target",
    "{invitation_id:str}": "invitation-target",
    "{key_id:str}": "key-target",
    "{plural:str}": "models",
    "{thing_id:path}": "thing-target",
    "{provider_id:str}": "provider-target",
}


@dataclass(frozen=True, slots=True)
class Declared:
    """One method of one path. `permission`: None when the route forgot it."""

    method: str
    path: str
    permission: Permission | str | None
    handler: HTTPRouteHandler

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def url(self) -> str:
        """The path with ids in it, without `/api/v1`."""
        url = self.path
        while "{" in url:
            start, _, rest = url.partition("{")
            parameter, _, end = rest.partition("}")
            url = start + PATHS.get(f"{{{parameter}}}", "something") + end
        return url.removeprefix("/api/v1")

    @property
    def of_project(self) -> bool:
        return "{project_id:str}" in self.path


def declared(app: Litestar) -> Iterator[Declared]:
    """The routes of the API."""
    return (route for route in _routes(app) if route.path.startswith("/api/"))


def declared_pages(app: Litestar) -> Iterator[Declared]:
    """Those of the console's pages."""
    return (route for route in _routes(app) if not route.path.startswith("/api/"))


def _routes(app: Litestar) -> Iterator[Declared]:
    for route in app.routes:
        handlers: dict[str, tuple[HTTPRouteHandler, Any]] = getattr(route, "route_handler_map", {})
        for method, (handler, _) in handlers.items():
            if method != "OPTIONS":
                yield Declared(method, route.path, handler.opt.get("permission"), handler)
