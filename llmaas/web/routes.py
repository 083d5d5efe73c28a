"""The route table: path, method, credential and handler, each declared; what is not declared does not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from llmaas.domain.access import Caller
from llmaas.domain.keys import Permission
from llmaas.errors import MethodNotAllowed, UnknownPath
from llmaas.web.requests import Request

Handler = Callable[[Request, Caller | None], Awaitable[None]]
Public = Literal["public"]
_API = "/v1"


@dataclass(frozen=True, slots=True)
class Route:
    """`access`: the permission that a key needs, or "public". A path that ends in `{rest}` takes any rest, slashes too.

    `id_prefix`: what answers of this route have before their id. `operation`: its OpenAPI description.
    """

    method: Literal["GET", "POST"]
    path: str
    access: Permission | Public
    handler: Handler
    id_prefix: str = "req-"
    operation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.access != "public" and self.access not in frozenset(Permission):
            raise ValueError(
                f"{self.method} {self.path} has to declare which permission it needs, or that it is public"
            )


class RouteTable:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, Route]] = {}
        self._open: list[tuple[str, Route]] = []
        for route in self.routes:
            if route.path.endswith("{rest}"):
                self._open.append((route.path.removesuffix("{rest}"), route))
            else:
                self._exact.setdefault(route.path, {})[route.method] = route
        self._listed = ", ".join(
            f"{route.method} {route.path.replace('{rest}', '{id}')}" for route in self.routes if _API in route.path
        )

    def at(self, method: str, path: str) -> Route | None:
        """The route of exactly this method and path."""
        methods = self._exact.get(path)
        return None if methods is None else methods.get(method)

    def find(self, request: Request) -> Route:
        """Raises UnknownPath, MethodNotAllowed. A HEAD is found where a GET is."""
        method = "GET" if request.method == "HEAD" else request.method
        methods = self._exact.get(request.path)
        if methods is None:
            for prefix, route in self._open:
                if request.path.startswith(prefix) and len(request.path) > len(prefix):
                    request.path_rest = request.path[len(prefix) :]
                    methods = {route.method: route}
                    break
            else:
                raise UnknownPath(
                    f"There is nothing at `{request.path[:200]}`.{self._likely(request.path)} The routes are: {self._listed}."
                )
        found = methods.get(method)
        if found is None:
            raise MethodNotAllowed(f"This address does not take {request.method[:20]}.", self.allow(methods))
        return found

    def _likely(self, path: str) -> str:
        """A base URL that has `/v1` twice, an endpoint or a slash at its end gives an address that ends as a route does."""
        asked = path.rstrip("/")
        alike = [known for known in self._exact if known.startswith(_API) and asked.endswith(known.removeprefix(_API))]
        if not alike:
            return ""
        return (
            f" Did you mean `{max(alike, key=len)}`? A base URL ends in `{_API}`, once; clients put the rest behind it."
        )

    def knows(self, path: str) -> bool:
        """Whether a route stands at exactly this path."""
        return path in self._exact

    def allow(self, methods: Iterable[str]) -> list[str]:
        names = set(methods)
        return sorted(names | {"OPTIONS"} | ({"HEAD"} if "GET" in names else set()))
