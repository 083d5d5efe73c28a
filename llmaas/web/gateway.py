"""The ASGI application: finds the route, asks for the credential before anything of the body is read, runs the handler.

The server's edge: whatever goes wrong below ends here as an answer in the surface's own form.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from llmaas.clock import Clock
from llmaas.domain.access import Caller
from llmaas.errors import ClientGone, LlmaasError
from llmaas.ids import IdSource
from llmaas.web.auth import Authenticator
from llmaas.web.cors import Cors
from llmaas.web.requests import Message, Receive, Request, Scope, Send
from llmaas.web.responses import Headers, respond
from llmaas.web.routes import RouteTable

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.web")

RenderError = Callable[[LlmaasError], tuple[int, list[tuple[bytes, bytes]], bytes]]



class Gateway:
    def __init__(
        self,
        *,
        routes: RouteTable,
        authenticator: Authenticator,
        cors: Cors,
        render_error: RenderError,
        ids: IdSource,
        clock: Clock,
        access_log: bool,
    ) -> None:
        self.routes = routes
        self._authenticator = authenticator
        self._cors = cors
        self._render_error = render_error
        self._ids = ids
        self._clock = clock
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        clock = self._clock
        request = Request(
            scope, receive, send, uuid=self._ids.uuid7(), started_ms=clock.now_ms(), started_s=clock.monotonic_s()
        )
        answer = _Answer(request, self._cors, send)
        request.send = answer.send
        try:
            await self._handle(request, answer)
        except LlmaasError as error:
            await self._fail(request, answer, error)
        except Exception:  # noqa: BLE001 - the server's edge: a defect must still end as an answer
            _log.exception("request_failed", path=request.path, request_id=request.request_id)
            await self._fail(request, answer, LlmaasError("Something went wrong on our side."))
        if self._access_log:
            took_ms = round((clock.monotonic_s() - request.started_s) * 1000)
            _log.info("request", method=request.method, path=request.path, status=answer.status, ms=took_ms, request_id=request.request_id)

    async def _handle(self, request: Request, answer: _Answer) -> None:
        request.check()
        if request.method == "OPTIONS":
            answer.extra = self._cors.preflight(request)
            await respond(request, 204, [], b"")
            return
        route = self.routes.find(request)
        answer.id_prefix = route.id_prefix
        caller: Caller | None = None
        if route.access != "public":
            caller = await self._authenticator.caller(request.bearer, request.address)
            caller.require(route.access)
        await route.handler(request, caller)

    async def _fail(self, request: Request, answer: _Answer, error: LlmaasError) -> None:
        if answer.status or isinstance(error, ClientGone):
            return  # too late for a status, or nobody there to read one
        status, headers, body = self._render_error(error)
        await respond(request, status, headers, body)


class _Answer:
    """Puts on each head what every answer carries: `id`, `x-request-id`, the cross-origin headers."""

    __slots__ = ("_cors", "_request", "_send", "extra", "id_prefix", "status")

    def __init__(self, request: Request, cors: Cors, send: Send) -> None:
        self._request = request
        self._cors = cors
        self._send = send
        self.extra: Headers | None = None
        self.id_prefix = "req-"
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status: int = message["status"]
            self.status = status
            headers: list[tuple[bytes, bytes]] = message["headers"]
            headers.append((b"id", (self.id_prefix + self._request.uuid).encode()))
            headers.append((b"x-request-id", self._request.request_id.encode()))
            headers.extend(self._cors.headers(self._request) if self.extra is None else self.extra)
        await self._send(message)
