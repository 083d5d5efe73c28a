"""What engines say of tokens, made safe: under whatever names, numbers that are none are dropped and marked, and a side that is
missing is taken from the total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct

from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineChoice, given, texts_of

_MOST: Final = 2**28
"""Tokens that no request of today can have, all its choices together. A number above it is no count."""
_BYTES_PER_TOKEN: Final = 4
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]

NAMES: Final[Mapping[str, Sequence[str]]] = {
    "prompt": ("prompt_tokens", "promptTokenCount", "prompt_eval_count"),
    "uncached prompt": ("input_tokens", "inputTokens"),
    "completion": ("completion_tokens", "output_tokens", "outputTokens", "eval_count"),
    "completion without thoughts": ("candidatesTokenCount",),
    "total": ("total_tokens", "totalTokens", "totalTokenCount"),
    "cached": (
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "prompt_token_details.cached_tokens",
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "num_cached_tokens",
        "cached_prompt_text_tokens",
        "cachedContentTokenCount",
    ),
    "cached beside": ("cache_read_input_tokens", "cacheReadInputTokens"),
    "written beside": ("cache_creation_input_tokens", "cacheWriteInputTokens"),
    "not cached": ("prompt_cache_miss_tokens",),
    "reasoning": (
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
        "reasoning_tokens",
        "thoughtsTokenCount",
    ),
}
"""What each count is called: by OpenAI's two APIs, then Anthropic, Bedrock, DeepSeek, Gemini, Mistral, Moonshot, Ollama, Together and
xAI, and by what stands before them. Of several names for one count the largest number holds: some send zeros under the others.

`uncached prompt`: in Anthropic's and Bedrock's words it leaves out what the cache had and took (`beside`); OpenAI's Responses have
the same name for all of the prompt, and tell of the cache in their details.
"""


class Reported(Struct, frozen=True, gc=False):
    """An engine's own counts; `cached` is part of `prompt`, `reasoning` of `completion`. None: it told none that makes sense.

    `suspect`: some of it made no sense, or had to be concluded. `total`: where it told neither side. `estimated`: the output is our
    own estimate (`estimate_output`), and marked.
    """

    prompt: int | None
    completion: int | None
    cached: int = 0
    reasoning: int | None = None
    suspect: bool = False
    total: int | None = None
    estimated: bool = False


class _PromptDetails(Struct, forbid_unknown_fields=True):
    cached_tokens: _Count | None = None
    audio_tokens: msgspec.Raw = NOTHING


class _CompletionDetails(Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count | None = None
    audio_tokens: msgspec.Raw = NOTHING
    accepted_prediction_tokens: msgspec.Raw = NOTHING
    rejected_prediction_tokens: msgspec.Raw = NOTHING


class _PlainUsage(Struct, forbid_unknown_fields=True):
    """As it should be, in OpenAI's words. With any other member it may be one of others' words, and is read by their table."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


_plain_decoder = msgspec.json.Decoder(_PlainUsage)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_usage(raw: msgspec.Raw) -> Reported | None:
    """A `usage` object. None when there is none."""
    if not given(raw):
        return None
    try:
        plain = _plain_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        odd = _Odd(raw)
        return msgspec.structs.replace(odd.read(), estimated=odd.estimated)
    prompt, completion = plain.prompt_tokens, plain.completion_tokens
    if plain.total_tokens != prompt + completion and plain.total_tokens is not None:
        return _Odd(raw).read()
    details, made = plain.prompt_tokens_details, plain.completion_tokens_details
    cached = 0 if details is None else details.cached_tokens or 0
    if made is None and plain.reasoning_tokens is None:
        return Reported(prompt, completion, cached)
    inner, beside = None if made is None else made.reasoning_tokens, plain.reasoning_tokens
    reasoning = beside if inner is None or (beside is not None and beside > inner) else inner
    if reasoning is not None and reasoning > completion:
        return _Odd(raw).read()
    return Reported(prompt, completion, cached, reasoning)


def read_input_usage(raw: msgspec.Raw) -> Reported | None:
    """A `usage` object of what makes no output. None when there is none."""
    return _Odd(raw).read_input() if given(raw) else None


