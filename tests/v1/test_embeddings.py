"""`/v1/embeddings`: both formats say the same numbers, whatever the engine sends."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.answer import embedding
from tests.fakes.behaviour import Behaviour
from tests.fakes.error_shapes import Shape
from tests.service import KINDS, Service, error_of, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


def unpacked(text: str) -> list[float]:
    data = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.mark.parametrize("kind", KINDS)
async def test_base64_and_numbers_are_the_same_vector(service: Service, kind: ProviderKind) -> None:
    model = model_of(kind, "embed")
    numbers = (await service.embed(["a b", "c"], model)).json()
    texts = (await service.embed(["a b", "c"], model, encoding_format="base64")).json()
    assert [item["embedding"] for item in numbers["data"]] == [embedding("a b"), embedding("c")]
    assert [unpacked(item["embedding"]) for item in texts["data"]] == [embedding("a b"), embedding("c")]


async def test_the_shape(service: Service) -> None:
    answer = await service.embed("a b c")
    body = answer.json()
    assert answer.header("id") == body.pop("id")
    assert body.pop("backend") == {"engine_type": "openai", "machine_name": "ma01"}
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embedding("a b c")}],
        "model": "embed",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    row = await service.row(answer)
    assert (row.endpoint, row.input_tokens, row.output_tokens) == ("embedding", 3, 0)


@pytest.mark.parametrize(("given", "count"), [([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a"], 1)], ids=str)
async def test_every_form_of_input(service: Service, given: Any, count: int) -> None:
    body = (await service.embed(given)).json()
    assert [item["index"] for item in body["data"]] == list(range(count))


async def test_the_other_format_than_asked_is_converted(service: Service) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    entry = b'{"data":[{"index":0,"embedding":%b}]}'
    service.fake().script(Behaviour(body=entry % f'"{packed}"'.encode()), Behaviour(body=entry % b"[0.5,-1.0]"))
    assert (await service.embed("a")).json()["data"][0]["embedding"] == [0.5, -1.0]
    assert (await service.embed("a", encoding_format="base64")).json()["data"][0]["embedding"] == packed


def packed(*numbers: float) -> bytes:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))


def vectors(*entries: bytes) -> bytes:
    return b'{"data":[%b],"usage":{"prompt_tokens":3}}' % b",".join(entries)


ONE, OTHER = b'{"index":0,"embedding":[0.5,1]}', b'{"index":1,"embedding":[0.5,2]}'


@pytest.mark.parametrize(
    ("given", "body", "more"),
    [
        (["a", "b", "c"], vectors(ONE, OTHER), {}),
        (["a"], vectors(ONE, OTHER), {}),
        ([[1], [2], [3]], vectors(ONE), {}),
        (["a", "b", "c"], vectors(ONE, OTHER, OTHER), {}),
        (["a", "b"], vectors(ONE, ONE), {}),
        (["a", "b"], vectors(ONE, OTHER.replace(b"1,", b"2,")), {}),
        (["a", "b"], vectors(ONE, b'{"embedding":[1,2]}'), {}),
        (["a", "b"], vectors(ONE, b'{"index":1,"embedding":[]}'), {}),
        (["a", "b"], vectors(ONE, b'{"index":1,"embedding":[1,2,3]}'), {}),
        ("a", vectors(ONE), {"dimensions": 8}),
        ("a", vectors(b'{"index":0,"embedding":"%b"}' % packed(1, 2, 3)), {"dimensions": 8}),
        ("a", vectors(), {}),
        ("a", vectors(b'{"index":0,"embedding":[0.5,NaN]}'), {}),
        ("a", vectors(b'{"index":0,"embedding":[0.5,1e999]}'), {}),
        ("a", vectors(b'{"index":0,"embedding":[0.5,1e300]}'), {}),
        ("a", vectors(b'{"index":0,"embedding":[0.5,null]}'), {}),
        ("a", vectors(b'{"index":0,"embedding":"%b"}' % packed(1, float("nan"))), {}),
        ("a", vectors(b'{"index":0,"embedding":"%b"}' % packed(float("inf"))), {}),
        ("a", vectors(b'{"index":0,"embedding":"not base64"}'), {}),
        ("a", vectors(b'{"index":0,"embedding":""}'), {}),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_are_held_against_the_request(
    service: Service, given: Any, body: bytes, more: dict[str, Any], form: str
) -> None:
    service.fake().script(Behaviour(body=body))
    answer = await service.embed(given, encoding_format=form, **more)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")
    row = await service.row(answer)
    assert (row.outcome, row.input_tokens, row.cost_nano) == ("engine_failed", 0, 0)


@pytest.mark.parametrize(
    "body", [b'{"embeddings":[[1,2]]}', b'{"embeddings":[[1],[2],[]]}', b'{"embeddings":[[1],[2],[NaN]]}']
)
async def test_ollamas_are_held_against_the_request_too(service: Service, body: bytes) -> None:
    service.fake(ProviderKind.OLLAMA).script(Behaviour(body=body))
    answer = await service.embed(["a", "b", "c"], "ollama/embed")
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize(
    "body",
    [
        vectors(OTHER, ONE),
        vectors(b'{"embedding":[0.5,1]}', b'{"embedding":[0.5,2]}'),
        vectors(b'{"index":null,"embedding":[0.5,1]}', b'{"index":null,"embedding":[0.5,2]}'),
        vectors(b'{"index":"1","embedding":[0.5,2]}', b'{"index":"0","embedding":["0.5",1.0]}'),
        b"\xef\xbb\xbf" + vectors(ONE, OTHER)[:-1] + b',"error":"","x":NaN,"y":"\\ud800"}',
    ],
)
async def test_vectors_come_in_the_order_of_their_inputs_however_they_are_told(service: Service, body: bytes) -> None:
    service.fake().script(Behaviour(body=body))
    answer = await service.embed(["a", "b"])
    assert [(item["index"], item["embedding"]) for item in answer.json()["data"]] == [(0, [0.5, 1]), (1, [0.5, 2])]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data":null}',
        b'{"data":[{"embedding":"%%%"}]}',
        b'{"data":[{"embedding":"abc="}]}',
        b'{"data":[5]}',
        b"no",
    ],
    ids=repr,
)
async def test_what_is_no_embedding_is_the_engines_failure(service: Service, body: bytes) -> None:
    service.fake().script(Behaviour(body=body))
    answer = await service.embed("a")
    assert (answer.status, error_of(answer)["type"]) == (502, "server_error")


async def test_errors_of_engines(service: Service) -> None:
    cases: list[tuple[Shape, int, str]] = [
        ("context_openai", 400, "context_length_exceeded"),
        ("server", 502, "engine_failed"),
    ]
    for shape, status, code in cases:
        service.fake().script(Behaviour(error=shape))
        answer = await service.embed("a")
        assert (answer.status, error_of(answer)["code"]) == (status, code)
