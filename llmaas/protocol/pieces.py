"""From whatever an engine sends to one regular form: pieces of choices. Whole answers and streams go the same way.

What engines get wrong is mended here: a missing or repeated role, finish reasons merged with text, tool calls without an
index or with repeated names, arguments that are objects, `<think>` in content. What cannot be mended is an EngineFailed.
"""

from __future__ import annotations

import uuid

import msgspec
from msgspec import Struct

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineDelta, EngineToolCall, given
from llmaas.protocol.reasoning import ThinkSplitter

_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
}
_MAX_TOOL_CALLS = 128
_json = msgspec.json.Encoder()


class ToolPiece(Struct):
    """`id` and `name` are given once, with the first piece of a call; `arguments` is a fragment of JSON text."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Piece(Struct):
    """Something new in one choice; `finish` comes alone, as the last of the choice."""

    index: int
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool: ToolPiece | None = None
    logprobs: msgspec.Raw | None = None
    finish: str | None = None


class _Choice(Struct):
    splitter: ThinkSplitter | None
    calls: int = 0
    positions: dict[int | str, int] = {}
    bare: set[int] = set()
    finish: str | None = None


class Pieces:
    """The regular form of one answer, of at most so many `choices`.

    `seen` and `seen_reasoning` count the engine's pieces that carried something. `finished`: each choice that began has said
    why it ended, and at least one began.
    """

    __slots__ = ("_begun", "_choices", "_open", "_split_thinking", "finished", "seen", "seen_reasoning")

    def __init__(self, choices: int, split_thinking: bool) -> None:  # noqa: FBT001 - a choice of the model's
        self._choices = choices
        self._split_thinking = split_thinking
        self._begun: dict[int, _Choice] = {}
        self._open = 0
        self.finished = False
        self.seen = 0
        self.seen_reasoning = 0

    def feed(self, answer: EngineAnswer, out: list[Piece]) -> None:
        """Add what is new to `out`. Raises EngineFailed for choices that nobody asked for."""
        for choice in answer.choices or ():
            state = self._begun.get(choice.index)
            if state is None:
                state = self._begin(choice.index)
            if state.finish is not None:
                continue
            delta = choice.delta or choice.message
            logprobs = None if choice.logprobs is NOTHING or not given(choice.logprobs) else choice.logprobs
            if delta is not None:
                self._feed_delta(choice.index, state, delta, logprobs, out)
            elif choice.text:
                self.seen += 1
                out.append(Piece(choice.index, content=choice.text, logprobs=logprobs))
            if choice.finish_reason:
                state.finish = choice.finish_reason
                self._open -= 1
                self.finished = not self._open

    def plain_text(self, answer: EngineAnswer) -> str | None:
        """All of a whole answer that is one text and its end and needs no mending: it stands as after `feed`, and there is
        nothing to `finish`. None: it is another one, and nothing has changed.
        """
        choices = answer.choices
        if choices is None or len(choices) != 1 or self._split_thinking:
            return None
        choice = choices[0]
        message = choice.message
        if (
            message is None
            or not message.content
            or choice.finish_reason not in {"stop", "length"}
            or choice.index
            or choice.delta is not None
            or (choice.logprobs is not NOTHING and given(choice.logprobs))
            or message.reasoning_content
            or message.reasoning
            or message.refusal
            or message.tool_calls
        ):
            return None
        self._begin(0).finish = choice.finish_reason
        self.seen = 1
        self.finished = True
        return message.content

    def finish(self) -> list[Piece]:
        """The end of the engine's answer: what was held back and one finish for each choice."""
        out: list[Piece] = []
        for index, state in self._begun.items():
            if state.splitter is not None:
                reasoning, content = state.splitter.finish()
                if reasoning or content:
                    out.append(Piece(index, content=content or None, reasoning=reasoning or None))
            if state.bare and state.finish != "length":
                # A call without arguments has none to the end: an empty object, which callers can send back.
                out += [Piece(index, tool=ToolPiece(position, None, None, "{}")) for position in sorted(state.bare)]
        begun = self._begun
        ended = begun if len(begun) == 1 else sorted(begun)
        out += [Piece(index, None, None, None, None, None, _finish_reason(begun[index])) for index in ended]
        return out

    def cut(self, reason: str) -> list[Piece]:
        """Like `finish`, for an answer that is ended from outside: choices that go on end for that reason."""
        for state in self._begun.values():
            state.finish = state.finish or reason
        return self.finish()

    def finish_reason(self) -> str | None:
        """Of the first choice, for the record."""
        state = self._begun.get(0)
        return None if state is None or state.finish is None else _finish_reason(state)

    def _begin(self, index: int) -> _Choice:
        if not 0 <= index < self._choices:
            raise EngineFailed("The engine sent a choice that was not asked for.")
        state = self._begun[index] = _Choice(ThinkSplitter() if self._split_thinking else None)
        self._open += 1
        self.finished = False
        return state

    def _feed_delta(
        self, index: int, state: _Choice, delta: EngineDelta, logprobs: msgspec.Raw | None, out: list[Piece]
    ) -> None:
        content, reasoning = delta.content or None, delta.reasoning_content or delta.reasoning or None
        if content or reasoning or delta.refusal or delta.tool_calls:
            self.seen += 1
        if reasoning:
            self.seen_reasoning += 1
        if content and state.splitter is not None:
            thought, text = state.splitter.feed(content)
            if not text:
                self.seen_reasoning += 1
            content, reasoning = text or None, (reasoning or "") + thought or None
        if content or reasoning or delta.refusal or logprobs is not None:
            out.append(Piece(index, content, reasoning, delta.refusal or None, None, logprobs))
        if delta.tool_calls:
            out += [Piece(index, tool=self._tool(state, call)) for call in delta.tool_calls]

    def _tool(self, state: _Choice, call: EngineToolCall) -> ToolPiece:
        function = call.function
        name = function.name if function is not None else None
        arguments = function.arguments if function is not None else None
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = _json.encode(arguments).decode()
        handle: int | str | None = call.index if call.index is not None else call.id
        if handle is None and not name:
            position = max(state.calls - 1, 0)
        else:
            # Without an index or an id, a name begins a new call.
            handle = f"#{state.calls}" if handle is None else handle
            position = state.positions.setdefault(handle, state.calls)
        if arguments:
            state.bare.discard(position)
        elif position >= state.calls:
            state.bare.add(position)
        if position < state.calls:
            return ToolPiece(position, None, None, arguments)
        if state.calls >= _MAX_TOOL_CALLS:
            raise EngineFailed("The engine sent too many tool calls.")
        state.calls += 1
        return ToolPiece(position, call.id or f"call_{uuid.uuid4().hex[:24]}", name or "", arguments)


def _finish_reason(state: _Choice) -> str:
    reason = _FINISH.get(state.finish or "stop", "stop")
    if state.calls and reason == "stop":
        return "tool_calls"
    return "stop" if reason == "tool_calls" and not state.calls else reason
