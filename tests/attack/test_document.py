"""The published OpenAPI document: every route is in it, its references lead somewhere, and it holds nothing that is ours alone."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis

from llmaas.errors import InvalidRequest, Loading
from llmaas.protocol.answers import AnswerHead, StreamWriter, WholeAnswer
from llmaas.protocol.pieces import Piece
from llmaas.protocol.usage import usage_json
from llmaas.v1.errors import render
from llmaas.worker import GatewayWorker
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, Service, chunks

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _document(target: Service) -> dict[str, Any]:
    answer = await target.request("GET", "/openapi.json", key="")
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    document = answer.json()
    assert isinstance(document, dict)
    return document


def _validator(document: dict[str, Any], name: str) -> Any:
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    )


async def test_every_route_is_in_the_document_with_its_credential(target: Service) -> None:
    document = await _document(target)
    routes = GatewayWorker(await target.gateway.installation()).routes.routes
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path.replace("{rest}", "{model}")) for route in routes}
    for route in routes:
        operation = document["paths"][route.path.replace("{rest}", "{model}")][route.method.lower()]
        assert operation["security"] == ([] if route.access == "public" else [{"key": []}])
        if route.access != "public":
            assert operation["x-permission"] == route.access
            assert {"401", "403"} <= set(operation["responses"])


async def test_the_document_is_valid(target: Service) -> None:
    document = await _document(target)
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
        assert found
    for name in document["components"]["schemas"]:
        _validator(document, name)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


async def test_a_streams_schema_fits_both_its_text_and_its_events(target: Service) -> None:
    """Before OpenAPI 3.2 nothing says which of the two it describes, so tools differ."""
    document = await _document(target)
    for path in (CHAT, COMPLETIONS):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        schema = content["text/event-stream"]["schema"]
        described = jsonschema_rs.Draft202012Validator(schema)
        for value in ("data: {}\n\n", {"event": "message", "data": "{}"}):
            described.validate(value)
        names = set(re.findall(r"`(\w+)`", schema["description"]))
        assert names
        assert names <= document["components"]["schemas"].keys()


async def test_what_is_ours_alone_is_not_in_it(target: Service) -> None:
    text = json.dumps(await _document(target))
    assert "timings_per_token" not in text
    assert "continuous_usage_stats" not in text


@pytest.mark.parametrize("model", ["plain", "fake-tools", "fake-reasoning", "ollama/fake-tools", "vllm/fake-think"])
async def test_answers_and_chunks_are_as_described(target: Service, model: str) -> None:
    document = await _document(target)
    options = {"stream_options": {"include_usage": True}}
    headers = {"x-llmaas-explain": "1"}
    say = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    whole = await target.post(CHAT, say, headers=headers)
    _validator(document, "ChatCompletion").validate(whole.json())
    streamed = await target.post(CHAT, {**say, **options, "stream": True}, headers=headers)
    for chunk in chunks(streamed):
        _validator(document, "ChatCompletionChunk").validate(chunk)
    likely = await target.post(CHAT, {**say, "model": "plain", "logprobs": True, "top_logprobs": 2})
    _validator(document, "ChatCompletion").validate(likely.json())
    complete = {"model": model, "prompt": ["a", "b"], "logprobs": None}
    completed = await target.post(COMPLETIONS, complete)
    _validator(document, "Completion").validate(completed.json())
    for more in ({}, {"model": "plain", "logprobs": 2}):
        parts = chunks(await target.post(COMPLETIONS, {**complete, **options, **more, "stream": True}, headers=headers))
        assert ("routing" in parts[-1], any(part["choices"] for part in parts)) == (True, True)
        for chunk in parts:
            _validator(document, "CompletionChunk").validate(chunk)
    for form in ("float", "base64"):
        embedded = await target.post(EMBEDDINGS, {"model": "embed", "input": ["a", "b"], "encoding_format": form})
        _validator(document, "EmbeddingList").validate(embedded.json())
    listed = await target.request("GET", "/v1/models")
    _validator(document, "ModelList").validate(listed.json())


async def test_answers_that_a_limit_ended_are_as_described(target: Service) -> None:
    document = await _document(target)
    usage = msgspec.Raw(usage_json(1, 0, 2, 0))
    for shape, name in (("chat", "ChatCompletion"), ("completion", "Completion")):
        head = AnswerHead("id", shape, 1, "m", {"engine_type": "vllm", "machine_name": "ma01"})  # type: ignore[arg-type]
        whole = WholeAnswer(head)
        whole.add([Piece(0, content="a"), Piece(0, finish="length")])
        whole.limit_reached = "A limit ended."
        _validator(document, name).validate(json.loads(whole.body(usage, None)))
        writer = StreamWriter(head)
        last = writer.write([Piece(0, content="a"), Piece(0, finish="length")])
        for event in (
            b"data: " + writer.limit_reached(last, "A limit ended.").rpartition(b"data: ")[2],
            writer.usage(usage, {"reason": "only", "attempts": 1, "queue_ms": 0}),
        ):
            _validator(document, f"{name}Chunk").validate(json.loads(event.removeprefix(b"data: ")))


async def test_errors_are_as_described(target: Service) -> None:
    document = await _document(target)
    for error in (InvalidRequest("no", param="n"), Loading("soon", state="loading", progress=0.5, eta_s=3.0)):
        _validator(document, "Error").validate(json.loads(render(error)[2]))
    older = {
        "model": "fake-tools",
        "messages": [{"role": "user", "content": "x"}],
        "functions": [{"name": "get_weather"}],
    }
    _validator(document, "ChatCompletion").validate((await target.post(CHAT, older)).json())
    for chunk in chunks(await target.post(CHAT, {**older, "stream": True})):
        _validator(document, "ChatCompletionChunk").validate(chunk)
