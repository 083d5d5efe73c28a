"""The two OpenAPI documents as a reader looks at them: groups of operations, each with fields that are flat enough to print.

References are followed and unions told in words; a type that holds itself is shown once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any, Literal

Json = Mapping[str, Any]
Api = Literal["inference", "admin"]
_DEEPEST = 5
_GROUPS: dict[Api, dict[str, tuple[str, ...]]] = {
    "inference": {
        "inference": ("chat", "completions", "embeddings"),
        "catalogue": ("models",),
        "service": ("healthz", "readyz", "metrics", "openapi.json"),
    },
    "admin": {
        "projects": ("projects", "terms", "archive"),
        "members": ("members", "leave", "invitations"),
        "keys": ("keys",),
        "usage": ("usage",),
        "credit": ("credit", "alerts", "alert-channels"),
        "fleet": ("fleet", "providers", "prices", "discover", "workers", "live"),
        "users": ("users",),
        "account": ("me", "sessions", "tokens", "sign-in", "sign-up", "sign-out"),
        "audit": ("audit",),
        "installation": ("health", "settings", "platform-status"),
    },
}
"""The reader's groups, by the word of a path that tells what an operation is about."""
_REST: dict[Api, str] = {"inference": "service", "admin": "installation"}
"""Where an operation goes that no word places: one in a wide group is better than a reference that fails."""
_EXAMPLES: dict[str, dict[str, Any]] = {
    "createChatCompletion": {
        "model": "",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_tokens": 200,
        "stream": True,
    },
    "createCompletion": {"model": "", "prompt": "The sky is blue because", "max_tokens": 60},
    "createEmbedding": {"model": "", "input": ["The sky is blue.", "El cielo es azul."]},
}
_SAMPLES = {
    "email": "ana@example.org",
    "from": "2026-01-01",
    "to": "2026-02-01",
    "amount": "100.00",
    "base_url": "http://10.0.0.7:8000/v1",
    "role": "developer",
}


