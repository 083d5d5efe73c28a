"""The front door: finds the route, asks for the credential before anything of the body is read, runs the handler.

The server's edge: whatever goes wrong below ends here as an answer in the surface's own form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from llmaas.clock import Clock
from llmaas.domain.access import Caller
from llmaas.errors import ClientGone, LlmaasError, UnknownPath, forget_frames
from llmaas.ids import IdSource
from llmaas.net.asgi import ASGIApp, AsgiChannel, Receive, Scope, Send, run_asgi
from llmaas.net.channel import Channel
from llmaas.web.auth import Authenticator
from llmaas.web.cors import Cors
from llmaas.web.requests import Request, open_request
from llmaas.web.responses import respond
from llmaas.web.routes import Route, RouteTable

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.web")

_PREFLIGHT = Route("GET", "*", "public", lambda request, _caller: respond(request, 204, [], b""))
RenderError = Callable[[LlmaasError], tuple[int, list[tuple[bytes, bytes]], bytes]]


class Gateway:
    """`admin` answers all that is not for programs: pages, and what is below `/api/`, with credentials of its own."""

    def __init__(
        self,
        *,
        routes: RouteTable,
        admin: ASGIApp | None,
        authenticator: Authenticator,
        cors: Cors,
        render_error: RenderError,
        ids: IdSource,
        clock: Clock,
        access_log: bool,
    ) -> None:
        self.routes = routes
        self._admin = admin
        self._authenticator = authenticator
        self._cors = cors
        self._render_error = render_error
        self._ids = ids
        self._clock = clock
        self._access_log = access_log
        self._console = Route("GET", "/", "public", self._answer_by_console)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry, for servers other than ours."""
        if scope["type"] != "http":
            return
        channel = AsgiChannel(scope, receive, send)
        try:
            await self.answer(channel)
        finally:
            channel.close()

    async def answer(self, channel: Channel) -> None:
        """Answer one request."""
        clock = self._clock
        request = open_request(channel, self._ids.uuid7(), clock.now_ms(), clock.monotonic_s())
        if b"origin" in request.headers:
            request.more_headers = self._cors.headers(request)
        try:
            request.check()
            route = self.routes.at(request.method, request.path)
            if route is None:
                route = self._route_elsewhere(request)
            request.id_prefix = route.id_prefix
            caller: Caller | None = None
            if route.access != "public":
                token = request.bearer()
                caller = self._authenticator.known_caller(token, channel.address)
                if caller is None:
                    caller = await self._authenticator.caller(token, channel.address)
                caller.require(route.access)
            await route.handler(request, caller)
        except LlmaasError as error:
            await self._fail(request, error)
            forget_frames(error)
        except Exception as error:  # noqa: BLE001 - the server's edge: a defect must still end as an answer
            _log.exception("request_failed", path=request.path, request_id=request.request_id)
            await self._fail(request, LlmaasError("Something went wrong on our side."))
            forget_frames(error)
        if self._access_log:
            took_ms = round((clock.monotonic_s() - request.started_s) * 1000)
            _log.info(
                "request",
                method=request.method,
                path=request.path,
                status=request.status,
                ms=took_ms,
                request_id=request.request_id,
            )

    def knows(self, channel: Channel) -> bool:
        """Whether a request carries a key that is in use here."""
        request = open_request(channel, "", 0, 0.0)
        try:
            return self._authenticator.known_caller(request.bearer(), channel.address) is not None
        except LlmaasError:
            return False

    def _route_elsewhere(self, request: Request) -> Route:
        """For what is not exactly in the table."""
        if self._admin is not None and self._is_for_console(request.path):
            if "//" in request.path:
                # Its router would take several slashes for one, and find another address than the rules were chosen by.
                raise UnknownPath("There is nothing at this address.")
            return self._console
        if request.method == "OPTIONS":
            request.more_headers = self._cors.preflight(request)
            return _PREFLIGHT
        return self.routes.find(request)

    def _answer_by_console(self, request: Request, _caller: Caller | None) -> Awaitable[None]:
        assert self._admin is not None  # noqa: S101 - or nothing leads here
        return run_asgi(self._admin, request.channel, request.head(0, ()))

    def _is_for_console(self, path: str) -> bool:
        """Everything but the API for programs and what is in the table."""
        return path != "/v1" and not path.startswith("/v1/") and not self.routes.knows(path)

    async def _fail(self, request: Request, error: LlmaasError) -> None:
        if request.status or isinstance(error, ClientGone):
            return  # too late for a status, or nobody there to read one
        status, headers, body = self._render_error(error)
        await respond(request, status, headers, body)
