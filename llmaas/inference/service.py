"""The use case from an authenticated, decoded request to its settled answer. Both surfaces call it; it knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from llmaas.domain.access import find_model
from llmaas.domain.catalogue import Catalogue, Entry, Target
from llmaas.domain.keys import Permission
from llmaas.domain.models import ModelKind, ProviderKind
from llmaas.domain.ports import Limiter
from llmaas.domain.usage import BillingReason, Outcome
from llmaas.engines.contract import Embedding, Generation, Terms, Traits, Upstream
from llmaas.errors import (
    ClientGone,
    Draining,
    EngineError,
    EngineFailed,
    EngineRefused,
    InvalidRequest,
    LedgerUnavailable,
    LlmaasError,
    QuotaExceeded,
    RateLimited,
)
from llmaas.inference.admission import Bounds, admit_chat, admit_completion, admit_embedding
from llmaas.inference.allowance import Allowance, first_allowance, first_claim, first_hold, step_left
from llmaas.inference.attempts import Attempts
from llmaas.inference.call import Call
from llmaas.inference.meter import Meter, embedding_counts
from llmaas.inference.relay import Relay, settle_failure
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Books, Ending, Settlement
from llmaas.protocol.answers import AnswerHead, Shape
from llmaas.protocol.embeddings import check_embeddings, render_embeddings
from llmaas.protocol.engine import EngineAnswer, EngineEmbeddings
from llmaas.protocol.needs import Needs, refusal
from llmaas.protocol.pieces import Piece, Pieces
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest, JsonSchemaFormat, extra_members
from llmaas.routing.policy import LeastBusy

_USE = Permission.INFERENCE_USE
_NO_MEMBERS: Mapping[str, msgspec.Raw] = {}
LAST_WORDS_S: Final = 2.0
"""Time for callers to take what an interrupted answer ends with."""


class CatalogueHolder:
    """The present snapshot of this worker; whoever starts a request takes it once and keeps it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.current = catalogue


