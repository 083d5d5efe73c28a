"""`/docs`: the API reference for everybody, made of the two OpenAPI documents of this service."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from markupsafe import Markup, escape

from llmaas.admin_api.access import PUBLIC
from llmaas.admin_api.shapes import PathId
from llmaas.console.pages.frame import ThePage
from llmaas.console.reference import Operation, Reference
from llmaas.control.context import Services, TheServices
from llmaas.domain.models import ModelKind
from llmaas.errors import NotFound

TheReference = NamedDependency[Reference]
_CODE = re.compile(r"`([^`]+)`")
_KINDS = {"createEmbedding": ModelKind.EMBEDDING}


@get("/docs", opt={"permission": PUBLIC}, sync_to_thread=False)
def show_reference(page: ThePage, services: TheServices, reference: TheReference) -> Response[Any]:
    """Where programs find the service, how they are known to it, what they may ask it."""
    first = next(one for group in reference.groups for one in group.operations if one.example)
    return page.render(
        "reference/start.html",
        groups=reference.groups,
        sample=_curl(page.base_url, first, _body(first, services)),
        marked=marked,
    )


@get("/docs/{group_name:str}", opt={"permission": PUBLIC}, sync_to_thread=False)
def show_group(page: ThePage, services: TheServices, reference: TheReference, group_name: PathId) -> Response[Any]:
    """Operations that belong together, each with what it takes and gives, and a form to try it."""
    group = reference.find(group_name)
    if group is None:
        raise NotFound("There is no such part of the reference.")
    bodies = {one.id: _body(one, services) for one in group.operations}
    return page.render(
        "reference/group.html",
        groups=reference.groups,
        group=group,
        bodies=bodies,
        samples={one.id: _curl(page.base_url, one, bodies[one.id]) for one in group.operations},
        marked=marked,
    )


def marked(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _body(operation: Operation, services: Services) -> str:
    """An example that works here: with a model of the right kind that answers, if there is one."""
    if operation.example is None:
        return ""
    example: Mapping[str, Any] = operation.example
    if example.get("model") == "":
        kind = _KINDS.get(operation.id, ModelKind.CHAT)
        fitting = services.live.working_first(e for e in services.live.catalogue.listed() if e.model.kind is kind)
        example = {**example, "model": fitting[0].model.id if fitting else "MODEL"}
    return json.dumps(example, indent=2, ensure_ascii=False)


def _curl(base_url: str, operation: Operation, body: str) -> str:
    """The same text is made by `reference.js` when the form is filled in."""
    lines = [f"curl {_method(operation)}{base_url}{quote(operation.path, safe='/{}')}"]
    if not operation.is_public:
        variable = "LLMAAS_KEY" if operation.permission in {"inference:use", "metrics:read"} else "LLMAAS_TOKEN"
        lines.append(f'-H "authorization: Bearer ${variable}"')
    if body:
        quoted = body.replace("'", "'\\''")
        lines += ['-H "content-type: application/json"', f"-d '{quoted}'"]
    return " \\\n  ".join(lines)


def _method(operation: Operation) -> str:
    return (
        ""
        if operation.method == "GET" or (operation.method == "POST" and operation.example)
        else f"-X {operation.method} "
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (show_reference, show_group)
