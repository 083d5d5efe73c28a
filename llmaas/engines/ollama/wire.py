"""Ollama by its native API: only there can the context window be set and silent truncation be turned off.

Ollama shortens a long prompt without a word unless `truncate` is false (ollama/ollama#4967, #17944), and its OpenAI-compatible
routes can't say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llmaas.domain.catalogue import Target
from llmaas.engines.contract import Embedding, Extra, Generation, GenerationRequest, Take, Terms, Traits
from llmaas.engines.forced import ForcedCalls, as_schema, demands_call
from llmaas.engines.in_turn import InTurn
from llmaas.engines.openai.wire import MAX_ANSWER_BYTES, Locate, merge_system
from llmaas.engines.refusals import Asked, behind_output, from_error_body, refusal
from llmaas.errors import EngineFailed, InvalidRequest, LlmaasError, Loading
from llmaas.net.client import Exchange, HttpTransport, Timeouts, build_post
from llmaas.protocol.engine import (
    NOTHING,
    EngineAnswer,
    EngineChoice,
    EngineDelta,
    EngineEmbedding,
    EngineEmbeddings,
    EngineFunction,
    EngineToolCall,
    is_fault,
    says_something,
)
from llmaas.protocol.lenient import (
    Halves,
    calls_of,
    clean,
    fault_in,
    fault_of,
    number,
    read_json,
    text_of,
    to_raw,
    vector,
    whole_number,
    word_of,
)
from llmaas.protocol.needs import Need
from llmaas.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    TextPart,
    prompt_list,
)
from llmaas.protocol.sse import MAX_EVENT_BYTES
from llmaas.protocol.usage import estimate_output

_UNABLE: frozenset[Need] = frozenset(
    {
        *("n", "logit_bias", "logprobs_of_calls", "best_of", "echo", "token_ids", "remote_images", "broken_arguments"),
        *("file", "input_audio", "video_url"),
    }
)
_OPTIONS = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
_THINK: dict[str, bool | str] = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_NO_ANSWER = ("load", "unload")
"""Ollama's reasons for the end of a request that only loaded or unloaded the model."""
_FALSE = (None, False, 0, "", "false")
_json = msgspec.json.Encoder()


class _ToolFunction(Struct):
    name: str | None = None
    arguments: dict[str, Any] | list[Any] | str | None = None


class _ToolCall(Struct):
    function: _ToolFunction


class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Likely(Struct):
    token: str = ""
    logprob: Any = None
    bytes: list[int] | None = None


class _Likelihood(_Likely):
    """It leaves out lists that are empty; callers get them."""

    top_logprobs: list[_Likely] = []


