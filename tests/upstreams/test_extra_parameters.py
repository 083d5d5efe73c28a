"""What a provider takes beyond the common parameters."""

from __future__ import annotations

import dataclasses

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of


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
