"""Several prompts of one request on an engine that takes one at a time (or counts only one of them): one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmaas.engines.contract import Generation, Take
from llmaas.errors import LlmaasError
from llmaas.protocol.engine import NOTHING, EngineAnswer, given
from llmaas.protocol.usage import add_usage, for_all, later_usage, or_pieces, timings_as_usage, with_unknown_prompt


class InTurn:
    """Implements `contract.Generation`. Choices get the indexes that the whole request gives them; usage is the running sum."""

    complete = False

    def __init__(self, starts: Sequence[Callable[[], Generation]], choices_each: int) -> None:
        self._starts = list(starts)
        self._choices_each = choices_each
        self._position = 0
        self._sum = NOTHING
        self._last = NOTHING
        self._said = 0
        self._ended: LlmaasError | None = None
        self._all_ended = True
        self._current = self._starts[0]()

    @property
    def heard(self) -> Sequence[EngineAnswer]:
        return self._current.heard

    async def first(self) -> Sequence[EngineAnswer]:
        return self._shift(await self._current.first())

    async def each(self, take: Take) -> bool:
        while await self._current.each(lambda answers: take(self._shift(answers))):
            if self._position + 1 == len(self._starts):
                return True
            if self._ended is not None:
                raise self._ended
            self._all_ended = self._all_ended and await self._current.ended()
            # A prompt that its engine did not count must not vanish behind those that it did.
            self._sum = add_usage(self._sum, or_pieces(self._last, self._said))
            self._last, self._said = NOTHING, 0
            self._position += 1
            self._current = self._starts[self._position]()
            if not take(self._shift(await self._current.first())):
                break
        return False

    async def ended(self) -> bool:
        return self._all_ended and await self._current.ended()

    def abort(self, error: LlmaasError) -> None:
        self._ended = error
        self._current.abort(error)

    def _shift(self, answers: Sequence[EngineAnswer]) -> Sequence[EngineAnswer]:
        offset = self._position * self._choices_each
        for answer in answers:
            for choice in answer.choices or ():
                # One too many must not be taken for one of the next prompt.
                choice.index = choice.index + offset if 0 <= choice.index < self._choices_each else -1
                self._said += bool(choice.text)
            usage = answer.usage if given(answer.usage) else timings_as_usage(answer.timings)
            answer.timings = NOTHING
            if given(usage):
                self._last = later_usage(self._last, usage)
                answer.usage = for_all(add_usage(self._sum, or_pieces(self._last, self._said)))
            elif given(self._sum) and not given(self._last):
                answer.usage = with_unknown_prompt(self._sum, self._said)
        return answers
