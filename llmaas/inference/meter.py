"""Counts what an answer is made of while it passes, so that every ending, also an early one, has honest numbers."""

from __future__ import annotations

from collections.abc import Sequence

from llmaas.domain.prices import TokenCounts
from llmaas.domain.usage import UsageSource
from llmaas.errors import EngineFailed
from llmaas.inference.admission import Bounds
from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineEmbeddings, given
from llmaas.protocol.pieces import Piece, Pieces
from llmaas.protocol.usage import Reported, read_timings, read_usage

_BYTES_PER_TOKEN = 4
_SLACK_PIECES = 64
_CEILING = 2**21
"""Tokens of one choice where the request sets no bound of its own: more than the window of any model of today."""


class Meter:
    """`bounds`: what the engine may be given and may make. `whole`: its answer comes in one piece.

    `seen`: pieces with something in them by now, each at least a token.
    """

    def __init__(self, *, bounds: Bounds, split_thinking: bool, whole: bool) -> None:
        self._pieces = Pieces(choices=bounds.choices, split_thinking=split_thinking)
        self._prompt_bytes = bounds.prompt_bytes
        self._input_bound = bounds.input_tokens
        self._output_bound = bounds.output_tokens
        self._ceiling = _CEILING * bounds.choices
        self._whole = whole
        self.seen = 0
        self._text_chars = 0
        self._after_end = 0
        self._usage = NOTHING
        self._timings = NOTHING

    def feed(self, answers: Sequence[EngineAnswer]) -> list[Piece]:
        """Raises EngineFailed for an engine that goes on past what it was allowed."""
        out: list[Piece] = []
        for answer in answers:
            if answer.usage is not NOTHING and given(answer.usage):
                self._usage = answer.usage
            if answer.timings is not NOTHING and given(answer.timings):
                self._timings = answer.timings
            if answer.choices:
                self._pieces.feed(answer, out)
        self.seen = self._pieces.seen
        if self._whole:
            for piece in out:
                self._text_chars += len(piece.content or "") + len(piece.reasoning or "")
        if self._output_bound is not None and self.seen > self._output_bound + _SLACK_PIECES:
            raise EngineFailed("The engine went on past the requested length.")
        if not out and self._pieces.finished:
            self._after_end += len(answers)
            if self._after_end > _SLACK_PIECES:
                raise EngineFailed("The engine went on after its end.")
        return out

    def finish(self) -> list[Piece]:
        return self._pieces.finish()

    def output_so_far(self) -> int:
        """Output tokens by now, as far as the engine's pieces and reports tell."""
        reported = read_usage(self._usage) or read_timings(self._timings)
        return max(self._pieces.seen, 0 if reported is None else reported.completion)

    def cut(self) -> list[Piece]:
        """We end the answer here: what was held back, and a finish for each choice that had none, for its length."""
        return self._pieces.cut("length")

    @property
    def began(self) -> bool:
        return self._pieces.seen > 0

    @property
    def finished(self) -> bool:
        return self._pieces.finished

    @property
    def finish_reason(self) -> str | None:
        return self._pieces.finish_reason

    def counts(self, output_limit: int | None = None) -> tuple[TokenCounts, UsageSource, bool]:
        """Tokens by class, where the numbers come from, and whether they had to be bent. `output_limit`: output tokens that
        are charged for at most, however many the engine made until it heard of its end.
        """
        seen = self._pieces.seen
        reported = read_usage(self._usage)
        if reported is None or (reported.suspect and not reported.prompt + reported.completion):
            reported = read_timings(self._timings) or reported
        if reported is None or (reported.suspect and not reported.prompt + reported.completion):
            return self._estimate()
        tokens, bent = settle_counts(
            reported,
            seen=seen,
            seen_reasoning=self._pieces.seen_reasoning,
            prompt_bound=self._input_bound,
            completion_bound=self._ceiling if self._output_bound is None else min(self._output_bound, self._ceiling),
        )
        if output_limit is not None and tokens.completion > output_limit:
            reasoning = min(tokens.reasoning, output_limit)
            tokens = TokenCounts(tokens.input, tokens.cached_input, output_limit - reasoning, reasoning)
        return tokens, UsageSource.ENGINE, bent

    def _estimate(self) -> tuple[TokenCounts, UsageSource, bool]:
        prompt = max(1, self._prompt_bytes // _BYTES_PER_TOKEN)
        made = -(-self._text_chars // _BYTES_PER_TOKEN) if self._whole else self._pieces.seen
        if self._output_bound is not None:
            made = min(made, self._output_bound)
        reasoning = min(self._pieces.seen_reasoning, made)
        return TokenCounts(prompt, 0, made - reasoning, reasoning), UsageSource.COUNTED, True


def settle_counts(
    reported: Reported, *, seen: int, seen_reasoning: int, prompt_bound: int, completion_bound: int | None
) -> tuple[TokenCounts, bool]:
    """Disjoint classes within what is possible, and whether something had to be bent for it.

    `seen`: pieces that came, each at least a token. `prompt_bound`, `completion_bound`: most that the request allowed.
    """
    completion = max(reported.completion, seen)
    if completion_bound is not None and completion > completion_bound:
        completion = completion_bound  # never more than was held, also of an engine that goes on for a few pieces
    prompt = min(reported.prompt, prompt_bound)
    cached = min(reported.cached, prompt) if reported.cached else 0
    reasoning = min(seen_reasoning if reported.reasoning is None else reported.reasoning, completion)
    bent = completion != reported.completion or prompt != reported.prompt or cached != reported.cached
    tokens = TokenCounts(prompt - cached, cached, completion - reasoning, reasoning)
    return tokens, bent or reported.suspect


def embedding_counts(answer: EngineEmbeddings, *, prompt_bytes: int) -> tuple[TokenCounts, UsageSource, bool]:
    """Input tokens only; from the size of the request when the engine gives no usable count."""
    reported = read_usage(answer.usage)
    if reported is None or (reported.suspect and not reported.prompt):
        return TokenCounts(input=max(1, prompt_bytes // _BYTES_PER_TOKEN)), UsageSource.COUNTED, True
    tokens = min(reported.prompt, prompt_bytes)
    return TokenCounts(input=tokens), UsageSource.ENGINE, reported.suspect or tokens != reported.prompt
