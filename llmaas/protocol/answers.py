"""What callers get: whole answers and streams in OpenAI's form, with our `id`, `model`, `backend` and `usage`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from llmaas.protocol.logprobs import chat_form, completion_form, joined
from llmaas.protocol.pieces import Piece, ToolPiece

Shape = Literal["chat", "completion"]
DONE_EVENT = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_json = msgspec.json.Encoder()


class AnswerHead(Struct, frozen=True, gc=False):
    """What stands in every answer and every chunk of it. `backend` is `{"engine_type": …, "machine_name": …}`.

    `older_calls`: a call is told as `function_call`, to callers that gave `functions` in place of `tools`.
    """

    id: str
    shape: Shape
    created_s: int
    model: str
    backend: dict[str, str]
    older_calls: bool = False


class StreamWriter:
    """Pieces to server-sent events, in the order and form that SDKs rely on (docs/life-of-a-request.md)."""

    def __init__(self, head: AnswerHead) -> None:
        kind = "chat.completion.chunk" if head.shape == "chat" else "text_completion"
        common = {"id": head.id, "object": kind, "created": head.created_s, "model": head.model}
        self._head = head
        self._prefix = b"data: " + _json.encode(common)[:-1]
        self._chat = head.shape == "chat"
        self._open = self._prefix + b',"choices":[{"index":'
        self._open_first = self._open + b'0,"delta":{"content":'
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def write(self, pieces: Sequence[Piece]) -> bytes:
        return self._event(pieces[0]) if len(pieces) == 1 else b"".join([self._event(piece) for piece in pieces])

    def usage(self, usage: msgspec.Raw, routing: dict[str, Any] | None) -> bytes:
        """The chunk after the last finish, for callers that asked for usage."""
        extra: dict[str, Any] = {"choices": [], "usage": usage, "backend": self._head.backend}
        if routing is not None:
            extra["routing"] = routing
        return self._prefix + b"," + _json.encode(extra)[1:] + b"\n\n"

    @staticmethod
    def limit_reached(last: bytes, message: str) -> bytes:
        """The last events of an answer, of which the last one, a finish, says why it ended early. It is no event by itself: clients
        look for a choice in each one that they did not ask for.
        """
        return last.removesuffix(b"}\n\n") + b',"limit_reached":' + _json.encode(message) + b"}\n\n"

    def _event(self, piece: Piece) -> bytes:
        index = piece.index
        if not self._chat:
            return self._text_event(piece)
        begin = b""
        if index not in self._begun:
            self._begun.add(index)
            begin = self._open + b'%d,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n' % index
        if (
            index == 0
            and piece.content is not None
            and piece.reasoning is None
            and piece.logprobs is None
            and not piece.refusal
        ):
            return begin + self._open_first + _json.encode(piece.content) + b'},"finish_reason":null}]}\n\n'
        delta: dict[str, Any] = {}
        if piece.content is not None:
            delta["content"] = piece.content
        if piece.reasoning is not None:
            delta["reasoning_content"] = piece.reasoning
        if piece.refusal is not None:
            delta["refusal"] = piece.refusal
        finish = piece.finish
        if self._head.older_calls:
            if piece.tool is not None and piece.tool.index == 0:
                delta["function_call"] = _older_delta(piece.tool)
            finish = _older_finish(finish)
        elif piece.tool is not None:
            delta["tool_calls"] = [_tool_delta(piece.tool)]
        rest: dict[str, Any] = {"delta": delta, "finish_reason": finish}
        if piece.logprobs is not None:
            rest["logprobs"] = chat_form(piece.logprobs)
        return begin + self._open + b"%d," % index + _json.encode(rest)[1:] + b"]}\n\n"

    def _text_event(self, piece: Piece) -> bytes:
        text = piece.content or ""
        offset = self._offsets.get(piece.index, 0)
        self._offsets[piece.index] = offset + len(text)
        logprobs = None if piece.logprobs is None else completion_form(piece.logprobs, offset)
        rest = {"text": text, "logprobs": logprobs, "finish_reason": piece.finish}
        return self._open + b"%d," % piece.index + _json.encode(rest)[1:] + b"]}\n\n"


def _tool_delta(tool: ToolPiece) -> dict[str, Any]:
    if tool.id is None:
        return {"index": tool.index, "function": {"arguments": tool.arguments}}
    function = {"name": tool.name, "arguments": tool.arguments}
    return {"index": tool.index, "id": tool.id, "type": "function", "function": function}


def _older_delta(tool: ToolPiece) -> dict[str, Any]:
    return {"arguments": tool.arguments} if tool.id is None else {"name": tool.name, "arguments": tool.arguments}


def _older_finish(finish: str | None) -> str | None:
    return "function_call" if finish == "tool_calls" else finish


class _Message(Struct):
    content: list[str] = []
    reasoning: list[str] = []
    refusal: list[str] = []
    tools: list[ToolPiece] = []
    arguments: list[list[str]] = []
    logprobs: list[msgspec.Raw] = []
    finish: str = "stop"


class WholeAnswer(Struct, eq=False):
    """Pieces to one JSON body."""

    _head: AnswerHead
    _messages: dict[int, _Message] = {}
    limit_reached: str | None = None

    def add_plain(self, text: str, finish: str | None) -> None:
        """All of an answer that is one text."""
        self._messages[0] = _Message([text], finish=finish or "stop")

    def add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            message = self._messages.get(piece.index)
            if message is None:
                message = self._messages[piece.index] = _Message()
            if piece.content is not None:
                message.content.append(piece.content)
            if piece.reasoning is not None:
                message.reasoning.append(piece.reasoning)
            if piece.refusal is not None:
                message.refusal.append(piece.refusal)
            if piece.tool is not None:
                _add_tool(message, piece.tool)
            if piece.logprobs is not None:
                message.logprobs.append(piece.logprobs)
            if piece.finish is not None:
                message.finish = piece.finish

    def body(self, usage: msgspec.Raw, routing: dict[str, Any] | None) -> bytes:
        head = self._head
        chat = head.shape == "chat"
        make = (_older_choice if head.older_calls else _chat_choice) if chat else _text_choice
        indexes = self._messages if len(self._messages) == 1 else sorted(self._messages)
        answer: dict[str, Any] = {
            "id": head.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": head.created_s,
            "model": head.model,
            "backend": head.backend,
            "choices": [make(index, self._messages[index]) for index in indexes],
            "usage": usage,
        }
        if routing is not None:
            answer["routing"] = routing
        if self.limit_reached is not None:
            answer["limit_reached"] = self.limit_reached
        return _json.encode(answer)


def _add_tool(message: _Message, piece: ToolPiece) -> None:
    if piece.index < len(message.tools):
        message.arguments[piece.index].append(piece.arguments)
    else:
        message.tools.append(piece)
        message.arguments.append([piece.arguments])


def _chat_choice(index: int, message: _Message) -> dict[str, Any]:
    content: str | None = "".join(message.content)
    if not content and (message.tools or message.refusal):
        content = None
    out: dict[str, Any] = {"role": "assistant", "content": content, "refusal": "".join(message.refusal) or None}
    if message.reasoning:
        out["reasoning_content"] = "".join(message.reasoning)
    if message.tools:
        out["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": "".join(said) or "{}"}}
            for tool, said in zip(message.tools, message.arguments, strict=True)
        ]
    logprobs = chat_form(joined(message.logprobs)) if message.logprobs else None
    return {"index": index, "message": out, "logprobs": logprobs, "finish_reason": message.finish}


def _older_choice(index: int, message: _Message) -> dict[str, Any]:
    choice = _chat_choice(index, message)
    calls = choice["message"].pop("tool_calls", None)
    if calls:
        choice["message"]["function_call"] = calls[0]["function"]
    return {**choice, "finish_reason": _older_finish(message.finish)}


def _text_choice(index: int, message: _Message) -> dict[str, Any]:
    text = "".join(message.content)
    logprobs = completion_form(joined(message.logprobs), 0) if message.logprobs else None
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": message.finish}
