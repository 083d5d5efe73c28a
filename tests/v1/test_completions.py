"""`/v1/completions`: every form of prompt, the older shape, and chats in disguise."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.service import COMPLETIONS, KINDS, Service, chunks, error_of, model_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_completion_has_the_older_shape(service: Service, kind: ProviderKind) -> None:
    answer = await service.complete("a b", model_of(kind, "plain"))
    body = answer.json()
    assert answer.header("id") == body["id"]
    assert body["id"].startswith("cmpl-")
    assert set(body) == {"id", "object", "created", "model", "backend", "choices", "usage"}
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "hello " * 5, "logprobs": None, "finish_reason": "stop"}]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (2, 5)


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
@pytest.mark.parametrize(
    ("prompt", "tokens"), [([1, 2, 3], 3), ([[1, 2], [3]], 3), (["a b", "c"], 3), (["a b c"], 3)], ids=str
)
async def test_every_form_of_prompt(service: Service, kind: ProviderKind, prompt: Any, tokens: int) -> None:
    body = (await service.complete(prompt, model_of(kind, "plain"), max_tokens=2)).json()
    many = len(prompt) if isinstance(prompt[0], list | str) else 1
    assert [choice["index"] for choice in body["choices"]] == list(range(many))
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (tokens, 2 * many)


async def test_ollama_takes_texts_only(service: Service) -> None:
    body = (await service.complete(["a b", "c"], "ollama/plain")).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 10)
    answer = await service.complete([1, 2], "ollama/plain")
    assert (answer.status, error_of(answer)["param"]) == (400, "prompt")


@pytest.mark.parametrize("kind", KINDS)
async def test_lists_of_prompts_are_streamed(service: Service, kind: ProviderKind) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    parts = chunks(await service.complete(["a b", "c"], model_of(kind, "plain"), **options))
    texts = {0: "", 1: ""}
    for choice in [choice for part in parts for choice in part["choices"]]:
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "hello " * 5, 1: "hello " * 5}
    ends = [c["index"] for p in parts for c in p["choices"] if c["finish_reason"]]
    assert ends == [0, 1]
    assert parts[-1]["usage"]["total_tokens"] == 13


async def test_an_empty_prompt_is_a_prompt(service: Service) -> None:
    assert (await service.complete("")).status == 200


async def test_logprobs_are_in_the_older_form(service: Service) -> None:
    for model in ("plain", "llama.cpp/plain"):
        logprobs = (await service.complete("a", model, max_tokens=2, logprobs=1)).json()["choices"][0]["logprobs"]
        assert logprobs == {
            "tokens": ["hello ", "hello "],
            "token_logprobs": [-0.25, -0.25],
            "top_logprobs": [{"hello ": -0.25}] * 2,
            "text_offset": [0, 6],
        }


async def test_best_of_below_n_is_refused(service: Service) -> None:
    answer = await service.complete("a", n=3, best_of=2)
    assert (answer.status, error_of(answer)["param"]) == (400, "best_of")


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_in_place_of_a_prompt_are_a_chat(service: Service, stream: bool) -> None:
    body = {"model": "plain", "messages": [{"role": "user", "content": "a b"}], "stream": stream}
    answer = await service.post(COMPLETIONS, body)
    assert service.sent().path.endswith("/chat/completions")
    id_ = answer.header("id")
    assert id_ is not None
    assert id_.startswith("cmpl-")
    if stream:
        parts = chunks(answer)
        assert {part["object"] for part in parts} == {"chat.completion.chunk"}
        assert text_of(parts) == "hello " * 5
    else:
        assert answer.json()["object"] == "chat.completion"
        assert answer.json()["choices"][0]["message"]["content"] == "hello " * 5


async def test_null_messages_count_as_absent(service: Service) -> None:
    answer = await service.post(COMPLETIONS, {"model": "plain", "messages": None, "prompt": "a"})
    assert answer.json()["object"] == "text_completion"


async def test_a_prompt_beside_messages_is_refused(service: Service) -> None:
    chat = {"model": "m", "prompt": "a", "messages": [{"role": "user", "content": "b"}]}
    answer = await service.post(COMPLETIONS, chat)
    assert (answer.status, error_of(answer)["param"]) == (400, "messages")
