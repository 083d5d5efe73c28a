"""The use case from an authenticated, decoded request to its settled answer. Both surfaces call it; it knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from llmaas.clock import Clock
from llmaas.domain.access import Caller, find_model
from llmaas.domain.catalogue import Catalogue, Entry, Target
from llmaas.domain.keys import Permission
from llmaas.domain.models import ModelKind, ProviderKind
from llmaas.domain.ports import Limiter, UsageLog
from llmaas.domain.usage import BillingReason, Outcome
from llmaas.errors import Draining, EngineError, EngineFailed, InvalidRequest, LedgerUnavailable, LlmaasError
from llmaas.inference.admission import Bounds, admit_chat, admit_completion, embedding_bounds
from llmaas.inference.allowance import Allowance, take_allowance
from llmaas.inference.attempts import Attempts
from llmaas.inference.meter import Meter, embedding_counts
from llmaas.inference.relay import Relay, settle_failure
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Ending, Settlement
from llmaas.metrics import Metrics
from llmaas.protocol.answers import AnswerHead
from llmaas.protocol.embeddings import render_embeddings
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest, extra_members, prompt_list
from llmaas.routing.policy import LeastBusy
from llmaas.upstreams.base import Embedding, Generation, Upstream


class CatalogueHolder:
    """The present snapshot of this worker; whoever starts a request takes it once and keeps it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.current = catalogue


class Call(Struct, frozen=True):
    """What is known of a request besides its own fields. `explain`: the caller wants to see how it was routed."""

    caller: Caller
    answer_id: str
    request_id: str
    body: bytes
    explain: bool
    started_ms: int
    started_s: float


