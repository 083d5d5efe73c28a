"""The second, lenient look at what an engine sent, for when the strict one failed: keeps what can be kept of the same bytes.

What goes out stays strict. A character in two halves over two chunks (a surrogate pair, or the bytes of UTF-8) is put together;
a half without its other is U+FFFD. A number that is none (NaN, Infinity) is null; a member of another type than it should have
is read for what it plainly means, else left out. Bytes that are no JSON object raise EngineFailed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeVar

import msgspec

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import (
    NOTHING,
    EngineAnswer,
    EngineChoice,
    EngineDelta,
    EngineEmbedding,
    EngineEmbeddings,
    EngineFunction,
    EngineToolCall,
    delta_of,
    renew_call,
    tells,
)

MAX_BYTES: Final = 8 * 1024 * 1024
"""Python's objects take twenty times the room of their JSON, and reading them holds up everyone else."""
_MAX_DIGITS: Final = 20
_MOST_NESTED: Final = 100
_REPLACEMENT = "\ufffd"
# Bytes that are no UTF-8 are read as U+DC80..U+DCFF, which may also follow the first half of a real pair.
_STRAY_BYTES = re.compile("(?<![\ud800-\udbff])[\udc80-\udcff]+")
_UNFINISHED = re.compile(
    "(?:[\ud800-\udbff]"
    "|(?<![\ud800-\udbff])(?:[\udcc2-\udcdf]|[\udce0-\udcef][\udc80-\udcbf]?|[\udcf0-\udcf4][\udc80-\udcbf]{0,2}))$"
)
_TEXT_OF_PART = ("text", "content", "value")
_MARKS = ("object", "type", "status", "event")
"""Members of which one may say "error"."""
_MEMBERS_OF_ERRORS = ("errors", "detail", "error_code", "error_message", "error_msg", "exception")
"""Members that only errors have: FastChat's, FastAPI's, and those of gateways."""
_MEMBERS_OF_CHUNKS = tuple(name for name in _MEMBERS_OF_ERRORS if name != "detail")
"""The same beside `choices`, where a detail is one of the answer, such as its place in a queue."""
_SENTENCES = ("message", "msg")
"""Members that hold the sentence of an error which stands there by itself, with nothing around it."""
_CODES = ("code", "status_code", "statusCode")
"""Members beside such a sentence, of which one that is no success makes it an error."""
_BESIDE = frozenset(
    {*_SENTENCES, *_CODES, *_MARKS, "param", "data", "request_id", "requestId", "trace_id", "timestamp"}
)
"""What may stand beside a sentence that is an error even without a code: gateways' own errors have little else."""
_UNSAID = (None, "")
_OF_ERRORS = re.compile(
    r"error|exception|fail|invalid|denied|unauthorized|forbidden|not.?found|unavailable|timeout|exceed|limit|quota|overload"
    r"|throttl|abort|crash"
)
"""What a type or status has in it that is an error's."""
_MAY_BE_FAULT = re.compile(rb"rror|\"(?:message|msg|detail|exception)\"")
T = TypeVar("T")


