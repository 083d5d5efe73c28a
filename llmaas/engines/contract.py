"""The contract between the relay and whatever makes answers, and the facts by which kinds of engines differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec import Struct

from llmaas.domain.catalogue import Target
from llmaas.errors import LlmaasError
from llmaas.protocol.engine import EngineAnswer, EngineEmbeddings
from llmaas.protocol.needs import Need
from llmaas.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest

GenerationRequest = ChatRequest | CompletionRequest
Extra = Mapping[str, msgspec.Raw]
Take = Callable[[Sequence[EngineAnswer]], bool]


@dataclass(frozen=True, slots=True)
class Traits:
    """How a kind of engine differs from the plainest one.

    `exact_while_streaming`: its streams tell the counts as they grow, so an abandoned answer is still counted exactly;
    answers that the caller wants whole are then read as a stream too.
    `always_streams`: it is read as a stream even where a whole answer would carry more (log probabilities).
    `counts_each_choice`: its streams report usage for each choice by itself, so the reports are added up.
    `forces_calls`: it makes the call that `tool_choice` demands; where it does not, `forced.py` asks for it by a schema.
    `calls_come_whole`: a tool call is one piece of a stream, however long its arguments are.
    `gives_asked_alternatives`: log probabilities come with as many other tokens as were asked for, also with none.
    `unable`: what it can't do of that which only some engines can (`protocol/needs.py`).
    """

    exact_while_streaming: bool = False
    always_streams: bool = False
    merges_system: bool = True
    unable: frozenset[Need] = frozenset()
    prompt_lists: bool = False
    counts_each_choice: bool = False
    forces_calls: bool = True
    calls_come_whole: bool = False
    gives_asked_alternatives: bool = True


class Terms(Struct, frozen=True, gc=False):
    """How an answer is asked for: as a stream or whole. `extra` are members that the provider takes as the caller gave them, `owner` is
    the project that asks. `own_bound`: a bound on the answer is ours, and not the caller's.
    """

    stream: bool
    extra: Extra
    owner: str
    own_bound: bool


class Generation(Protocol):
    """An answer in the making on one engine. Every method raises EngineError's subclasses, or what `abort` was given."""

    async def first(self) -> Sequence[EngineAnswer]:
        """Wait until the engine has accepted the request and given something; nothing of it was relayed before."""
        ...

    @property
    def heard(self) -> Sequence[EngineAnswer]:
        """What came before there was something to give: counts of an answer whose text is held back, say."""
        ...

    @property
    def complete(self) -> bool:
        """Whether all of the answer was in what `first` gave."""
        ...

    async def each(self, take: Take) -> bool:
        """Hand over what has come since and then each part as it comes, until `take` gives False, or to the end of the
        answer; says whether that is reached. `take` may be called outside of any task. What it raises is raised here.
        """
        ...

    async def ended(self) -> bool:
        """After that end: whether the answer is complete even where a choice did not say why it ended (docs/life-of-a-request.md,
        "The end of an answer").
        """
        ...

    def abort(self, error: LlmaasError) -> None:
        """Stop the engine now, in any phase; whoever waits gets `error`."""
        ...


class Embedding(Protocol):
    """All vectors of a request, from one engine; errors as in Generation."""

    async def first(self) -> EngineEmbeddings: ...

    def abort(self, error: LlmaasError) -> None: ...


class Upstream(Protocol):
    """One kind of provider. Starting never waits; errors come out of what it gives."""

    @property
    def traits(self) -> Traits: ...

    def generate(self, target: Target, request: GenerationRequest, terms: Terms) -> Generation:
        """Ask for an answer. `request` is not changed. Raises Loading or NoBackend when the engine is not there yet."""
        ...

    def embed(self, target: Target, request: EmbeddingRequest, *, extra: Extra, owner: str) -> Embedding: ...