class InferenceService:
    def __init__(
        self,
        *,
        catalogue: CatalogueHolder,
        upstreams: Mapping[ProviderKind, Upstream],
        policy: LeastBusy,
        attempts: Attempts,
        log: UsageLog,
        limiter: Limiter,
        clock: Clock,
        metrics: Metrics,
        currency: str,
        remote_images: bool,
    ) -> None:
        self._catalogue = catalogue
        self._upstreams = upstreams
        self._policy = policy
        self._attempts = attempts
        self._log = log
        self._limiter = limiter
        self._clock = clock
        self._metrics = metrics
        self._currency = currency
        self._remote_images = remote_images
        self._running: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._interrupted = False
        self.draining = False

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def drained(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def interrupt(self) -> None:
        """End what is under way: begun streams get an error event, all of it is settled."""
        self._interrupted = True
        for task in self._running:
            task.cancel()

    async def chat(self, call: Call, request: ChatRequest, reply: Reply) -> None:
        """Answer through `reply`. Raises an LlmaasError for whatever else has to be said to the caller."""
        entry, catalogue = self._enter(call, request.model)
        bounds = admit_chat(
            request,
            entry.model,
            body_bytes=len(call.body),
            remote_images=self._remote_images,
            countable=self._countable(entry),
        )
        allowance = await self._hold(call, catalogue, entry, bounds, reply)
        settlement = self._settlement(call, catalogue, entry, allowance, request, "chat")
        await self._generate(call, entry, request, allowance, settlement, reply)

    async def complete(self, call: Call, request: CompletionRequest, reply: Reply) -> None:
        """Like `chat`, for a prompt."""
        entry, catalogue = self._enter(call, request.model)
        bounds = admit_completion(request, entry.model, body_bytes=len(call.body), countable=self._countable(entry))
        allowance = await self._hold(call, catalogue, entry, bounds, reply)
        settlement = self._settlement(call, catalogue, entry, allowance, request, "completion")
        await self._generate(call, entry, request, allowance, settlement, reply)

    async def embed(self, call: Call, request: EmbeddingRequest, reply: Reply) -> None:
        entry, catalogue = self._enter(call, request.model)
        if entry.model.kind is not ModelKind.EMBEDDING:
            raise InvalidRequest(f"The model `{entry.model.id}` does not make embeddings.", param="model")
        if not request.input:
            raise InvalidRequest("'input' must not be empty.", param="input")
        prompt_list(request.input, "input")
        bounds = embedding_bounds(body_bytes=len(call.body))
        allowance = await self._hold(call, catalogue, entry, bounds, reply)
        settlement = self._settlement(call, catalogue, entry, allowance, request, "embedding")
        task = self._begin()
        try:
            plan = self._policy.plan(entry.model.id, entry.targets)

            def start(target: Target) -> Embedding:
                return self._upstreams[target.provider.kind].embed(target, request)

            _, result = await self._attempts.run(plan, settlement, reply, start, lambda handle: handle.result())
            settlement.first_piece()
            assert settlement.target is not None  # noqa: S101 - set by the attempt that worked
            backend = _backend(settlement.target)
            tokens, source, suspect = embedding_counts(result, prompt_bytes=len(call.body))
            body = render_embeddings(result, call.answer_id, entry.model.id, backend, tokens.prompt, request)
            gone = reply.gone
            await settlement.settle(
                Ending(
                    Outcome.CLIENT_ABORTED if gone else Outcome.COMPLETED,
                    BillingReason.READ_TO_END if gone else BillingReason.ANSWERED,
                    tokens,
                    source,
                    suspect,
                )
            )
            await reply.whole(call.answer_id, backend, body)
        except BaseException as cause:
            error = self._meaning(cause)
            await settle_failure(settlement, error, None)
            raise error from cause
        finally:
            self._end(task, settlement)

    async def _generate(
        self,
        call: Call,
        entry: Entry,
        request: ChatRequest | CompletionRequest,
        allowance: Allowance,
        settlement: Settlement,
        reply: Reply,
    ) -> None:
        meter: Meter | None = None
        include_usage = bool(request.stream_options and request.stream_options.include_usage)
        task = self._begin()
        try:
            plan = self._policy.plan(entry.model.id, entry.targets)
            as_stream = False

            def start(target: Target) -> Generation:
                nonlocal as_stream, meter
                upstream = self._upstreams[target.provider.kind]
                _refuse_unsupported(request, upstream.traits.unsupported)
                traits = upstream.traits
                exact = traits.always_streams or (traits.exact_while_streaming and request.logprobs is None)
                as_stream = bool(request.stream) or exact
                meter = Meter(
                    bounds=allowance.bounds,
                    split_thinking="think-tags" in entry.model.capabilities,
                    whole=not as_stream,
                )
                extra = extra_members(call.body, target.provider.extra_parameters)
                cap = None if traits.exact_while_streaming and as_stream else allowance.cap
                capped = request if cap is None else msgspec.structs.replace(request, max_tokens=cap)
                return upstream.generate(target, capped, stream=as_stream, extra=extra)

            generation, first = await self._attempts.run(plan, settlement, reply, start, lambda handle: handle.first())
            assert settlement.target is not None and meter is not None  # noqa: S101, PT018 - set by the attempt
            head = AnswerHead(
                id=call.answer_id,
                shape="chat" if isinstance(request, ChatRequest) else "completion",
                created_s=settlement.created_s,
                model=entry.model.id,
                backend=_backend(settlement.target),
            )
            relay = Relay(
                reply=reply,
                settlement=settlement,
                meter=meter,
                allowance=allowance,
                explain=_explainer(settlement) if call.explain else None,
            )
            try:
                if request.stream:
                    await relay.stream(head, generation, first, include_usage=include_usage)
                else:
                    await relay.whole(head, generation, first)
            except BaseException as failure:
                generation.abort(
                    failure if isinstance(failure, LlmaasError) else EngineFailed("The answer was given up.")
                )
                if isinstance(failure, EngineError) and failure.retryable:
                    self._attempts.broke_off(settlement.target, failure)
                raise
        except BaseException as cause:
            error = self._meaning(cause)
            await settle_failure(settlement, error, meter)
            raise error from cause
        finally:
            self._end(task, settlement)

    def _meaning(self, cause: BaseException) -> BaseException:
        """Our own cancellation at the end of a drain is something to tell the caller, not the end of its task."""
        if isinstance(cause, asyncio.CancelledError) and self._interrupted:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return Draining("This service is going down; the answer could not be finished.", retry_after_s=2)
        return cause

    def _enter(self, call: Call, model: str) -> tuple[Entry, Catalogue]:
        call.caller.require(Permission.INFERENCE_USE)
        if self.draining:
            raise Draining("This service is going down; try again in a moment.", retry_after_s=2)
        if not self._log.accepting:
            raise LedgerUnavailable("Usage cannot be recorded right now, so no request is taken.", retry_after_s=5)
        catalogue = self._catalogue.current
        return find_model(catalogue, call.caller, model), catalogue

    def _countable(self, entry: Entry) -> bool:
        return all(self._upstreams[target.provider.kind].traits.exact_while_streaming for target in entry.targets)

    async def _hold(self, call: Call, catalogue: Catalogue, entry: Entry, bounds: Bounds, reply: Reply) -> Allowance:
        """What the request may use at most, taken from every limit that it is under."""
        tier_id = call.caller.project.tier_id
        tier = catalogue.tier_of(tier_id)
        price = catalogue.price_of(entry.model.id, tier_id)
        allowance = await take_allowance(self._limiter, call.caller, tier, price, bounds, call.started_ms)
        reply.show_standing(allowance.hold.standing)
        return allowance

    def _settlement(
        self,
        call: Call,
        catalogue: Catalogue,
        entry: Entry,
        allowance: Allowance,
        request: ChatRequest | CompletionRequest | EmbeddingRequest,
        endpoint: str,
    ) -> Settlement:
        return Settlement(
            log=self._log,
            clock=self._clock,
            metrics=self._metrics,
            answer_id=call.answer_id,
            request_id=call.request_id,
            endpoint=endpoint,
            streamed=not isinstance(request, EmbeddingRequest) and bool(request.stream),
            caller=call.caller,
            catalogue=catalogue,
            entry=entry,
            allowance=allowance,
            requested_model=request.model,
            end_user=request.user,
            currency=self._currency,
            started_ms=call.started_ms,
            started_s=call.started_s,
        )

    def _begin(self) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers run each request in a task
        self._running.add(task)
        self._idle.clear()
        return task

    def _end(self, task: asyncio.Task[Any], settlement: Settlement) -> None:
        self._attempts.over(settlement)
        self._running.discard(task)
        if not self._running:
            self._idle.set()


def _backend(target: Target) -> dict[str, str]:
    return {"engine_type": target.backend.engine_type, "machine_name": target.backend.machine_name}


def _explainer(settlement: Settlement) -> Any:
    def explain() -> dict[str, Any]:
        return {"reason": settlement.routing_reason, "attempts": settlement.attempts, "queue_ms": 0}

    return explain


def _refuse_unsupported(request: ChatRequest | CompletionRequest, unsupported: frozenset[str]) -> None:
    for name in unsupported:
        value = getattr(request, name, None)
        if value not in (None, False, msgspec.UNSET) and not (name == "n" and value == 1):
            raise InvalidRequest(f"'{name}' is not supported by the engine of this model.", param=name)
