"""Engines that speak OpenAI's language, and how the kinds differ."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection, request_bytes
from tests.service import CHAT, KINDS, PROVIDER_KEY, Service, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPEAKING = (ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_providers_credential_is_sent_and_only_our_headers(service: Service, kind: ProviderKind) -> None:
    await service.post(
        CHAT,
        {"model": model_of(kind, "plain"), "messages": [{"role": "user", "content": "hi"}]},
        headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "openai-organization": "o", "x-request-id": "r1"},
    )
    sent = service.sent(kind)
    assert sent.credential == "provider"
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"
    names = sorted(name.lower() for name, _ in sent.headers)
    assert names == ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host"]
    assert sent.header("accept-encoding") == "identity"
    assert service.key not in str(sent.headers) + sent.body.decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_counts_while_streaming_is_read_as_a_stream(service: Service, stream: bool) -> None:
    for kind, options in (
        (
            ProviderKind.VLLM,
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
        (
            ProviderKind.LLAMA_CPP,
            {
                "stream": True,
                "stream_options": {"include_usage": True},
                "timings_per_token": True,
                "return_progress": True,
            },
        ),
        (ProviderKind.OPENAI, {"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
    ):
        answer = await service.chat(model_of(kind, "plain"), "hi", stream=stream)
        assert answer.status == 200
        assert service.sent(kind).json == {"model": "plain", "messages": [{"role": "user", "content": "hi"}], **options}


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_an_abandoned_stream_is_counted_as_far_as_it_went(service: Service, kind: ProviderKind) -> None:
    fake = service.fake(kind)
    fake.script(Behaviour(tokens=50, pause_at=(21,), cached_tokens=1))  # after the role and twenty tokens
    body = (
        b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"a b c"}]}'
        % model_of(kind, "plain").encode()
    )
    headers = [("authorization", f"Bearer {service.key}"), ("content-type", "application/json")]
    async with await RawConnection.open(service.gateway.url) as raw:
        await raw.send(request_bytes("POST", CHAT, headers=headers, body=body))
        seen = b""
        while seen.count(b"hello") < 20:
            seen += await raw.read()
    await fake.wait_cancelled(timeout_s=1)
    id_ = re.search(rb"chatcmpl-[0-9a-f]+", seen)
    assert id_ is not None
    async with asyncio.timeout(5):
        while not (rows := [row for row in await service.gateway.rows() if row.id == id_[0].decode()]):
            await asyncio.sleep(0.01)
    assert (rows[0].outcome, rows[0].usage_source) == ("client_aborted", "engine")
    assert (rows[0].input_tokens, rows[0].cached_input_tokens, rows[0].output_tokens) == (2, 1, 20)


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA])
async def test_system_turns_are_merged_in_front(service: Service, kind: ProviderKind) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "one"},
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]},
        {"role": "user", "content": "bye"},
    ]
    await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert service.sent(kind).json["messages"] == [
        {"role": "system", "content": "one\n\ntwo"},
        messages[0],
        messages[2],
        messages[4],
    ]


async def test_openais_own_servers_get_the_turns_as_they_are(service: Service) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "developer", "content": "one"}]
    await service.post(CHAT, {"model": "plain", "messages": messages})
    assert service.sent().json["messages"] == messages


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_a_system_turn_with_an_image_is_refused(service: Service, kind: ProviderKind) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": "hi"}, {"role": "system", "content": [part]}]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "messages")


async def test_llama_cpp_gets_several_prompts_in_turn(service: Service) -> None:
    await service.complete(["a", "b", "c"], "llama.cpp/plain")
    assert [request.json["prompt"] for request in service.fake(ProviderKind.LLAMA_CPP).requests] == ["a", "b", "c"]
    await service.complete(["a", "b", "c"], "vllm/plain")
    assert [request.json["prompt"] for request in service.fake(ProviderKind.VLLM).requests] == [["a", "b", "c"]]


@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_refused_parameter_is_400_without_an_outside_providers_text(
    service: Service, kind: ProviderKind
) -> None:
    service.fake(kind).script(Behaviour(error="bad_parameter"))
    answer = await service.chat(model_of(kind, "plain"))
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", "engine_refused")
    assert ("0.2" in error["message"]) is (kind is not ProviderKind.OPENAI)


@pytest.mark.parametrize("shape", ["context_llamacpp_batch", "quota", "rate_limit", "loading"])
async def test_other_errors_of_engines(service: Service, shape: Any) -> None:
    service.fake().script(Behaviour(error=shape))
    answer = await service.chat()
    assert answer.status == (400 if shape == "context_llamacpp_batch" else 503)
    assert "org-secret" not in answer.body.decode()
