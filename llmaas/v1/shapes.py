"""What answers look like, for the OpenAPI document: the wire contract as types. Answers themselves are built elsewhere
(`protocol/answers.py`, `v1/models.py`, …); tests hold the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

ErrorType = Literal[
    "invalid_request_error", "permission_error", "rate_limit_error", "insufficient_quota", "server_error"
]
Finish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ErrorObject(Struct):
    """`state`, `progress` (0 to 1) and `eta_seconds` while a model is being loaded."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None
    state: str | UnsetType = UNSET
    progress: float | UnsetType | None = UNSET
    eta_seconds: float | UnsetType | None = UNSET


class Error(Struct, forbid_unknown_fields=True):
    error: ErrorObject


class BackendName(Struct, forbid_unknown_fields=True):
    """Which engine on which machine made the answer."""

    engine_type: str
    machine_name: str


class Routing(Struct, forbid_unknown_fields=True):
    """How the request came to its backend; only with the header `x-llmaas-explain: 1`."""

    reason: str
    attempts: int
    queue_ms: int


class PromptDetails(Struct, forbid_unknown_fields=True):
    cached_tokens: int


class CompletionDetails(Struct, forbid_unknown_fields=True):
    reasoning_tokens: int


class Usage(Struct, forbid_unknown_fields=True):
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class CalledFunction(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class AnsweredCall(Struct, forbid_unknown_fields=True):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Struct, forbid_unknown_fields=True):
    """`function_call` in place of `tool_calls` where the request had `functions`."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnsweredCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChoice(Struct, forbid_unknown_fields=True):
    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Finish


class ChatCompletion(Struct, forbid_unknown_fields=True):
    """`limit_reached`: why the answer ended early, where a limit, a budget or the longest time of a request did not last."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    backend: BackendName
    choices: list[ChatChoice]
    usage: Usage
    routing: Routing | UnsetType = UNSET
    limit_reached: str | UnsetType = UNSET


class ToolDeltaFunction(Struct, forbid_unknown_fields=True):
    arguments: str
    name: str | UnsetType = UNSET


class ToolDelta(Struct, forbid_unknown_fields=True):
    """The first one of a call has `id`, `type` and the name; later ones only add to the arguments."""

    index: int
    function: ToolDeltaFunction
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class Delta(Struct, forbid_unknown_fields=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    tool_calls: list[ToolDelta] | UnsetType = UNSET
    function_call: ToolDeltaFunction | UnsetType = UNSET


class ChunkChoice(Struct, forbid_unknown_fields=True):
    index: int
    delta: Delta
    finish_reason: Finish | None
    logprobs: dict[str, Any] | UnsetType | None = UNSET


class ChatCompletionChunk(Struct, forbid_unknown_fields=True):
    """The data of one event of a stream. The last one, with `usage`, only when `stream_options.include_usage` is true.

    `limit_reached`, beside the last finish reason: why the answer ended early, where a limit or budget did not last.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET
    backend: BackendName | UnsetType = UNSET
    routing: Routing | UnsetType = UNSET
    limit_reached: str | UnsetType = UNSET


class TextChoice(Struct, forbid_unknown_fields=True):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Finish


class Completion(Struct, forbid_unknown_fields=True):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    backend: BackendName
    choices: list[TextChoice]
    usage: Usage
    routing: Routing | UnsetType = UNSET
    limit_reached: str | UnsetType = UNSET


class TextChunkChoice(Struct, forbid_unknown_fields=True):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Finish | None


class CompletionChunk(Struct, forbid_unknown_fields=True):
    """The data of one event of a stream. The last one, with `usage`, only when `stream_options.include_usage` is true."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | UnsetType = UNSET
    backend: BackendName | UnsetType = UNSET
    routing: Routing | UnsetType = UNSET
    limit_reached: str | UnsetType = UNSET


class Embedding(Struct, forbid_unknown_fields=True):
    """`embedding`: numbers, or base64 of little-endian 32-bit floats, as `encoding_format` asked."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct, forbid_unknown_fields=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, forbid_unknown_fields=True):
    id: str
    object: Literal["list"]
    data: list[Embedding]
    model: str
    backend: BackendName
    usage: EmbeddingUsage


class ModelPermission(Struct, forbid_unknown_fields=True):
    id: str
    object: Literal["model_permission"]
    created: int
    allow_create_engine: bool
    allow_sampling: bool
    allow_logprobs: bool
    allow_search_indices: bool
    allow_view: bool
    allow_fine_tuning: bool
    organization: str
    group: str | None
    is_blocking: bool


class Model(Struct, forbid_unknown_fields=True):
    """`root`: the engine's own name; `max_model_len`: the window that is served. From `phase` on only where an end is announced."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["chat", "completion", "embedding", "rerank"]
    root: str
    aliases: list[str]
    parent: str | None
    max_model_len: int | None
    permission: list[ModelPermission]
    phase: Literal["deprecated"] | UnsetType = UNSET
    deprecation_date: str | UnsetType = UNSET
    shutdown_date: str | UnsetType = UNSET
    successor: str | UnsetType = UNSET


class ModelList(Struct, forbid_unknown_fields=True):
    object: Literal["list"]
    data: list[Model]


class Status(Struct, forbid_unknown_fields=True, omit_defaults=True):
    status: Literal["ok", "ready", "draining", "ledger_unavailable", "changes_unknown"]
    degraded: Literal["database_away"] | UnsetType = UNSET
