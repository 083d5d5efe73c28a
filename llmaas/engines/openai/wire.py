"""Engines that speak OpenAI's language: llama.cpp's server, vLLM, and any compatible server or provider.

A request to an engine is built new: the typed fields of ours, the engine's own name for the model, our own headers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import structlog
from msgspec import Struct

from llmaas.domain.catalogue import Target
from llmaas.domain.models import Backend, ProviderKind
from llmaas.engines.alternatives import WithoutAlternatives, wants_none, with_one
from llmaas.engines.contract import Embedding, Extra, Generation, GenerationRequest, Take, Terms, Traits
from llmaas.engines.forced import ForcedCalls, as_schema, demands_call
from llmaas.engines.habits import MOST_TRIES, OWN_BOUND, Habits, OtherForm
from llmaas.engines.in_turn import InTurn
from llmaas.engines.refusals import Asked, behind_output, error_body, from_error_body, refusal
from llmaas.errors import (
    EngineError,
    EngineFailed,
    EngineTimeout,
    InvalidRequest,
    LlmaasError,
)
from llmaas.net.client import Exchange, HttpTransport, Origin, Posts, Timeouts
from llmaas.protocol.engine import (
    NOTHING,
    EngineAnswer,
    EngineEmbeddings,
    answer_decoder,
    embeddings_decoder,
    given,
    is_fault,
    says_something,
)
from llmaas.protocol.lenient import Halves, fault_in, lenient_answer, lenient_embeddings, read_json
from llmaas.protocol.requests import (
    HINTS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    StreamOptions,
    prompt_list,
)
from llmaas.protocol.sse import DONE, SseDecoder, is_done, is_stream
from llmaas.protocol.usage import ChoiceReports, estimate_output
from llmaas.settings import Secret

_TELLING_BYTES = 64
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_EMPTY = (b"", b"null")
"""Events without anything: some engines keep a connection alive so, llama.cpp begins streams of several prompts with `null`."""
LLAMA_CPP = Traits(
    exact_while_streaming=True,
    always_streams=True,
    counts_each_choice=True,
    forces_calls=False,
    gives_asked_alternatives=False,
    unable=frozenset(
        {"logprobs_beside_tools", "best_of", "echo", "suffix", "dimensions", "broken_arguments", "file", "video_url"}
    ),
)
TRAITS: Mapping[ProviderKind, Traits] = {
    ProviderKind.EMBEDDED: LLAMA_CPP,
    ProviderKind.LLAMA_CPP: LLAMA_CPP,
    ProviderKind.VLLM: Traits(
        exact_while_streaming=True, prompt_lists=True, unable=frozenset({"best_of", "suffix", "broken_arguments"})
    ),
    ProviderKind.OPENAI: Traits(merges_system=False, prompt_lists=True),
}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.engines")
_LLAMA_CPP = b'{"timings_per_token":true,"return_progress":true,'
"""llama.cpp's words, ours to set, never a caller's: counts on each chunk; and progress while it reads the prompt, without which
it notices only by chance that nobody listens any more."""
_json = msgspec.json.Encoder()
T = TypeVar("T")
Locate = Callable[[Backend, str], tuple[Origin, str, Secret | None]]
"""Backend and root to its origin, the path under which `/chat/completions` stands, and the credential. May raise Loading."""


class _CountingOptions(StreamOptions):
    """vLLM's word for counts on each chunk; ours to set, never a caller's."""

    continuous_usage_stats: bool | None = None


class OpenAiUpstream:
    def __init__(self, kind: ProviderKind, transport: HttpTransport, locate: Locate, timeouts: Timeouts) -> None:
        self.traits = TRAITS[kind]
        self._is_vllm = kind is ProviderKind.VLLM
        self._is_foreign = kind is ProviderKind.OPENAI
        self._transport = transport
        self._locate = locate
        self._timeouts = timeouts
        self._posts = Posts()
        self.habits = Habits(time.monotonic)
        self._chat = "/chat/completions", Asked("messages", explain=False)
        self._text = "/completions", Asked("prompt", explain=False)

    def generate(self, target: Target, request: GenerationRequest, terms: Terms) -> Generation:
        stream, extra = terms.stream, terms.extra
        path, asked_in = self._text
        if isinstance(request, ChatRequest):
            path, asked_in = self._chat
            if not self.traits.forces_calls and demands_call(request):
                by_schema = as_schema(request, "none")
                return ForcedCalls(self.generate(target, by_schema, terms), request)
        if request.logprobs is not None and not self.traits.gives_asked_alternatives and wants_none(request):
            asked = with_one(request)
            return WithoutAlternatives(self.generate(target, asked, terms))
        if not self.traits.prompt_lists and isinstance(request, CompletionRequest):
            prompts = prompt_list(request.prompt)
            if len(prompts) > 1:
                each = [msgspec.structs.replace(request, prompt=prompt) for prompt in prompts]
                return InTurn([partial(self.generate, target, one, terms) for one in each], request.n or 1)
        built = self._build(target, request, stream=stream)
        if extra and isinstance(request, ChatRequest) and not HINTS.isdisjoint(extra):
            built = msgspec.structs.replace(built, **dict.fromkeys(HINTS & extra.keys()))  # they are sent once
        body = _json.encode(built)
        if stream and self.traits.exact_while_streaming and not self._is_vllm:
            body = _LLAMA_CPP + body[1:]
        if extra:
            body = with_extra(body, extra)
        if self.habits.known:
            place = (target.backend.id, target.deployment.root)
            body = self.habits.adapted(place, body, own_bound=terms.own_bound)
        asking = _Asking(self, target, path, body, asked_in, terms)
        exchange = self.send(target, path, body, terms.owner)
        if not stream:
            return _Whole(exchange, asking)
        return _Stream(exchange, asking, counts_each_choice=self.traits.counts_each_choice and (request.n or 1) > 1)

    def learn(self, target: Target, without: Sequence[OtherForm]) -> None:
        """A request was accepted in these forms, one after the other."""
        members = [form.member for form in without if form.member != OWN_BOUND]
        too_much = next((form.too_much for form in without if form.too_much is not None), None)
        if not members and too_much is None:
            return
        place = (target.backend.id, target.deployment.root)
        self.habits.learn(place, members, too_much)
        _log.warning(
            "engine_takes_another_form",
            backend=target.backend.id,
            model=target.deployment.model_id,
            members=", ".join(self.habits.members(place)),
            too_much=too_much,
            hint="it does not take these members as llmaas sends them; the other form is remembered for an hour",
        )

    def embed(self, target: Target, request: EmbeddingRequest, *, extra: Extra, owner: str) -> Embedding:
        built = msgspec.structs.replace(request, model=target.deployment.root, user=None)
        asked = Asked("input", target.provider.explains_refusals)
        return _Embeddings(self.send(target, "/embeddings", with_extra(_json.encode(built), extra), owner), asked)

    def _build(self, target: Target, request: GenerationRequest, *, stream: bool) -> GenerationRequest:
        built = msgspec.structs.replace(request, model=target.deployment.root, user=None, stream=stream or None)
        if not stream:
            if built.stream_options is not None:
                built.stream_options = None
        elif self._is_vllm:
            built.stream_options = _CountingOptions(include_usage=True, continuous_usage_stats=True)
        else:
            built.stream_options = StreamOptions(include_usage=True)
        if isinstance(built, CompletionRequest):
            return built
        if built.functions is not None:
            built.functions = None  # told as tools
        if not self._is_foreign:
            if built.max_completion_tokens is not None:
                built.max_tokens, built.max_completion_tokens = built.max_completion_tokens, None
            if built.verbosity is not None or built.prediction is not None:
                built.verbosity = built.prediction = None
        if self.traits.merges_system:
            built.messages = merge_system(built.messages)
        return built

    def send(self, target: Target, path: str, body: bytes, owner: str) -> Exchange:
        origin, base, credential = self._locate(target.backend, target.deployment.root)
        request = self._posts.build(origin, base, path, body, credential)
        return self._transport.send(origin, request, self._timeouts, owner)


def with_extra(body: bytes, extra: Extra) -> bytes:
    """The JSON object of a request with these members too."""
    return _json.encode(extra)[:-1] + b"," + body[1:] if extra else body


class _Asking(Struct, frozen=True, gc=False):
    """A request as it was sent, for when it is refused."""

    _upstream: OpenAiUpstream
    _target: Target
    _path: str
    _body: bytes
    _asked: Asked
    _terms: Terms

    async def again(self, exchange: Exchange, status: int, keep: Callable[[Exchange], None]) -> None:
        """Send it in another form after a refusal, and wait until that is accepted; `keep` gets each exchange as it begins. Raises
        what the last refusal means.
        """
        body, without = self._body, list[OtherForm]()
        while status != 200:
            said = await error_body(exchange)
            other = None
            if len(without) < MOST_TRIES:
                tried = [form.member for form in without]
                own = self._terms.own_bound
                other = self._upstream.habits.other_form(status, said, body, own_bound=own, tried=tried)
            if other is None:
                raise self.meaning(said, status, exchange.headers)
            body = other.body
            without.append(other)
            exchange = self._upstream.send(self._target, self._path, body, self._terms.owner)
            keep(exchange)
            status = await exchange.head()
        self._upstream.learn(self._target, without)

    def meaning(self, said: bytes, status: int = 0, headers: dict[bytes, bytes] | None = None) -> LlmaasError:
        """What a refusal of it means, or an error inside its answer."""
        # Looked up only now: most requests are not refused.
        asked = dataclasses.replace(self._asked, explain=self._target.provider.explains_refusals)
        return from_error_body(status, said, asked, headers)


class _Stream:
    """Server-sent events of an engine. `counts_each_choice`: it reports usage for each choice by itself.

    What is accepted as the end of an answer: a finish reason for each choice with the clean end of the body, with `[DONE]`, or
    with the usage that comes after the last choice, even if the connection breaks or falls silent behind it; and where a finish reason is
    missing, any two of the other three. One sign alone is none: a server that dies may well end its body properly, and a
    finish reason may be followed by an error.

    A whole JSON answer is taken too, as one that came in one piece. Where the type is another one, the first bytes tell what it is.
    """

    complete = False
    heard: Sequence[EngineAnswer] = ()

    def __init__(self, exchange: Exchange, asking: _Asking, *, counts_each_choice: bool) -> None:
        self._exchange = exchange
        self._asking = asking
        self._sse = SseDecoder()
        self._reports = ChoiceReports() if counts_each_choice else None
        self._plain = not counts_each_choice
        self._counted = False
        self._done = False
        self._failure: LlmaasError | None = None
        self._halves: Halves | None = None

    async def first(self) -> Sequence[EngineAnswer]:
        status = await self._exchange.head()
        if status != 200:
            await self._asking.again(self._exchange, status, self._keep)
        kind = self._exchange.headers.get(b"content-type", b"").lower()
        if not kind.startswith(b"text/event-stream"):
            begin = await self._exchange.peek(_TELLING_BYTES)
            if begin.lstrip().startswith(b"{"):
                return await self._in_one_piece()
            if not is_stream(begin):
                error = EngineFailed("The engine did not answer with a stream.")
                self._exchange.abort(error)
                raise error
        while (answers := await self._next()) is not None:
            # A role or a report on the prompt's progress is no beginning: until there is one, another engine may be tried.
            self.heard = held = [*self.heard[-1:], *answers]
            if any(says_something(answer) for answer in answers):
                return held
        raise EngineFailed("The engine ended its answer before it began.")

    async def _in_one_piece(self) -> Sequence[EngineAnswer]:
        """The answer of a server that does not stream. Where it does not tell its output, that is estimated: a stream's is counted
        by its events, of which there are none here.
        """
        answers = await _Whole(self._exchange, self._asking).first()
        estimate_output(answers[0])
        self._done = self._counted = True
        return answers

    def take_whole(self, body: bytes) -> list[EngineAnswer]:
        """All of a stream that came where a whole answer was asked for. Raises EngineFailed, or what an error in it means."""
        answers = self._parse(body)
        if not self._done:
            answers += self._parse(b"")
        self._raise_failure()
        choices = [choice for answer in answers for choice in answer.choices or ()]
        is_open = {choice.index for choice in choices} - {choice.index for choice in choices if choice.finish_reason}
        if not choices or (is_open and not (self._done or self._counted)):
            raise EngineFailed("The engine's answer broke off.")
        return answers

    def _keep(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def each(self, take: Take) -> bool:
        wanted = True

        def pass_on(data: bytes) -> bool:
            nonlocal wanted
            answers = self._parse(data)
            if answers:
                wanted = take(answers)
            return wanted and not self._done and self._failure is None

        while wanted and not self._done:
            if self._failure is not None:
                self._failure = behind_output(self._failure)
                self._raise_failure()
            try:
                over = await self._exchange.each(pass_on)
            except (EngineFailed, EngineTimeout) as error:
                if not self._counted or self._exchange.broken is not error:
                    raise
                return True  # its counts were there, which are the last that an engine says
            if over and pass_on(b""):
                return True
        return wanted

    async def ended(self) -> bool:
        exchange = self._exchange
        if self._done and not self._counted:
            try:
                while await exchange.read():
                    pass
            except EngineError:
                return False
            return True
        if isinstance(exchange.broken, EngineTimeout):
            raise exchange.broken
        return self._counted and (self._done or exchange.broken is None)

    async def _next(self) -> Sequence[EngineAnswer] | None:
        """What has come since; None at the end."""
        while not self._done:
            self._raise_failure()
            data = await self._exchange.read()
            answers = self._parse(data)
            if answers:
                return answers
            if not data and self._failure is None:
                break
        return None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._exchange.abort(self._failure)
            raise self._failure

    def _parse(self, data: bytes) -> list[EngineAnswer]:
        """What came before a failure is given first: whether both arrive in one packet must make no difference. `data` b"":
        nothing more comes.
        """
        try:
            payloads = self._sse.feed(data) if data else self._sse.finish()
        except EngineError as error:
            self._exchange.abort(error)
            raise
        answers: list[EngineAnswer] = []
        for payload in payloads:
            if payload.startswith(DONE):
                self._done = True
                break
            try:
                answer = answer_decoder.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                found = self._read_leniently(payload)
            else:
                if answer.choices and answer.error is NOTHING and self._plain:
                    answers.append(answer)
                    continue
                found = [answer if self._halves is None else self._halves.join(answer)]
            answers += [answer for answer in found if self._is_sound(answer, payload)]
            if self._done or self._failure is not None:
                break
        if self._done:
            self._exchange.expect_end()
        return answers

    def _is_sound(self, answer: EngineAnswer, payload: bytes) -> bool:
        """Whether it is no error; takes note of that, or of its usage."""
        if answer.error is not NOTHING and is_fault(answer.error):
            self._failure = self._failure or self._asking.meaning(bytes(answer.error))
            return False
        if not answer.choices:
            if (fault := fault_in(payload)) is not NOTHING:
                self._failure = self._failure or self._asking.meaning(bytes(fault))
                return False
            if given(answer.usage):
                self._counted, self._plain = True, False
        elif self._counted and says_something(answer):
            self._counted = False  # some tell the prompt's tokens at the beginning
        if self._reports is not None:
            self._reports.feed(answer)
        return True

    def _read_leniently(self, payload: bytes) -> list[EngineAnswer]:
        """The answers of an event that is none at first sight. One that is told in several lines may be several."""
        found: list[EngineAnswer] = []
        for part in (payload,) if b"\n" not in payload or _is_json(payload) else payload.split(b"\n"):
            if is_done(part):
                self._done = True
                break
            if part.strip() in _EMPTY:
                continue
            self._halves, self._plain = self._halves or Halves(), False
            try:
                found.append(self._halves.join(lenient_answer(part)))
            except EngineFailed as failure:
                self._failure = failure
                break
        return found

    def abort(self, error: LlmaasError) -> None:
        self._exchange.abort(error)


class _Whole(Struct, eq=False):
    """One JSON answer; or its events, from a server that knows no other form. Its own end is the closing bracket: what is whole is
    taken even if the connection breaks or falls silent behind it, as long as a finish reason and the usage are there.
    """

    _exchange: Exchange
    _asking: _Asking
    complete: bool = True

    @property
    def heard(self) -> Sequence[EngineAnswer]:
        return ()

    async def first(self) -> Sequence[EngineAnswer]:
        status = await self._exchange.head()
        if status != 200:
            await self._asking.again(self._exchange, status, self._keep)
        exchange, body = self._exchange, b""
        try:
            body = await exchange.read_all(MAX_ANSWER_BYTES)
        except (EngineFailed, EngineTimeout) as broken:
            answer = _saved(exchange, answer_decoder)
            if answer is None or not given(answer.usage) or not all(c.finish_reason for c in answer.choices or ()):
                raise broken from None
        else:
            try:
                answer = answer_decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                if is_stream(body[:_TELLING_BYTES]):
                    return _Stream(exchange, self._asking, counts_each_choice=False).take_whole(body)
                answer = Halves().join(lenient_answer(body), whole=True)
        if answer.error is not NOTHING and is_fault(answer.error):
            raise self._asking.meaning(bytes(answer.error))
        if not answer.choices:
            # It may tell what is wrong in a shape of its own.
            if (fault := fault_in(body)) is not NOTHING:
                raise self._asking.meaning(bytes(fault))
            raise EngineFailed("The engine's answer has no choices.")
        return [answer]

    def _keep(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def each(self, take: Take) -> bool:
        return True  # all of it came at first

    async def ended(self) -> bool:
        return True

    def abort(self, error: LlmaasError) -> None:
        self._exchange.abort(error)


class _Embeddings:
    def __init__(self, exchange: Exchange, asked: Asked) -> None:
        self._exchange = exchange
        self._asked = asked

    async def first(self) -> EngineEmbeddings:
        exchange = self._exchange
        status = await exchange.head()
        if status != 200:
            raise await refusal(exchange, status, self._asked)
        body = b""
        try:
            body = await exchange.read_all(MAX_ANSWER_BYTES)
        except (EngineFailed, EngineTimeout) as broken:
            answer = _saved(exchange, embeddings_decoder)
            if answer is None or not given(answer.usage):
                raise broken from None
        else:
            try:
                answer = embeddings_decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                answer = lenient_embeddings(body)
        if answer.error is not NOTHING and is_fault(answer.error):
            raise from_error_body(0, bytes(answer.error), self._asked)
        if answer.data is None:
            if (fault := fault_in(body)) is not NOTHING:
                raise from_error_body(0, bytes(fault), self._asked)
            raise EngineFailed("The engine's answer has no embeddings.")
        return answer

    def abort(self, error: LlmaasError) -> None:
        self._exchange.abort(error)


def _saved(exchange: Exchange, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The answer of a connection that broke, when all of it had come."""
    try:
        return decoder.decode(exchange.rest())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _is_json(payload: bytes) -> bool:
    """Whether it is one value, over however many lines."""
    try:
        read_json(payload)
    except EngineFailed:
        return False
    return True


def merge_system(messages: list[Message]) -> list[Message]:
    """`developer` and `system` turns as one system turn in front: strict chat templates take no other order."""
    roles = [m.role for m in messages]
    if "developer" not in roles and "system" not in roles[1:]:
        return messages
    leading = [m for m in messages if m.role in ("system", "developer")]
    texts = [text for m in leading if (text := plain_text(m))]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    return [Message(role="system", content="\n\n".join(texts)), *rest]


def plain_text(message: Message) -> str:
    """The text of a message; EngineRefused's cousin InvalidRequest when a system turn holds something else."""
    content = message.content
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = []
    for part in content:
        text = getattr(part, "text", None)
        if text is None:
            raise InvalidRequest("System messages can hold text only.", param="messages")
        parts.append(text)
    return "".join(parts)
