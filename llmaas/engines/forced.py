"""The call that `tool_choice` demands, on engines that can hold an answer to a schema but make no exact call of it.

llama.cpp bars the end of an answer until a call has come, and a small model then runs to its limit; Ollama knows no
`tool_choice`. Both write `{"name": …, "arguments": …}` when a JSON schema asks for it: so the schema is asked for, and its text,
as it comes, is handed on as the pieces of a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from llmaas.engines.contract import Generation, Take
from llmaas.errors import EngineFailed, EngineRefused, LlmaasError
from llmaas.protocol.brackets import Brackets
from llmaas.protocol.engine import (
    EngineAnswer,
    EngineChoice,
    EngineDelta,
    EngineFunction,
    EngineToolCall,
    delta_of,
    renew_call,
)
from llmaas.protocol.reasoning import ThinkSplitter
from llmaas.protocol.requests import ChatRequest, JsonSchema, JsonSchemaFormat, NamedToolChoice

# Grammars keep the order of a schema's properties, so the name is known before the first of the arguments.
_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)', re.DOTALL)
_LITERALS: Final = frozenset({"const", "enum", "default", "examples"})
_LONGEST_HEAD: Final = 4 * 1024
_MOST_KEPT: Final = 16 * 1024
"""Characters of which nothing is handed on: no piece of the answer counts them, so nothing else would end them."""
_NO_CALL: Final = "The engine did not make the call that was demanded."
_json = msgspec.json.Encoder()


def demands_call(request: ChatRequest) -> bool:
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedToolChoice)


def as_schema(request: ChatRequest, tool_choice: Literal["none", "auto"]) -> ChatRequest:
    """The request with its demand as a schema; `tool_choice` is the word by which the engine shows the tools to the model and
    demands none. All tools stay, so that the engine's cache of the prompt serves.

    A stop text or another format of the text means nothing to a call, and would only break it.
    """
    chosen = request.tool_choice.function.name if isinstance(request.tool_choice, NamedToolChoice) else None
    definitions: dict[str, Any] = {}
    calls = [
        _call_schema(tool.function.name, tool.function.parameters, definitions)
        for tool in request.tools or ()
        if chosen in (None, tool.function.name)
    ]
    schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if definitions:
        schema["$defs"] = definitions
    return msgspec.structs.replace(
        request,
        tool_choice=tool_choice,
        parallel_tool_calls=None,
        stop=None,
        response_format=JsonSchemaFormat(JsonSchema(name="call", schema=schema, strict=True)),
    )


def _call_schema(name: str, parameters: dict[str, Any] | None, definitions: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"type": "object", **(parameters or {"properties": {}, "additionalProperties": False})}
    if '"$ref"' in _json.encode(arguments).decode():
        # A reference counts from the root of the document that it stands in, which is another one now.
        place = f"call{len(definitions)}"
        definitions[place] = _moved(arguments, f"#/$defs/{place}")
        arguments = {"$ref": f"#/$defs/{place}"}
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    """The schema with its references to itself told from its new place."""
    if isinstance(schema, list):
        return [_moved(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else value
        if key in _LITERALS
        else _moved(value, root)
        for key, value in schema.items()
    }


class ForcedCalls:
    """Implements `contract.Generation`: an engine's answer by the schema, as calls of these tools."""

    complete = False

    def __init__(self, generation: Generation, request: ChatRequest) -> None:
        self._generation = generation
        self._names = frozenset(tool.function.name for tool in request.tools or ())
        self._calls: dict[int, _CallText] = {}

    @property
    def heard(self) -> Sequence[EngineAnswer]:
        return self._generation.heard

    async def first(self) -> Sequence[EngineAnswer]:
        try:
            return self._convert(await self._generation.first())
        except EngineRefused as error:
            if error.param == "response_format":
                error.param = "tools"  # the schema that the engine refused was made of them
            raise

    async def each(self, take: Take) -> bool:
        return await self._generation.each(lambda answers: take(self._convert(answers)))

    async def ended(self) -> bool:
        return await self._generation.ended() and all(call.begun for call in self._calls.values())

    def abort(self, error: LlmaasError) -> None:
        self._generation.abort(error)

    def _convert(self, answers: Sequence[EngineAnswer]) -> Sequence[EngineAnswer]:
        for answer in answers:
            for choice in answer.choices or ():
                self._convert_choice(choice)
        return answers

    def _convert_choice(self, choice: EngineChoice) -> None:
        text = self._calls.setdefault(choice.index, _CallText(self._names))
        delta = delta_of(choice)
        if delta is not None:
            renew_call(delta)
        if delta is not None and delta.tool_calls:
            text.begun = True  # some templates of Ollama's know a call by its JSON, and make one of it themselves
            delta.content = None
        elif delta is not None and delta.content:
            reasoning, name, arguments = text.feed(delta.content)
            delta.content = None
            if reasoning:
                delta.reasoning_content = (delta.reasoning_content or "") + reasoning
            _add_call(delta, name, arguments)
        if choice.finish_reason and not text.begun:
            name, arguments = text.whole(cut=choice.finish_reason == "length")
            delta = choice.delta = delta or EngineDelta()
            _add_call(delta, name, arguments)


def _add_call(delta: EngineDelta, name: str | None, arguments: str) -> None:
    if name is not None or arguments:
        delta.tool_calls = [EngineToolCall(0, None, EngineFunction(name, arguments))]


def _text_of(literal: str) -> str:
    try:
        return msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise EngineFailed(_NO_CALL, answers=True) from error


class _CallText(Struct):
    """The text of one choice, `{"name": "…", "arguments": {…}}`, taken apart as it comes.

    It has three parts: the head, kept until the arguments begin; the arguments, handed on as they come; and the brace after
    them, dropped. `begun`: the name is known and handed on.
    """

    names: frozenset[str]
    begun: bool = False
    _thinking: ThinkSplitter = msgspec.field(default_factory=ThinkSplitter)
    _head: str = ""
    _kept: int = 0
    _arguments: Brackets = msgspec.field(default_factory=Brackets)

    def feed(self, piece: str) -> tuple[str, str | None, str]:
        """Reasoning; the name, once; and the next of the arguments. Raises EngineFailed for one that makes no call."""
        reasoning, text = self._thinking.feed(piece)
        if self.begun:
            taken = self._arguments.take(text)
            self._keep(len(text) - taken)
            return reasoning, None, text[:taken]
        self._head += text
        head = _HEAD.match(self._head) if len(self._head) - len(text) <= _LONGEST_HEAD else None
        if head is None:
            self._keep(len(piece) - len(reasoning))
            return reasoning, None, ""
        rest, self._head = self._head[head.end() :], ""
        return reasoning, self._begin(_text_of(head[1])), rest[: self._arguments.take(rest)]

    def whole(self, *, cut: bool) -> tuple[str | None, str]:
        """What can be told of a text that ended before its arguments began. Raises EngineFailed for one that is no call."""
        try:
            call = msgspec.json.decode(self._head + self._thinking.finish()[1])
            return self._begin(call["name"]), _json.encode(call["arguments"]).decode()
        except (msgspec.DecodeError, UnicodeError, TypeError, KeyError, RecursionError) as error:
            if cut:
                return None, ""
            raise EngineFailed(_NO_CALL, answers=True) from error

    def _keep(self, characters: int) -> None:
        self._kept += characters
        if self._kept > _MOST_KEPT:
            raise EngineFailed(_NO_CALL, answers=True)

    def _begin(self, name: str) -> str:
        if name not in self.names:
            raise EngineFailed("The engine called a tool that it was not given.", answers=True)
        self.begun = True
        self._kept = 0
        return name