class _Odd:
    """Usage in others' words, or with something in it that is no count."""

    def __init__(self, raw: msgspec.Raw) -> None:
        self._members = _members(raw)
        self.estimated = _ESTIMATED in self._members
        self._suspect = self.estimated or _SUSPECT in self._members

    def read(self) -> Reported:
        total = self._largest("total")
        prompt, completion = self._prompt(total), self._largest("completion")
        reasoning, cached = self._largest("reasoning"), self._largest("cached")
        if completion is None and (said := self._largest("completion without thoughts")) is not None:
            inside = prompt is not None and total == prompt + said
            completion = said if inside else said + (reasoning or 0)
        cached = max(cached or 0, self._largest("cached beside") or 0)
        if total is None:
            if completion is not None and reasoning is not None and reasoning > completion:
                # It is beside the rest and not a part of it; who counts so might as well count otherwise.
                completion, self._suspect = completion + reasoning, True
            return Reported(prompt, completion, cached, reasoning, self._suspect)
        if prompt and completion and not reasoning and total > prompt + completion and self._tells_thoughts_nowhere():
            # Gemini's route for OpenAI's clients leaves the thoughts out, and has them in the total alone.
            reasoning = total - prompt - completion
            return Reported(prompt, completion + reasoning, cached, reasoning, suspect=True)
        prompt, completion = self._by_total(total, prompt, completion, reasoning)
        neither = prompt is None and completion is None
        return Reported(prompt, completion, cached, reasoning, self._suspect, total if neither else None)

    def read_input(self) -> Reported:
        """Of what makes no output: all that was used is the prompt."""
        total, made = self._largest("total"), self._largest("completion") or 0
        prompt = self._prompt(total)
        if total is not None and total > made and not prompt:
            prompt, self._suspect = total - made, True
        return Reported(prompt, 0, self._largest("cached") or 0, suspect=self._suspect)

    def _tells_thoughts_nowhere(self) -> bool:
        """Whether what a total has more than its sides can only be thoughts, and not the prompts of tools (as in Gemini's own words)
        or what a cache had or took.
        """
        return not any(map(self._largest, ("completion without thoughts", "cached beside", "written beside")))

    def _prompt(self, total: int | None) -> int | None:
        """All of the prompt, with what the cache had of it."""
        prompt, bare = self._largest("prompt"), self._largest("uncached prompt")
        read, written = self._largest("cached beside") or 0, self._largest("written beside") or 0
        if prompt is None and bare is None:
            hit, miss = self._largest("cached"), self._largest("not cached")
            return None if hit is None or miss is None else hit + miss
        most = max(side for side in (prompt, bare) if side is not None)
        if not read + written:
            return most
        completion = self._largest("completion")
        if (
            read <= most
            and total is not None
            and completion is not None
            and total in (most + completion, most + completion + read + written)
        ):
            return total - completion
        return most if prompt is not None and read <= most else most + read + written

    def _by_total(
        self, total: int, prompt: int | None, completion: int | None, reasoning: int | None
    ) -> tuple[int | None, int | None]:
        """Both sides, as far as the total tells one that is missing or 0; or one that leaves reasoning out (xAI does)."""
        if prompt is not None and completion is not None:
            if total == prompt + completion:
                return prompt, completion
            if prompt and reasoning and total == prompt + completion + reasoning:
                return prompt, completion + reasoning
            self._suspect = True
            if total > prompt + completion:
                if not prompt:
                    return total - completion, completion
                if not completion:
                    return prompt, total - prompt
            return prompt, completion
        if prompt is None and completion is not None and total > completion:
            self._suspect = True
            return total - completion, completion
        if completion is None and prompt is not None and total >= prompt:
            self._suspect = True
            return prompt, total - prompt
        return prompt, completion

    def _largest(self, what: str) -> int | None:
        most: int | None = None
        for name in NAMES[what]:
            outer, _, inner = name.partition(".")
            raw = self._members.get(outer, NOTHING)
            value = self._count(_members(raw).get(inner, NOTHING) if inner else raw)
            if value is not None and (most is None or value > most):
                most = value
        return most

    def _count(self, raw: msgspec.Raw) -> int | None:
        """Also a text of digits, which is a number all the same, but marked: who writes one may have more wrong."""
        if not given(raw):
            return None
        value = _decoded(raw)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
            self._suspect = True
            value = int(value)
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
            self._suspect = True
            return None
        return value


