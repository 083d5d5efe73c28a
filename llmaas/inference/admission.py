"""Admission: whether a request may run on a model, and the most that it may use."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.models import Model, ModelKind
from llmaas.errors import InvalidRequest
from llmaas.protocol.requests import ChatRequest, CompletionRequest, ImagePart, Message, prompt_list

_CHAT = ModelKind.CHAT
_TOKENS_OF_TEMPLATE = 512
_TOKENS_OF_MESSAGE = 16
_TOKENS_OF_TOOLS = 2048
_TOKENS_OF_IMAGE = 16_384
"""The most that engines make of one, whose tokens follow its area: a few bytes can be a large white picture."""
_STEP_TOKENS = 4096
_BLIND_STEP_TOKENS = 16_384
"""For engines that tell what they have made at the end only, so that the first step is also the last."""


class Bounds(Struct, frozen=True):
    """The most that a request may use, over all choices. `input_tokens`: a token is at least a byte, and what chat templates
    add is bounded. `output_tokens` None: neither the caller nor the model bounds them. `first_step`: output tokens to hold
    before the start: all of them when the caller said how many, else so many that few answers need more.
    """

    prompt_bytes: int
    input_tokens: int
    output_tokens: int | None
    first_step: int
    choices: int


def admit_chat(request: ChatRequest, model: Model, *, body_bytes: int, remote_images: bool, countable: bool) -> Bounds:
    """Settle the options of a chat request in place: nulls and empty lists gone, the output cap set. Raises InvalidRequest.

    `countable`: all engines of the model tell how many tokens they have made while they make them.
    """
    if model.kind is not _CHAT:
        raise _wrong_kind(model, _CHAT)
    overhead = _TOKENS_OF_TEMPLATE + _TOKENS_OF_MESSAGE * len(request.messages)
    for position, message in enumerate(request.messages):
        if type(message.content) is not str or message.role == "tool":
            overhead += _check_message(message, position, remote_images=remote_images)
    if request.tools:
        overhead += _TOKENS_OF_TOOLS
    elif request.tools is not None or request.tool_choice is not None or request.parallel_tool_calls is not None:
        if request.tool_choice not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' is only allowed when 'tools' are given.", param="tool_choice")
        request.tools = request.tool_choice = request.parallel_tool_calls = None
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    _check_stream_options(request)
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
    return Bounds(body_bytes, input_tokens, output_tokens, step, choices)


def admit_completion(request: CompletionRequest, model: Model, *, body_bytes: int, countable: bool) -> Bounds:
    """Like `admit_chat`, for a prompt. Chat models take prompts too: engines complete with them as they are."""
    if model.kind not in (ModelKind.CHAT, ModelKind.COMPLETION):
        raise _wrong_kind(model, ModelKind.COMPLETION)
    if request.prompt is None:
        raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
    prompts = prompt_list(request.prompt)
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise InvalidRequest("'best_of' must be at least 'n'.", param="best_of")
    _check_stream_options(request)
    asked = request.max_tokens
    request.max_tokens = _output_cap(asked, model)
    choices = (request.n or 1) * len(prompts)
    made = max(request.best_of or 1, request.n or 1) * len(prompts)
    input_tokens = _input_bound(body_bytes + _TOKENS_OF_TEMPLATE * len(prompts), model, inputs=len(prompts))
    output_tokens = _output_bound(request.max_tokens, model, made)
    step = _first_step(output_tokens, made, asked=asked is not None, countable=countable)
    return Bounds(body_bytes, input_tokens, output_tokens, step, choices)


def embedding_bounds(*, body_bytes: int) -> Bounds:
    return Bounds(body_bytes, body_bytes + _TOKENS_OF_TEMPLATE, 0, 0, 1)


def _input_bound(tokens: int, model: Model, *, inputs: int = 1) -> int:
    return tokens if model.max_model_len is None else min(tokens, model.max_model_len * inputs)


def _first_step(bound: int | None, choices: int, *, asked: bool, countable: bool) -> int:
    step = (_STEP_TOKENS if countable else _BLIND_STEP_TOKENS) * choices
    return bound if bound is not None and (asked or bound < step) else step


def _wrong_kind(model: Model, kind: ModelKind) -> InvalidRequest:
    return InvalidRequest(f"The model `{model.id}` is a model of kind {model.kind}, not {kind}.", param="model")


def _check_message(message: Message, position: int, *, remote_images: bool) -> int:
    """The most tokens that its images take besides their bytes, which are counted as tokens already."""
    content = message.content
    images = 0
    if isinstance(content, list):
        for part in content:
            if isinstance(part, ImagePart):
                images += max(0, _TOKENS_OF_IMAGE - len(part.image_url.url))
            if not remote_images and _is_remote_image(part):
                raise InvalidRequest(
                    "Images must be given as `data:` URLs; this service fetches no addresses.",
                    param=f"messages[{position}].content",
                )
    elif not isinstance(content, str) and not (message.role == "assistant" and (message.tool_calls or content is None)):
        raise InvalidRequest("A message needs content.", param=f"messages[{position}].content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequest("A tool's message needs 'tool_call_id'.", param=f"messages[{position}].tool_call_id")
    return images


def _is_remote_image(part: object) -> bool:
    return isinstance(part, ImagePart) and not part.image_url.url.startswith("data:")


def _check_stream_options(request: ChatRequest | CompletionRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )


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
