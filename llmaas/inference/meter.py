"""Counts what an answer is made of while it passes, so that every ending, also an early one, has honest numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from llmaas.domain.prices import TokenCounts
from llmaas.domain.usage import UsageSource
from llmaas.errors import EngineFailed
from llmaas.inference.admission import Bounds
from llmaas.inference.content import prompt_tokens
from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineEmbeddings, given
from llmaas.protocol.pieces import Piece, Pieces
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from llmaas.protocol.usage import (
    Reported,
    later_usage,
    read_input_usage,
    read_timings,
    read_usage,
    tokens_of_text,
    usage_beside,
)

_ENGINE = UsageSource.ENGINE
_SLACK_PIECES = 64
_PIECES_OF_TOKEN = 8
"""Some engines send each character by itself, so an answer may have so many pieces for each token that was asked for."""
LOOK_PIECES: Final = 32
"""Pieces after which the relay looks again whether an answer may go on, at the latest."""
_CEILING = 2**21
"""Tokens of one choice where the request sets no bound of its own: more than the window of any model of today."""


Counted = tuple[TokenCounts, UsageSource, bool]
"""Tokens by class, where the numbers come from, and whether they are doubtful."""


class Meter(Struct, eq=False):
    """`bounds`: what the engine may be given and may make. `whole`: its answer comes in one piece. `cap`: output tokens of a choice that
    it was told to end at, since no more is held; None: it was told of no such end.

    `pieces.seen`: pieces with something in them by now, each at least a token. `look_at`: as many of them after which the relay has
    to look whether the answer may go on. `fault`: what the engine did wrong with an answer that its caller has all the same; the
    row is marked for it.
    """

    bounds: Bounds
    pieces: Pieces
    whole: bool
    request: ChatRequest | CompletionRequest
    cap: int | None = None
    look_at: int = LOOK_PIECES
    fault: str | None = None
    _text: str = ""
    _text_chars: int = 0
    _thought_chars: int = 0
    _after_end: int = 0
    _usage: Raw = NOTHING
    _timings: Raw = NOTHING

    def feed(self, answers: Sequence[EngineAnswer]) -> list[Piece]:
        """What came in regular form. An engine that goes on past what it was allowed is a `fault`, and to be stopped: a caller can ask
        for what makes it do so, and has had all that came.
        """
        out: list[Piece] = []
        pieces = self.pieces
        ended = pieces.finished
        for answer in answers:
            if answer.usage is not NOTHING and given(answer.usage):
                self._usage = answer.usage if self._usage is NOTHING else later_usage(self._usage, answer.usage)
            if answer.timings is not NOTHING and given(answer.timings):
                self._timings = answer.timings
            if answer.choices:
                pieces.feed(answer, out)
        if self.whole or pieces.seen_reasoning:
            self._weigh(out)
        bound = self.bounds.output_tokens
        if bound is not None and pieces.seen > _PIECES_OF_TOKEN * bound + _SLACK_PIECES:
            self._stop("The engine went on past the requested length.")
        if ended:
            # Some give a reason with each piece, and text after one is text all the same; but nobody goes on for ever without.
            self._after_end += sum(
                not any(choice.finish_reason for choice in answer.choices or ()) for answer in answers
            )
            if self._after_end > _SLACK_PIECES:
                self._stop("The engine went on after its end.")
        return out

    def _stop(self, fault: str) -> None:
        self.fault, self.look_at = fault, 0

    def look_further(self) -> str | None:
        """Why the engine has to be stopped; None: look again after some more pieces."""
        self.look_at = self.pieces.seen + LOOK_PIECES
        return "The engine makes more tool calls than an answer may have." if self.pieces.full else self.fault

    def begin(self, answers: Sequence[EngineAnswer]) -> str | list[Piece]:
        """Take what an engine gave first, of which nothing was relayed yet: the pieces, with the last ones when it is whole; or all of
        it, when that is one text and needs no mending. Raises EngineFailed for what is not what was asked for.
        """
        if not self.whole:
            out, pieces = self.feed(answers), self.pieces
            if not pieces.seen:
                pieces.check()
            elif pieces.extra:
                raise EngineFailed("The engine sent a choice that was not asked for.")
            return out
        answer = answers[0]
        text = self.pieces.plain_text(answer)
        if text is not None:
            self._usage = answer.usage
            self._timings = answer.timings
            self._text = text
            if answer.usage is NOTHING and answer.choices:
                self.pieces.usage = usage_beside(NOTHING, answer, answer.choices[0])
            return text
        out = self.feed(answers)
        if not self.pieces.finished and not self.pieces.seen:
            raise EngineFailed("The engine's answer is empty.")
        return out + self.last_pieces()

    def last_pieces(self, *, cut: bool = False, delivered: bool = False) -> list[Piece]:
        """The end of a complete answer, or of one that was `cut`. A choice that did not say why it ended stopped by itself, unless it
        came as far as it was allowed to. Raises EngineFailed for an answer that is not what was asked for; where the caller has it
        already (`delivered`), that is a `fault`.
        """
        pieces, bound = self.pieces, self.bounds.output_tokens
        unsaid = "stop"
        if cut or (not pieces.finished and bound is not None and self.output_so_far() >= bound):
            unsaid = "length"
        if delivered and not cut:
            self.fault = self.fault or pieces.missing
        if pieces.extra and (cut or delivered):
            self._leave_out_extra()
        out = pieces.cut(unsaid) if cut or delivered else pieces.finish(unsaid)
        if self.whole or pieces.seen_reasoning:
            self._weigh(out)
        return out

    def _leave_out_extra(self) -> None:
        """Of choices that the caller did not get nothing is charged, and an engine's count has them in it."""
        self.fault = "The engine made more choices than were asked for."
        told = read_usage(self._usage) or read_timings(self._timings)
        kept = {} if told is None else {"prompt_tokens": told.prompt, "cached_tokens": told.cached}
        self._usage, self._timings = Raw(msgspec.json.encode(kept)), NOTHING

    def _weigh(self, pieces: Sequence[Piece]) -> None:
        """Take note of text and thoughts, of which only a whole answer's text is kept."""
        texts, thoughts = list[str](), list[str]()
        for piece in pieces:
            texts += piece.content or "", piece.refusal or ""
            if piece.tool is not None:
                texts += piece.tool.name or "", piece.tool.arguments
            thoughts.append(piece.reasoning or "")
        self._text_chars += sum(map(len, texts))
        self._thought_chars += sum(map(len, thoughts))
        if self.whole:
            # Joined once: a text that grows with each of many choices is copied with each.
            self._text = "".join([self._text, *texts, *thoughts])

    def output_so_far(self) -> int:
        """Output tokens by now, as far as the engine's pieces and reports tell."""
        reported = read_usage(self._usage) or read_timings(self._timings)
        told = 0 if reported is None else reported.completion or 0
        return max(self.pieces.seen, min(told, self._ceiling()))

    def counts(self) -> Counted:
        """What was made, as far as the request allowed it."""
        reported, source = read_usage(self._usage), _ENGINE
        if (
            reported is None
            or not reported.prompt
            or not reported.completion
            or (self._thought_chars and reported.reasoning is None)
        ):
            reported, source = self._complete(reported)
        elif self._timings is not NOTHING and not reported.cached:
            reported = self._with_cache(reported)
        pieces, most_input = self.pieces, self.bounds.input_tokens
        tokens, bent = settle_counts(reported, pieces.seen, most_input, self._ceiling())
        if bent and reported.estimated:
            source = UsageSource.COUNTED
        return tokens, source, bent or self.fault is not None

    def _ceiling(self) -> int:
        """Output tokens that are possible."""
        ceiling, most = _CEILING * self.bounds.made, self.bounds.output_tokens
        return most if most is not None and most < ceiling else ceiling

    def _with_cache(self, said: Reported) -> Reported:
        """llama.cpp tells what the cache had in its timings too, which older ones alone do."""
        timed = read_timings(self._timings)
        if timed is None or not timed.cached or self.bounds.made > 1:
            return said  # of several choices, all but the first find the prompt in the cache
        return msgspec.structs.replace(said, cached=timed.cached)

    def _complete(self, said: Reported | None) -> tuple[Reported, UsageSource]:
        """With each side that the engine did not tell: from its timings, else from the total, else our own estimate."""
        timed = read_timings(self._timings)
        if said is None:
            said = read_usage(self.pieces.usage) or timed or Reported(None, None, suspect=True)
        elif timed is not None and (said.prompt is None or said.completion is None):
            said = Reported(
                timed.prompt if said.prompt is None else said.prompt,
                timed.completion if said.completion is None else said.completion,
                timed.cached if said.prompt is None else said.cached,
                said.reasoning,
                suspect=True,
            )
        prompt, completion, suspect, source = said.prompt, said.completion, said.suspect, _ENGINE
        if completion is None or (not completion and self.pieces.seen):
            completion, suspect, source = self._estimated_output(), True, UsageSource.COUNTED
        if prompt is None and said.total is not None and said.total > completion:
            prompt, suspect = said.total - completion, True
        elif not prompt:
            estimate = prompt_tokens(self.request)
            suspect = suspect or estimate > 0
            if prompt is None:
                prompt, suspect, source = max(1, estimate), True, UsageSource.COUNTED
        reasoning = self._share_of_thoughts(completion) if said.reasoning is None else said.reasoning
        return Reported(prompt, completion, said.cached, reasoning, suspect, estimated=said.estimated), source

    def _estimated_output(self) -> int:
        if not self.whole:
            return self.pieces.seen
        return max(tokens_of_text(self._text), min(self.pieces.seen, 1))

    def _share_of_thoughts(self, completion: int) -> int:
        """By the size of the texts, so that an answer has the same in however many pieces it comes."""
        thoughts = self._thought_chars
        return completion * thoughts // (thoughts + self._text_chars) if thoughts else 0


