"""From whatever an engine sends to one regular form: pieces of choices. Whole answers and streams go the same way.

What engines get wrong is mended here: a missing or repeated role, finish reasons merged with text or given before its end,
tool calls without an index, with late or repeated names or with the index of another, arguments that are objects, `<think>` in
content. What cannot be mended, and choices that were not asked for, are an EngineFailed; but those that come when each choice
before them has ended are left out, since what was asked for is there. Tool calls that the request did not allow, or of tools that
it does not have, are passed on: they are what the model said, and clients know how to answer them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llmaas.errors import EngineFailed
from llmaas.protocol.brackets import Brackets
from llmaas.protocol.engine import (
    NOTHING,
    EngineAnswer,
    EngineChoice,
    EngineDelta,
    EngineToolCall,
    given,
    is_fault,
    renew_call,
)
from llmaas.protocol.finish import FAILED, NOT_YET, meaning_of
from llmaas.protocol.reasoning import ThinkSplitter
from llmaas.protocol.usage import usage_beside

_GAVE_UP = ""
_MAX_TOOL_CALLS = 128
_MOST_HELD = 16
"""Pieces of calls that wait for a name. One that has not come by then does not come."""
_json = msgspec.json.Encoder()


class ToolPiece(Struct, gc=False):
    """`id` and `name` are given once, with the first piece of a call; `arguments` is a fragment of JSON text."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Piece(Struct, gc=False):
    """Something new in one choice; `finish` comes alone, as the last of the choice."""

    index: int
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool: ToolPiece | None = None
    logprobs: msgspec.Raw | None = None
    finish: str | None = None


class _Call(Struct):
    """What was said of a tool call so far. Not `given`: it is held back, for its own name or that of a call before it. `is_bare`: the
    last that came was an object without arguments.
    """

    id: str | None
    name: str | None
    arguments: list[str]
    given: bool = False
    is_bare: bool = False
    _end: Brackets | None = None
    _looked_at: int = 0
    _whole: bool = False

    def is_whole(self) -> bool:
        """Whether its arguments are an object by now. However often this is asked, no fragment is read again."""
        end = self._end = self._end or Brackets()
        ended_before, fresh = end.ended, self.arguments[self._looked_at :]
        self._looked_at = len(self.arguments)
        if ended_before:
            self._whole = self._whole and not any(map(str.strip, fresh))
            return self._whole
        for fragment in fresh:
            end.take(fragment)
        if end.ended:
            self._whole = _is_object("".join(self.arguments))
        return self._whole


class _Choice(Struct):
    """`finish` is one of OpenAI's words, or _GAVE_UP because of `word`. `full`: it has as many calls as an answer may have, and more
    came.
    """

    splitter: ThinkSplitter | None
    calls: list[_Call] = []
    positions: dict[int | str, int] = {}
    finish: str | None = None
    word: str = ""
    full: bool = False


