"""Counts what an answer is made of while it passes, so that every ending, also an early one, has honest numbers."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw, Struct

from llmaas.domain.prices import TokenCounts
from llmaas.domain.usage import UsageSource
from llmaas.errors import EngineFailed
from llmaas.inference.admission import Bounds
from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineEmbeddings, given
from llmaas.protocol.pieces import Piece, Pieces
from llmaas.protocol.usage import Reported, read_timings, read_usage

_ENGINE = UsageSource.ENGINE
_BYTES_PER_TOKEN = 4
_SLACK_PIECES = 64
_CEILING = 2**21
"""Tokens of one choice where the request sets no bound of its own: more than the window of any model of today."""


class Meter(Struct, eq=False):
    """`bounds`: what the engine may be given and may make. `whole`: its answer comes in one piece.

    `pieces.seen`: pieces with something in them by now, each at least a token.
    """

    bounds: Bounds
    pieces: Pieces
    whole: bool
    _text_chars: int = 0
    _after_end: int = 0
    _usage: Raw = NOTHING
    _timings: Raw = NOTHING

    def feed(self, answers: Sequence[EngineAnswer]) -> list[Piece]:
        """Raises EngineFailed for an engine that goes on past what it was allowed."""
        out: list[Piece] = []
        pieces = self.pieces
        for answer in answers:
            if answer.usage is not NOTHING and given(answer.usage):
                self._usage = answer.usage
            if answer.timings is not NOTHING and given(answer.timings):
                self._timings = answer.timings
            if answer.choices:
                pieces.feed(answer, out)
        if self.whole:
            for piece in out:
                self._text_chars += len(piece.content or "") + len(piece.reasoning or "")
        bound = self.bounds.output_tokens
        if bound is not None and pieces.seen > bound + _SLACK_PIECES:
            raise EngineFailed("The engine went on past the requested length.")
        if not out and pieces.finished:
            self._after_end += len(answers)
            if self._after_end > _SLACK_PIECES:
                raise EngineFailed("The engine went on after its end.")
        return out

    def begin(self, answers: Sequence[EngineAnswer]) -> str | list[Piece]:
        """Take what an engine gave first, of which nothing was relayed yet: the text of an answer that is whole and plain, or
        else the pieces, with the last ones when it is whole. Raises EngineFailed for what is not what was asked for.
        """
        if not self.whole:
            out = self.feed(answers)
            if not self.pieces.seen:
                self.pieces.check()
            return out
        text = self.plain_text(answers)
        if text is not None:
            return text
        out = self.feed(answers)
        if not self.pieces.finished and not self.pieces.seen:
            raise EngineFailed("The engine's answer is empty.")
        return out + self.last_pieces()

    def last_pieces(self) -> list[Piece]:
        """The end of a complete answer. A choice that did not say why it ended stopped by itself, unless it came as far as it was
        allowed to. Raises EngineFailed for an answer that is not what was asked for.
        """
        pieces = self.pieces
        if pieces.finished:
            return pieces.finish()
        bound = self.bounds.output_tokens
        return pieces.finish("length" if bound is not None and self.output_so_far() >= bound else "stop")

    def plain_text(self, answers: Sequence[EngineAnswer]) -> str | None:
        """Of a whole answer that is one text and needs no mending, which is then all of it; None: `feed` it."""
        answer = answers[0]
        text = self.pieces.plain_text(answer)
        if text is not None:
            self._usage = answer.usage
            self._timings = answer.timings
            self._text_chars = len(text)
        return text

    def output_so_far(self) -> int:
        """Output tokens by now, as far as the engine's pieces and reports tell."""
        reported = read_usage(self._usage) or read_timings(self._timings)
        return max(self.pieces.seen, 0 if reported is None else reported.completion)

    def counts(self, output_limit: int | None = None) -> tuple[TokenCounts, UsageSource, bool]:
        """Tokens by class, where the numbers come from, and whether they had to be bent. `output_limit`: output tokens that
        are charged for at most, however many the engine made until it heard of its end.
        """
        reported = read_usage(self._usage)
        if reported is None or (reported.suspect and not reported.prompt + reported.completion):
            reported = read_timings(self._timings) or reported
        if reported is None or (reported.suspect and not reported.prompt + reported.completion):
            return self._estimate()
        bounds, pieces = self.bounds, self.pieces
        ceiling = _CEILING * bounds.choices
        if bounds.output_tokens is not None and bounds.output_tokens < ceiling:
            ceiling = bounds.output_tokens
        tokens, bent = settle_counts(reported, pieces.seen, pieces.seen_reasoning, bounds.input_tokens, ceiling)
        if output_limit is not None and tokens.completion > output_limit:
            reasoning = min(tokens.reasoning, output_limit)
            tokens = TokenCounts(tokens.input, tokens.cached_input, output_limit - reasoning, reasoning)
        return tokens, _ENGINE, bent

    def _estimate(self) -> tuple[TokenCounts, UsageSource, bool]:
        prompt = max(1, self.bounds.prompt_bytes // _BYTES_PER_TOKEN)
        made = -(-self._text_chars // _BYTES_PER_TOKEN) if self.whole else self.pieces.seen
        if self.bounds.output_tokens is not None:
            made = min(made, self.bounds.output_tokens)
        reasoning = min(self.pieces.seen_reasoning, made)
        return TokenCounts(prompt, 0, made - reasoning, reasoning), UsageSource.COUNTED, True


def settle_counts(
    reported: Reported, seen: int, seen_reasoning: int, prompt_bound: int, completion_bound: int | None
) -> tuple[TokenCounts, bool]:
    """Disjoint classes within what is possible, and whether something had to be bent for it.

    `seen`: pieces that came, each at least a token. `prompt_bound`, `completion_bound`: most that the request allowed.
    """
    # Without min and max, which take Python as long as ten comparisons.
    completion = reported.completion if reported.completion > seen else seen  # noqa: FURB136
    if completion_bound is not None and completion > completion_bound:
        completion = completion_bound  # never more than was held, also of an engine that goes on for a few pieces
    prompt = reported.prompt if reported.prompt < prompt_bound else prompt_bound  # noqa: FURB136
    cached = reported.cached if reported.cached < prompt else prompt  # noqa: FURB136
    reasoning = seen_reasoning if reported.reasoning is None else reported.reasoning
    if reasoning > completion:  # noqa: PLR1730
        reasoning = completion
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
