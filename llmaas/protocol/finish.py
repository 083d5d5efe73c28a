"""Why a choice ended, in the words of engines: one table to the five words of OpenAI.

A word that is not here is a fault, never the most harmless meaning: it may be an engine's word for a failure, which nobody
should be charged for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FAILED: Final = "failed"
"""The engine gave the answer up."""
NOT_YET: Final = ""
"""The choice goes on."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "stop": (
        *("stop", "stopped", "end", "eos", "eos_token", "end_of_sequence", "end_of_text", "end_of_turn", "eot"),
        *(
            "end_turn",
            "stop_sequence",
            "stop_token",
            "stop_word",
            "stop_words",
            "stop_string",
            "stop_str",
        ),  # Anthropic, TGI
        *(
            "eosfound",
            "stopstringfound",
            "word",
            "complete",
            "completed",
            "finish",
            "finished",
            "done",
        ),  # LM Studio, Cohere
        *("normal", "success", "finish_reason_stop", "pause_turn"),
    ),
    "length": (
        *("length", "max_tokens", "max_token", "max_output_tokens", "max_new_tokens", "max_completion_tokens"),
        *(
            "model_length",
            "max_length",
            "limit",
            "token_limit",
            "error_limit",
            "finish_reason_max_tokens",
        ),  # Mistral, Cohere
        *("model_context_window_exceeded", "context_length", "context_length_exceeded"),  # Anthropic, Z.ai
        *("maxpredictedtokensreached", "contextlengthreached", "max_time"),  # LM Studio
        "repetition",  # vLLM ends an answer that goes round in circles
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "toolcalls", "tool-calls", "function_calls", "function_call"),
    "content_filter": (
        *(
            "content_filter",
            "content-filter",
            "content_filtered",
            "contentfilter",
            "guardrail_intervened",
        ),  # Azure, Bedrock
        *("safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "language"),  # Gemini
        *("finish_reason_safety", "finish_reason_recitation", "refusal", "sensitive", "error_toxic", "moderation"),
    ),
    FAILED: (
        *("error", "failed", "failure", "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel"),
        *("timeout", "timed_out", "interrupted", "network_error", "server_error", "internal_error", "unknown", "other"),
        *(
            "insufficient_system_resource",
            "userstopped",
            "modelunloaded",
            "load",
            "unload",
        ),  # DeepSeek, LM Studio, Ollama
        *("malformed_function_call", "unexpected_tool_call", "too_many_tool_calls", "finish_reason_other"),  # Gemini
        *("malformed_model_output", "malformed_tool_use", "no_image"),  # Bedrock, Gemini
    ),
    NOT_YET: (
        *("null", "none", "nil", "undefined", "not_finished", "unfinished", "in_progress", "running"),
        *("finish_reason_unspecified", "unspecified"),
    ),
}
MEANINGS: Mapping[str, str] = {word: meaning for meaning, words in _WORDS.items() for word in words}


def meaning_of(word: str) -> str | None:
    """One of OpenAI's words, FAILED or NOT_YET; None for a word that nobody here knows."""
    return MEANINGS.get(word) or MEANINGS.get(word.strip().lower(), None if word.strip() else NOT_YET)
