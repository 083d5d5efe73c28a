"""Models and where they run: model, provider, backend, deployment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from llmaas.domain.prices import Price


class ModelKind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class ProviderKind(StrEnum):
    EMBEDDED = "embedded"
    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"
    OPENAI = "openai"
    VLLM = "vllm"


class Phase(StrEnum):
    DEPRECATED = "deprecated"
    EVALUATION = "evaluation"
    PRODUCTION = "production"
    RETIRED = "retired"
    """Not listed and not served; a caller who names it gets its successor."""


@dataclass(frozen=True, slots=True)
class Provider:
    """`cancel_stops_billing`: hanging up on it ends its own charge, so an abandoned answer is cancelled and not read to
    its end. The credential is not here: it is looked up where the connection is made.
    """

    id: str
    kind: ProviderKind
    cancel_stops_billing: bool = True
    api_key_env: str | None = None
    extra_parameters: frozenset[str] = frozenset()
    """Request fields, beyond the common ones, that its engines may be sent as the caller gave them."""
    explain_refusals: bool | None = None
    """Whether callers are told in its engines' own words why these refuse a request; None: as is usual for its kind."""

    @property
    def explains_refusals(self) -> bool:
        """Never for an outside provider, whose words may tell of others."""
        return self.kind is not ProviderKind.OPENAI and self.explain_refusals is not False


@dataclass(frozen=True)
class Backend:
    """`max_concurrency` None: no limit of ours. Not `in_service`: it keeps its place but gets no requests."""

    id: str
    provider_id: str
    base_url: str
    machine_name: str
    engine_type: str
    max_concurrency: int | None = None
    in_service: bool = True

    @cached_property
    def labels(self) -> dict[str, str]:
        """What answers say of where they were made."""
        return {"engine_type": self.engine_type, "machine_name": self.machine_name}


@dataclass(frozen=True)
class Deployment:
    """`root` is the engine's own name for the model; `weight` ≥ 1 is its share."""

    model_id: str
    backend_id: str
    root: str
    weight: int = 1

    @cached_property
    def id(self) -> str:
        return f"{self.model_id}@{self.backend_id}"


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """`phase` is one of Phase, as it was declared. `successor`: a retired id redirects to it. Dates are ISO days of UTC."""

    phase: str = "production"
    released: str | None = None
    deprecated: str | None = None
    retires: str | None = None
    successor: str | None = None

    def on(self, day: str) -> Lifecycle:
        """As it is on an ISO day: a date that has come moves the phase forward, never back."""
        if self.retires is not None and day >= self.retires:
            return dataclasses.replace(self, phase=Phase.RETIRED.value)
        if self.deprecated is not None and day >= self.deprecated and self.phase != Phase.RETIRED:
            return dataclasses.replace(self, phase=Phase.DEPRECATED.value)
        return self


@dataclass(frozen=True, slots=True)
class Model:
    """Token limits are whole tokens; None: not known, so not enforced here."""

    id: str
    kind: ModelKind
    created_ms: int
    aliases: tuple[str, ...] = ()
    max_model_len: int | None = None
    max_output_tokens: int | None = None
    owned_by: str = "llmaas"
    capabilities: frozenset[str] = frozenset()
    card: dict[str, Any] = field(default_factory=dict)
    lifecycle: Lifecycle = Lifecycle()
    price: Price | None = None

    def on(self, day: str) -> Model:
        """With its lifecycle as it is on an ISO day."""
        lifecycle = self.lifecycle.on(day)
        return self if lifecycle is self.lifecycle else dataclasses.replace(self, lifecycle=lifecycle)