def read_timings(raw: msgspec.Raw) -> Reported | None:
    """llama.cpp's `timings`: `prompt_n` tokens were computed, `cache_n` were not, `predicted_n` were made."""
    if not given(raw):
        return None
    members = _members(raw)

    def count(name: str) -> int | None:
        value = _decoded(members[name]) if name in members else None
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None

    computed, made, cached = count("prompt_n"), count("predicted_n"), count("cache_n") or 0
    if computed is None and made is None:
        return None
    prompt = None if computed is None else computed + cached
    return Reported(prompt, made, 0 if prompt is None else cached, suspect=computed is None or made is None)


def _members(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Each by itself, so that a number which cannot be read takes no other along."""
    if not given(raw):
        return {}
    try:
        return _members_decoder.decode(bytes(raw).decode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return raw


def usage_json(prompt: int, cached: int, completion: int, reasoning: int) -> msgspec.Raw:
    """The `usage` object that callers get; `cached` is part of `prompt`, `reasoning` of `completion`."""
    return msgspec.Raw(
        b'{"prompt_tokens":%d,"completion_tokens":%d,"reasoning_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}'
        % (prompt, completion, reasoning, prompt + completion, cached, reasoning)
    )


_SUSPECT: Final = "llmaas_suspect"
_ESTIMATED: Final = "llmaas_estimated"
_ALL: Final = "llmaas_all_choices"


def later_usage(before: msgspec.Raw, report: msgspec.Raw) -> msgspec.Raw:
    """What two reports on one answer tell together, the largest number of each count: some tell the prompt at the beginning and the
    output at the end, and a report of zeros takes nothing back.
    """
    one, other = read_usage(before), read_usage(report)
    if one is None or other is None:
        return before if other is None else report
    if _covers(other, one) or _ALL in _members(report):
        return report
    if _covers(one, other):
        return before
    told: dict[str, Any] = {
        "prompt_tokens": _most(one.prompt, other.prompt),
        "completion_tokens": _most(one.completion, other.completion),
        "prompt_tokens_details": {"cached_tokens": max(one.cached, other.cached)},
        "completion_tokens_details": {"reasoning_tokens": _most(one.reasoning, other.reasoning)},
    }
    if told["prompt_tokens"] is None or told["completion_tokens"] is None:
        told["total_tokens"] = _most(one.total, other.total)
    return _marked(told, one, other)


def _marked(told: dict[str, Any], one: Reported, other: Reported) -> msgspec.Raw:
    """What two reports tell together, with the marks of both."""
    if one.suspect or other.suspect:
        told[_SUSPECT] = True
    if one.estimated or other.estimated:
        told[_ESTIMATED] = True
    return msgspec.Raw(msgspec.json.encode(told))


def _covers(one: Reported, other: Reported) -> bool:
    """Whether it tells all that the other tells, and no less of anything."""
    return (
        (other.prompt is None or (one.prompt is not None and one.prompt >= other.prompt))
        and (other.completion is None or (one.completion is not None and one.completion >= other.completion))
        and one.cached >= other.cached
        and (other.reasoning is None or (one.reasoning is not None and one.reasoning >= other.reasoning))
        and (other.total is None or one.total is not None or (one.prompt is not None and one.completion is not None))
    )


def _most(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def add_usage(first: msgspec.Raw, second: msgspec.Raw, *, same_prompt: bool = False) -> msgspec.Raw:
    """Two `usage` objects as one; `same_prompt`: both are of one prompt, which counts once. One that is not there adds nothing; a
    side that one of them lacks is unknown of both.
    """
    one, other = read_usage(first), read_usage(second)
    if one is None or other is None:
        return first if other is None else second
    total: dict[str, Any] = {
        "prompt_tokens": one.prompt if same_prompt else _sum(one.prompt, other.prompt),
        "completion_tokens": _sum(one.completion, other.completion),
        "prompt_tokens_details": {"cached_tokens": one.cached if same_prompt else one.cached + other.cached},
    }
    if one.reasoning is not None or other.reasoning is not None:
        total["completion_tokens_details"] = {"reasoning_tokens": (one.reasoning or 0) + (other.reasoning or 0)}
    return _marked(total, one, other)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def usage_beside(before: msgspec.Raw, answer: EngineAnswer, choice: EngineChoice) -> msgspec.Raw:
    """With what is told of usage with the end of a choice, in other places than its own: the choice's own, or that of all."""
    if given(choice.usage):
        return add_usage(before, choice.usage, same_prompt=True)
    return later_usage(before, _members(answer.x_groq).get("usage", NOTHING))


def timings_as_usage(timings: msgspec.Raw) -> msgspec.Raw:
    """llama.cpp's `timings` in the form of `usage`."""
    read = read_timings(timings)
    if read is None or read.prompt is None or read.completion is None:
        return NOTHING
    details = {"cached_tokens": read.cached}
    told = {"prompt_tokens": read.prompt, "completion_tokens": read.completion, "prompt_tokens_details": details}
    return msgspec.Raw(msgspec.json.encode(told))


class ChoiceReports:
    """What a stream of several choices reports. llama.cpp reports each choice when it has ended, so that these are added up. Reports
    that come before or between the ends are running totals, of which the largest is the last.
    """

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._heard = 0
        self._running = False
        self._timed = NOTHING
        self._sum = NOTHING
        self._largest = NOTHING

    def feed(self, answer: EngineAnswer) -> None:
        """Put the usage of all choices by now in place of a report, and of timings as long as there is none."""
        ended = [choice.index for choice in answer.choices or () if choice.finish_reason]
        self._ended.update(ended)
        if not given(answer.usage):
            if ended and not self._heard and given(answer.timings):
                self._timed = add_usage(self._timed, timings_as_usage(answer.timings), same_prompt=True)
                answer.usage = for_all(self._timed)
            return
        if not _tells(answer.usage):
            return
        self._heard += 1
        self._running = self._running or self._heard > len(self._ended)
        self._sum = add_usage(self._sum, answer.usage, same_prompt=True)
        if _made(answer.usage) >= _made(self._largest):
            self._largest = answer.usage
        answer.usage = for_all(self._largest if self._running else self._sum)


def size_of(text: str | None) -> int:
    """Bytes of UTF-8."""
    return len(text.encode("utf-8", "surrogatepass")) if text else 0


def tokens_of_bytes(size: int) -> int:
    """Our estimate for so many bytes of UTF-8: some four to a token, whether they are English, Cyrillic or Chinese."""
    return -(-size // _BYTES_PER_TOKEN)


def tokens_of_text(text: str) -> int:
    return tokens_of_bytes(size_of(text))


def estimate_output(answer: EngineAnswer) -> None:
    """Put our estimate of the text in place of an output that was not counted, marked. For an answer that comes in one piece where
    pieces are counted.
    """
    if not given(answer.usage):
        for choice in answer.choices or ():
            answer.usage = usage_beside(answer.usage, answer, choice)
    reported = read_usage(answer.usage) or read_timings(answer.timings)
    if reported is not None and reported.completion:
        return
    made = tokens_of_text("".join(text for choice in answer.choices or () for text in texts_of(choice)))
    members = _members(answer.usage) if given(answer.usage) else {}
    answer.usage = msgspec.Raw(msgspec.json.encode({**members, "completion_tokens": made, _ESTIMATED: True}))


def or_pieces(usage: msgspec.Raw, pieces: int) -> msgspec.Raw:
    """The usage of one prompt, with its pieces in place of an output that was not counted, marked."""
    reported = read_usage(usage)
    if reported is not None and (reported.completion is not None or reported.total is not None):
        return usage
    members = {} if reported is None else {"prompt_tokens": reported.prompt, "cached_tokens": reported.cached}
    return msgspec.Raw(msgspec.json.encode({**members, "completion_tokens": pieces, _ESTIMATED: True}))


def for_all(usage: msgspec.Raw) -> msgspec.Raw:
    """Marked as the count of all choices and prompts by now, which replaces the one before."""
    return msgspec.Raw(msgspec.json.encode({**_members(usage), _ALL: True})) if given(usage) else NOTHING


def with_unknown_prompt(usage: msgspec.Raw, pieces: int) -> msgspec.Raw:
    """The count of all prompts with one more, of which nothing is known but its pieces."""
    reported = read_usage(usage)
    completion = pieces if reported is None else _sum(reported.completion, pieces)
    return for_all(msgspec.Raw(msgspec.json.encode({"prompt_tokens": None, "completion_tokens": completion})))


def _tells(usage: msgspec.Raw) -> bool:
    reported = read_usage(usage)
    return reported is not None and bool(reported.prompt or reported.completion or reported.total)


def _made(usage: msgspec.Raw) -> int:
    reported = read_usage(usage)
    return -1 if reported is None or reported.completion is None else reported.completion
