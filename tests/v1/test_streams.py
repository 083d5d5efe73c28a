"""Streams: the rules of the wire contract, one by one."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection, request_bytes
from tests.service import CHAT, COMPLETIONS, KINDS, Service, chunks, model_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> ProviderKind:
    assert isinstance(request.param, ProviderKind)
    return request.param


async def test_1_events_are_single_data_lines_without_names_or_ids(service: Service, kind: ProviderKind) -> None:
    for options in ({"stream": True}, WITH_USAGE):
        answer = await service.chat(model_of(kind, "fake-utf8"), **options)
        assert answer.header("content-type") == "text/event-stream; charset=utf-8"
        assert answer.header("cache-control") == "no-cache"
        assert answer.header("x-accel-buffering") == "no"
        assert answer.header("content-encoding") is None
        assert re.fullmatch(rb"(?:data: [^\n\r]+\n\n|: ping\n\n)+", answer.body)
        assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
        assert answer.body.count(b"[DONE]") == 1


async def test_2_every_chunk_has_the_same_head(service: Service, kind: ProviderKind) -> None:
    answer = await service.chat(model_of(kind, "fake-tools"), **WITH_USAGE)
    parts = chunks(answer)
    heads = {(p["id"], p["object"], p["created"], p["model"]) for p in parts}
    assert heads == {(answer.header("id"), "chat.completion.chunk", parts[0]["created"], model_of(kind, "fake-tools"))}
    assert isinstance(parts[0]["created"], int)
    assert all(isinstance(part["choices"], list) for part in parts)
    for choice in [choice for part in parts for choice in part["choices"]]:
        assert {"index", "delta", "finish_reason"} <= set(choice)


@pytest.mark.parametrize("name", ["plain", "fake-roles", "fake-no-role", "fake-tools", "fake-think"])
async def test_3_the_role_comes_once_and_first(service: Service, kind: ProviderKind, name: str) -> None:
    parts = chunks(await service.chat(model_of(kind, name), stream=True))
    roles = [choice["delta"].get("role") for part in parts for choice in part["choices"]]
    assert roles == ["assistant", *[None] * (len(roles) - 1)]


@pytest.mark.parametrize(
    "name",
    ["fake-tools", "fake-tools-no-index", "fake-tools-repeated", "fake-tools-object", "fake-tools-late-name"],
)
async def test_3_nothing_of_a_tool_call_is_repeated(service: Service, kind: ProviderKind, name: str) -> None:
    parts = chunks(await service.chat(model_of(kind, name), stream=True))
    deltas = [c for p in parts for choice in p["choices"] for c in choice["delta"].get("tool_calls", ())]
    for index, function in enumerate(("get_weather", "get_time")):
        first, *later = [delta for delta in deltas if delta["index"] == index]
        assert set(first) == {"index", "id", "type", "function"}
        assert (first["type"], first["function"]["name"]) == ("function", function)
        assert all(set(delta) == {"index", "function"} and set(delta["function"]) == {"arguments"} for delta in later)
        said = "".join(delta["function"]["arguments"] for delta in [first, *later])
        assert set(msgspec.json.decode(said)) == ({"city"} if index == 0 else {"zone"})
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("name", ["plain", "fake-merged-finish", "fake-utf8"])
async def test_4_the_finish_stands_alone(service: Service, kind: ProviderKind, name: str) -> None:
    *parts, last = chunks(await service.chat(model_of(kind, name), stream=True))
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert all(choice["finish_reason"] is None for part in parts for choice in part["choices"])


async def test_4_length_is_told(service: Service, kind: ProviderKind) -> None:
    parts = chunks(await service.chat(model_of(kind, "plain"), stream=True, max_tokens=2))
    assert text_of(parts) == "hello hello "
    assert parts[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("kind_", [ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_4_each_choice_ends_once(service: Service, kind_: ProviderKind) -> None:
    parts = chunks(await service.chat(model_of(kind_, "plain"), n=3, **WITH_USAGE))
    ends = [c["index"] for p in parts for c in p["choices"] if c["finish_reason"]]
    roles = [c["index"] for p in parts for c in p["choices"] if "role" in c["delta"]]
    assert sorted(ends) == sorted(roles) == [0, 1, 2]
    assert parts[-1]["usage"]["completion_tokens"] == 15


async def test_5_usage_comes_last_and_only_when_asked(service: Service, kind: ProviderKind) -> None:
    model = model_of(kind, "plain")
    asked = chunks(await service.chat(model, **WITH_USAGE))
    assert (asked[-1]["choices"], asked[-1]["backend"]["engine_type"]) == ([], str(kind))
    assert asked[-1]["usage"]["total_tokens"] == 8
    assert all("usage" not in part for part in asked[:-1])
    silent: list[dict[str, Any]] = [{}, *({"stream_options": value} for value in (None, {}, {"include_usage": False}))]
    for options in silent:
        parts = chunks(await service.chat(model, stream=True, **options))
        assert all("usage" not in part and part["choices"] for part in parts)


async def test_5_usage_is_forced_upstream_for_metering(service: Service) -> None:
    answer = await service.chat("plain", stream=True)
    assert service.sent().json["stream_options"] == {"include_usage": True}
    row = await service.row(answer)
    assert (row.input_tokens, row.output_tokens, row.usage_source) == (3, 5, "engine")


@pytest.mark.parametrize("name", ["fake-utf8", "fake-sliced"])
async def test_6_characters_are_whole(service: Service, kind: ProviderKind, name: str) -> None:
    answer = await service.chat(model_of(kind, name), stream=True)
    assert text_of(chunks(answer)) == "señal 日本🙂🚀 слово " * 2
    assert b"\xef\xbf\xbd" not in answer.body


@pytest.mark.parametrize("name", ["fake-error-later", "fake-cut-fin", "fake-cut-rst", "fake-cut-line", "fake-cut-utf8"])
async def test_6_a_failure_inside_is_an_error_event_then_done(service: Service, kind: ProviderKind, name: str) -> None:
    answer = await service.chat(model_of(kind, name), stream=True)
    assert answer.status == 200
    *parts, last = chunks(answer)
    assert text_of(parts), "what came before the failure is relayed"
    assert all("error" not in part for part in parts)
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "engine_failed")
    assert "secret" not in answer.body.decode()
    row = await service.row(answer)
    assert (row.outcome, row.cost_nano) == ("engine_failed", 0)


@pytest.mark.parametrize("model", ["fake-hang-2", "vllm/fake-hang-2", "ollama/fake-hang-2"])
async def test_1_silence_is_filled_with_comments(service: Service, model: str) -> None:
    kind = ProviderKind.OPENAI if "/" not in model else ProviderKind(model.split("/", maxsplit=1)[0])
    body = msgspec.json.encode({"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    headers = [("authorization", f"Bearer {service.key}"), ("content-type", "application/json")]
    async with await RawConnection.open(service.gateway.url) as raw:
        await raw.send(request_bytes("POST", CHAT, headers=headers, body=body))
        seen = await raw.read_until(b": ping\n\n")
        seen += await raw.read_until(b": ping\n\n")
        await service.fake(kind).release()
        seen += await raw.read_until(b"data: [DONE]\n\n")
    assert seen.count(b'"content":"hello "') == 5


async def test_7_a_client_that_goes_is_noticed_by_the_engine(service: Service, kind: ProviderKind) -> None:
    fake = service.fake(kind)
    for stream, name in ((True, "fake-hang-2"), (True, "fake-hang"), (False, "fake-hang"), (False, "fake-hang-2")):
        fake.reset()
        body = msgspec.json.encode(
            {"model": model_of(kind, name), "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        )
        headers = [("authorization", f"Bearer {service.key}"), ("content-type", "application/json")]
        async with await RawConnection.open(service.gateway.url) as raw:
            await raw.send(request_bytes("POST", CHAT, headers=headers, body=body))
            await fake.wait_paused()
        await fake.wait_cancelled(timeout_s=1)


async def test_text_completions_stream_as_text(service: Service) -> None:
    answer = await service.complete("a b", **WITH_USAGE)
    parts = chunks(answer)
    assert {part["object"] for part in parts} == {"text_completion"}
    assert all(set(c) == {"index", "text", "logprobs", "finish_reason"} for p in parts for c in p["choices"])
    assert "".join(c["text"] for p in parts for c in p["choices"]) == "hello " * 5
    assert parts[-2]["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert parts[-1]["usage"]["total_tokens"] == 7


async def test_null_stream_is_no_stream_whatever_is_accepted(service: Service) -> None:
    body = {"model": "plain", "stream": None, "messages": [{"role": "user", "content": "hi"}]}
    answer = await service.post(CHAT, body, headers={"accept": "text/event-stream"})
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [None, False])
async def test_stream_options_without_stream_are_refused(service: Service, path: str, stream: bool | None) -> None:
    body: dict[str, Any] = {"model": "plain", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    body |= {"stream": stream, "stream_options": {"include_usage": True}}
    if path == COMPLETIONS:
        del body["messages"]
    answer = await service.post(path, body)
    assert (answer.status, answer.json()["error"]["param"]) == (400, "stream_options")


async def test_streamed_logprobs_spell_the_content(service: Service) -> None:
    service.fake().script(Behaviour(pieces=("señal ", "日本"), tokens=4))
    parts = chunks(await service.chat(stream=True, logprobs=True, top_logprobs=2))
    entries = [e for p in parts for c in p["choices"] if c.get("logprobs") for e in c["logprobs"]["content"]]
    assert "".join(entry["token"] for entry in entries) == text_of(parts) == "señal 日本" * 2
