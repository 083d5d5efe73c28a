"""The OpenAPI document of the admin API: Litestar's, with names that read well, and with what our routes add to it:
the permission that each needs, and the one form of all errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

from llmaas import __version__
from llmaas.admin_api.access import PUBLIC
from llmaas.admin_api.routes import ROUTES

Json = dict[str, Any]
_ERROR: Json = {
    "type": "object",
    "title": "Error",
    "description": "The form of all errors: `message` is for people, `code` for programs, `param` names what is wrong.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_ERROR_STATUSES = (400, 401, 403, 404, 409, 412, 413, 415, 429, 500, 503)


def describe(dependencies: Mapping[str, Provide]) -> Json:
    """Litestar's own routes for the document also serve pages, so only its schema is taken."""
    config = OpenAPIConfig(
        title="llmaas admin API",
        version=__version__,
        description="Projects, people, keys, credit, usage and the fleet of an llmaas installation.",
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: _operation_id(handler),
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
    document: Json = msgspec.to_builtins(described.openapi_schema.to_schema())
    for route in described.routes:
        described_methods = document["paths"].get(getattr(route, "path_format", ""), {})
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                if method.lower() in described_methods:  # not OPTIONS, and not what Litestar serves itself
                    _mend(described_methods[method.lower()], handler)
    components = document["components"]
    components["schemas"]["Error"] = _ERROR
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    components["responses"] = {
        f"Error{status}": {"description": HTTPStatus(status).phrase, "content": content} for status in _ERROR_STATUSES
    }
    return document


def _mend(operation: Json, handler: HTTPRouteHandler) -> None:
    permission = handler.opt["permission"]
    operation["summary"] = operation.get("description", "").partition(". ")[0].removesuffix(".")
    operation.pop("deprecated", None)
    if permission == PUBLIC:
        operation["security"] = []
    else:
        operation["x-permission"] = str(permission)
    answers: Json = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    for status in _errors(operation, is_public=permission == PUBLIC):
        answers[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    operation["responses"] = answers


def _errors(operation: Json, *, is_public: bool) -> list[int]:
    found = {400, 429, 500, 503}
    if not is_public:
        found |= {401, 403}
    places = {parameter["in"] for parameter in operation.get("parameters", ())}
    if "path" in places or "requestBody" in operation:
        found.add(404)
    if "header" in places:  # `if-match`
        found.add(412)
    if "requestBody" in operation:
        found |= {409, 413, 415}
    return sorted(found)


def _operation_id(handler: HTTPRouteHandler) -> str:
    """`create_key` → `createKey`."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), handler.handler_name)
