"""A model whose day has come, in a real gateway: it is not listed, and who names it gets its successor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llmaas.domain.models import Lifecycle
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of


async def test_a_model_is_retired_by_its_date(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        process = GatewayProcess(tmp_path)
        fleet = fleet_of(upstream.base_url, ["old", "new"])
        life = Lifecycle("production", retires="2026-01-01", successor="new")
        models = tuple(dataclasses.replace(one, lifecycle=life) if one.id == "old" else one for one in fleet.models)
        await process.apply(dataclasses.replace(fleet, models=models))
        await process.start()
        try:
            listed = await process.get("/v1/models", key=process.key)
            assert [one["id"] for one in listed.json()["data"]] == ["new"]
            body = {"model": "old", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
            answer = await process.post("/v1/chat/completions", body)
            assert (answer.status, answer.json()["model"]) == (200, "new")
        finally:
            await process.close()
