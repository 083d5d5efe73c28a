"""The relay: pumps an engine's answer to the caller, meters it on the way, and settles it however it ends.

The last byte goes out only when the usage row is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from msgspec import Raw, Struct

from llmaas.domain.usage import FREE, BillingReason, Outcome
from llmaas.engines.contract import Generation
from llmaas.errors import (
    ClientGone,
    ContextTooLong,
    Draining,
    EngineFailed,
    EngineRefused,
    EngineTimeout,
    InvalidRequest,
    LedgerUnavailable,
    LlmaasError,
    Unavailable,
)
from llmaas.inference.allowance import Allowance
from llmaas.inference.meter import LOOK_PIECES, Meter, part_of
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Ending, Settlement
from llmaas.protocol.answers import DONE_EVENT, AnswerHead, StreamWriter, WholeAnswer
from llmaas.protocol.engine import EngineAnswer
from llmaas.protocol.pieces import Piece
from llmaas.protocol.usage import usage_json

# Looking up a member of an enumeration takes Python as long as ten other steps, so the usual ones are at hand.
_COMPLETED: Final = Outcome.COMPLETED
_ANSWERED: Final = BillingReason.ANSWERED
_CUT_OFF: Final = "A limit or budget of the key or its project ended while the answer was made."
_TOO_LONG: Final = "The longest time that one request may take was over."
_PORTION: Final = 1024
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.relay")


class Relay(Struct, eq=False):
    """One request's answer. `head` is made when the target is known.

    All that can fail comes before the settlement: what cannot be rendered is not charged.
    """

    _reply: Reply
    _settlement: Settlement
    _meter: Meter
    _allowance: Allowance
    _explain: Callable[[], dict[str, Any]] | None
    _cut_off: bool = False
    _limit: str | None = None

    async def stream(
        self, head: AnswerHead, generation: Generation, begun: Sequence[Piece], *, include_usage: bool
    ) -> None:
        """`begun`: what `Meter.begin` made of what came first."""
        reply, meter, pieces = self._reply, self._meter, self._meter.pieces
        writer = StreamWriter(head)

        def pass_on(answers: Sequence[EngineAnswer]) -> bool:
            data = writer.write(meter.feed(answers))
            return (not data or reply.send(data)) and pieces.seen < meter.look_at

        data = writer.write(begun)
        self._settlement.first_piece()
        await reply.begin_stream(head.id, head.backend, data)
        try:
            on = self._allowance.charged_at_most is None or await self._may_go_on(generation)
            while on and not await generation.each(pass_on):
                await reply.ready()
                on = pieces.seen < meter.look_at or await self._may_go_on(generation)
        except EngineTimeout as error:
            self._end_in_time(error)
        if not pieces.finished:
            await self._make_sure(generation)
        rest = writer.write(meter.last_pieces(cut=self._cut_off, delivered=True))
        if meter.fault is not None:
            self._log_fault(meter.fault)
        ending, usage = await self._ending(pieces.finish_reason())
        if self._limit:
            rest = writer.limit_reached(rest, self._limit)
        if include_usage:
            rest += writer.usage(usage, self._explain() if self._explain else None)
        await self._settlement.settle(ending)
        await reply.end(rest + DONE_EVENT)

    async def whole(self, head: AnswerHead, generation: Generation, begun: str | Sequence[Piece]) -> None:
        """`begun`: as in `stream`, or all of it."""
        answer, meter = WholeAnswer(head), self._meter
        self._settlement.first_piece()
        if isinstance(begun, str):
            finish = meter.pieces.finish_reason()
            answer.add_plain(begun, finish)
        else:
            if generation.complete:
                await in_portions(begun, answer.add)
            else:
                answer.add(begun)
                await self._keep_rest(generation, answer)
                if not meter.pieces.finished:
                    await self._make_sure(generation)
                answer.add(meter.last_pieces(cut=self._cut_off))
                if meter.fault is not None:
                    self._log_fault(meter.fault)
            finish = meter.pieces.finish_reason()
        ending, usage = await self._ending(finish)
        if self._limit:
            answer.limit_reached = self._limit
        body = answer.body(usage, self._explain() if self._explain else None)
        await self._settlement.settle(ending)
        await self._reply.whole(head.id, head.backend, body)

    async def _keep_rest(self, generation: Generation, answer: WholeAnswer) -> None:
        def keep(answers: Sequence[EngineAnswer]) -> bool:
            answer.add(self._meter.feed(answers))
            return self._meter.pieces.seen < self._meter.look_at

        try:
            on = self._allowance.charged_at_most is None or await self._may_go_on(generation)
            while on and not await generation.each(keep):
                on = await self._may_go_on(generation)
        except EngineTimeout as error:
            self._end_in_time(error)

    async def _may_go_on(self, generation: Generation) -> bool:
        """Hold more for an answer that outgrows what is held; without, end the engine's work."""
        meter, allowance = self._meter, self._allowance
        wrong = meter.look_further()
        if wrong is not None:
            self._cut_off = True
            generation.abort(EngineFailed(wrong))
            return False
        seen, made = meter.pieces.seen, meter.output_so_far()
        if made < allowance.enough_until or await allowance.keep_ahead(made):
            # A piece may hold many tokens: the next look comes before as many pieces of this size use up what is held.
            pieces_left = (allowance.enough_until - made) * seen // max(made, 1)
            meter.look_at = seen + max(1, min(LOOK_PIECES, pieces_left))
            return True
        if meter.pieces.finished:
            return True
        self._cut_off, self._limit = True, _CUT_OFF
        generation.abort(EngineFailed(_CUT_OFF))
        return False

    def _end_in_time(self, error: EngineTimeout) -> None:
        """End an answer that is still being made when the longest time of a request is over: it is what its caller asked for, and
        not a failure. Raises the error for any other time limit, and for an answer that has not begun.
        """
        if error.phase != "total" or not self._meter.pieces.seen:
            raise error
        self._cut_off, self._limit = True, _TOO_LONG

    async def _make_sure(self, generation: Generation) -> None:
        """That an answer is complete, although a choice did not say why it ended, or never came. Raises EngineFailed."""
        if not self._cut_off and not self._meter.pieces.ended and not await generation.ended():
            raise EngineFailed("The engine's answer broke off.")

    def _log_fault(self, fault: str) -> None:
        target = self._settlement.target
        _log.warning(
            "answer_not_as_asked",
            request_id=self._settlement.request_id,
            model=target and target.deployment.model_id,
            backend=target and target.backend.id,
            hint=fault,
        )

    async def _ending(self, finish: str | None) -> tuple[Ending, Raw]:
        """Of a whole answer, with its `usage` object."""
        gone, meter = self._reply.gone, self._meter
        tokens, source, suspect = meter.counts()
        reason = BillingReason.READ_TO_END if gone else _ANSWERED
        most = self._allowance.charged_at_most
        if most is not None and tokens.output + tokens.reasoning > most:
            if meter.cap is None:
                await self._allowance.cover(tokens.completion)
            most = self._allowance.output_tokens
            if tokens.completion > most:
                tokens, suspect = part_of(tokens, most), suspect or not self._cut_off
                if meter.cap is None:
                    reason = BillingReason.LIMIT_REACHED
        if finish == "length" and meter.cap is not None and tokens.completion >= meter.cap:
            self._limit = self._limit or _CUT_OFF
        ending = Ending(
            Outcome.CLIENT_ABORTED if gone else _COMPLETED,
            BillingReason.LIMIT_REACHED if self._limit else reason,
            tokens,
            source,
            suspect,
            finish,
        )
        plain, cached, output, reasoning = tokens.input, tokens.cached_input, tokens.output, tokens.reasoning
        return ending, usage_json(plain + cached, cached, output + reasoning, reasoning)


