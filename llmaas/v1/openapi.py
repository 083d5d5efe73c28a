"""The OpenAPI 3.1 document at `/openapi.json`: made once from the route table and the types of requests and answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from llmaas import __version__
from llmaas.domain.access import Caller
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from llmaas.v1 import shapes
from llmaas.v1.field_notes import FIELD_NOTES
from llmaas.web.requests import Request
from llmaas.web.responses import JSON, respond
from llmaas.web.routes import Route

Json = dict[str, Any]
_REFS = "#/components/schemas/{name}"
_ALWAYS = (400, 405, 500)
_WITH_KEY = (401, 403, 429, 503)
_GENERATING = (*_WITH_KEY, 404, 413, 415, 502, 504)
_INFO = {
    "title": "llmaas",
    "version": __version__,
    "summary": "LLM as a Service with OpenAI's API.",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_HEADERS: Json = {
    "id": {"description": "The answer's id, the same as in its body.", "required": True, "schema": {"type": "string"}},
    "x-request-id": {
        "description": "The caller's own, if it was sane, else ours.",
        "required": True,
        "schema": {"type": "string"},
    },
    "backend": {
        "description": "Which engine on which machine made the answer.",
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REFS.format(name="BackendName")}}},
    },
    "retry-after": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
    "allow": {"description": "The methods that this address takes.", "required": True, "schema": {"type": "string"}},
    "www-authenticate": {"required": True, "schema": {"const": "Bearer"}},
}
_EXTRA_HEADERS = {401: ("www-authenticate",), 405: ("allow",), 429: ("retry-after",), 503: ("retry-after",)}


def _struct(kind: type[msgspec.Struct]) -> Json:
    return {"schema": {"$ref": _REFS.format(name=kind.__name__)}}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("id", "x-request-id", *names)}


def _ok(text: str, content: Json, *headers: str) -> Json:
    return {"description": text, "headers": _headers(*headers), "content": content}


def _operation(name: str, summary: str, answer: Json, errors: Iterable[int] = (), **more: Any) -> Json:
    failures = {str(n): {"$ref": f"#/components/responses/Error{n}"} for n in sorted({*_ALWAYS, *errors})}
    return {"operationId": name, "summary": summary, **more, "responses": {"200": answer, **failures}}


def _generation(
    name: str,
    summary: str,
    description: str,
    body: type[msgspec.Struct],
    answer: type[msgspec.Struct],
    chunk: type[msgspec.Struct] | None = None,
) -> Json:
    content = {"application/json": _struct(answer)}
    if chunk is not None:
        # No type: some take it for that of the whole body, and others for that of each event.
        text = f"Server-sent events. The data of each is a `{chunk.__name__}` or an `Error`; the last is `[DONE]`."
        content["text/event-stream"] = {"schema": {"description": text}}
    request = {"required": True, "content": {"application/json": _struct(body)}}
    done = _ok("The answer.", content, "backend")
    return _operation(name, summary, done, _GENERATING, description=description, requestBody=request)


CHAT = _generation(
    "createChatCompletion",
    "Answer a conversation.",
    "Whole, or as a stream. A field that is not known is dropped; what would change the meaning of the answer and the "
    "engine can't do is refused, never dropped.",
    ChatRequest,
    shapes.ChatCompletion,
    shapes.ChatCompletionChunk,
)
COMPLETION = _generation(
    "createCompletion",
    "Continue a text.",
    "For programs that speak the older form. New ones ask for chat completions.",
    CompletionRequest,
    shapes.Completion,
    shapes.CompletionChunk,
)
EMBEDDING = _generation(
    "createEmbedding",
    "Turn texts into vectors.",
    "One vector for each text, to compare them by.",
    EmbeddingRequest,
    shapes.EmbeddingList,
)
MODELS = _operation(
    "listModels",
    "The models that this key may use.",
    _ok("The list.", {"application/json": _struct(shapes.ModelList)}),
    _WITH_KEY,
)
MODEL = _operation(
    "retrieveModel",
    "One model by its id or alias.",
    _ok("The model.", {"application/json": _struct(shapes.Model)}),
    (*_WITH_KEY, 404),
    parameters=[{"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}],
)
HEALTH = _operation(
    "isAlive", "Whether the process answers.", _ok("It does.", {"application/json": _struct(shapes.Status)})
)
HEALTH_TOO = {**HEALTH, "operationId": "isHealthy", "summary": "Another name of `/healthz`."}
_NOT_READY = _ok("No new work is taken.", {"application/json": _struct(shapes.Status)}, "retry-after")
READY = _operation("isReady", "Whether new work is taken.", _ok("It is.", {"application/json": _struct(shapes.Status)}))
READY["responses"]["503"] = _NOT_READY
METRICS = _operation(
    "readMetrics",
    "Measurements, in Prometheus' text form.",
    _ok("All of them.", {"text/plain": {"schema": {"type": "string"}}}),
    _WITH_KEY,
)
_DOCUMENT = _operation(
    "readDocument", "This document.", _ok("It.", {"application/json": {"schema": {"type": "object"}}})
)


class Document:
    """`route` serves the document, which describes `routes` and it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.route = Route("GET", "/openapi.json", "public", self._show, operation=_DOCUMENT)
        self._body = msgspec.json.encode(build([*routes, self.route]))

    async def _show(self, request: Request, _caller: Caller | None) -> None:
        await respond(request, 200, [JSON], self._body)


def build(routes: Iterable[Route]) -> Json:
    paths: Json = {}
    for route in routes:
        paths.setdefault(_path(route), {})[route.method.lower()] = _described(route)
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "headers": _HEADERS,
            "responses": {f"Error{status}": _error(status) for status in sorted({*_ALWAYS, *_GENERATING})},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(route: Route) -> Json:
    if route.operation is None:
        raise ValueError(f"{route.method} {route.path} has no description")
    if route.access == "public":
        return {**route.operation, "security": []}
    return {**route.operation, "security": [{"key": []}], "x-permission": str(route.access)}


def _path(route: Route) -> str:
    """An open end bears the name of the operation's parameter."""
    if not route.path.endswith("{rest}") or route.operation is None:
        return route.path
    return route.path.replace("{rest}", f"{{{route.operation['parameters'][0]['name']}}}")


def _schemas() -> Json:
    answers = (
        *(shapes.ChatCompletion, shapes.ChatCompletionChunk, shapes.Completion, shapes.CompletionChunk),
        shapes.EmbeddingList,
        *(shapes.Error, shapes.Model, shapes.ModelList, shapes.Status, shapes.BackendName),
    )
    kinds = [ChatRequest, CompletionRequest, EmbeddingRequest, *answers]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REFS)
    for kind, notes in FIELD_NOTES.items():
        for name, note in notes.items():
            components[kind]["properties"][name]["description"] = note
    return dict(components)


def _error(status: int) -> Json:
    content = {"application/json": _struct(shapes.Error)}
    return _ok(HTTPStatus(status).phrase, content, *_EXTRA_HEADERS.get(status, ()))