class InferenceService:
    def __init__(
        self,
        *,
        catalogue: CatalogueHolder,
        upstreams: Mapping[ProviderKind, Upstream],
        policy: LeastBusy,
        attempts: Attempts,
        books: Books,
        limiter: Limiter,
        remote_images: bool,
        usage_always: bool = False,
    ) -> None:
        self._catalogue = catalogue
        self._upstreams = upstreams
        self._policy = policy
        self._attempts = attempts
        self._books = books
        self._limiter = limiter
        self._remote_images = remote_images
        self._usage_always = usage_always
        self._running: dict[asyncio.Task[Any], Settlement | None] = {}
        self._idle: asyncio.Event | None = None
        self._interrupted = False
        self._given_up = False
        self.draining = False

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def drained(self) -> None:
        """Wait until no request is under way; after `interrupt`, until all are settled and have had a moment for their last words."""
        while self._running and not self._given_up:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def interrupt(self) -> None:
        """End what is under way: begun streams get an error event, all of it is settled. What is settled already only has to reach
        its caller, and is left to it. Acts once: a second cancellation would catch requests while they end.
        """
        if self._interrupted:
            return
        self._interrupted = True
        for task, settlement in self._running.items():
            if settlement is None or not settlement.settled:
                task.cancel()
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._give_up)

    def _give_up(self) -> None:
        self._given_up = True
        self._wake()

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    def chat(self, call: Call, request: ChatRequest, reply: Reply) -> Awaitable[None]:
        """Answer through `reply`. Raises an LlmaasError for whatever else has to be said to the caller, here or when awaited."""
        entry, catalogue = self._enter(call, request.model)
        bounds = admit_chat(
            request,
            entry.model,
            body_bytes=len(call.body),
            remote_images=self._remote_images,
            countable=self._countable(entry, calls=bool(request.tools or request.functions)),
        )
        return self._generate(call, catalogue, entry, bounds, request, reply)

    def complete(self, call: Call, request: CompletionRequest, reply: Reply) -> Awaitable[None]:
        """Like `chat`, for a prompt."""
        entry, catalogue = self._enter(call, request.model)
        countable = self._countable(entry, calls=False)
        bounds = admit_completion(request, entry.model, body_bytes=len(call.body), countable=countable)
        return self._generate(call, catalogue, entry, bounds, request, reply)

    async def embed(self, call: Call, request: EmbeddingRequest, reply: Reply) -> None:
        entry, catalogue = self._enter(call, request.model)
        if entry.model.kind is not ModelKind.EMBEDDING:
            raise InvalidRequest(f"The model `{entry.model.id}` does not make embeddings.", param="model")
        bounds = admit_embedding(request, body_bytes=len(call.body))
        targets = self._able(entry, bounds.needs) if bounds.needs else entry.targets
        allowance = self._try_hold(call, catalogue, entry, bounds, reply)
        if allowance is None:
            allowance = await self._hold(call, catalogue, entry, bounds, reply)
        settlement = Settlement(self._books, call, catalogue, entry, allowance, request, "embedding")
        task = self._begin(settlement)
        try:
            plan = self._policy.plan(entry.model.id, targets)

            def start(target: Target) -> tuple[_Checked, Callable[[EngineEmbeddings], EngineEmbeddings]]:
                upstream = self._upstreams[target.provider.kind]
                extra = extra_members(call.body, target.provider.extra_parameters)
                embedding = upstream.embed(target, request, extra=extra, owner=call.caller.project.id)
                return _Checked(embedding, request), lambda answer: answer

            result = await self._attempts.run(plan, settlement, reply, start)
            settlement.first_piece()
            assert settlement.target is not None  # noqa: S101 - set by the attempt that worked
            backend = settlement.target.backend.labels
            tokens, source, suspect = embedding_counts(result, request, bounds)
            body = render_embeddings(result, call.answer_id, entry.model.id, backend, tokens.prompt)
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
            if error is cause:
                raise
            raise error from cause
        finally:
            self._end(task, settlement)

    async def _generate(
        self,
        call: Call,
        catalogue: Catalogue,
        entry: Entry,
        bounds: Bounds,
        request: ChatRequest | CompletionRequest,
        reply: Reply,
    ) -> None:
        targets = self._able(entry, bounds.needs) if bounds.needs else entry.targets
        shape: Shape = "completion"
        older = False
        if isinstance(request, ChatRequest):
            shape, older = "chat", request.functions is not None
        allowance = self._try_hold(call, catalogue, entry, bounds, reply)
        if allowance is None:
            allowance = await self._hold(call, catalogue, entry, bounds, reply)
        settlement = Settlement(self._books, call, catalogue, entry, allowance, request, shape)
        start = _Start(self._upstreams, call, entry, bounds, allowance, request)
        task = self._begin(settlement)
        try:
            plan = self._policy.plan(entry.model.id, targets)
            begun = await self._attempts.run(plan, settlement, reply, start)
            meter, generation = start.meter, start.generation
            assert settlement.target and meter and generation  # noqa: S101, PT018 - set by the attempt
            created_s = call.started_ms // 1000
            labels = settlement.target.backend.labels
            head = AnswerHead(call.answer_id, shape, created_s, entry.model.id, labels, older)
            relay = Relay(reply, settlement, meter, allowance, _explainer(settlement) if call.explain else None)
            try:
                if request.stream:
                    options = request.stream_options
                    include_usage = self._usage_always or bool(options and options.include_usage)
                    assert not isinstance(begun, str)  # noqa: S101 - streams are never complete at once
                    await relay.stream(head, generation, begun, include_usage=include_usage)
                else:
                    await relay.whole(head, generation, begun)
            except BaseException as failure:
                generation.abort(
                    failure if isinstance(failure, LlmaasError) else EngineFailed("The answer was given up.")
                )
                if isinstance(failure, EngineError) and failure.retryable:
                    self._attempts.broke_off(settlement, settlement.target, failure)
                raise
        except BaseException as cause:
            error = self._meaning(cause)
            if isinstance(error, EngineRefused):
                _name_schema(error, request)
            elif isinstance(error, ClientGone):
                start.note_counts()
            await settle_failure(settlement, error, start.meter)
            if error is cause:
                raise
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
        call.caller.require(_USE)
        if self.draining:
            raise Draining("This service is going down; try again in a moment.", retry_after_s=2)
        if not self._books.log.accepting:
            raise LedgerUnavailable("Usage cannot be recorded right now, so no request is taken.", retry_after_s=5)
        catalogue = self._catalogue.current
        return find_model(catalogue, call.caller, model), catalogue

    def _able(self, entry: Entry, needs: Needs) -> Sequence[Target]:
        """The targets whose engines can do all that is asked. Raises InvalidRequest when none can."""
        unable = [self._upstreams[target.provider.kind].traits.unable for target in entry.targets]
        able = [target for target, cant in zip(entry.targets, unable, strict=True) if cant.isdisjoint(needs)]
        if unable and not able:
            raise refusal(needs, unable[0])
        return able

    def _countable(self, entry: Entry, *, calls: bool) -> bool:
        for target in entry.targets:
            traits = self._upstreams[target.provider.kind].traits
            if not traits.exact_while_streaming or (calls and traits.calls_come_whole):
                return False
        return True

    def _try_hold(
        self, call: Call, catalogue: Catalogue, entry: Entry, bounds: Bounds, reply: Reply
    ) -> Allowance | None:
        """What the request may use at most, or first, taken from every limit that it is under, or what is left there where that will do;
        None: that takes asking (`_hold`).
        Raises RateLimited, QuotaExceeded, Unavailable.
        """
        tier_id = call.caller.project.tier_id
        price = catalogue.price_of(entry.model.id, tier_id)
        tier, held = catalogue.tier_of(tier_id), bounds.first_step
        try:
            hold = self._limiter.try_hold(call.caller, tier, first_claim(price, bounds, held), call.started_ms)
        except (RateLimited, QuotaExceeded):
            if not bounds.flexible:
                raise
            held = step_left(self._limiter, call.caller, tier, price, bounds, call.started_ms)
            hold = self._limiter.try_hold(call.caller, tier, first_claim(price, bounds, held), call.started_ms)
        if hold is None:
            return None
        if hold.limited:
            reply.show_standing(hold.standing)
        return first_allowance(self._limiter, hold, price, bounds, held)

    async def _hold(self, call: Call, catalogue: Catalogue, entry: Entry, bounds: Bounds, reply: Reply) -> Allowance:
        """Like `_try_hold`, asking for what is short. Who waits for that is under way too."""
        tier_id = call.caller.project.tier_id
        price = catalogue.price_of(entry.model.id, tier_id)
        tier = catalogue.tier_of(tier_id)
        task = self._begin(None)
        try:
            allowance = await first_hold(self._limiter, call.caller, tier, price, bounds, call.started_ms)
        except asyncio.CancelledError as cause:
            error = self._meaning(cause)
            if error is cause:
                raise
            raise error from cause
        finally:
            self._leave(task)
        if allowance.hold.limited:
            reply.show_standing(allowance.hold.standing)
        return allowance

    def _begin(self, settlement: Settlement | None) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers run each request in a task
        self._running[task] = settlement
        return task

    def _end(self, task: asyncio.Task[Any], settlement: Settlement) -> None:
        self._attempts.over(settlement)
        self._leave(task)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        del self._running[task]
        if not self._running:
            self._wake()


