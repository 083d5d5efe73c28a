"""Vectors of engines held against what was asked for, in portions, and in the form that was asked for."""

from __future__ import annotations

import base64
import json
from array import array
from typing import Any, Literal

import msgspec
import pytest

from llmaas.errors import EngineFailed
from llmaas.protocol.embeddings import PORTION, check_embeddings, render_embeddings
from llmaas.protocol.engine import EngineEmbeddings, embeddings_decoder
from llmaas.protocol.requests import EmbeddingRequest

VECTOR = [0.5, -1.25, 3.0]
TEXT = base64.b64encode(array("f", VECTOR).tobytes()).decode()


def asked(inputs: int, form: Literal["float", "base64"] | None = None) -> EmbeddingRequest:
    return EmbeddingRequest(model="m", input=["x"] * inputs, encoding_format=form)


def made(*vectors: Any) -> EngineEmbeddings:
    return embeddings_decoder.decode(json.dumps({"data": [{"embedding": vector} for vector in vectors]}))


@pytest.mark.parametrize("given", [VECTOR, TEXT, ["0.5", -1.25, 3]], ids=["numbers", "base64", "with a text"])
@pytest.mark.parametrize(("form", "wanted"), [(None, VECTOR), ("float", VECTOR), ("base64", TEXT)])
def test_a_vector_comes_in_the_form_that_was_asked_for(
    given: Any, form: Literal["float", "base64"], wanted: Any
) -> None:
    answer = made(given)
    for _ in check_embeddings(answer, asked(1, form)):
        pass
    (item,) = json.loads(render_embeddings(answer, "a", "m", {}, 1))["data"]
    assert (item["index"], item["embedding"]) == (0, wanted)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_A19_no_more_than_a_portion_of_a_large_answer_is_looked_at_in_one_go(form: Literal["float", "base64"]) -> None:
    """What is not looked at yet is as the engine sent it: no number of it was read."""
    length, count = 1024, 100
    text = base64.b64encode(array("f", [0.5] * length).tobytes()).decode()
    answer = made(*[text if form == "float" else [0.5] * length] * count)
    before = [item.embedding for item in answer.data or ()]
    settled = [
        sum(item.embedding is not old for item, old in zip(answer.data or (), before, strict=True))
        for _ in check_embeddings(answer, asked(count, form))
    ]
    assert settled == list(range(PORTION // length, count + 1, PORTION // length))
    rendered = json.loads(render_embeddings(answer, "a", "m", {}, 1))["data"]
    assert [item["embedding"] for item in rendered] == [[0.5] * length if form == "float" else text] * count


@pytest.mark.parametrize(
    "vectors", [(VECTOR, [1]), (VECTOR, []), (VECTOR, 5), (VECTOR, "%"), (VECTOR, [1e300] * 3)], ids=str
)
def test_what_is_no_vector_is_a_failure(vectors: Any) -> None:
    with pytest.raises(EngineFailed):
        list(check_embeddings(made(*vectors), asked(2)))


def test_numbers_that_are_none_are_a_failure() -> None:
    answer = EngineEmbeddings(data=made(VECTOR).data)
    assert answer.data
    answer.data[0].embedding = msgspec.Raw(b"[0.5, 1e999, 1]")
    with pytest.raises(EngineFailed):
        list(check_embeddings(answer, asked(1)))
