"""What the fake inference server does with one request: what it says, how it formats it, how it treats the wire.

A Behaviour is data, so that tests in another process can send it as JSON (`POST /_script`; bytes travel as base64).
`NAMED` are the behaviours that a request picks by its model's name.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tests.fakes.error_shapes import Shape

Position = int | Literal["before_head", "after_head", "before_end"]
"""A moment of an answer. A number: after so many chunks. `before_end`: all but the closing mark ([DONE], the line with
`done: true`, the last part of a whole body) is sent. A stream's chunks are its events; a whole body is cut in four."""

Flavour = Literal["openai", "llama.cpp", "vllm"]
Usage = Literal["correct", "missing", "null", "negative", "huge", "string", "twice", "every_chunk"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    arguments: str = "{}"


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    # What is said. An answer has min(tokens, what the request allows) tokens, each one of `pieces` in turn.
    tokens: int = 5
    pieces: tuple[str, ...] = ("hello ",)
    reasoning_tokens: int = 0  # come first and count as completion tokens
    reasoning_style: Literal["field", "tags"] = "field"
    calls: tuple[Call, ...] = ()
    call_style: Literal["proper", "no_index", "repeated", "object", "late_name"] = "proper"
    finish_reason: str | None = None
    prompt_tokens: int | None = None  # instead of the number of words
    cached_tokens: int = 0
    usage: Usage = "correct"
    flavour: Flavour | None = None  # None: that of the server
    # Instead of an answer.
    error: Shape | None = None
    error_at: int | None = None  # the error comes inside a stream of status 200, in place of this event
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = None
    body: bytes | None = None
    raw: bytes | None = None  # every byte of the response, head included
    # How a stream is formatted.
    done_marks: int = 1
    line_end: Literal["\n", "\r\n", "\r"] = "\n"
    comments: bool = False
    role: Literal["first", "every_chunk", "never"] = "first"
    merge_finish: bool | None = None  # None: as the flavour does
    endless: bool = False
    invalid_utf8: bool = False
    long_line_bytes: int = 0  # a line without end of this size follows the first event
    raw_events: dict[int, bytes] = {}  # sent as they are, in front of the event of that number
    # The wire.
    pause_at: tuple[Position, ...] = ()  # wait for `release()` at these moments
    cut: Literal["fin", "rst"] = "fin"
    cut_at: Position | None = None
    cut_inside: Literal["", "line", "utf8"] = ""  # cut in the middle of the chunk that would come next
    chunk_pause_ms: int = 0
    slice_bytes: int = 0  # write 1 to so many bytes at a time
    slice_pause_ms: int = 0
    burst: bool = False  # everything in one write
    framing: Literal["auto", "chunked", "length", "close"] = "auto"
    length_delta: int = 0  # content-length is wrong by this much
    gzip: bool = False
    extra_after: bytes = b""
    close: Literal["keep", "announced", "silent"] = "keep"
    next_request: Literal["serve", "fin", "rst"] = "serve"  # what the connection does when it is used again


_TWO_CALLS = (
    Call(name="get_weather", arguments='{"city":"Málaga"}'),
    Call(name="get_time", arguments='{"zone":"Europe/Madrid"}'),
)
_HTML = b"<!DOCTYPE html><html><body>Welcome to the router</body></html>"
_LOGIN = (("location", "http://127.0.0.1:9/login"),)

NAMED: dict[str, Behaviour] = {
    "fake-long": Behaviour(tokens=1000),
    "fake-slow": Behaviour(tokens=100, chunk_pause_ms=50),
    "fake-endless": Behaviour(endless=True),
    "fake-utf8": Behaviour(tokens=8, pieces=("señal ", "日本", "🙂🚀 ", "слово ")),
    "fake-hang": Behaviour(pause_at=("before_head",)),
    "fake-hang-head": Behaviour(pause_at=("after_head",)),
    "fake-hang-2": Behaviour(pause_at=(2,)),
    "fake-hang-end": Behaviour(pause_at=("before_end",)),
    "fake-401": Behaviour(error="unauthorized"),
    "fake-404": Behaviour(error="not_found"),
    "fake-429": Behaviour(error="rate_limit", headers=(("retry-after", "7"),)),
    "fake-500": Behaviour(error="server"),
    "fake-503": Behaviour(error="loading"),
    "fake-html": Behaviour(status=200, content_type="text/html", body=_HTML),
    "fake-redirect": Behaviour(status=307, headers=_LOGIN, body=b""),
    "fake-cookie": Behaviour(headers=(("set-cookie", "session=stolen; Path=/"), ("x-internal", "10.0.0.7"))),
    "fake-context-llamacpp": Behaviour(error="context_llamacpp"),
    "fake-context-vllm": Behaviour(error="context_vllm"),
    "fake-context-vllm-old": Behaviour(error="context_vllm_old"),
    "fake-context-openai": Behaviour(error="context_openai"),
    "fake-context-ollama": Behaviour(error="context_ollama"),
    "fake-context-ollama-old": Behaviour(error="context_ollama_old"),
    "fake-error-first": Behaviour(error="server", error_at=0),
    "fake-error-later": Behaviour(error="server", error_at=3),
    "fake-cut-head": Behaviour(cut_at="before_head"),
    "fake-cut-head-rst": Behaviour(cut_at="before_head", cut="rst"),
    "fake-cut-after-head": Behaviour(cut_at="after_head"),
    "fake-cut-fin": Behaviour(cut_at=3),
    "fake-cut-rst": Behaviour(cut_at=3, cut="rst"),
    "fake-cut-line": Behaviour(cut_at=3, cut_inside="line"),
    "fake-cut-utf8": Behaviour(cut_at=3, cut_inside="utf8", pieces=("señal ",)),
    "fake-cut-end": Behaviour(cut_at="before_end"),
    "fake-sliced": Behaviour(tokens=8, pieces=("señal ", "日本", "🙂🚀 ", "слово "), slice_bytes=7),
    "fake-bytewise": Behaviour(slice_bytes=1, slice_pause_ms=5),
    "fake-crlf": Behaviour(line_end="\r\n"),
    "fake-comments": Behaviour(comments=True),
    "fake-double-done": Behaviour(done_marks=2),
    "fake-no-done": Behaviour(done_marks=0),
    "fake-long-line": Behaviour(long_line_bytes=100_000_000),
    "fake-bad-utf8": Behaviour(invalid_utf8=True),
    "fake-roles": Behaviour(role="every_chunk"),
    "fake-no-role": Behaviour(role="never"),
    "fake-merged-finish": Behaviour(merge_finish=True),
    "fake-null-event": Behaviour(raw_events={0: b"data: null\n\n"}),
    "fake-tools": Behaviour(calls=_TWO_CALLS),
    "fake-tools-no-index": Behaviour(calls=_TWO_CALLS, call_style="no_index"),
    "fake-tools-repeated": Behaviour(calls=_TWO_CALLS, call_style="repeated"),
    "fake-tools-object": Behaviour(calls=_TWO_CALLS, call_style="object"),
    "fake-tools-late-name": Behaviour(calls=_TWO_CALLS, call_style="late_name"),
    "fake-think": Behaviour(reasoning_tokens=3, reasoning_style="tags"),
    "fake-reasoning": Behaviour(reasoning_tokens=3),
    "fake-cached": Behaviour(prompt_tokens=100, cached_tokens=64),
    "fake-usage-missing": Behaviour(usage="missing"),
    "fake-usage-null": Behaviour(usage="null"),
    "fake-usage-negative": Behaviour(usage="negative"),
    "fake-usage-huge": Behaviour(usage="huge"),
    "fake-usage-string": Behaviour(usage="string"),
    "fake-usage-twice": Behaviour(usage="twice"),
    "fake-usage-every": Behaviour(usage="every_chunk"),
    "fake-gzip": Behaviour(gzip=True),
    "fake-length-long": Behaviour(framing="length", length_delta=10, close="silent"),
    "fake-length-short": Behaviour(framing="length", length_delta=-10),
    "fake-extra": Behaviour(extra_after=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    "fake-until-close": Behaviour(framing="close"),
    "fake-close-announced": Behaviour(close="announced"),
    "fake-close-idle": Behaviour(close="silent"),
    "fake-drop-next": Behaviour(next_request="fin"),
    "fake-drop-next-rst": Behaviour(next_request="rst"),
}
