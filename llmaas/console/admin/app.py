"""The admin API as an ASGI application: everything below `/api`, and the form of its failures."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import structlog
from litestar import Litestar, MediaType, Request, Response, get
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ControllerRouterHandler

from llmaas import __version__
from llmaas.console.admin.access import PUBLIC, Guard, principal_of
from llmaas.console.admin.routes import ROUTES
from llmaas.console.admin.services import Services
from llmaas.console.errors import ErrorBody, render
from llmaas.errors import BodyTooLarge, InvalidRequest, LlmaasError, MethodNotAllowed, UnknownPath
from llmaas.web.asgi import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
_MAX_SHOWN_CHARS = 300
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.console")


def build_admin(services: Services) -> ASGIApp:
    """Serves `/api/v1/…` and `/api/openapi.json`; needs no lifespan events."""
    return _with_headers(cast("ASGIApp", build_litestar(services)))


def build_litestar(services: Services) -> Litestar:
    """The same without what every answer carries: the table of routes."""
    dependencies = _dependencies(services)
    document = msgspec.json.encode(_describe(dependencies).to_schema())

    @get("/api/openapi.json", opt={"permission": PUBLIC}, media_type=MediaType.JSON, sync_to_thread=False)
    def openapi() -> bytes:
        return document

    return Litestar(
        [*ROUTES, openapi],
        guards=[Guard(services).check],
        dependencies=dependencies,
        exception_handlers={LlmaasError: _render, HTTPException: _render, Exception: _render},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )


def _describe(dependencies: dict[str, Provide]) -> Any:
    """The OpenAPI document. Litestar's own routes for it also serve pages, so only its schema is taken."""
    config = OpenAPIConfig(
        title="llmaas admin API",
        version=__version__,
        description="Projects, people, keys, credit, usage and the fleet of an llmaas installation.",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "token": SecurityScheme(type="http", scheme="bearer", description="A personal access token."),
                "session": SecurityScheme(type="apiKey", security_scheme_in="cookie", name="__Host-llmaas"),
            }
        ),
        security=[{"token": []}, {"session": []}],
    )
    routes = list[ControllerRouterHandler](ROUTES)
    described = Litestar(routes, dependencies=dependencies, openapi_config=config, logging_config=None)
    return described.openapi_schema


def _dependencies(services: Services) -> dict[str, Provide]:
    def provide_services() -> Services:
        return services

    return {
        "services": Provide(provide_services, sync_to_thread=False),
        "principal": Provide(_provide_principal, sync_to_thread=False),
    }


def _provide_principal(request: Request[Any, Any, Any]) -> Any:
    return principal_of(request)


def _render(request: Request[Any, Any, Any], exception: Exception) -> Response[ErrorBody]:
    error = _translate(exception)
    if error is None:
        _log.error("admin_request_failed", path=request.scope["path"], exc_info=exception)
        error = LlmaasError("Something went wrong on our side.")
    status, headers, body = render(error)
    return Response(body, status_code=status, headers=headers, media_type=MediaType.JSON)


def _translate(exception: Exception) -> LlmaasError | None:
    """Litestar's errors as ours; None: a defect."""
    if isinstance(exception, LlmaasError):
        return exception
    if isinstance(exception, RecursionError | UnicodeDecodeError):  # msgspec on a body; Litestar lets these two through
        return InvalidRequest("The body is not valid JSON.")
    if not isinstance(exception, HTTPException) or exception.status_code >= 500:
        return None
    match exception.status_code:
        case 404:
            return UnknownPath("There is nothing at this address.")
        case 405:
            allow = (exception.headers or {}).get("allow", "").split(", ")
            return MethodNotAllowed("This address does not take that method.", allow)
        case 413:
            return BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    details = exception.extra if isinstance(exception.extra, list) else []
    if not details:
        return InvalidRequest("The body is not valid JSON.")
    key, message = details[0].get("key"), str(details[0]["message"])[:_MAX_SHOWN_CHARS]
    if key in {None, "data"}:
        return InvalidRequest("The body must be a JSON object." if message == "'data'" else f"{message}.")
    return InvalidRequest(f"`{key}`: {message}.", param=str(key)[:_MAX_SHOWN_CHARS])


def _with_headers(app: ASGIApp) -> ASGIApp:
    """On every answer, whoever made it."""

    async def hardened(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await app(scope, receive, send_with_headers)

    return hardened
