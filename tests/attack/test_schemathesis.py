"""The published OpenAPI document as a source of hostile and well-formed requests: schemathesis against a running gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmaas.domain.keys import Permission
from tests.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROUNDS = [
    pytest.param(8, id="short"),
    pytest.param(400, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]
# Engines that do as they should; the gateway's own 502, 503 and 504 are in the document, 500 is never right.
CHAT_MODELS = ["plain", "granite", "vllm/fake-tools", "llama.cpp/plain", "ollama/fake-reasoning", "fake-utf8", "nobody"]
MODELS = {
    "ChatRequest": CHAT_MODELS,
    "CompletionRequest": CHAT_MODELS,
    "EmbeddingRequest": ["embed", "ollama/embed", "plain"],
}
LEFT_OUT = (
    "positive_data_acceptance",  # what a schema can't say: `stream_options` needs `stream`, a tool's message needs its id
)


async def _document(target: Service) -> dict[str, Any]:
    document = (await target.request("GET", "/openapi.json", key="")).json()
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_A17_schemathesis_finds_nothing(target: Service, tmp_path: Path, rounds: int) -> None:
    document = await _document(target)
    for name, models in MODELS.items():
        # Else every request would end at a model that is not there.
        document["components"]["schemas"][name]["properties"]["model"] = {"type": "string", "enum": models}
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    command = ["-m", "schemathesis.cli", "run", str(path), "--url", target.gateway.url, "--seed", "1", "--no-color"]
    key = await target.gateway.create_key(permissions=tuple(Permission))
    options = ["--header", f"Authorization: Bearer {key}", "--request-timeout", "10", "--workers", "2"]
    chosen = [
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(rounds),
        "--exclude-checks",
        ",".join(LEFT_OUT),
    ]
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, *options, *chosen),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await running.communicate()
    assert running.returncode == 0, said.decode()[-8000:]
    assert (await target.chat("plain")).status == 200
