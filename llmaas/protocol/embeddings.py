"""Embeddings: vectors as JSON numbers or as base64 of little-endian 32-bit floats, whichever the caller asked for.

Nothing is rendered that was not held against the request before.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import EngineEmbeddings
from llmaas.protocol.lenient import read_json, vector
from llmaas.protocol.requests import EmbeddingRequest, prompt_list

PORTION: Final = 32_768
"""Numbers that are looked at in one go: a few milliseconds."""
_json = msgspec.json.Encoder()
_vector_decoder: msgspec.json.Decoder[list[float] | str] = msgspec.json.Decoder(list[float] | str)


def check_embeddings(answer: EngineEmbeddings, request: EmbeddingRequest) -> Iterator[None]:
    """Hold an answer against its request and bring it into the form that was asked for: one vector for each input, in their order, all
    of them numbers and of one length. An answer may hold millions of numbers, so it stops after each portion of them: others may run
    before it is asked to go on. Raises EngineFailed.
    """
    items = answer.data = answer.data or []
    asked = len(prompt_list(request.input, "input"))
    if len(items) != asked:
        raise EngineFailed(
            "The engine made another number of embeddings than was asked for.",
            hint=f"{len(items)} for {asked}",
            answers=True,
        )
    if all(item.index is None for item in items):
        for index, item in enumerate(items):
            item.index = index
    items.sort(key=lambda item: -1 if item.index is None else item.index)
    if [item.index for item in items] != list(range(asked)):
        raise EngineFailed("The engine's embeddings do not say which input they belong to.", answers=True)
    length, looked_at = request.dimensions, 0
    for item in items:
        numbers, item.embedding = _settled(item.embedding, as_text=request.encoding_format == "base64")
        length = length or len(numbers)
        if not numbers or len(numbers) != length:
            raise EngineFailed(
                "The engine made embeddings of another length than was asked for.",
                hint=f"{len(numbers)}, not {length}",
                answers=True,
            )
        if not math.isfinite(sum(numbers)):
            raise EngineFailed("The engine made an embedding of something that is not a number.", answers=True)
        looked_at += length
        if looked_at >= PORTION:
            looked_at = 0
            yield


def render_embeddings(
    answer: EngineEmbeddings, answer_id: str, model: str, backend: dict[str, str], prompt_tokens: int
) -> bytes:
    """Of an answer that was checked."""
    data = [{"object": "embedding", "index": item.index, "embedding": item.embedding} for item in answer.data or ()]
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "list",
        "data": data,
        "model": model,
        "backend": backend,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }
    return _json.encode(body)


def _settled(raw: msgspec.Raw, *, as_text: bool) -> tuple[array[float], msgspec.Raw]:
    """The numbers, as callers get them: of 32 bits; and their JSON, which stays what it was where it has the form that was asked for.
    Raises EngineFailed.
    """
    try:
        found = _vector_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = vector(read_json(raw))
        raw = msgspec.Raw(_json.encode(found))
    if isinstance(found, str):
        numbers = _from_text(found)
        return numbers, raw if as_text else msgspec.Raw(_json.encode(numbers.tolist()))
    numbers = array("f", found)
    return numbers, msgspec.Raw(b'"%b"' % _to_text(numbers)) if as_text else raw


def _from_text(text: str) -> array[float]:
    numbers = array("f")
    try:
        numbers.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise EngineFailed("The engine sent an embedding that can't be read.") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _to_text(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("f", numbers)
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes())