def settle_counts(reported: Reported, seen: int, prompt_bound: int, completion_bound: int) -> tuple[TokenCounts, bool]:
    """Disjoint classes within what is possible, and whether something had to be bent for it.

    `seen`: pieces that came, each at least a token. `prompt_bound`, `completion_bound`: most that the request allowed.
    """
    told_prompt, told = reported.prompt or 0, reported.completion or 0
    # Without min and max, which take Python as long as ten comparisons.
    completion = told if told > seen else seen  # noqa: FURB136
    if completion > completion_bound:  # noqa: PLR1730
        completion = completion_bound  # never more than was held, also of an engine that goes on for a few pieces
    prompt = told_prompt if told_prompt < prompt_bound else prompt_bound  # noqa: FURB136
    cached = reported.cached if reported.cached < prompt else prompt  # noqa: FURB136
    reasoning = reported.reasoning or 0
    bent = reported.suspect or completion != told or prompt != told_prompt or cached != reported.cached
    if reasoning > completion:
        bent, reasoning = True, completion
    return TokenCounts(prompt - cached, cached, completion - reasoning, reasoning), bent


def part_of(tokens: TokenCounts, output_tokens: int) -> TokenCounts:
    """The same with so many output tokens of it."""
    reasoning = min(tokens.reasoning, output_tokens)
    return TokenCounts(tokens.input, tokens.cached_input, output_tokens - reasoning, reasoning)


def embedding_counts(answer: EngineEmbeddings, request: EmbeddingRequest, bounds: Bounds) -> Counted:
    """Input tokens only."""
    reported, source = read_input_usage(answer.usage) or Reported(None, 0), _ENGINE
    if not reported.prompt:
        estimate = prompt_tokens(request)
        if reported.prompt is None:
            reported, source = Reported(max(1, estimate), 0, suspect=True), UsageSource.COUNTED
        else:
            reported = Reported(0, 0, suspect=reported.suspect or estimate > 0)
    tokens, bent = settle_counts(reported, 0, bounds.input_tokens, 0)
    return tokens, source, bent
