"""Settlement: the one moment at which a request becomes a usage row. Exactly once, in whatever way the request ends.

Handing the row over takes no `await`, so not even a cancelled task can lose it.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from llmaas.clock import Clock
from llmaas.domain.access import Caller
from llmaas.domain.catalogue import Catalogue, Entry, Target
from llmaas.domain.energy import energy_uwh
from llmaas.domain.ports import UsageLog
from llmaas.domain.prices import TokenCounts, cost_nano
from llmaas.domain.usage import FREE, BillingReason, Outcome, UsageRow, UsageSource
from llmaas.inference.allowance import Allowance
from llmaas.metrics import Metrics

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


class Settlement:
    """One for each request that was admitted; collects the facts of the row while the request runs."""

    def __init__(
        self,
        *,
        log: UsageLog,
        clock: Clock,
        metrics: Metrics,
        answer_id: str,
        request_id: str,
        endpoint: str,
        streamed: bool,
        caller: Caller,
        catalogue: Catalogue,
        entry: Entry,
        allowance: Allowance,
        requested_model: str,
        end_user: str | None,
        currency: str,
        started_ms: int,
        started_s: float,
    ) -> None:
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._answer_id = answer_id
        self._request_id = request_id
        self._endpoint = endpoint
        self._streamed = streamed
        self._caller = caller
        self._catalogue = catalogue
        self._entry = entry
        self._allowance = allowance
        self._requested_model = requested_model
        self._end_user = end_user
        self._currency = currency
        self._started_ms = started_ms
        self._started_s = started_s
        self._ttft_ms: int | None = None
        self._durable: asyncio.Future[None] | None = None
        self.target: Target | None = None
        self.routing_reason: str | None = None
        self.attempts = 0

    @property
    def settled(self) -> bool:
        return self._durable is not None

    @property
    def answer_id(self) -> str:
        return self._answer_id

    @property
    def created_s(self) -> int:
        return self._started_ms // 1000

    def first_piece(self) -> None:
        if self._ttft_ms is None:
            self._ttft_ms = self._elapsed_ms()

    def settle(self, ending: Ending) -> asyncio.Future[None]:
        """Append the row; the future says when it is durable. A second call changes nothing and gives the same future."""
        if self._durable is not None:
            return self._durable
        allowance = self._allowance
        price = allowance.price
        tokens = ending.tokens
        free = price is None or ending.billing_reason in FREE
        cost = 0 if free or price is None else cost_nano(price, tokens)
        target = self.target
        row = UsageRow(
            id=self._answer_id,
            request_id=self._request_id,
            project_id=self._caller.key.project_id,
            key_id=self._caller.key.id,
            end_user=self._end_user,
            endpoint=self._endpoint,
            streamed=self._streamed,
            started_ms=self._started_ms,
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
            outcome=ending.outcome.value,
            error_code=ending.error_code,
            finish_reason=ending.finish_reason,
            input_tokens=tokens.input,
            cached_input_tokens=tokens.cached_input,
            output_tokens=tokens.output,
            reasoning_tokens=tokens.reasoning,
            usage_source=ending.source.value,
            usage_suspect=ending.suspect,
            billing_reason=ending.billing_reason.value,
            price_version=price.version if price is not None else None,
            currency=self._currency,
            cost_nano=cost,
            tier_id=self._caller.project.tier_id,
            hold_nano=allowance.hold.held_nano,
            energy_uwh=energy_uwh(self._entry.energy_rate, tokens),
        )
        self._durable = self._log.append(row)
        allowance.settle(tokens, cost)
        self._count(row)
        return self._durable

    def _elapsed_ms(self) -> int:
        return round((self._clock.monotonic_s() - self._started_s) * 1000)

    def _count(self, row: UsageRow) -> None:
        metrics, model, backend = self._metrics, row.model_id, row.backend_id or ""
        metrics.request_ended(model, backend, row.outcome)
        if row.ttft_ms is not None:
            metrics.first_token(model, backend, row.ttft_ms / 1000)
        if row.input_tokens:
            metrics.tokens_used(model, backend, "input", row.input_tokens)
        if row.cached_input_tokens:
            metrics.tokens_used(model, backend, "cached_input", row.cached_input_tokens)
        if row.output_tokens:
            metrics.tokens_used(model, backend, "output", row.output_tokens)
        if row.reasoning_tokens:
            metrics.tokens_used(model, backend, "reasoning", row.reasoning_tokens)
