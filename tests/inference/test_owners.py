"""Connections to engines know the project that they were used for last, which is what keeps those of several projects apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import ModelKind, ProviderKind
from llmaas.domain.projects import Project
from llmaas.worker import GatewayWorker
from tests.fakes.upstream import FakeUpstream
from tests.gateway import fleet_of
from tests.service import KINDS

MESSAGES = [{"role": "user", "content": "a"}]
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": MESSAGES}),
    ("chat/completions", {"messages": MESSAGES, "stream": True}),
    ("chat/completions", {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}),
    ("completions", {"prompt": "a"}),
    ("completions", {"prompt": ["a", "b"]}),
    ("embeddings", {"input": "a"}),
]


def fleet(url: str, kind: ProviderKind) -> Fleet:
    made = fleet_of(url, ["chat", "embed"], kind=kind)
    embed = dataclasses.replace(made.models[1], kind=ModelKind.EMBEDDING)
    return dataclasses.replace(made, models=(made.models[0], embed))


@pytest.mark.parametrize("kind", KINDS)
async def test_each_call_leaves_its_connections_to_its_project(tmp_path: Path, kind: ProviderKind) -> None:
    async with FakeUpstream() as upstream:
        loaded = settings.load({"data_dir": str(tmp_path / "data")}, {})
        installation = await Installation(loaded.settings).open()
        url = upstream.url if kind is ProviderKind.OLLAMA else upstream.base_url
        await installation.catalogue.apply(fleet(url, kind), now_ms=0, prune=True)
        await installation.projects.add(Project("other", "Other", 0))
        keys = {name: (await installation.create_key(project_id=name, name=name))[0] for name in ("default", "other")}
        worker = GatewayWorker(installation)
        await worker.start()
        idle = worker.transport._idle  # noqa: SLF001
        async with httpx.AsyncClient(transport=httpx.ASGITransport(worker.gateway), base_url="http://test") as caller:
            for path, body in CALLS:
                model = "embed" if path == "embeddings" else "chat"
                for project, key in keys.items():
                    for connections in idle.values():
                        while connections:
                            connections.pop().close()
                    headers = {"authorization": f"Bearer {key}"}
                    answer = await caller.post(f"/v1/{path}", json={"model": model, **body}, headers=headers)
                    kept = [one for connections in idle.values() for one in connections if one.usable()]
                    # Where a call has to be forced, this engine's answer is not what was asked for.
                    fails = "tools" in body and kind in {ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA}
                    assert (answer.status_code, {one.owner for one in kept}) == (
                        (502, set()) if fails else (200, {project})
                    )
        await worker.stop()
        await installation.close()
