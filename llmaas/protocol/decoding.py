"""From bytes of a caller to a typed request: every way in which they can be wrong becomes an InvalidRequest with its `param`."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from llmaas.errors import InvalidRequest
from llmaas.protocol.requests import texts_decoder

T = TypeVar("T")
_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_FIELD = re.compile(r"(?:required|unknown) field `([^`]+)`")
_LARGE_BYTES = 1024 * 1024
_PORTION_BYTES = 256 * 1024
_MOST_VALUES = 500_000
_MOST_BESIDE = 100_000
"""Values that are no message, prompt or input. Members of a schema or of `logit_bias` take ten times as long as most others."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises InvalidRequest; its message is bounded and safe to send back."""
    if len(body) > _LARGE_BYTES:
        _refuse_many(body)
    if body.find(b"\\u0000") >= 0 and b"\\u0000" in body.replace(b"\\\\", b""):
        raise InvalidRequest("The body holds a NUL character, which no model can take.")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. The API expects a JSON object."
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequest("The JSON body of your request is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidRequest("The JSON body of your request is nested too deeply.") from None


def _refuse_many(body: bytes) -> None:
    """Values are looked at before decoding, since each takes many times the memory of its text."""
    values = _values(body)
    if values > _MOST_VALUES:
        raise InvalidRequest("The body holds too many values.")
    if values <= _MOST_BESIDE:
        return
    try:
        texts = texts_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # it is refused for that
    if values - sum(_values(bytes(text)) for text in (texts.messages, texts.prompt, texts.input)) > _MOST_BESIDE:
        raise InvalidRequest("The body holds too many values beside its messages, prompt or input.")


def _values(data: bytes) -> int:
    """No further than until there are too many."""
    values = 0
    for start in range(0, len(data), _PORTION_BYTES):
        end = start + _PORTION_BYTES
        values += data.count(b",", start, end) + data.count(b"[", start, end)
        if values > _MOST_VALUES:
            break
    return values


def _invalid(text: str) -> InvalidRequest:
    path = _PATH.search(text)
    message = text[: path.start()] if path else text
    param = path.group(1) if path else ""
    if (field := _FIELD.search(message)) is not None:
        param = f"{param}.{field.group(1)}" if param else field.group(1)
        message = "Missing required parameter"
    where = f": '{param}'." if param else "."
    return InvalidRequest(f"Invalid request{where} {message}."[:500], param=param[:200] or None)
