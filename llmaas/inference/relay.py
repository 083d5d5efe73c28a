"""The relay: pumps an engine's answer to the caller, meters it on the way, and settles it however it ends.

The last byte goes out only when the usage row is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmaas.domain.usage import BillingReason, Outcome
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
from llmaas.inference.meter import Meter
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Ending, Settlement
from llmaas.protocol.answers import DONE_EVENT, AnswerHead, StreamWriter, WholeAnswer
from llmaas.protocol.engine import EngineAnswer
from llmaas.protocol.pieces import Piece
from llmaas.protocol.usage import usage_json
from llmaas.upstreams.base import Generation

_CUT_OFF: Final = "A limit or budget of the key or its project ended while the answer was made."
_LOOK_PIECES: Final = 32
"""Pieces after which the allowance is looked at again. One may hold several tokens; the allowance's margin covers them."""


class Relay:
    """One request's answer. `head` is made when the target is known."""

    def __init__(
        self,
        *,
        reply: Reply,
        settlement: Settlement,
        meter: Meter,
        allowance: Allowance,
        explain: Callable[[], dict[str, Any]] | None,
    ) -> None:
        self._reply = reply
        self._settlement = settlement
        self._meter = meter
        self._allowance = allowance
        self._explain = explain
        self._look_at = _LOOK_PIECES
        self._cut_off = False

    async def stream(
        self, head: AnswerHead, generation: Generation, first: Sequence[EngineAnswer], *, include_usage: bool
    ) -> None:
        reply, meter = self._reply, self._meter
        writer = StreamWriter(head)

        def pass_on(answers: Sequence[EngineAnswer]) -> bool:
            data = writer.write(meter.feed(answers))
            return (not data or reply.send(data)) and meter.seen < self._look_at

        data = writer.write(meter.feed(first))
        self._settlement.first_piece()
        await reply.begin_stream(head.id, head.backend, data)
        while not await generation.each(pass_on):
            await reply.ready()
            if meter.seen >= self._look_at and not await self._may_go_on(generation):
                break
        rest = writer.write(self._last_pieces())
        if self._cut_off:
            rest += writer.limit_reached(_CUT_OFF)
        usage = await self._completed()
        if include_usage:
            rest += writer.usage(usage, self._explain() if self._explain else None)
        await reply.end(rest + DONE_EVENT)

    async def whole(self, head: AnswerHead, generation: Generation, first: Sequence[EngineAnswer]) -> None:
        meter = self._meter
        answer = WholeAnswer(head)

        def keep(answers: Sequence[EngineAnswer]) -> bool:
            answer.add(meter.feed(answers))
            return meter.seen < self._look_at

        self._settlement.first_piece()
        keep(first)
        while not await generation.each(keep):
            if not await self._may_go_on(generation):
                break
        answer.add(self._last_pieces())
        if self._cut_off:
            answer.limit_reached = _CUT_OFF
        usage = await self._completed()
        await self._reply.whole(head.id, head.backend, answer.body(usage, self._explain() if self._explain else None))

    async def _may_go_on(self, generation: Generation) -> bool:
        """Hold more for an answer that outgrows what is held; without, end the engine's work."""
        self._look_at = self._meter.seen + _LOOK_PIECES
        if self._meter.output_so_far() < self._allowance.enough_until or await self._allowance.grow():
            return True
        self._cut_off = not self._meter.finished
        if self._cut_off:
            generation.abort(EngineFailed(_CUT_OFF))
        return not self._cut_off

    def _last_pieces(self) -> list[Piece]:
        if self._cut_off:
            return self._meter.cut()
        if not self._meter.finished:
            raise EngineFailed("The engine's answer broke off.")
        return self._meter.finish()

    async def _completed(self) -> dict[str, Any]:
        """Settle a whole answer; gives the `usage` object once the row is durable."""
        gone = self._reply.gone
        tokens, source, suspect = self._meter.counts(self._allowance.output_tokens if self._cut_off else None)
        reason = BillingReason.READ_TO_END if gone else BillingReason.ANSWERED
        ending = Ending(
            Outcome.CLIENT_ABORTED if gone else Outcome.COMPLETED,
            BillingReason.LIMIT_REACHED if self._cut_off else reason,
            tokens,
            source,
            suspect,
            self._meter.finish_reason,
        )
        await self._settlement.settle(ending)
        return usage_json(
            prompt=tokens.prompt, cached=tokens.cached_input, completion=tokens.completion, reasoning=tokens.reasoning
        )


def ending_of(error: BaseException, meter: Meter | None) -> Ending:
    """The terminal state of a request that this error ended."""
    began = meter is not None and meter.began
    code = error.code if isinstance(error, LlmaasError) else "internal_error"
    if isinstance(error, ClientGone):
        outcome = Outcome.CLIENT_ABORTED
        reason = BillingReason.ABORTED_AFTER_OUTPUT if began else BillingReason.ABORTED_BEFORE_OUTPUT
    elif isinstance(error, EngineRefused | InvalidRequest | ContextTooLong):
        outcome, reason = Outcome.ENGINE_REFUSED, BillingReason.REFUSED
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
    return Ending(outcome, reason, tokens, source, suspect, meter.finish_reason, code)


async def settle_failure(settlement: Settlement, error: BaseException, meter: Meter | None) -> None:
    """Settle what an error ended, unless it is settled; wait until that is durable, if it can be."""
    durable = settlement.settle(ending_of(error, meter))
    if isinstance(error, asyncio.CancelledError) or durable.cancelled():
        return  # the row is on its way all the same
    try:
        await asyncio.shield(durable)
    except LedgerUnavailable:
        return  # the caller gets the first error; the writer has logged its own
