"""Settlement: the one moment at which a request becomes a usage row. Exactly once, in whatever way the request ends.

Handing the row over takes no `await`, so not even a cancelled task can lose it.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
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
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.settlement")


class Ending(Struct, gc=False):
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


class Settlement(Struct, eq=False):
    """One for each request that was admitted; collects the facts of the row while the request runs."""

    _books: Books
    _call: Call
    _catalogue: Catalogue
    _entry: Entry
    allowance: Allowance
    _request: ChatRequest | CompletionRequest | EmbeddingRequest
    _endpoint: str
    target: Target | None = None
    routing_reason: str | None = None
    attempts: int = 0
    _ttft_ms: int | None = None
    _durable: asyncio.Future[None] | None = None

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def settled(self) -> bool:
        return self._durable is not None

    def first_piece(self) -> None:
        if self._ttft_ms is None:
            self._ttft_ms = self._elapsed_ms()

    def settle(self, ending: Ending) -> asyncio.Future[None]:
        """Append the row; the future says when it is durable. A second call changes nothing and gives the same future."""
        if self._durable is not None:
            return self._durable
        call, request, allowance, target = self._call, self._request, self.allowance, self.target
        key = call.caller.key
        price = allowance.price
        tokens, energy_rate = ending.tokens, self._entry.energy_rate
        cost = 0 if price is None or ending.billing_reason in FREE else cost_nano(price, tokens)
        backend = None if target is None else target.backend
        # In the order of its fields: Python hands over more than 15 named arguments as a dictionary, which takes longer than all
        # else here (CPython, compile.c, STACK_USE_GUIDELINE).
        row = UsageRow(
            call.answer_id,
            call.request_id,
            key.project_id,
            key.id,
            request.user,
            self._endpoint,
            not isinstance(request, EmbeddingRequest) and bool(request.stream),
            call.started_ms,
            self._elapsed_ms(),
            self._ttft_ms,
            self._entry.model.id,
            request.model,
            None if backend is None else backend.provider_id,
            None if backend is None else backend.id,
            None if backend is None else backend.engine_type,
            None if backend is None else backend.machine_name,
            self.routing_reason,
            self.attempts,
            self._catalogue.revision,
            str(ending.outcome),
            ending.error_code,
            ending.finish_reason,
            tokens.input,
            tokens.cached_input,
            tokens.output,
            tokens.reasoning,
            str(ending.source),
            ending.suspect,
            str(ending.billing_reason),
            price.version if price is not None else None,
            self._books.currency,
            cost,
            call.caller.project.tier_id,
            allowance.hold.held_nano,
            0,  # documents
            energy_uwh(energy_rate, tokens) if energy_rate else 0,
        )
        self._durable = self._books.log.append(row)
        try:
            allowance.settle(tokens, cost)
            self._books.metrics.request_ended(
                row.model_id, row.backend_id or "", row.outcome, row.ttft_ms, msgspec.structs.astuple(tokens)
            )
        except Exception:  # noqa: BLE001 - the row is on its way, and its caller must get what it charges for
            _log.exception("settled_and_not_counted", request_id=call.request_id)
        return self._durable

    def _elapsed_ms(self) -> int:
        return int((self._books.clock.monotonic_s() - self._call.started_s) * 1000 + 0.5)
