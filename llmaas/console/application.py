"""The admin API and the console's pages as one ASGI application, and the form of its failures."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, cast

import msgspec
import structlog
from litestar import Litestar, MediaType, Request, Response, Router, get
from litestar.di import Provide
from litestar.exceptions import HTTPException, InternalServerException

from llmaas.admin_api.access import PUBLIC, Guard, is_page, principal_of
from llmaas.admin_api.document import describe
from llmaas.admin_api.open_id import PATH as OPEN_ID_PATH
from llmaas.admin_api.routes import ROUTES
from llmaas.console.pages.frame import Page, Surroundings, back_to_sign_in, error_page, make_surroundings, open_page
from llmaas.console.pages.routes import PAGES
from llmaas.console.pages.static_files import StaticFiles
from llmaas.console.reference import Reference
from llmaas.control.context import Services
from llmaas.errors import BodyTooLarge, InvalidRequest, LlmaasError, MethodNotAllowed, UnknownPath
from llmaas.net.asgi import ASGIApp, Message, Receive, Scope, Send
from llmaas.web.errors import render

MAX_BODY_BYTES = 1024 * 1024
MAX_FORM_BYTES = 64 * 1024
"""Of a page's form: taking one apart holds up all other requests."""
_MAX_SHOWN_CHARS = 300
_OF_PROGRAMS = ("/chat/", "/completions", "/embeddings")
"""Where clients end up whose base URL lacks the `/v1`."""
_BROKEN_OFF = "client disconnected prematurely"
"""All that Litestar says of it."""
_ALWAYS = [
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_API = [
    *_ALWAYS,
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE = [
    *_ALWAYS,
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _PAGE_POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    # Without the origin of the page a browser would send our own forms with `origin: null`.
    (b"referrer-policy", b"same-origin"),
]
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.console")


def build_admin(services: Services) -> ASGIApp:
    """Serves pages, `/api/v1/…` and `/api/openapi.json`; needs no lifespan events."""
    return _with_headers(cast("ASGIApp", build_litestar(services)), services)


def build_litestar(services: Services) -> Litestar:
    """The same without what every answer carries: the table of routes."""
    surroundings = make_surroundings(frozenset(path for route in PAGES for path in route.paths))
    dependencies = _dependencies(services, surroundings)
    described = _Described(dependencies, services)

    def provide_reference() -> Reference:
        return described.parts()[1]

    dependencies["reference"] = Provide(provide_reference, sync_to_thread=True)

    @get("/api/openapi.json", opt={"permission": PUBLIC}, media_type=MediaType.JSON, sync_to_thread=True)
    def openapi() -> bytes:
        return described.parts()[0]

    def fail(request: Request[Any, Any, Any], exception: Exception) -> Response[Any]:
        return _render(request, exception, services, surroundings)

    return Litestar(
        [*ROUTES, Router("/", route_handlers=PAGES, request_max_body_size=MAX_FORM_BYTES), openapi],
        guards=[Guard(services).check],
        dependencies=dependencies,
        exception_handlers={LlmaasError: fail, HTTPException: fail, Exception: fail},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )


class _Described:
    """The document of the admin API and the reference made of it: once, when somebody asks, since that takes half a second of
    a start; for threads, who wait for the one that makes it.
    """

    def __init__(self, dependencies: Mapping[str, Provide], services: Services) -> None:
        self._dependencies = dependencies
        self._services = services
        self._making = Lock()
        self._parts: tuple[bytes, Reference] | None = None

    def parts(self) -> tuple[bytes, Reference]:
        with self._making:
            if self._parts is None:
                document = describe(self._dependencies)
                self._parts = msgspec.json.encode(document), Reference(self._services.api_document, document)
            return self._parts


def _dependencies(services: Services, surroundings: Surroundings) -> dict[str, Provide]:
    def provide_services() -> Services:
        return services

    def provide_static_files() -> StaticFiles:
        return surroundings.static_files

    async def provide_page(request: Request[Any, Any, Any]) -> Page:
        return await open_page(request, services, surroundings)

    return {
        "services": Provide(provide_services, sync_to_thread=False),
        "principal": Provide(_provide_principal, sync_to_thread=False),
        "static_files": Provide(provide_static_files, sync_to_thread=False),
        "page": Provide(provide_page),
    }


def _provide_principal(request: Request[Any, Any, Any]) -> Any:
    return principal_of(request)


def _render(
    request: Request[Any, Any, Any], exception: Exception, services: Services, surroundings: Surroundings
) -> Response[Any]:
    """A browser that asks for a page gets a page; everybody else the JSON that programs read."""
    error = _translate(exception, request.scope["path"])
    if error is None:
        _log.error("admin_request_failed", path=request.scope["path"], exc_info=exception)
        error = LlmaasError("Something went wrong on our side.")
    if "text/html" in request.headers.get("accept", ""):
        if is_page(request):
            return error_page(request, services, surroundings, error)
        if request.scope["path"].startswith(OPEN_ID_PATH):
            _log.warning("open_id_sign_in_failed", reason=error.message)
            return back_to_sign_in(request, services, surroundings, error)
    status, headers, body = render(error)
    return Response(body, status_code=status, headers=headers, media_type=MediaType.JSON)


def _translate(exception: Exception, path: str) -> LlmaasError | None:
    """Litestar's errors as ours; None: a defect."""
    if isinstance(exception, LlmaasError):
        return exception
    if isinstance(exception, RecursionError | UnicodeDecodeError):  # msgspec on a body; Litestar lets these two through
        return InvalidRequest("The body is not valid JSON.")
    if isinstance(exception, InternalServerException) and exception.detail == _BROKEN_OFF:
        return InvalidRequest("The body of the request broke off.")
    if not isinstance(exception, HTTPException) or exception.status_code >= 500:
        return None
    match exception.status_code:
        case 404:
            below = (
                f" The API for programs is below /v1, so `{path[:200]}` is `/v1{path[:200]}`."
                if path.startswith(_OF_PROGRAMS)
                else ""
            )
            return UnknownPath(f"There is nothing at this address.{below}")
        case 405:
            allow = (exception.headers or {}).get("allow", "").split(", ")
            return MethodNotAllowed("This address does not take that method.", allow)
        case 413:
            return BodyTooLarge("The body is too large for this address.")
    details = exception.extra if isinstance(exception.extra, list) else []
    if not details:
        return InvalidRequest("The body is not valid JSON.")
    key, message = details[0].get("key"), str(details[0]["message"])[:_MAX_SHOWN_CHARS]
    if key in {None, "data"}:
        return InvalidRequest("The body must be a JSON object." if message == "'data'" else f"{message}.")
    return InvalidRequest(f"`{key}`: {message}.", param=str(key)[:_MAX_SHOWN_CHARS])


def _with_headers(app: ASGIApp, services: Services) -> ASGIApp:
    """On every answer, whoever made it. A static file says itself how long it keeps."""

    async def hardened(scope: Scope, receive: Receive, send: Send) -> None:
        more = _API if scope["path"].startswith("/api/") else _PAGE
        if scope["method"] == "HEAD":  # the server leaves the body away
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(line for line in more if line[0] not in given)]
            await send(message)

        try:
            await app(scope, receive, send_with_headers)
        finally:
            services.hold_to(None)  # the connection's next request is in the same task, and may be another person's

    return hardened
