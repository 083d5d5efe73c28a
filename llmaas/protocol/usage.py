"""What engines say of tokens, made safe: numbers that are none are dropped and marked."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Struct

from llmaas.protocol.engine import given

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Reported(Struct, frozen=True):
    """An engine's own counts; `reasoning` None when it does not tell. `suspect`: some of it made no sense."""

    prompt: int
    completion: int
    cached: int
    reasoning: int | None
    suspect: bool


class _PromptDetails(Struct):
    cached_tokens: _Count | None = None


class _CompletionDetails(Struct):
    reasoning_tokens: _Count | None = None


class _PlainUsage(Struct):
    """As it should be."""

    prompt_tokens: _Count
    completion_tokens: _Count
    reasoning_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


_plain_decoder = msgspec.json.Decoder(_PlainUsage)


def read_usage(raw: msgspec.Raw) -> Reported | None:
    """OpenAI's `usage` object. None when there is none."""
    if not given(raw):
        return None
    try:
        plain = _plain_decoder.decode(raw)
    except msgspec.MsgspecError:
        return _read_odd_usage(_object(raw) or {})
    details, made = plain.prompt_tokens_details, plain.completion_tokens_details
    reasoning = plain.reasoning_tokens if made is None else made.reasoning_tokens
    return Reported(
        plain.prompt_tokens, plain.completion_tokens, (details and details.cached_tokens) or 0, reasoning, suspect=False
    )


def _read_odd_usage(fields: dict[str, Any]) -> Reported:
    """Usage that is not as it should be: what makes sense of it, marked as suspect where something does not."""
    suspect = False

    def count(source: dict[str, Any], name: str) -> int | None:
        nonlocal suspect
        value = source.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            suspect = True
            return None
        return value

    details = fields.get("prompt_tokens_details")
    made = fields.get("completion_tokens_details")
    prompt, completion = count(fields, "prompt_tokens"), count(fields, "completion_tokens")
    cached = count(details, "cached_tokens") if isinstance(details, dict) else None
    reasoning = count(made, "reasoning_tokens") if isinstance(made, dict) else count(fields, "reasoning_tokens")
    if prompt is None and completion is None:
        return Reported(0, 0, 0, None, suspect=True)
    suspect = suspect or prompt is None
    return Reported(prompt or 0, completion or 0, cached or 0, reasoning, suspect)


def read_timings(raw: msgspec.Raw) -> Reported | None:
    """llama.cpp's `timings`: `prompt_n` tokens were computed, `cache_n` were not, `predicted_n` were made."""
    fields = _object(raw)
    if fields is None:
        return None
    numbers = [fields.get(name) for name in ("prompt_n", "cache_n", "predicted_n")]
    if not all(isinstance(n, int) and n >= 0 for n in numbers[::2]):
        return None
    computed, cached, made = (n if isinstance(n, int) and n >= 0 else 0 for n in numbers)
    return Reported(computed + cached, made, cached, None, suspect=False)


def _object(raw: msgspec.Raw) -> dict[str, Any] | None:
    if not given(raw):
        return None
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def usage_json(prompt: int, cached: int, completion: int, reasoning: int) -> msgspec.Raw:
    """The `usage` object that callers get; `cached` is part of `prompt`, `reasoning` of `completion`."""
    return msgspec.Raw(
        b'{"prompt_tokens":%d,"completion_tokens":%d,"reasoning_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}'
        % (prompt, completion, reasoning, prompt + completion, cached, reasoning)
    )


def add_usage(first: msgspec.Raw, second: msgspec.Raw, *, same_prompt: bool = False) -> msgspec.Raw:
    """Two `usage` objects as one; `same_prompt`: both are of one prompt, which counts once. One that is not there adds nothing."""
    one, other = read_usage(first), read_usage(second)
    if one is None or other is None:
        return first if other is None else second
    total: dict[str, Any] = {
        "prompt_tokens": one.prompt if same_prompt else one.prompt + other.prompt,
        "completion_tokens": one.completion + other.completion,
        "prompt_tokens_details": {"cached_tokens": one.cached if same_prompt else one.cached + other.cached},
    }
    if one.reasoning is not None or other.reasoning is not None:
        total["completion_tokens_details"] = {"reasoning_tokens": (one.reasoning or 0) + (other.reasoning or 0)}
    return msgspec.Raw(msgspec.json.encode(total))