class _Line(Struct):
    """One line of `/api/chat` (`message`) or `/api/generate` (`response`, `thinking`); the last one has the counts."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    logprobs: list[_Likelihood] | None = None
    error: msgspec.Raw = NOTHING


class _Embedded(Struct):
    embeddings: list[msgspec.Raw] | None = None
    prompt_eval_count: Any = None
    error: msgspec.Raw = NOTHING


_line_decoder = msgspec.json.Decoder(_Line)
_embedded_decoder = msgspec.json.Decoder(_Embedded)


class OllamaUpstream:
    """Every answer is read as a stream, so that an abandoned one is counted by its pieces."""

    traits = Traits(
        exact_while_streaming=True, always_streams=True, forces_calls=False, calls_come_whole=True, unable=_UNABLE
    )

    def __init__(self, transport: HttpTransport, locate: Locate, timeouts: Timeouts) -> None:
        self._transport = transport
        self._locate = locate
        self._timeouts = timeouts

    def generate(self, target: Target, request: GenerationRequest, terms: Terms) -> Generation:
        if isinstance(request, ChatRequest):
            if demands_call(request):
                asked = as_schema(request, "auto")
                return ForcedCalls(self.generate(target, asked, terms), request)
            exchange = self._send(target, "/api/chat", _with(_chat_body(target, request), terms.extra), terms.owner)
            return _Lines(
                exchange,
                Asked("messages", target.provider.explains_refusals),
                one_call=request.parallel_tool_calls is False,
            )
        prompts = prompt_list(request.prompt)
        if "" in prompts:
            # To Ollama it is the wish to have the model loaded.
            raise InvalidRequest("The engine of this model takes no empty prompt.", param="prompt")
        bodies = [_with(_prompt_body(target, request, str(prompt)), terms.extra) for prompt in prompts]
        told = Asked("prompt", target.provider.explains_refusals)
        starts = [
            lambda body=body: _Lines(self._send(target, "/api/generate", body, terms.owner), told) for body in bodies
        ]
        return starts[0]() if len(starts) == 1 else InTurn(starts, 1)

    def embed(self, target: Target, request: EmbeddingRequest, *, extra: Extra, owner: str) -> Embedding:
        items = prompt_list(request.input, "input")
        body: dict[str, Any] = {"model": target.deployment.root, "input": items, "truncate": False}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        asked = Asked("input", target.provider.explains_refusals)
        if extra:
            body["options"] = extra
        return _EmbedCall(self._send(target, "/api/embed", body, owner), asked)

    def _send(self, target: Target, path: str, body: dict[str, Any], owner: str) -> Exchange:
        origin, base, credential = self._locate(target.backend, target.deployment.root)
        base = base.removesuffix("/v1").removesuffix("/api")
        request = build_post(origin, base + path, _json.encode(body), credential)
        return self._transport.send(origin, request, self._timeouts, owner)


def _common(target: Target, request: GenerationRequest, max_tokens: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {name: value for name in _OPTIONS if (value := getattr(request, name)) is not None}
    if target.max_model_len is not None:
        options["num_ctx"] = target.max_model_len
    if max_tokens is not None:
        options["num_predict"] = max_tokens
    if request.stop is not None:
        options["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    return {"model": target.deployment.root, "stream": True, "truncate": False, "shift": False, "options": options}


def _with(body: dict[str, Any], extra: Extra) -> dict[str, Any]:
    """What a provider takes beyond the common parameters are Ollama's options."""
    return {**body, "options": {**body["options"], **extra}} if extra else body


def _chat_body(target: Target, request: ChatRequest) -> dict[str, Any]:
    body = _common(target, request, request.max_completion_tokens or request.max_tokens)
    names = {c.id: c.function.name for m in request.messages for c in m.tool_calls or ()}
    body["messages"] = [_message(m, names) for m in merge_system(request.messages)]
    if request.tools and request.tool_choice != "none":
        body["tools"] = request.tools
    if isinstance(request.response_format, JsonObjectFormat):
        body["format"] = "json"
    elif isinstance(request.response_format, JsonSchemaFormat):
        body["format"] = request.response_format.json_schema.schema
    if request.reasoning_effort is not None:
        body["think"] = _THINK.get(request.reasoning_effort, True)
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return body


def _prompt_body(target: Target, request: CompletionRequest, prompt: str) -> dict[str, Any]:
    body = {**_common(target, request, request.max_tokens), "prompt": prompt, "raw": True}
    if request.suffix is not None:
        body |= {"suffix": request.suffix, "raw": False}
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return body


