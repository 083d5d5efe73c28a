"""The errors of real engines and providers, as they were recorded or reported."""

from __future__ import annotations

import json
from typing import Any, Literal

Shape = Literal[
    "server",
    "loading",
    "unauthorized",
    "not_found",
    "rate_limit",
    "quota",
    "bad_parameter",
    "context_llamacpp",
    "context_llamacpp_batch",
    "context_vllm",
    "context_vllm_old",
    "context_openai",
    "context_ollama",
    "context_ollama_old",
    "ollama_not_found",
    "ollama_crash",
]


def error_body(shape: Shape, *, model: str, tokens: int, window: int) -> tuple[int, dict[str, Any]]:
    """Status and body. `tokens`: what the request needs; `window`: what the model takes."""
    requested = (
        f"This model's maximum context length is {window} tokens. However, you requested {tokens} tokens "
        f"({tokens} in the messages, 0 in the completion). Please reduce the length of the messages or completion."
    )
    resulted = (
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages."
    )
    batch = f"input ({tokens} tokens) is too large to process. increase the physical batch size"
    vllm = {"message": requested, "type": "BadRequestError", "param": None, "code": 400}
    unsupported = "Unsupported value: 'temperature' does not support 0.2 with this model."
    shapes: dict[Shape, tuple[int, dict[str, Any]]] = {
        "server": (500, _openai("CUDA out of memory at /srv/secret/path.cu:42", "internal_error", None)),
        "loading": (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        "unauthorized": (401, _openai("Incorrect API key: sk-pr***ret.", "invalid_request_error", "invalid_api_key")),
        "not_found": (404, _openai(f"The model `{model}` does not exist.", "NotFoundError", None, "model")),
        "rate_limit": (429, _openai("Rate limit reached for org-secret", "requests", "rate_limit_exceeded")),
        "quota": (429, _openai("You exceeded your quota.", "insufficient_quota", "insufficient_quota")),
        "bad_parameter": (400, _openai(unsupported, "invalid_request_error", "unsupported_value", "temperature")),
        "context_llamacpp": (400, _llamacpp_context(tokens, window)),
        "context_llamacpp_batch": (
            500,
            {"error": {"code": 500, "message": f"{batch} (current batch size: {window})", "type": "server_error"}},
        ),
        "context_vllm": (400, {"error": vllm}),
        "context_vllm_old": (400, {"object": "error", **vllm}),
        "context_openai": (400, _openai(resulted, "invalid_request_error", "context_length_exceeded", "messages")),
        "context_ollama": (400, {"error": json.dumps(_llamacpp_context(tokens, window), separators=(",", ":"))}),
        "context_ollama_old": (400, {"error": "the input length exceeds the context length"}),
        "ollama_not_found": (404, {"error": f"model '{model}' not found"}),
        "ollama_crash": (500, {"error": "llama runner process has terminated: signal: killed"}),
    }
    return shapes[shape]


def _openai(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _llamacpp_context(tokens: int, window: int) -> dict[str, Any]:
    text = f"request ({tokens} tokens) exceeds the available context size ({window} tokens), try increasing it"
    kind = "exceed_context_size_error"
    return {"error": {"code": 400, "message": text, "type": kind, "n_prompt_tokens": tokens, "n_ctx": window}}
