"""Log probabilities from every kind of engine: as many other tokens as were asked for, in OpenAI's two forms."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour
from tests.service import KINDS, Service, chunks, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLLAMA = ProviderKind.OLLAMA
LINE = b'{"message":{"content":"a"},"response":"a","done":false,"logprobs":[{"token":"a","logprob":-0.5%b}]}\n'
ENTRY = {"token", "logprob", "bytes", "top_logprobs"}


def script(service: Service, kind: ProviderKind, top: int) -> None:
    """An Ollama that gives log probabilities; the others do so by themselves."""
    if kind is OLLAMA:
        likely = b',"top_logprobs":[%b]' % b",".join([b'{"token":"a","logprob":-0.5}'] * top) if top else b""
        service.fake(kind).script(Behaviour(tokens=0, raw_events={0: LINE % likely}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("options", "top"), [({}, 0), ({"top_logprobs": 0}, 0), ({"top_logprobs": 2}, 2)])
async def test_of_a_chat(service: Service, kind: ProviderKind, stream: bool, options: dict[str, Any], top: int) -> None:
    script(service, kind, top)
    answer = await service.chat(model_of(kind, "plain"), logprobs=True, stream=stream, **options)
    if stream:
        found = [c["logprobs"] for part in chunks(answer) for c in part["choices"] if c.get("logprobs")]
    else:
        found = [answer.json()["choices"][0]["logprobs"]]
    assert found
    for given in found:
        assert set(given) == {"content", "refusal"}
        for entry in given["content"]:
            assert set(entry) >= ENTRY
            assert len(entry["top_logprobs"]) == top


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_of_a_completion(service: Service, kind: ProviderKind, stream: bool) -> None:
    script(service, kind, 0)
    answer = await service.complete("hi", model_of(kind, "plain"), logprobs=0, stream=stream)
    if stream:
        found = [c["logprobs"] for part in chunks(answer) for c in part["choices"] if c["logprobs"]]
    else:
        found = [answer.json()["choices"][0]["logprobs"]]
    assert found
    for given in found:
        assert set(given) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
        assert all(isinstance(value, float) for value in given["token_logprobs"])
        assert len(given["tokens"]) == len(given["token_logprobs"]) == len(given["text_offset"])
    if kind is not OLLAMA:
        assert service.sent(kind).json["logprobs"] == (1 if kind is ProviderKind.LLAMA_CPP else 0)