def _message(message: Message, names: dict[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "tool" if message.role == "function" else message.role, "content": ""}
    if isinstance(message.content, str):
        out["content"] = message.content
    elif isinstance(message.content, list):
        out["content"] = "".join(part.text for part in message.content if isinstance(part, TextPart))
        images = [_image(part) for part in message.content if isinstance(part, ImagePart)]
        if images:
            out["images"] = images
    if message.tool_calls:
        out["tool_calls"] = [
            {"function": {"name": c.function.name, "arguments": msgspec.Raw(c.function.arguments.encode())}}
            for c in message.tool_calls
        ]
    if message.reasoning_content:
        out["thinking"] = message.reasoning_content
    if message.tool_call_id in names:
        out["tool_name"] = names[message.tool_call_id]
    return out


def _image(part: ImagePart) -> str:
    """The base64 text of a `data:` URL."""
    head, comma, data = part.image_url.url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidRequest("The engine of this model takes images as base64 `data:` URLs only.", param="messages")
    return data


class _Lines:
    """Newline-delimited JSON as `contract.Generation`. The line with `done` is the end, and there is no other sign of it."""

    complete = False
    heard: Sequence[EngineAnswer] = ()

    def __init__(self, exchange: Exchange, asked: Asked, *, one_call: bool = False) -> None:
        self._one_call = one_call
        self._exchange = exchange
        self._asked = asked
        self._rest = bytearray()
        self._said = self._begun = False
        self._done = False
        self._calls = 0
        self._failure: LlmaasError | None = None
        self._halves: Halves | None = None

    async def first(self) -> Sequence[EngineAnswer]:
        status = await self._exchange.head()
        if status != 200:
            raise await refusal(self._exchange, status, self._asked)
        held: list[EngineAnswer] = []
        while (answers := await self._next()) is not None:
            held = [*held[-1:], *answers]
            if self._said:
                return held
        raise EngineFailed("The engine ended its answer before it began.")

    async def each(self, take: Take) -> bool:
        self._begun = True
        while (answers := await self._next()) is not None:
            if not take(answers):
                return False
        return True

    async def ended(self) -> bool:
        return False

    async def _next(self) -> Sequence[EngineAnswer] | None:
        while not self._done:
            if self._failure is not None:
                failure = behind_output(self._failure) if self._begun else self._failure
                self._exchange.abort(failure)
                raise failure
            data = await self._exchange.read()
            answers = self._answers(self._lines(data))
            if answers:
                return answers
            if not data and self._failure is None:
                break
        return None

    def abort(self, error: LlmaasError) -> None:
        self._exchange.abort(error)

    def _lines(self, data: bytes) -> list[bytes]:
        """What this portion completes. A line that comes byte by byte is put together once, at its end."""
        first, end, more = data.partition(b"\n")
        self._rest += first
        if data and not end:
            return []
        line, self._rest = bytes(self._rest), bytearray()
        if not data:
            return [line]
        *lines, rest = more.split(b"\n")
        self._rest += rest
        return [line, *lines]

    def _answers(self, lines: Sequence[bytes]) -> list[EngineAnswer]:
        """What came before a failure is given first: whether both arrive in one packet must make no difference."""
        answers: list[EngineAnswer] = []
        try:
            for line in lines:
                if line.strip():
                    answers.append(self._answer(line))
                if self._done:
                    return answers
            if len(self._rest) > MAX_EVENT_BYTES:
                raise EngineFailed("The engine sent a line that is too long.")
        except LlmaasError as error:
            self._failure = error
        return answers

    def _answer(self, raw: bytes) -> EngineAnswer:
        try:
            line = _line_decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            line = _lenient_line(raw)
            self._halves = self._halves or Halves()
        if line.error is not NOTHING and is_fault(line.error):
            raise from_error_body(0, bytes(line.error), self._asked)
        if line.message is None and line.response is None:
            fault = fault_in(raw)
            if fault is not NOTHING:
                raise from_error_body(0, bytes(fault), self._asked)
        choice = EngineChoice(logprobs=_json_raw({"content": line.logprobs}) if line.logprobs else NOTHING)
        if line.message is not None:
            choice.delta = EngineDelta(
                line.message.content, line.message.thinking, tool_calls=self._tools(line.message)
            )
        else:
            choice.text = line.response
        answer = EngineAnswer(choices=[choice])
        alone = not self._said
        self._said = self._said or says_something(answer)
        if line.done:
            self._end(line, answer, choice)
            if alone:
                estimate_output(answer)
        return answer if self._halves is None else self._halves.join(answer)

    def _end(self, line: _Line, answer: EngineAnswer, choice: EngineChoice) -> None:
        if not self._said and line.done_reason in _NO_ANSWER:
            raise Loading("The engine was loading the model; try again.", state="loading", retry_after_s=1)
        if not self._said and line.done_reason is None and line.eval_count is None:
            raise EngineFailed("The engine ended its answer before it began.")
        self._done = self._said = True
        self._exchange.expect_end()
        choice.finish_reason = line.done_reason or "stop"
        answer.usage = _json_raw({"prompt_tokens": line.prompt_eval_count, "completion_tokens": line.eval_count})

    def _tools(self, message: _Message) -> list[EngineToolCall] | None:
        if not message.tool_calls:
            return None
        calls = []
        for call in message.tool_calls:
            if self._one_call and self._calls:
                break  # Ollama can't be told `parallel_tool_calls: false`, so the caller gets the first call only
            calls.append(EngineToolCall(self._calls, None, EngineFunction(call.function.name, call.function.arguments)))
            self._calls += 1
        return calls or None


def _lenient_line(raw: bytes) -> _Line:
    """A line that is none at first sight, as far as it is one. Raises EngineFailed."""
    fields = read_json(raw)
    if not isinstance(fields, dict):
        raise EngineFailed("The engine sent something that is not an answer.", hint="it is JSON, but not an object")
    said, error = fields.get("message"), fields.get("error")
    if isinstance(said, str) and fault_of(fields) is not NOTHING:
        said, error = None, fields
    if isinstance(said, str | list):
        said = {"content": said}
    message = None
    if isinstance(said, dict):
        calls = [
            _ToolCall(_ToolFunction(function.name, function.arguments))
            for call in calls_of(said.get("tool_calls")) or ()
            if (function := call.function) is not None
        ]
        message = _Message(text_of(said.get("content")), text_of(said.get("thinking")), calls or None)
    done = fields.get("done")
    return _Line(
        message=message,
        response=text_of(fields.get("response")),
        thinking=text_of(fields.get("thinking")),
        done=done not in _FALSE,
        done_reason=word_of(fields.get("done_reason")),
        prompt_eval_count=whole_number(fields.get("prompt_eval_count")),
        eval_count=whole_number(fields.get("eval_count")),
        logprobs=_likelihoods(fields.get("logprobs")),
        error=NOTHING if error is None else to_raw(error),
    )


def _likelihoods(value: object) -> list[_Likelihood] | None:
    if not isinstance(value, list):
        return None
    return [
        _Likelihood(*_likely(entry), [_Likely(*_likely(other)) for other in _objects(entry.get("top_logprobs"))])
        for entry in _objects(value)
    ]


def _likely(entry: dict[str, Any]) -> tuple[str, float | None, list[int] | None]:
    spelled = entry.get("bytes")
    whole = isinstance(spelled, list) and all(type(byte) is int for byte in spelled)
    return clean(text_of(entry.get("token")) or ""), number(entry.get("logprob")), spelled if whole else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _lenient_embedded(body: bytes) -> _Embedded:
    fields = read_json(body)
    found = fields.get("embeddings") if isinstance(fields, dict) else None
    if not isinstance(found, list):
        raise EngineFailed("The engine's answer has no embeddings.")
    return _Embedded([to_raw(vector(item)) for item in found], whole_number(fields.get("prompt_eval_count")))


class _EmbedCall:
    def __init__(self, exchange: Exchange, asked: Asked) -> None:
        self._exchange = exchange
        self._asked = asked

    async def first(self) -> EngineEmbeddings:
        status = await self._exchange.head()
        if status != 200:
            raise await refusal(self._exchange, status, self._asked)
        body = await self._exchange.read_all(MAX_ANSWER_BYTES)
        try:
            answer = _embedded_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            answer = _lenient_embedded(body)
        if answer.error is not NOTHING and is_fault(answer.error):
            raise from_error_body(0, bytes(answer.error), self._asked)
        if answer.embeddings is None:
            raise EngineFailed("The engine's answer has no embeddings.")
        data = [EngineEmbedding(vector, index) for index, vector in enumerate(answer.embeddings)]
        return EngineEmbeddings(data=data, usage=_json_raw({"prompt_tokens": answer.prompt_eval_count}))

    def abort(self, error: LlmaasError) -> None:
        self._exchange.abort(error)


def _json_raw(value: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_json.encode(value))