class Pieces:
    """The regular form of one answer, of exactly so many `choices`.

    `seen` and `seen_reasoning` count the engine's pieces that carried something, and reasoning. `finished`: each choice has said
    why it ended. `extra`: choices that were not asked for were left out. `full`: what comes now is left out, since a choice has
    more tool calls than an answer may have. `usage`: what was told with the ends of choices.
    """

    __slots__ = (
        "_begun",
        "_choices",
        "_open",
        "_split_thinking",
        "extra",
        "finished",
        "full",
        "seen",
        "seen_reasoning",
        "usage",
    )

    def __init__(self, choices: int, split_thinking: bool) -> None:  # noqa: FBT001 - a choice of the model's
        self._choices = choices
        self._split_thinking = split_thinking
        self._begun: dict[int, _Choice] = {}
        self.extra = self.finished = self.full = False
        self._open = self.seen = self.seen_reasoning = 0
        self.usage = NOTHING

    def feed(self, answer: EngineAnswer, out: list[Piece]) -> None:
        """Add what is new to `out`. Raises EngineFailed for choices that nobody asked for.

        Text that comes after a finish reason is text all the same: the reason goes out at the very end, and the last one holds.
        """
        choices = answer.choices or ()
        if len(choices) > 1:
            self._tell_apart(choices)
        for choice in choices:
            state = self._begun.get(choice.index)
            if state is None:
                state = self._begin(choice.index)
                if state is None:
                    continue
            delta = choice.delta or choice.message
            logprobs = None if choice.logprobs is NOTHING or not given(choice.logprobs) else choice.logprobs
            if delta is not None:
                self._feed_delta(choice, state, delta, logprobs, out)
            elif choice.text:
                self.seen += 1
                out.append(Piece(choice.index, content=choice.text, logprobs=logprobs))
            elif is_fault(choice.error):
                raise EngineFailed("The engine gave its answer up.")
            elif logprobs is not None:
                out.append(Piece(choice.index, logprobs=logprobs))  # of a token without text, or with half a character
            if choice.finish_reason:
                self._end(state, choice.finish_reason)
                if choice.usage is not NOTHING or answer.x_groq is not NOTHING:
                    self.usage = usage_beside(self.usage, answer, choice)

    def _tell_apart(self, choices: Sequence[EngineChoice]) -> None:
        """Give choices without an index the place in their list. Raises EngineFailed for two whole ones with the same index."""
        if len({choice.index for choice in choices}) == len(choices):
            return
        if len(choices) == self._choices and not any(choice.index for choice in choices):
            for place, choice in enumerate(choices):
                choice.index = place
        elif sum(choice.message is not None or bool(choice.text and choice.finish_reason) for choice in choices) > 1:
            raise _not_asked_for()

    def plain_text(self, answer: EngineAnswer) -> str | None:
        """All of a whole answer that is one text and its end and needs no mending: it stands as after `feed`, and there is
        nothing to `finish`. None: it is another one, and nothing has changed.
        """
        choices = answer.choices
        if choices is None or len(choices) != 1 or self._choices != 1 or self._split_thinking:
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
            or message.function_call is not None
        ):
            return None
        self._begun[0] = _Choice(None, finish=choice.finish_reason)
        self.seen = 1
        self.finished = True
        return message.content

    def finish(self, unsaid: str = "stop") -> list[Piece]:
        """The end of the engine's answer: what was held back and one finish for each choice; `unsaid`: the reason of those
        that gave none. Raises EngineFailed for an answer that is not what was asked for.
        """
        if self.extra:
            raise _not_asked_for()
        if len(self._begun) < self._choices:
            raise EngineFailed("The engine made fewer choices than were asked for.", hint=self.missing, answers=True)
        return self.cut(unsaid)

    @property
    def missing(self) -> str | None:
        """Words for choices that were asked for and have not begun; None: all have."""
        begun = len(self._begun)
        return None if begun == self._choices else f"{begun} of {self._choices} choices: it may not know `n`"

    @property
    def ended(self) -> bool:
        """Whether each choice that has begun has said why it ended."""
        return bool(self._begun) and not self._open

    def cut(self, reason: str) -> list[Piece]:
        """Like `finish`, for an answer that is ended from outside: choices that go on end for that reason."""
        self.check()
        for state in self._begun.values():
            state.finish = state.finish or reason
        out: list[Piece] = []
        for index, state in self._begun.items():
            if state.splitter is not None:
                reasoning, content = state.splitter.finish()
                if reasoning or content:
                    out.append(Piece(index, content=content or None, reasoning=reasoning or None))
            if state.calls:
                _give(index, state, out, nameless=True)
                if state.finish != "length":
                    # A call without arguments has none to the end: an empty object, which callers can send back.
                    bare = [position for position, call in enumerate(state.calls) if not any(call.arguments)]
                    out += [Piece(index, tool=ToolPiece(position, None, None, "{}")) for position in bare]
        begun = self._begun
        ended = begun if len(begun) == 1 else sorted(begun)
        out += [Piece(index, None, None, None, None, None, _finish_reason(begun[index])) for index in ended]
        return out

    def check(self) -> None:
        """Raises EngineFailed when a choice ended for a reason that is a failure, or that nobody here knows."""
        for state in self._begun.values():
            if state.finish == _GAVE_UP:
                known = meaning_of(state.word) is not None
                raise EngineFailed(
                    "The engine gave its answer up.",
                    hint=f'finish reason "{state.word[:100]}"'
                    + ("" if known else ", which is no word that is known here"),
                    answers=not known,
                )

    def finish_reason(self) -> str | None:
        """Of the first choice, for the record."""
        state = self._begun.get(0)
        return None if state is None or not state.finish else _finish_reason(state)

    def _begin(self, index: int) -> _Choice | None:
        """None: a choice that is left out."""
        if not 0 <= index < self._choices:
            if not self.ended:
                raise _not_asked_for()
            self.extra = True
            return None
        state = self._begun[index] = _Choice(ThinkSplitter() if self._split_thinking else None)
        self._open += 1
        self.finished = False
        return state

    def _end(self, state: _Choice, word: str) -> None:
        reason = meaning_of(word)
        if reason == NOT_YET:
            return
        if state.finish is None:
            self._open -= 1
            self.finished = not self._open and len(self._begun) == self._choices
        state.finish, state.word = _GAVE_UP if reason in (None, FAILED) else reason, word

    def _feed_delta(
        self, choice: EngineChoice, state: _Choice, delta: EngineDelta, logprobs: msgspec.Raw | None, out: list[Piece]
    ) -> None:
        if delta.function_call is not None:
            renew_call(delta)
        content, reasoning = delta.content or None, delta.reasoning_content or delta.reasoning or None
        if content or reasoning or delta.refusal or delta.tool_calls:
            self.seen += 1
        elif delta is choice.delta and (choice.text or choice.message is not None):
            # It is empty, and what is said stands beside it.
            said = EngineDelta(choice.text) if choice.text else choice.message or delta
            self._feed_delta(choice, state, said, logprobs, out)
            return
        elif is_fault(choice.error):
            raise EngineFailed("The engine gave its answer up.")
        if reasoning:
            self.seen_reasoning += 1
        if content and state.splitter is not None:
            thought, text = state.splitter.feed(content)
            if thought:
                self.seen_reasoning += 1
            content, reasoning = text or None, (reasoning or "") + thought or None
        if content or reasoning or delta.refusal or logprobs is not None:
            out.append(Piece(choice.index, content, reasoning, delta.refusal or None, None, logprobs))
        if delta.tool_calls:
            for call in delta.tool_calls:
                _feed_call(choice.index, state, call, out)
            self.full = self.full or state.full