def read_json(data: bytes | msgspec.Raw) -> Any:
    """Plain values of JSON with the usual faults; texts may hold halves of characters. EngineFailed for what is no JSON."""
    raw = bytes(data)
    if len(raw) > MAX_BYTES:
        raise EngineFailed("The engine sent something that is not an answer.", hint="too long to be mended")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
    try:
        value = json.loads(text, strict=False, parse_constant=_nothing, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise EngineFailed("The engine sent something that is not an answer.", hint=str(error)) from error
    if text.count("[") + text.count("{") > _MOST_NESTED and _is_nested(value):
        raise EngineFailed("The engine sent something that is not an answer.", hint="nested too deeply")
    return value


def _is_nested(value: Any) -> bool:
    """Whether it is deeper than those who look into it can follow, who have a frame or two for each level."""
    level = [value]
    for _ in range(_MOST_NESTED):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def clean(text: str) -> str:
    """The text with pairs of surrogates joined, and U+FFFD for what is left over of a character."""
    text = _STRAY_BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace"), text)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_raw(value: Any) -> msgspec.Raw:
    """JSON that is valid, of what `read_json` gave."""
    return msgspec.Raw(clean(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).encode())


class Halves:
    """Puts the texts of one stream together where a character was cut in two between them.

    It begins when a chunk could not be read strictly, and is then asked for each chunk that follows.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], str] = {}

    def join(self, answer: EngineAnswer, *, whole: bool = False) -> EngineAnswer:
        """The answer with clean texts; halves at the end of a text are kept back for the next one, unless the choice ended
        or the answer is `whole`.
        """
        for choice in answer.choices or ():
            index, last = choice.index, whole or bool(choice.finish_reason)
            choice.text = self._text(index, "text", choice.text, last=last)
            if isinstance(choice.finish_reason, str):
                choice.finish_reason = clean(choice.finish_reason)
            delta = delta_of(choice)
            if delta is None and last and self._held:
                delta = choice.delta = EngineDelta()
            if delta is None:
                continue
            renew_call(delta)
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                setattr(delta, name, self._text(index, name, getattr(delta, name), last=last))
            for call in delta.tool_calls or ():
                self._call(index, call)
        return answer

    def _call(self, index: int, call: EngineToolCall) -> None:
        call.id = None if call.id is None else clean(call.id)
        function = call.function
        if function is None:
            return
        function.name = None if function.name is None else clean(function.name)
        if isinstance(function.arguments, str):
            key = f"call {call.index if call.index is not None else call.id}"
            function.arguments = self._text(index, key, function.arguments, last=False)
        elif function.arguments is not None:
            function.arguments = bytes(to_raw(function.arguments)).decode()

    def _text(self, index: int, name: str, text: str | None, *, last: bool) -> str | None:
        held = self._held.pop((index, name), None)
        if text is None and held is None:
            return None
        if not text and not last:
            if held is not None:
                self._held[index, name] = held
            return text
        whole = (held or "") + (text or "")
        # Bytes that are a character now that the rest of it is there.
        whole = _STRAY_BYTES.sub(
            lambda run: run[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"), whole
        )
        unfinished = None if last else _UNFINISHED.search(whole)
        if unfinished is not None:
            self._held[index, name] = unfinished[0]
            whole = whole[: unfinished.start()]
        return clean(whole)


def lenient_answer(data: bytes) -> EngineAnswer:
    """A chunk or a whole answer. Its texts may end in half a character: give it to `Halves.join`. Raises EngineFailed."""
    fields = _object(read_json(data))
    choices = fields.get("choices")
    if isinstance(choices, dict) and choices:
        choices = [choices]  # one choice that is not in a list
    return EngineAnswer(
        choices=[_choice(item) for item in choices if isinstance(item, dict)] if isinstance(choices, list) else None,
        usage=_raw(fields.get("usage")),
        timings=_raw(fields.get("timings")),
        x_groq=_raw(fields.get("x_groq")),
        error=_raw(fields.get("error")) if choices else fault_of(fields),
    )


def fault_in(data: bytes) -> msgspec.Raw:
    """The error that stands in place of an answer, in whatever shape; NOTHING when there is none."""
    if _MAY_BE_FAULT.search(data) is None:
        return NOTHING  # as the counts at the end of each stream are
    try:
        return fault_of(_object(read_json(data)))
    except EngineFailed:
        return NOTHING


def fault_of(fields: dict[str, Any]) -> msgspec.Raw:
    """Like `fault_in`, of an object that is read already."""
    if tells(fields.get("error")):
        return to_raw(fields["error"])
    marked = any(fields.get(name) == "error" for name in _MARKS)
    members = _MEMBERS_OF_CHUNKS if "choices" in fields else _MEMBERS_OF_ERRORS
    if marked or any(tells(fields.get(name)) for name in members) or _is_bare_error(fields):
        return to_raw(fields)
    return NOTHING


def _is_bare_error(fields: dict[str, Any]) -> bool:
    """Whether it is the inside of an error: a sentence with a code or a kind that is an error's, or with next to nothing else."""
    if not any(isinstance(said := fields.get(name), str) and said.strip() for name in _SENTENCES):
        return False
    codes = [fields[name] for name in _CODES if fields.get(name) not in _UNSAID]
    kinds = [fields[name] for name in _MARKS if fields.get(name) not in _UNSAID]
    if not codes and not kinds:
        return fields.keys() <= _BESIDE
    return any(map(tells, codes)) or any(
        _OF_ERRORS.search(str(kind).lower()) or (whole_number(kind) or 0) >= 400 for kind in kinds
    )


def lenient_embeddings(data: bytes) -> EngineEmbeddings:
    """Vectors as far as they are such: what is wrong in one is told when they are held against the request."""
    fields = _object(read_json(data))
    items = fields.get("data")
    if isinstance(items, dict):
        items = [items]
    return EngineEmbeddings(
        data=[_embedding(item) for item in items] if isinstance(items, list) else None,
        usage=_raw(fields.get("usage")),
        error=_raw(fields.get("error")),
    )


def vector(value: object) -> list[float]:
    """The numbers of an embedding; [] for what is none."""
    if not isinstance(value, list):
        return []
    numbers = [number(item) for item in value]
    return [] if None in numbers else [one for one in numbers if one is not None]


def whole_number(value: object) -> int | None:
    """A number, also as text; None for what is none."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def text_of(value: object) -> str | None:
    """Text, also as a list of parts, as one part, or as a number; None for what is none."""
    match value:
        case str():
            return value
        case bool() | None:
            return None
        case int() | float():
            return str(value)
        case list():
            return "".join(text for part in value if (text := text_of(part)) is not None)
        case dict():
            return next((text for name in _TEXT_OF_PART if (text := text_of(value.get(name))) is not None), None)
    return None


def word_of(value: object) -> str | None:
    """A word such as a finish reason, also as the `type` or `reason` of an object."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason") or "object"
    if isinstance(value, list):
        return word_of(value[0]) if value else None
    return value if isinstance(value, str) else None if not value else str(value)


