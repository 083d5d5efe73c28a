"""Settlement: the one moment at which a request becomes a usage row. Exactly once, in whatever way the request ends.

Handing the row over takes no `await`, so not even a cancelled task can lose it.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from llmaas.clock import Clock
from llmaas.domain.catalogue import Catalogue, Entry, Target
from llmaas.domain.energy import energy_uwh
from llmaas.domain.ports import UsageLog
from llmaas.domain.prices import TokenCounts, cost_nano
from llmaas.domain.usage import FREE, BillingReason, Outcome, UsageRow, UsageSource
from llmaas.inference.allowance import Allowance
from llmaas.inference.call import Call
from llmaas.metrics import Metrics
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest

_NOTHING = TokenCounts()


class Ending(Struct):
    """How a request ended and what was made until then."""

    outcome: Outcome
    billing_reason: BillingReason
    tokens: TokenCounts = _NOTHING
    source: UsageSource = UsageSource.NONE
    suspect: bool = False
    finish_reason: str | None = None
    error_code: str | None = None


class Books(Struct, frozen=True):
    """Where settlements go, and what they are made with."""

    log: UsageLog
    clock: Clock
    metrics: Metrics
    currency: str


class Settlement:
    """One for each request that was admitted; collects the facts of the row while the request runs."""

    __slots__ = (
        "_allowance",
        "_books",
        "_call",
        "_catalogue",
        "_durable",
        "_end_user",
        "_endpoint",
        "_entry",
        "_requested_model",
        "_streamed",
        "_ttft_ms",
        "attempts",
        "routing_reason",
        "target",
    )

    def __init__(
        self,
        books: Books,
        call: Call,
        catalogue: Catalogue,
        entry: Entry,
        allowance: Allowance,
        request: ChatRequest | CompletionRequest | EmbeddingRequest,
        *,
        endpoint: str,
    ) -> None:
        self._books = books
        self._call = call
        self._catalogue = catalogue
        self._entry = entry
        self._allowance = allowance
        self._endpoint = endpoint
        self._streamed = not isinstance(request, EmbeddingRequest) and bool(request.stream)
        self._requested_model = request.model
        self._end_user = request.user
        self._ttft_ms: int | None = None
        self._durable: asyncio.Future[None] | None = None
        self.target: Target | None = None
        self.routing_reason: str | None = None
        self.attempts = 0

    @property
    def settled(self) -> bool:
        return self._durable is not None

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def created_s(self) -> int:
        return self._call.started_ms // 1000

    def first_piece(self) -> None:
        if self._ttft_ms is None:
            self._ttft_ms = self._elapsed_ms()

    def settle(self, ending: Ending) -> asyncio.Future[None]:
        """Append the row; the future says when it is durable. A second call changes nothing and gives the same future."""
        if self._durable is not None:
            return self._durable
        call, allowance, target = self._call, self._allowance, self.target
        key = call.caller.key
        price = allowance.price
        tokens = ending.tokens
        free = price is None or ending.billing_reason in FREE
        cost = 0 if free or price is None else cost_nano(price, tokens)
        row = UsageRow(
            id=call.answer_id,
            request_id=call.request_id,
            project_id=key.project_id,
            key_id=key.id,
            end_user=self._end_user,
            endpoint=self._endpoint,
            streamed=self._streamed,
            started_ms=call.started_ms,
            duration_ms=self._elapsed_ms(),
            ttft_ms=self._ttft_ms,
            model_id=self._entry.model.id,
            requested_model=self._requested_model,
            provider_id=target.provider.id if target else None,
            backend_id=target.backend.id if target else None,
            engine_type=target.backend.engine_type if target else None,
            machine_name=target.backend.machine_name if target else None,
            routing_reason=self.routing_reason,
            attempts=self.attempts,
            catalogue_revision=self._catalogue.revision,
            outcome=str(ending.outcome),
            error_code=ending.error_code,
            finish_reason=ending.finish_reason,
            input_tokens=tokens.input,
            cached_input_tokens=tokens.cached_input,
            output_tokens=tokens.output,
            reasoning_tokens=tokens.reasoning,
            usage_source=str(ending.source),
            usage_suspect=ending.suspect,
            billing_reason=str(ending.billing_reason),
            price_version=price.version if price is not None else None,
            currency=self._books.currency,
            cost_nano=cost,
            tier_id=call.caller.project.tier_id,
            hold_nano=allowance.hold.held_nano,
            energy_uwh=energy_uwh(self._entry.energy_rate, tokens),
        )
        self._durable = self._books.log.append(row)
        allowance.settle(tokens, cost)
        self._books.metrics.request_ended(
            row.model_id, row.backend_id or "", row.outcome, row.ttft_ms, *msgspec.structs.astuple(tokens)
        )
        return self._durable

    def _elapsed_ms(self) -> int:
        return round((self._books.clock.monotonic_s() - self._call.started_s) * 1000)
