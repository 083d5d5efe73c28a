"""From an answer to the chunks of a response: server-sent events, lines of JSON or one body, faults included."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.behaviour import Behaviour
from tests.fakes.error_shapes import error_body
from tests.fakes.openai_shapes import Event

Headers = list[tuple[str, str]]

_PARTS = 4
_BLOCK = b"x" * 65536


@dataclass(frozen=True, slots=True)
class Chunk:
    """`counts`: it is one of those that a Position counts. `ends`: it is the mark that closes the answer."""

    data: bytes
    tokens: int = 0
    ends: bool = False
    counts: bool = True


@dataclass(slots=True)
class Response:
    """`size`: how long the body is, when that is known beforehand."""

    status: int
    headers: Headers
    chunks: Iterable[Chunk]
    size: int | None = None
    raw: bool = field(default=False)


def sse(events: Iterable[Event], behaviour: Behaviour, model: str) -> Response:
    return Response(200, [("content-type", "text/event-stream")], _sse_chunks(events, behaviour, model))


def ndjson(events: Iterable[Event], behaviour: Behaviour, model: str) -> Response:
    return Response(200, [("content-type", "application/x-ndjson")], _line_chunks(events, behaviour, model))


def whole(body: Any, behaviour: Behaviour, *, status: int = 200, tokens: int = 0) -> Response:
    data = body if isinstance(body, bytes) else dumps(body)
    if behaviour.invalid_utf8:
        data = _spoil(data)
    kind = behaviour.content_type or "application/json"
    return Response(status, [("content-type", kind)], list(_parts(data, tokens)), size=len(data))


def dumps(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _sse_chunks(events: Iterable[Event], behaviour: Behaviour, model: str) -> Iterator[Chunk]:
    end = behaviour.line_end.encode()
    number = -1
    for number, event in enumerate(events):
        yield from _inserted(behaviour, number)
        if behaviour.error_at == number:
            yield Chunk(b"data: " + dumps(_error(behaviour, model)) + end * 2)
            break
        payload = dumps(event.data)
        if behaviour.invalid_utf8 and event.tokens:
            payload = _spoil(payload)
        comment = b": ping" + end * 2 if behaviour.comments else b""
        yield Chunk(comment + b"data: " + payload + end * 2, event.tokens)
        if number == 0 and behaviour.long_line_bytes:
            yield from _long_line(b"data: ", behaviour.long_line_bytes)
    yield from _inserted(behaviour, number + 1)
    for _ in range(behaviour.done_marks):
        yield Chunk(b"data: [DONE]" + end * 2, ends=True)


def _line_chunks(events: Iterable[Event], behaviour: Behaviour, model: str) -> Iterator[Chunk]:
    end = behaviour.line_end.encode()
    for number, event in enumerate(events):
        yield from _inserted(behaviour, number)
        if behaviour.error_at == number:
            error = _error(behaviour, model)["error"]
            yield Chunk(dumps({"error": error if isinstance(error, str) else error["message"]}) + end)
            return
        if event.data["done"]:
            marks = behaviour.done_marks
            yield from (Chunk(dumps(event.data) + end, ends=True) for _ in range(marks))
            continue
        payload = dumps(event.data)
        yield Chunk((_spoil(payload) if behaviour.invalid_utf8 else payload) + end, event.tokens)
        if number == 0 and behaviour.long_line_bytes:
            yield from _long_line(b'{"model":"', behaviour.long_line_bytes)


def _inserted(behaviour: Behaviour, number: int) -> Iterator[Chunk]:
    if number in behaviour.raw_events:
        yield Chunk(behaviour.raw_events[number], counts=False)


def _error(behaviour: Behaviour, model: str) -> Any:
    shape = behaviour.error or "server"
    return error_body(shape, model=model, tokens=0, window=0)[1]


def _long_line(begin: bytes, size: int) -> Iterator[Chunk]:
    yield Chunk(begin, counts=False)
    for _ in range(0, size, len(_BLOCK)):
        yield Chunk(_BLOCK, counts=False)


def _parts(data: bytes, tokens: int) -> Iterator[Chunk]:
    """A body in four, so that positions mean something in it. All tokens are said when the first leaves."""
    step = max(1, -(-len(data) // _PARTS))
    for at in range(0, len(data), step):
        yield Chunk(data[at : at + step], tokens if at == 0 else 0, ends=at + step >= len(data))


def _spoil(payload: bytes) -> bytes:
    """Bytes that are no UTF-8, in the last string."""
    at = payload.rfind(b'"')
    return payload[:at] + b"\xff\xfe\xc3" + payload[at:]
