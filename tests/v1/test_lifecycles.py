"""A model whose day has come, in a real gateway: it is not listed, and who names it gets its successor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from llmaas.domain.models import Lifecycle
from llmaas.v1 import shapes
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of


async def test_callers_are_told_of_an_end_that_is_announced(tmp_path: Path) -> None:
    lives = {
        "leaving": Lifecycle(deprecated="2026-01-01", retires="9999-01-31", successor="new"),
        "announced": Lifecycle(released="2026-01-01", deprecated="9999-01-01"),
        "by-hand": Lifecycle("deprecated"),
        "new": Lifecycle(released="2026-01-01", successor="by-hand"),
    }
    async with FakeUpstream() as upstream:
        process = GatewayProcess(tmp_path)
        fleet = fleet_of(upstream.base_url, list(lives))
        models = tuple(dataclasses.replace(one, lifecycle=lives[one.id]) for one in fleet.models)
        await process.apply(dataclasses.replace(fleet, models=models))
        await process.start()
        try:
            data = (await process.get("/v1/models", key=process.key)).json()["data"]
            one = (await process.get("/v1/models/leaving", key=process.key)).json()
        finally:
            await process.close()
    told = {
        model["id"]: {
            name: model[name] for name in ("phase", "deprecation_date", "shutdown_date", "successor") if name in model
        }
        for model in data
    }
    assert told == {
        "leaving": {
            "phase": "deprecated",
            "deprecation_date": "2026-01-01",
            "shutdown_date": "9999-01-31",
            "successor": "new",
        },
        "announced": {"deprecation_date": "9999-01-01"},
        "by-hand": {"phase": "deprecated"},
        "new": {},
    }
    assert msgspec.convert(data, list[shapes.Model])
    assert one == next(model for model in data if model["id"] == "leaving")


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
