"""What engines answer, as far as we use it, read strictly; what fails is looked at a second time by `lenient`.

Adapters of engines with a language of their own (Ollama) build these structs themselves. None ever holds itself, so that the
collector of garbage, which would be told of each at a price, need not know of them (`gc=False`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

NOTHING = msgspec.Raw()
_NULL = msgspec.Raw(b"null")


def given(raw: msgspec.Raw) -> bool:
    """Whether a raw member was there and is not null."""
    return raw is not NOTHING and raw != _NULL


class EngineFunction(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | list[Any] | None = None


class EngineToolCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: EngineFunction | None = None


class EngineDelta(Struct, gc=False):
    """A piece of a message, or the whole of it. `reasoning` is what newer vLLM calls `reasoning_content`; `function_call` is the older
    form of a tool call (`renew_call`).
    """

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[EngineToolCall] | None = None
    function_call: EngineFunction | None = None


class EngineChoice(Struct, gc=False):
    """`delta` in streams, `message` in whole answers, `text` in completions. `usage`: some have it here (Moonshot)."""

    index: int = 0
    delta: EngineDelta | None = None
    message: EngineDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING
    usage: msgspec.Raw = NOTHING


class EngineAnswer(Struct, gc=False):
    """A chunk of a stream or a whole answer. `usage` and `timings` stay raw: only the last ones are looked at. `x_groq`: Groq has its
    `usage` in it.
    """

    choices: list[EngineChoice] | None = None
    usage: msgspec.Raw = NOTHING
    timings: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING
    x_groq: msgspec.Raw = NOTHING


class EngineEmbedding(Struct):
    """`embedding` stays raw: its numbers are looked at in portions. `index` None: it was not given, so the place in the list says it."""

    embedding: msgspec.Raw
    index: int | None = None


class EngineEmbeddings(Struct):
    data: list[EngineEmbedding] | None = None
    usage: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


def renew_call(delta: EngineDelta) -> None:
    """Tell a call of the older form in the newer one. Some engines give both, and then it is the same call; some give an empty one
    beside each text.
    """
    call, delta.function_call = delta.function_call, None
    if call is not None and not delta.tool_calls and (call.name or call.arguments):
        delta.tool_calls = [EngineToolCall(0, None, call)]


answer_decoder = msgspec.json.Decoder(EngineAnswer)
embeddings_decoder = msgspec.json.Decoder(EngineEmbeddings)


def is_fault(error: msgspec.Raw) -> bool:
    """Whether an `error` member tells of an error: some put an empty one beside each good answer."""
    if not given(error):
        return False
    try:
        return tells(msgspec.json.decode(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True


_OF_SUCCESS = frozenset({"", "null", "none", "ok", "success", "0", "200"})
"""Words in an `error` that tell of none."""


def tells(value: object) -> bool:
    """Whether an error, its code or its status tells of one."""
    if isinstance(value, dict):
        return any(map(tells, value.values()))
    if isinstance(value, str):
        return value.strip().lower() not in _OF_SUCCESS
    return bool(value) and value != 200


def delta_of(choice: EngineChoice) -> EngineDelta | None:
    """What it says: some send an empty `delta` beside the `message` that says it."""
    delta, message = choice.delta, choice.message
    return message if delta is None or (message is not None and not _has_something(delta)) else delta


def _has_something(delta: EngineDelta) -> bool:
    """Whether there is more in it than a role."""
    if delta.function_call is not None:
        renew_call(delta)
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.refusal or delta.tool_calls)


def texts_of(choice: EngineChoice) -> Iterator[str]:
    """All that a model has made of it, calls and thoughts too."""
    delta = delta_of(choice)
    yield choice.text or ""
    if delta is None:
        return
    renew_call(delta)
    yield from (text for text in (delta.content, delta.reasoning_content or delta.reasoning, delta.refusal) if text)
    for call in delta.tool_calls or ():
        function = call.function or EngineFunction()
        arguments = function.arguments
        yield function.name or ""
        yield arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or "").decode()


def says_something(answer: EngineAnswer) -> bool:
    """Whether it has a piece of an answer or its end, and not only a role, counts or progress."""
    for choice in answer.choices or ():
        delta = choice.delta
        if choice.text or choice.finish_reason or choice.message is not None or given(choice.logprobs):
            return True
        if delta is not None and _has_something(delta):
            return True
    return False
