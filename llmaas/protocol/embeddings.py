"""Embeddings: vectors as JSON numbers or as base64 of little-endian 32-bit floats, whichever the caller asked for."""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from typing import Any

import msgspec

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import EngineEmbeddings
from llmaas.protocol.requests import EmbeddingRequest

_json = msgspec.json.Encoder()


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
        for item in sorted(answer.data or (), key=lambda item: item.index)
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
    if not isinstance(vector, str):
        return vector
    numbers = array("f")
    try:
        numbers.frombytes(base64.b64decode(vector, validate=True))
    except (binascii.Error, ValueError) as error:
        raise EngineFailed("The engine sent an embedding that can't be read.") from error
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