@dataclass(frozen=True, slots=True)
class Field:
    """`kind`: as JSON names types. `values`: the only ones that are taken. `rule`: range or length. `fields`: within."""

    name: str
    kind: str
    required: bool
    note: str
    values: tuple[str, ...]
    rule: str
    default: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """`place`: path, query or header."""

    place: str
    field: Field


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    phrase: str
    note: str
    media_types: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """`note`: what is said of it beyond its title. `example`: a body that one may begin with."""

    id: str
    method: str
    path: str
    title: str
    note: str
    is_public: bool
    permission: str
    parameters: tuple[Parameter, ...]
    body: tuple[Field, ...]
    body_note: str
    example: Mapping[str, Any] | None
    answers: tuple[Answer, ...]
    errors: tuple[tuple[str, str], ...]

    @property
    def streams(self) -> bool:
        return any("text/event-stream" in answer.media_types for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Group:
    """`name` is that of its address and its text."""

    name: str
    api: Api
    operations: tuple[Operation, ...]


class Reference:
    """Made when it is first asked for."""

    def __init__(self, inference: Json, admin: Json) -> None:
        self._documents: dict[Api, Json] = {"inference": inference, "admin": admin}

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """In the order of reading. Every operation is in one."""
        return tuple(group for api, document in self._documents.items() for group in _groups(api, document))

    def find(self, name: str) -> Group | None:
        return next((group for group in self.groups if group.name == name), None)


def group_of(api: Api, path: str) -> str | None:
    """The last word of a path that is known decides: `/projects/{id}/keys` is about keys. None: no word is known."""
    for word in reversed(path.split("/")):
        for name, known in _GROUPS[api].items():
            if word in known:
                return name
    return None


def _groups(api: Api, document: Json) -> Iterable[Group]:
    reader = _Schemas(document["components"])
    found: dict[str, list[Operation]] = {name: [] for name in _GROUPS[api]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[group_of(api, path) or _REST[api]].append(_operation(reader, method, path, operation))
    return [Group(name, api, tuple(operations)) for name, operations in found.items() if operations]


def _operation(reader: _Schemas, method: str, path: str, operation: Json) -> Operation:
    title = operation["summary"].removesuffix(".")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    example = _EXAMPLES.get(operation["operationId"])
    if example is None and body is not None:
        example = reader.example(body)
    responses = operation["responses"]
    return Operation(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        title=title,
        note=_beyond(f"{title}.", operation.get("description", "")),
        is_public=operation.get("security") == [],
        permission=operation.get("x-permission", ""),
        parameters=tuple(reader.parameter(one) for one in operation.get("parameters", ())),
        body=reader.fields(body) if body is not None else (),
        body_note="" if body is None else _beyond(f"`{method.upper()} {path}`.", reader.note(body)),
        example=example,
        answers=tuple(reader.answer(status, one) for status, one in responses.items() if status < "400"),
        errors=tuple((status, HTTPStatus(int(status)).phrase) for status in responses if status >= "400"),
    )


def _beyond(said: str, text: str) -> str:
    """What a text says that was not said already."""
    return text.removeprefix(said).strip()


class _Schemas:
    """Follows references within one document."""

    def __init__(self, components: Json) -> None:
        self._components = components

    def parameter(self, said: Json) -> Parameter:
        field = self._field(said["name"], said["schema"], (), required=said.get("required", False))
        return Parameter(said["in"], field)

    def answer(self, status: str, said: Json) -> Answer:
        content = said.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        return Answer(status, HTTPStatus(int(status)).phrase, self.note(schema), tuple(content), self.fields(schema))

    def note(self, schema: Json) -> str:
        """What a type says of itself."""
        return str(self._resolved(schema).get("description", ""))

    def fields(self, schema: Json, within: tuple[str, ...] = ()) -> tuple[Field, ...]:
        """Of an object, or of the objects in a list or a union; none of anything else."""
        reference = schema.get("$ref", "")
        if reference:
            if reference in within or len(within) >= _DEEPEST:
                return ()
            return self.fields(self._follow(reference), (*within, reference))
        if "properties" in schema:
            needed = set(schema.get("required", ()))
            return tuple(
                self._field(name, one, within, required=name in needed) for name, one in schema["properties"].items()
            )
        kinds = [fields for part in (*_parts(schema), *_items(schema)) if (fields := self.fields(part, within))]
        return _united(kinds)

    def example(self, schema: Json, within: int = 0) -> dict[str, Any]:
        """A body with what is required of it; with all of it when nothing is."""
        while "$ref" in schema:
            schema = self._follow(schema["$ref"])
        properties = schema.get("properties", {})
        needed = schema.get("required") or (list(properties)[:2] if not within else [])
        return {name: self._sample(name, properties[name], within + 1) for name in needed if name in properties}

    def _sample(self, name: str, schema: Json, within: int) -> Any:
        schema = self._plain(schema)
        if name in _SAMPLES:
            return _SAMPLES[name]
        if schema.get("default") is not None:
            return schema["default"]
        values = _values(schema)
        if values:
            return values[0]
        kind = schema.get("type")
        if kind == "object":
            return self.example(schema, within) if within < _DEEPEST else {}
        plain = {"integer": schema.get("minimum", 1), "number": 1, "boolean": True, "array": [], "string": name}
        return plain.get(kind) if isinstance(kind, str) else name

    def _plain(self, schema: Json) -> Json:
        """The first of the alternatives that is not null, with what is said beside it."""
        while True:
            if "$ref" in schema:
                schema = self._follow(schema["$ref"])
                continue
            parts = _parts(schema)
            if not parts:
                return schema
            schema = {**{name: value for name, value in schema.items() if name not in _UNIONS}, **parts[0]}

    def _field(self, name: str, schema: Json, within: tuple[str, ...], *, required: bool) -> Field:
        parts = [self._resolved(part) for part in _parts(schema)] or [self._resolved(schema)]
        kinds = list(dict.fromkeys(kind for part in parts for kind in self._kinds(part)))
        return Field(
            name=name,
            kind=" | ".join([*kinds, *(["null"] if _is_nullable(schema) else [])]),
            required=required,
            note=schema.get("description") or self._type_note(parts),
            values=tuple(str(value) for part in parts for value in _values(part)),
            rule=next((rule for part in (schema, *parts) if (rule := _rule(part))), ""),
            default=_default(schema),
            fields=self.fields(schema, within),
        )

    def _type_note(self, parts: Sequence[Json]) -> str:
        """What the type itself says, or that of the things in a list, where there is but one."""
        notes = [self.note(one) for part in parts for one in (part, *_items(part))] if len(parts) == 1 else []
        return next(filter(None, notes), "")

    def _kinds(self, schema: Json) -> list[str]:
        if schema.get("type") == "array":
            items = schema.get("items", {})
            inner = [kind for part in _parts(items) or [items] for kind in self._kinds(self._resolved(part))]
            return [f"array of {' | '.join(dict.fromkeys(inner)) or 'any'}"]
        kind = schema.get("type")
        if isinstance(kind, list):
            return [one for one in kind if one != "null"]
        if kind is None and _values(schema):
            return ["string"]
        if kind is None and _parts(schema):
            return [one for part in _parts(schema) for one in self._kinds(self._resolved(part))]
        return [kind or "any"]

    def _resolved(self, schema: Json) -> Json:
        while "$ref" in schema:
            schema = self._follow(schema["$ref"])
        return schema

    def _follow(self, reference: str) -> Json:
        kind, _, name = reference.removeprefix("#/components/").partition("/")
        found: Json = self._components[kind][name.replace("~1", "/").replace("~0", "~")]
        return found


_UNIONS = ("anyOf", "oneOf")


def _parts(schema: Json) -> list[Json]:
    """The alternatives of a union but null, also of unions within it; none when it is no union."""
    found: list[Json] = []
    for name in _UNIONS:
        for part in schema.get(name, ()):
            inner = _parts(part)
            if inner:
                found += inner
            elif part.get("type") != "null":
                found.append(part)
    return found


def _items(schema: Json) -> Sequence[Json]:
    items = schema.get("items")
    return (items,) if isinstance(items, Mapping) else ()


def _is_nullable(schema: Json) -> bool:
    kind = schema.get("type")
    return (isinstance(kind, list) and "null" in kind) or any(
        part.get("type") == "null" for name in _UNIONS for part in schema.get(name, ())
    )


def _values(schema: Json) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    return [value for value in schema.get("enum", ()) if value is not None]


def _rule(schema: Json) -> str:
    """`1 … 128`, `≤ 512 characters`."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and abs(high) < 2**31 - 1:
        return f"{low:g} … {high:g}"
    if low is not None and abs(low) < 2**31:
        return f"≥ {low:g}"
    longest = schema.get("maxLength")
    if longest is not None:
        return f"≤ {longest} characters"
    most = schema.get("maxItems")
    return "" if most is None else f"≤ {most} items"


def _default(schema: Json) -> str:
    """As JSON; nothing where the default is that there is nothing."""
    value = schema.get("default")
    return "" if value is None or value in ("", [], {}, ()) else json.dumps(value)


def _united(kinds: Sequence[tuple[Field, ...]]) -> tuple[Field, ...]:
    """The fields of all kinds of a union. They tell themselves apart by one field, whose values are put together; what
    only some of them have is not required.
    """
    found: dict[str, Field] = {}
    for field in (field for fields in kinds for field in fields):
        known = found.get(field.name)
        in_all = all(any(one.name == field.name for one in fields) for fields in kinds)
        values = field.values if known is None else tuple(dict.fromkeys((*known.values, *field.values)))
        found[field.name] = replace(known or field, values=values, required=field.required and in_all)
    return tuple(found.values())