async def in_portions(pieces: Sequence[Piece], take: Callable[[Sequence[Piece]], None]) -> None:
    """Hand over what may be the pieces of thousands of choices, and let others run between the portions."""
    for start in range(0, len(pieces), _PORTION):
        if start:
            await asyncio.sleep(0)
        take(pieces[start : start + _PORTION])


def ending_of(error: BaseException, meter: Meter | None) -> Ending:
    """The terminal state of a request that this error ended, with all that was made."""
    began = meter is not None and meter.output_so_far() > 0
    code = error.code if isinstance(error, LlmaasError) else "internal_error"
    if isinstance(error, ClientGone):
        outcome = Outcome.CLIENT_ABORTED
        reason = BillingReason.ABORTED_AFTER_OUTPUT if began else BillingReason.ABORTED_BEFORE_OUTPUT
    elif isinstance(error, EngineRefused | InvalidRequest | ContextTooLong):
        outcome = Outcome.ENGINE_REFUSED
        # Of an answer that is not streamed the caller has nothing, although a part of it was made.
        got = began and meter is not None and meter.request.stream
        reason = BillingReason.REFUSED_AFTER_OUTPUT if got else BillingReason.REFUSED
    else:
        if isinstance(error, EngineTimeout):
            outcome = Outcome.ENGINE_TIMEOUT
        elif isinstance(error, Draining):
            outcome = Outcome.INTERRUPTED
        elif isinstance(error, Unavailable):
            outcome = Outcome.UNAVAILABLE
        elif isinstance(error, LlmaasError):
            outcome = Outcome.ENGINE_FAILED
        else:
            outcome = Outcome.INTERRUPTED
        reason = BillingReason.FAILED_AFTER_OUTPUT if began else BillingReason.FAILED_BEFORE_OUTPUT
    if not began or meter is None:
        return Ending(outcome, reason, error_code=code)
    tokens, source, suspect = meter.counts()
    return Ending(outcome, reason, tokens, source, suspect, meter.pieces.finish_reason(), code)


async def settle_failure(settlement: Settlement, error: BaseException, meter: Meter | None) -> None:
    """Settle what an error ended, unless it is settled; wait until that is durable, if it can be."""
    ending, allowance = ending_of(error, meter), settlement.allowance
    try:
        if meter is not None and meter.cap is None and ending.billing_reason not in FREE:
            await allowance.cover(ending.tokens.completion)
    finally:
        most = allowance.charged_at_most
        if most is not None and ending.tokens.completion > most:
            ending.tokens, ending.suspect = part_of(ending.tokens, most), True
        durable = settlement.settle(ending)
    if isinstance(error, asyncio.CancelledError) or durable.cancelled():
        return  # the row is on its way all the same
    try:
        await asyncio.shield(durable)
    except LedgerUnavailable as away:
        away.__traceback__ = None  # the caller gets the first error; the writer has logged its own