def _not_asked_for() -> EngineFailed:
    return EngineFailed("The engine sent a choice that was not asked for.", answers=True)


def _feed_call(index: int, state: _Choice, call: EngineToolCall, out: list[Piece]) -> None:
    if state.full:
        return
    function = call.function
    name = function.name if function is not None else None
    arguments = function.arguments if function is not None else None
    # An empty object may be none yet: the text of them may follow. If it does not, it is told at the end.
    is_bare = arguments is not None and not isinstance(arguments, str) and not arguments
    if arguments is None or is_bare:
        arguments = ""
    elif not isinstance(arguments, str):
        try:
            arguments = _json.encode(arguments).decode()
        except RecursionError as error:
            raise EngineFailed("The engine sent something that is not an answer.", hint="nested too deeply") from error
    position = _continued(state, call.index, call.id, name)
    if position is None:
        position = len(state.calls)
        if position >= _MAX_TOOL_CALLS:
            # A caller can have so many made: they are what he asked for, so the answer is cut and not a failure.
            state.full = True
            return
        state.calls.append(_Call(None, None, []))
        for handle in (call.index, call.id):
            if handle is not None and handle != "":
                state.positions[handle] = position
    begun = state.calls[position]
    begun.arguments.append(arguments)
    begun.is_bare = is_bare
    if begun.given:
        out.append(Piece(index, tool=ToolPiece(position, None, None, arguments)))
        return
    begun.id, begun.name = begun.id or call.id or None, begun.name or name or None
    held = sum(len(waiting.arguments) for waiting in state.calls if not waiting.given)
    _give(index, state, out, nameless=held > _MOST_HELD)


def _give(index: int, state: _Choice, out: list[Piece], *, nameless: bool) -> None:
    """Hand on what is held back of calls, up to the first whose name is not known; `nameless`: that one too.

    Always in the order of their indexes: client libraries put a call where the one before it ends.
    """
    for position, call in enumerate(state.calls):
        if call.given:
            continue
        if not call.name and not nameless:
            return
        call.given = True
        known = {before.id for before in state.calls[:position]}
        id_ = call.id if call.id and call.id not in known else f"call_{uuid.uuid4().hex[:24]}"
        out.append(Piece(index, tool=ToolPiece(position, id_, call.name or "", "".join(call.arguments))))


def _continued(state: _Choice, index: int | None, id_: str | None, name: str | None) -> int | None:
    """The place of the call that this is a part of; None: a call begins.

    An index says it, else an id. But some engines give each call the same index: then an id and a name of its own begin
    another call, and so does a name after arguments that are whole. Without an index or an id, a name begins one, unless
    the last one waits for its own.
    """
    if index is None and not id_:
        last = len(state.calls) - 1
        if last < 0 or (name and (state.calls[last].name or state.calls[last].given)):
            return None
        return last
    position = state.positions.get(index if index is not None else id_ or "")
    if position is None or not name:
        return position
    begun = state.calls[position]
    if id_ and begun.id:
        return position if id_ == begun.id else state.positions.get(id_)
    if begun.name and (name != begun.name or begun.is_bare or begun.is_whole()):
        return None
    return position


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


def _finish_reason(state: _Choice) -> str:
    reason = state.finish or "stop"
    if state.calls:
        if state.full:
            return "length"
        if reason == "stop":
            return "tool_calls"
    return "stop" if reason == "tool_calls" and not state.calls else reason
