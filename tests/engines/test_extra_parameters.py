"""What a provider takes beyond the common parameters."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.models import ModelKind, ProviderKind
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import KINDS


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.OLLAMA])
async def test_named_fields_reach_the_engine_and_no_others(gateway: GatewayProcess, kind: ProviderKind) -> None:
    async with FakeUpstream() as upstream:
        fleet = fleet_of(upstream.base_url, ["m"], kind=kind)
        names = frozenset({"top_k", "model"})
        providers = tuple(dataclasses.replace(p, extra_parameters=names) for p in fleet.providers)
        await gateway.apply(dataclasses.replace(fleet, providers=providers))
        await gateway.start()
        body = {"model": "M", "messages": [{"role": "user", "content": "a"}], "top_k": 7, "min_p": 0.5}
        assert (await gateway.post("/v1/chat/completions", body)).status == 200
        sent = upstream.last.json
        assert sent is not None
        taken = sent["options"] if kind is ProviderKind.OLLAMA else sent
        assert (taken["top_k"], "min_p" in str(sent), sent["model"]) == (7, False, "m")


@pytest.mark.parametrize("kind", KINDS)
async def test_they_reach_an_engine_of_embeddings_too(gateway: GatewayProcess, kind: ProviderKind) -> None:
    async with FakeUpstream() as upstream:
        fleet = fleet_of(upstream.url if kind is ProviderKind.OLLAMA else upstream.base_url, ["m"], kind=kind)
        names = frozenset({"input_type", "num_ctx", "model", "input", "dimensions", "encoding_format"})
        providers = tuple(dataclasses.replace(p, extra_parameters=names) for p in fleet.providers)
        models = tuple(dataclasses.replace(m, kind=ModelKind.EMBEDDING) for m in fleet.models)
        await gateway.apply(dataclasses.replace(fleet, providers=providers, models=models))
        await gateway.start()
        body = {
            "model": "M",
            "input": "a",
            "input_type": "query",
            "num_ctx": 7,
            "min_p": 0.5,
            "encoding_format": "float",
        }
        assert (await gateway.post("/v1/embeddings", body)).status == 200
        sent = upstream.last.json
        assert sent is not None
        taken = sent["options"] if kind is ProviderKind.OLLAMA else sent
        assert (taken["input_type"], taken["num_ctx"], sent["model"]) == ("query", 7, "m")
        assert "min_p" not in str(sent)
        assert upstream.last.body.count(b'"encoding_format"') == (0 if kind is ProviderKind.OLLAMA else 1)
        assert (await gateway.post("/v1/embeddings", {"model": "m", "input": "a"})).status == 200
        assert "options" not in (upstream.last.json or {})
