"""Admission: whether a request may run on a model, and the most that it may use."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.models import Model, ModelKind
from llmaas.errors import InvalidRequest
from llmaas.inference.turns import PLAIN_ROLES, Turns
from llmaas.protocol.needs import NO_NEEDS, Need, Needs
from llmaas.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    NamedFunction,
    NamedToolChoice,
    Tool,
    prompt_list,
)

_CHAT = ModelKind.CHAT
_TOKENS_OF_TEMPLATE = 512
_TOKENS_OF_MESSAGE = 16
_TOKENS_OF_TOOLS = 2048
_STEP_TOKENS = 4096
_BLIND_STEP_TOKENS = 16_384
"""For engines that tell what they have made at the end only, so that the first step is also the last."""
_MOST_CHOICES = 8192
"""Of all prompts together: each is work of its own in the event loop, even where its text is empty."""
_LEAST_TOKENS = 128
"""Of a choice: with less to its end an answer is not worth starting."""


class Bounds(Struct, frozen=True, gc=False):
    """The most that a request may use, over all choices. `input_tokens`: a token is at least a byte, and what chat templates
    add is bounded. `output_tokens` None: neither the caller nor the model bounds them. `first_step`: output tokens to hold
    before the start: all of them when the caller said how many, else so many that few answers need more; then less will do (`flexible`).
    `made`: choices that the engine makes, of which it may give only some. `needs`: what not every engine can do.
    """

    input_tokens: int
    output_tokens: int | None
    first_step: int
    flexible: bool
    choices: int
    made: int
    needs: Needs = NO_NEEDS

    @property
    def least_step(self) -> int:
        """Output tokens that will do before the start, where a limit has not left more."""
        return min(self.first_step, _LEAST_TOKENS * self.made) if self.flexible else self.first_step


def admit_chat(request: ChatRequest, model: Model, *, body_bytes: int, remote_images: bool, countable: bool) -> Bounds:
    """Settle the options of a chat request in place: nulls and empty lists gone, the output cap set. Raises InvalidRequest.

    `countable`: all engines of the model tell how many tokens they have made while they make them.
    """
    if model.kind is not _CHAT:
        raise _wrong_kind(model, _CHAT)
    needs: dict[Need, str] = {}
    overhead = _TOKENS_OF_TEMPLATE + _TOKENS_OF_MESSAGE * len(request.messages)
    turns = None
    for position, message in enumerate(request.messages):
        if type(message.content) is not str or message.role not in PLAIN_ROLES:
            turns = turns or Turns(model, needs, remote_images=remote_images)
            turns.settle(message, position)
    if turns is not None:
        overhead += turns.tokens
    if request.functions is not None or request.function_call is not None:
        _take_functions(request)
    if request.tools is not None or request.tool_choice is not None:
        overhead += _settle_tools(request, needs)
    elif request.parallel_tool_calls is not None:
        request.parallel_tool_calls = None
    if request.top_logprobs is not None and not request.logprobs:
        if request.top_logprobs:
            raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        request.top_logprobs = None
    if (
        request.reasoning_effort is not None
        or request.modalities is not None
        or request.audio is not None
        or request.web_search_options is not None
        or request.stop is not None
        or request.logit_bias is not None
        or request.user is not None
        or request.n is not None
        or request.stream_options is not None
    ):
        _settle_options(request, needs)
    asked = request.max_completion_tokens or request.max_tokens
    cap = _output_cap(asked, model)
    if request.max_completion_tokens is not None:
        request.max_completion_tokens, request.max_tokens = cap, None
    else:
        request.max_tokens = cap
    choices = request.n or 1
    input_tokens = _input_bound(body_bytes + overhead, model)
    output_tokens = _output_bound(cap, model, choices)
    step = _first_step(output_tokens, choices, asked=asked is not None, countable=countable)
    return Bounds(input_tokens, output_tokens, step, asked is None, choices, choices, needs)


def admit_completion(request: CompletionRequest, model: Model, *, body_bytes: int, countable: bool) -> Bounds:
    """Like `admit_chat`, for a prompt. Chat models take prompts too: engines complete with them as they are."""
    if model.kind not in (ModelKind.CHAT, ModelKind.COMPLETION):
        raise _wrong_kind(model, ModelKind.COMPLETION)
    if request.prompt is None:
        raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
    prompts = prompt_list(request.prompt)
    choices = (request.n or 1) * len(prompts)
    made = max(request.best_of or 1, request.n or 1) * len(prompts)
    if made > _MOST_CHOICES:
        raise InvalidRequest(
            f"One request can have at most {_MOST_CHOICES} choices made, over all of its prompts.",
            param="n" if made == choices else "best_of",
        )
    needs: dict[Need, str] = {}
    _settle_options(request, needs)
    if isinstance(prompts[0], list):
        needs["token_ids"] = "prompt"
    if request.best_of is not None:
        if request.best_of < (request.n or 1):
            raise InvalidRequest("'best_of' must be at least 'n'.", param="best_of")
        if request.best_of == (request.n or 1):
            request.best_of = None
        else:
            needs["best_of"] = "best_of"
    if request.echo:
        needs["echo"] = "echo"
    if request.suffix:
        needs["suffix"] = "suffix"
    else:
        request.suffix = None
    asked = request.max_tokens
    request.max_tokens = _output_cap(asked, model)
    input_tokens = _input_bound(body_bytes + _TOKENS_OF_TEMPLATE * len(prompts), model, inputs=len(prompts))
    output_tokens = _output_bound(request.max_tokens, model, made)
    step = _first_step(output_tokens, made, asked=asked is not None, countable=countable)
    return Bounds(input_tokens, output_tokens, step, asked is None, choices, made, needs)


def admit_embedding(request: EmbeddingRequest, *, body_bytes: int) -> Bounds:
    """Like `admit_chat`, for texts to be turned into vectors."""
    if not request.input:
        raise InvalidRequest("'input' must not be empty.", param="input")
    needs: dict[Need, str] = {}
    if isinstance(prompt_list(request.input, "input")[0], list):
        needs["token_ids"] = "input"
    if request.dimensions is not None:
        needs["dimensions"] = "dimensions"
    request.user = request.user or None
    return Bounds(body_bytes + _TOKENS_OF_TEMPLATE, 0, 0, False, 1, 1, needs)


def _input_bound(tokens: int, model: Model, *, inputs: int = 1) -> int:
    return tokens if model.max_model_len is None else min(tokens, model.max_model_len * inputs)


def _first_step(bound: int | None, choices: int, *, asked: bool, countable: bool) -> int:
    step = (_STEP_TOKENS if countable else _BLIND_STEP_TOKENS) * choices
    return bound if bound is not None and (asked or bound < step) else step


def _wrong_kind(model: Model, kind: ModelKind) -> InvalidRequest:
    return InvalidRequest(f"The model `{model.id}` is a model of kind {model.kind}, not {kind}.", param="model")


def _settle_options(request: ChatRequest | CompletionRequest, needs: dict[Need, str]) -> None:
    """Empty options are no wishes: engines take them for some, such as for an end of the answer at once."""
    if isinstance(request, ChatRequest):
        _settle_kind_of_answer(request)
    if request.stop is not None:
        stop = request.stop if isinstance(request.stop, str) else [text for text in request.stop if text]
        request.stop = stop or None
    if request.logit_bias is not None:
        if request.logit_bias:
            needs["logit_bias"] = "logit_bias"
        else:
            request.logit_bias = None
    if request.user is not None and not request.user:
        request.user = None
    if request.n is not None and request.n > 1:
        needs["n"] = "n"
    if request.stream_options is not None and not request.stream:
        if request.stream_options.include_usage:
            raise InvalidRequest(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
            )
        request.stream_options = None


def _take_functions(request: ChatRequest) -> None:
    """The older form of tools as tools. `functions` stays, as the sign that the answer's calls have the older form too."""
    choice = request.function_call
    request.function_call = None
    if not request.functions:
        request.functions = None
        if isinstance(choice, NamedFunction):
            raise InvalidRequest("'function_call' is only allowed when 'functions' are given.", param="function_call")
        return
    if request.tools or request.tool_choice not in (None, "auto"):
        raise InvalidRequest("Either 'tools' or the older 'functions' can be given, not both.", param="functions")
    if isinstance(choice, NamedFunction) and choice.name not in [function.name for function in request.functions]:
        raise InvalidRequest(
            f"'function_call' names '{choice.name[:100]}', which is not among 'functions'.", param="function_call"
        )
    request.tools = [Tool(function) for function in request.functions]
    request.tool_choice = NamedToolChoice(choice) if isinstance(choice, NamedFunction) else choice
    request.parallel_tool_calls = False


