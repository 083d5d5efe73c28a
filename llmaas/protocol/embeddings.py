"""Embeddings: vectors as JSON numbers or as base64 of little-endian 32-bit floats, whichever the caller asked for.

Nothing is rendered that was not held against the request before.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from typing import Any

import msgspec

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import EngineEmbeddings
from llmaas.protocol.requests import EmbeddingRequest, prompt_list

_json = msgspec.json.Encoder()


def check_embeddings(answer: EngineEmbeddings, request: EmbeddingRequest) -> None:
    """Hold an answer against its request and put it in order: one vector for each input, all of them numbers and of one length.
    Raises EngineFailed.
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
    length = request.dimensions
    for item in items:
        numbers = _numbers(item.embedding)
        length = length or len(numbers)
        if not numbers or len(numbers) != length:
            raise EngineFailed(
                "The engine made embeddings of another length than was asked for.",
                hint=f"{len(numbers)}, not {length}",
                answers=True,
            )
        if not math.isfinite(sum(numbers)):
            raise EngineFailed("The engine made an embedding of something that is not a number.", answers=True)


def render_embeddings(
    answer: EngineEmbeddings,
    answer_id: str,
    model: str,
    backend: dict[str, str],
    prompt_tokens: int,
    request: EmbeddingRequest,
) -> bytes:
    as_text = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": item.index,
            "embedding": _to_text(item.embedding) if as_text else _to_numbers(item.embedding),
        }
        for item in answer.data or ()
    ]
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "list",
        "data": data,
        "model": model,
        "backend": backend,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }
    return _json.encode(body)


def _to_text(vector: list[float] | str) -> str:
    if isinstance(vector, str):
        return vector
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def _to_numbers(vector: list[float] | str) -> list[float]:
    return _numbers(vector).tolist() if isinstance(vector, str) else vector


def _numbers(vector: list[float] | str) -> array[float]:
    """As callers get them: of 32 bits. Raises EngineFailed."""
    try:
        if not isinstance(vector, str):
            return array("f", vector)
        numbers = array("f")
        numbers.frombytes(base64.b64decode(vector, validate=True))
    except (binascii.Error, ValueError, OverflowError) as error:
        raise EngineFailed("The engine sent an embedding that can't be read.") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
