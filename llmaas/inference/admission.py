"""Admission: whether a request may run on a model, and the most that it may use."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.models import Model, ModelKind
from llmaas.errors import InvalidRequest
from llmaas.protocol.requests import ChatRequest, CompletionRequest, ImagePart, Message, prompt_list


class Bounds(Struct, frozen=True):
    """`output_tokens`: over all choices; None when neither the caller nor the model bounds them."""

    prompt_bytes: int
    output_tokens: int | None
    choices: int


def admit_chat(request: ChatRequest, model: Model, *, body_bytes: int, remote_images: bool) -> Bounds:
    """Settle the options of a chat request in place: nulls and empty lists gone, the output cap set. Raises InvalidRequest."""
    _require_kind(model, ModelKind.CHAT)
    for position, message in enumerate(request.messages):
        _check_message(message, position, remote_images=remote_images)
    if not request.tools:
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
    return Bounds(body_bytes, _output_bound(cap, model, choices), choices)


def admit_completion(request: CompletionRequest, model: Model, *, body_bytes: int) -> Bounds:
    """Like `admit_chat`, for a prompt. Chat models take prompts too: engines complete with them as they are."""
    if model.kind not in (ModelKind.CHAT, ModelKind.COMPLETION):
        _require_kind(model, ModelKind.COMPLETION)
    if request.prompt is None:
        raise InvalidRequest("Missing required parameter: 'prompt'.", param="prompt")
    prompts = prompt_list(request.prompt)
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise InvalidRequest("'best_of' must be at least 'n'.", param="best_of")
    _check_stream_options(request)
    request.max_tokens = _output_cap(request.max_tokens, model)
    choices = (request.n or 1) * len(prompts)
    made = max(request.best_of or 1, request.n or 1) * len(prompts)
    return Bounds(body_bytes, _output_bound(request.max_tokens, model, made), choices)


def _require_kind(model: Model, kind: ModelKind) -> None:
    if model.kind is not kind:
        raise InvalidRequest(f"The model `{model.id}` is a model of kind {model.kind}, not {kind}.", param="model")


def _check_message(message: Message, position: int, *, remote_images: bool) -> None:
    content = message.content
    if isinstance(content, list):
        for part in content:
            if isinstance(part, ImagePart) and not remote_images and not part.image_url.url.startswith("data:"):
                raise InvalidRequest(
                    "Images must be given as `data:` URLs; this service fetches no addresses.",
                    param=f"messages[{position}].content",
                )
    elif not isinstance(content, str) and not (message.role == "assistant" and (message.tool_calls or content is None)):
        raise InvalidRequest("A message needs content.", param=f"messages[{position}].content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequest("A tool's message needs 'tool_call_id'.", param=f"messages[{position}].tool_call_id")


def _check_stream_options(request: ChatRequest | CompletionRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options"
        )


def _output_cap(asked: int | None, model: Model) -> int | None:
    limits = [n for n in (asked, model.max_output_tokens, model.max_model_len if asked else None) if n is not None]
    return min(limits) if limits else None


def _output_bound(cap: int | None, model: Model, choices: int) -> int | None:
    """Most tokens that all choices can have: nobody fits more than the window into an answer."""
    most = cap if cap is not None else model.max_model_len
    return None if most is None else most * choices