def _settle_kind_of_answer(request: ChatRequest) -> None:
    request.reasoning_effort = request.reasoning_effort or None
    if any(modality != "text" for modality in request.modalities or ()):
        raise InvalidRequest("Answers are text; 'modalities' can be [\"text\"] only.", param="modalities")
    if request.audio:
        raise InvalidRequest("Answers are text; 'audio' is not supported.", param="audio")
    if request.web_search_options is not None:
        raise InvalidRequest("'web_search_options' is not supported.", param="web_search_options")
    request.modalities = request.audio = None


def _settle_tools(request: ChatRequest, needs: dict[Need, str]) -> int:
    """The tokens that a template may make of them besides their bytes."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' is only allowed when 'tools' are given.", param="tool_choice")
        request.tools = request.tool_choice = request.parallel_tool_calls = None
        return 0
    names: set[str] = set()
    for position, tool in enumerate(request.tools):
        name = tool.function.name
        if name in names:
            where = f"functions[{position}].name" if request.functions else f"tools[{position}].function.name"
            raise InvalidRequest(f"Two tools have the name '{name}'.", param=where)
        names.add(name)
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise InvalidRequest(
            f"'tool_choice' names '{choice.function.name[:100]}', which is not among 'tools'.", param="tool_choice"
        )
    if request.logprobs:
        needs["logprobs_beside_tools"] = "logprobs"
        if choice not in (None, "none", "auto"):
            needs["logprobs_of_calls"] = "logprobs"
    return _TOKENS_OF_TOOLS


def _output_cap(asked: int | None, model: Model) -> int | None:
    cap = model.max_output_tokens
    if asked is None:
        return cap
    if cap is None or asked < cap:
        cap = asked
    window = model.max_model_len
    return cap if window is None or cap < window else window


def _output_bound(cap: int | None, model: Model, choices: int) -> int | None:
    """Most tokens that all choices can have: nobody fits more than the window into an answer."""
    most = cap if cap is not None else model.max_model_len
    return None if most is None else most * choices
