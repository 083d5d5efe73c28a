"""Log probabilities with as many other tokens as the caller asked for, from an engine that gives none at all for none (llama.cpp):
it is asked for one, which is taken out again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmaas.engines.contract import Generation, GenerationRequest, Take
from llmaas.errors import LlmaasError
from llmaas.protocol.engine import NOTHING, EngineAnswer, given
from llmaas.protocol.requests import ChatRequest

_json = msgspec.json.Encoder()


def wants_none(request: GenerationRequest) -> bool:
    """Whether log probabilities are asked for, and only those of the tokens that were taken."""
    if isinstance(request, ChatRequest):
        return bool(request.logprobs) and not request.top_logprobs
    return request.logprobs == 0


def with_one(request: GenerationRequest) -> GenerationRequest:
    if isinstance(request, ChatRequest):
        return msgspec.structs.replace(request, top_logprobs=1)
    return msgspec.structs.replace(request, logprobs=1)


class WithoutAlternatives:
    """Implements `contract.Generation`."""

    complete = False

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @property
    def heard(self) -> Sequence[EngineAnswer]:
        return self._generation.heard

    async def first(self) -> Sequence[EngineAnswer]:
        return _trimmed(await self._generation.first())

    async def each(self, take: Take) -> bool:
        return await self._generation.each(lambda answers: take(_trimmed(answers)))

    async def ended(self) -> bool:
        return await self._generation.ended()

    def abort(self, error: LlmaasError) -> None:
        self._generation.abort(error)


def _trimmed(answers: Sequence[EngineAnswer]) -> Sequence[EngineAnswer]:
    for answer in answers:
        for choice in answer.choices or ():
            if choice.logprobs is not NOTHING and given(choice.logprobs):
                choice.logprobs = _without(choice.logprobs)
    return answers


def _without(raw: msgspec.Raw) -> msgspec.Raw:
    try:
        value = msgspec.json.decode(raw)
        for entry in value["content"]:
            entry["top_logprobs"] = []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError):
        return raw  # what can't be read is judged where it is written
    return msgspec.Raw(_json.encode(value))
