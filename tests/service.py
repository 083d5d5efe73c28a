"""One gateway for the whole session with a scriptable engine of each kind behind it, for tests that change nothing.

Fake models: every name of `behaviour.NAMED` on an engine of kind `openai`, and as `vllm/NAME`, `llama.cpp/NAME` and
`ollama/NAME` on the other kinds. `both` and `both-embed` run on an Ollama and on an engine of kind `openai`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.usage import UsageFilter, UsageRow
from tests.fakes.behaviour import NAMED
from tests.fakes.raw_http import RawConnection, RawResponse
from tests.fakes.record import Record
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
ORIGIN = "https://console.example"
PROVIDER_KEY = "provider-secret"
WINDOW = 60_000
MAX_BODY_BYTES = 1024 * 1024
KINDS = (ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA)
_THINKS = ("fake-think", "fake-reasoning")
ENVIRONMENT = {
    "LLMAAS_PROVIDER_FAKE_KEY": PROVIDER_KEY,
    "LLMAAS_PING_INTERVAL_S": "0.1",
    "LLMAAS_CORS_ORIGINS": ORIGIN,
    "LLMAAS_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
}


def model_of(kind: ProviderKind, behaviour: str) -> str:
    return behaviour if kind is ProviderKind.OPENAI else f"{kind}/{behaviour}"


class Upstreams:
    """A fake engine for each kind; enter it to start them."""

    def __init__(self) -> None:
        self.of: dict[ProviderKind, FakeUpstream] = {
            ProviderKind.OPENAI: FakeUpstream(api_key=PROVIDER_KEY),
            ProviderKind.VLLM: FakeUpstream(api_key=PROVIDER_KEY, flavour="vllm"),
            ProviderKind.LLAMA_CPP: FakeUpstream(api_key=PROVIDER_KEY, flavour="llama.cpp"),
            ProviderKind.OLLAMA: FakeUpstream(api_key=PROVIDER_KEY),
        }

    async def start(self) -> None:
        for upstream in self.of.values():
            await upstream.start()

    async def stop(self) -> None:
        for upstream in self.of.values():
            await upstream.stop()

    def reset(self) -> None:
        for upstream in self.of.values():
            upstream.reset()

    def fleet(self) -> Fleet:
        return Fleet(
            providers=tuple(Provider(str(kind), kind, api_key_env="LLMAAS_PROVIDER_FAKE_KEY") for kind in KINDS),
            backends=tuple(self._backends()),
            models=tuple(self._models()),
            deployments=tuple(_deployments()),
        )

    def _backends(self) -> Iterator[Backend]:
        for number, kind in enumerate(KINDS, 1):
            up = self.of[kind]
            url = up.url if kind is ProviderKind.OLLAMA else up.base_url
            yield Backend(f"{kind}-1", str(kind), url, f"ma{number:02}", str(kind))

    def _models(self) -> Iterator[Model]:
        for kind in KINDS:
            for name in (*NAMED, "fake-verdict"):
                tags = frozenset({"think-tags"} if name in _THINKS else ())
                id_ = model_of(kind, name)
                yield Model(id=id_, kind=ModelKind.CHAT, created_ms=0, capabilities=tags, max_model_len=WINDOW)
            id_ = model_of(kind, "embed")
            yield Model(id=id_, kind=ModelKind.EMBEDDING, created_ms=0, max_model_len=WINDOW)
            senses = frozenset({"audio", "files", "video"})
            id_ = model_of(kind, "hears-and-sees")
            yield Model(id=id_, kind=ModelKind.CHAT, created_ms=0, capabilities=senses, max_model_len=WINDOW)
            yield Model(id=model_of(kind, "plain"), kind=ModelKind.CHAT, created_ms=0, max_model_len=WINDOW)
        yield Model(
            id="granite3.3:8b",
            kind=ModelKind.CHAT,
            created_ms=1_749_110_897_123,
            aliases=("granite", "Granite-Latest"),
            max_model_len=WINDOW,
            max_output_tokens=8192,
            owned_by="CloudTemple",
        )
        yield Model(id="both", kind=ModelKind.CHAT, created_ms=0, max_model_len=WINDOW)
        yield Model(id="both-embed", kind=ModelKind.EMBEDDING, created_ms=0, max_model_len=WINDOW)
        yield Model(id="nowhere", kind=ModelKind.CHAT, created_ms=0)


def _deployments() -> Iterator[Deployment]:
    for kind in KINDS:
        for name in (*NAMED, "embed", "plain", "hears-and-sees", "fake-verdict"):
            yield Deployment(model_of(kind, name), f"{kind}-1", name)
    for kind in (ProviderKind.OLLAMA, ProviderKind.OPENAI):
        yield Deployment("both", f"{kind}-1", "plain")
        yield Deployment("both-embed", f"{kind}-1", "embed")
    yield Deployment("granite3.3:8b", "vllm-1", "ibm-granite/granite-3.3-8b-instruct")


@dataclass(slots=True)
class Service:
    gateway: GatewayProcess
    upstreams: Upstreams

    @property
    def key(self) -> str:
        return self.gateway.key

    @property
    def base_url(self) -> str:
        return f"{self.gateway.url}/v1"

    def fake(self, kind: ProviderKind = ProviderKind.OPENAI) -> FakeUpstream:
        return self.upstreams.of[kind]

    def sent(self, kind: ProviderKind = ProviderKind.OPENAI) -> Record:
        """The last request that the engine of this kind got."""
        return self.fake(kind).last

    async def chat(self, model: str = "plain", text: str = "one two three", **more: Any) -> RawResponse:
        return await self.post(CHAT, {"model": model, "messages": [{"role": "user", "content": text}], **more})

    async def complete(self, prompt: Any, model: str = "plain", **more: Any) -> RawResponse:
        return await self.post(COMPLETIONS, {"model": model, "prompt": prompt, **more})

    async def embed(self, text: Any, model: str = "embed", **more: Any) -> RawResponse:
        return await self.post(EMBEDDINGS, {"model": model, "input": text, **more})

    async def row(self, answer: RawResponse) -> UsageRow:
        """The one row of this answer."""
        usage = (await self.gateway.installation()).usage
        rows = [row async for row in usage.rows(UsageFilter(), limit=5) if row.id == answer.header("id")]
        assert len(rows) == 1
        return rows[0]

    async def post(
        self, path: str, body: Any, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> RawResponse:
        return await self.gateway.post(path, body, key=key, headers=headers)

    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        key: str | None = None,
    ) -> RawResponse:
        """Any request; `key` empty: none is sent."""
        token = self.key if key is None else key
        lines = {**({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        async with await RawConnection.open(self.gateway.url) as connection:
            return await connection.request(method, path, headers=lines.items(), body=body)


async def start_service(data_dir: Path) -> Service:
    upstreams = Upstreams()
    await upstreams.start()
    gateway = GatewayProcess(data_dir)
    await gateway.apply(upstreams.fleet())
    await gateway.start(ENVIRONMENT)
    return Service(gateway, upstreams)


async def stop_service(service: Service) -> None:
    await service.gateway.close()
    await service.upstreams.stop()


def chunks(response: RawResponse) -> list[dict[str, Any]]:
    """The JSON payloads of a stream whose last event must be [DONE]."""
    events = response.events()
    assert events[-1:] == ["[DONE]"], events[-3:]
    return [msgspec.json.decode(event) for event in events[:-1]]


def text_of(parts: list[dict[str, Any]], field: str = "content") -> str:
    deltas = [choice["delta"] for part in parts for choice in part.get("choices", ())]
    return "".join(delta.get(field) or "" for delta in deltas)


def error_of(response: RawResponse) -> dict[str, Any]:
    """The error of an answer in the documented envelope."""
    body = response.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert isinstance(error, dict)
    assert {"message", "type", "param", "code"} <= set(error), error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert response.header("content-type") == "application/json"
    return error