def calls_of(value: object) -> list[EngineToolCall] | None:
    """Tool calls, also a single one that is not in a list."""
    if isinstance(value, dict):
        value = [value] if value else []
    if not isinstance(value, list):
        return None
    return [_tool_call(item) for item in value if isinstance(item, dict)] or None


def _choice(fields: dict[str, Any]) -> EngineChoice:
    delta, message = fields.get("delta"), fields.get("message")
    return EngineChoice(
        index=whole_number(fields.get("index")) or 0,
        delta=_delta(delta),
        message=_delta(message),
        text=text_of(fields.get("text")),
        finish_reason=word_of(fields.get("finish_reason")),
        logprobs=_raw(fields.get("logprobs")),
        usage=_raw(fields.get("usage")),
        error=_raw(fields.get("error")),
    )


def _delta(value: object) -> EngineDelta | None:
    if isinstance(value, str | list):
        text = text_of(value)
        return EngineDelta(content=text) if text else None
    if not isinstance(value, dict):
        return None
    content, thoughts = value.get("content"), value.get("reasoning_content")
    if isinstance(content, list) and (thinking := [part for part in content if _is_thought(part)]):
        # Mistral's form
        content = [part for part in content if not _is_thought(part)] or None
        thoughts = [part.get("thinking") for part in thinking]
    return EngineDelta(
        content=text_of(content),
        reasoning_content=text_of(thoughts),
        reasoning=text_of(value.get("reasoning")),
        refusal=text_of(value.get("refusal")),
        tool_calls=calls_of(value.get("tool_calls")),
        function_call=_function(value.get("function_call")),
    )


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "thinking"


def _tool_call(fields: dict[str, Any]) -> EngineToolCall:
    function = fields.get("function")
    if not isinstance(function, dict):
        # Some put the members of the function beside the id.
        function = fields if "name" in fields else {}
    return EngineToolCall(
        index=whole_number(fields.get("index")), id=text_of(fields.get("id")), function=_function(function)
    )


def _function(value: object) -> EngineFunction | None:
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments")
    return EngineFunction(
        name=text_of(value.get("name")), arguments=arguments if isinstance(arguments, str | dict | list) else None
    )


def _embedding(item: object) -> EngineEmbedding:
    if not isinstance(item, dict):
        return EngineEmbedding(to_raw(vector(item)))
    value = item.get("embedding")
    index = item.get("index")
    return EngineEmbedding(
        to_raw(value if isinstance(value, str) else vector(value)),
        None if index is None else -1 if (place := whole_number(index)) is None else place,
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EngineFailed("The engine sent something that is not an answer.", hint="it is JSON, but not an object")
    return value


def _raw(value: object) -> msgspec.Raw:
    return NOTHING if value is None else to_raw(value)


def number(value: object) -> int | float | None:
    """A finite number, also as text; None for what is none."""
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= _MAX_DIGITS else None
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _int(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_DIGITS else None


def _nothing(_constant: str) -> None:
    return None