class _Checked(Struct, eq=False):
    """An embedding that is held against its request, while others run."""

    _embedding: Embedding
    _request: EmbeddingRequest

    async def first(self) -> EngineEmbeddings:
        answer = await self._embedding.first()
        for _ in check_embeddings(answer, self._request):
            await asyncio.sleep(0)
        return answer

    def abort(self, error: LlmaasError) -> None:
        self._embedding.abort(error)


class _Start(Struct, eq=False):
    """Asks a target for an answer, which its meter takes. `meter` and `generation` are those of the last one that was asked."""

    _upstreams: Mapping[ProviderKind, Upstream]
    _call: Call
    _entry: Entry
    _bounds: Bounds
    _allowance: Allowance
    _request: ChatRequest | CompletionRequest
    meter: Meter | None = None
    generation: Generation | None = None

    def __call__(self, target: Target) -> tuple[Generation, Callable[[Sequence[EngineAnswer]], str | list[Piece]]]:
        request, bounds = self._request, self._bounds
        upstream = self._upstreams[target.provider.kind]
        traits = upstream.traits
        exact = traits.always_streams or (traits.exact_while_streaming and request.logprobs is None)
        as_stream = exact or request.stream is True
        call, names = self._call, target.provider.extra_parameters
        extra = extra_members(call.body, names) if names else _NO_MEMBERS
        pieces = Pieces(bounds.choices, "think-tags" in self._entry.model.capabilities)
        cap, told, allowance = None, request, self._allowance
        if allowance.charged_at_most is not None and (
            not (traits.exact_while_streaming and as_stream) or self._may_make_too_much(traits)
        ):
            cap = allowance.cap()
            if cap is not None:
                told = msgspec.structs.replace(request, max_tokens=cap)
        meter = self.meter = Meter(bounds, pieces, not as_stream, request, cap)
        terms = Terms(as_stream, extra, call.caller.project.id, bounds.flexible)
        try:
            generation = self.generation = upstream.generate(target, told, terms)
        except RecursionError:
            # Written for an engine it is a few levels deeper than when it was read, which may be too many.
            raise InvalidRequest("The JSON body of your request is nested too deeply.") from None
        return generation, meter.begin

    def note_counts(self) -> None:
        """Have the meter know what the engine told of an answer of which nothing else had come."""
        if self.meter is not None and self.generation is not None and not self.meter.pieces.seen:
            heard = self.generation.heard
            self.meter.feed([EngineAnswer(usage=answer.usage, timings=answer.timings) for answer in heard])

    def _may_make_too_much(self, traits: Traits) -> bool:
        """Whether an engine that counts on the way may still have made more than is held and can be had when it is first heard: a call
        comes in one piece from some.
        """
        request = self._request
        if not isinstance(request, ChatRequest) or not request.tools:
            return False
        return traits.calls_come_whole or self._allowance.output_tokens < self._bounds.first_step


def _name_schema(error: EngineRefused, request: ChatRequest | CompletionRequest) -> None:
    """A schema that an engine refuses is that of the answer, or else one of the tools'."""
    if error.param == "response_format" and (
        isinstance(request, CompletionRequest) or not isinstance(request.response_format, JsonSchemaFormat)
    ):
        error.param = "tools" if isinstance(request, ChatRequest) and request.tools else None


def _explainer(settlement: Settlement) -> Any:
    def explain() -> dict[str, Any]:
        return {"reason": settlement.routing_reason, "attempts": settlement.attempts, "queue_ms": 0}

    return explain
