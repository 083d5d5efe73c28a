"""curl with the example of the document that this service is compatible with."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from llmaas.domain.models import ProviderKind
from tests.service import Service

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        shutil.which("curl") is None, reason="NO curl: the document's example is not tested; scripts/test installs it"
    ),
]

EXAMPLE = """{
    "model": "granite3.3:8b",
    "messages": [
      {
        "role": "user",
        "content": "¡Hola! ¿Puedes presentarte en francés?"
      }
    ],
    "max_tokens": 200,
    "temperature": 0.7
  }"""


async def curl(*arguments: str, given: str = "") -> str:
    command = ("curl", "--silent", "--show-error", "--max-time", "10", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(given.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()


def common(service: Service) -> tuple[str, ...]:
    return ("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {service.key}")


async def test_the_example_of_the_document(service: Service) -> None:
    out = await curl("-i", "-X", "POST", f"{service.base_url}/chat/completions", *common(service), "-d", EXAMPLE)
    head, _, text = out.replace("\r\n", "\n").partition("\n\n")
    answer = json.loads(text)
    assert head.startswith("HTTP/1.1 200 ")
    assert f"id: {answer['id']}" in head.split("\n")
    assert 'backend: {"engine_type":"vllm","machine_name":"ma02"}' in head.split("\n")
    assert set(answer) >= {"backend", "choices", "created", "id", "model", "object", "usage"}
    assert (answer["model"], answer["object"]) == ("granite3.3:8b", "chat.completion")
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert {"completion_tokens", "prompt_tokens", "reasoning_tokens", "total_tokens"} <= set(answer["usage"])
    sent = service.sent(ProviderKind.VLLM).json
    assert sent["messages"][0]["content"] == "¡Hola! ¿Puedes presentarte en francés?"
    assert (sent["max_tokens"], sent["temperature"]) == (200, 0.7)


async def test_the_example_of_models(service: Service) -> None:
    out = await curl("-X", "GET", f"{service.base_url}/models", "-H", f"Authorization: Bearer {service.key}")
    assert "granite3.3:8b" in [model["id"] for model in json.loads(out)["data"]]


async def test_a_stream(service: Service) -> None:
    body = {**json.loads(EXAMPLE), "stream": True}
    out = await curl("-N", f"{service.base_url}/chat/completions", *common(service), "-d", json.dumps(body))
    assert out.count("data: {") == 7
    assert out.endswith("data: [DONE]\n\n")


async def test_a_large_body_waits_for_its_continue(service: Service) -> None:
    body = {**json.loads(EXAMPLE), "unknown": "x" * 200_000}
    expect = ("--expect100-timeout", "9", "-H", "Expect: 100-continue", "--data-binary", "@-")
    out = await curl(f"{service.base_url}/chat/completions", *common(service), *expect, given=json.dumps(body))
    assert json.loads(out)["object"] == "chat.completion"
