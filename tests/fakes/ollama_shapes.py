"""Answers in the format of Ollama's native API: one choice, streamed unless told not to, no [DONE]."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.answer import Answer, count_prompt, embedding
from tests.fakes.openai_shapes import Event, Json

DEFAULT_WINDOW = 4096
_WHEN = "2026-01-02T03:04:05.678901Z"
_DETAILS = {"format": "gguf", "family": "llama", "parameter_size": "1.2B", "quantization_level": "Q4_K_M"}


class OllamaAnswer:
    def __init__(self, answer: Answer, *, chat: bool) -> None:
        self._answer = answer
        self._chat = chat

    def events(self) -> Iterator[Event]:
        answer = self._answer
        calls = {number: call for number, call, _ in answer.complete_calls()}
        for step in answer.steps:
            if step.kind == "call":
                tokens = sum(other.call == step.call and other.kind != "content" for other in answer.steps)
                yield Event(self._part("", calls=[self._call(step.call, calls[step.call].name)]), tokens)
            elif step.kind == "reasoning" and answer.behaviour.reasoning_style == "field":
                yield Event(self._part("", thinking=step.text), 1)
            elif step.kind != "arguments":
                yield Event(self._part(step.text), 1)
        if answer.behaviour.endless:
            yield from (Event(self._part(step.text), 1) for step in answer.endless_steps())
        yield Event(self._part("") | self._end())

    def whole(self) -> Json:
        answer = self._answer
        calls = [self._call(number, call.name) for number, call, _ in answer.complete_calls()]
        return self._part(answer.content(), thinking=answer.reasoning(), calls=calls) | self._end()

    def _part(self, text: str, *, thinking: str = "", calls: list[Json] | None = None) -> Json:
        head = {"model": self._answer.model, "created_at": _WHEN}
        if not self._chat:
            return head | {"response": text} | ({"thinking": thinking} if thinking else {}) | {"done": False}
        message: Json = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return head | {"message": message, "done": False}

    def _call(self, number: int, name: str) -> Json:
        arguments = json.loads(self._answer.calls[number].arguments)
        return {"id": f"call_{number}", "function": {"index": number, "name": name, "arguments": arguments}}

    def _end(self) -> Json:
        answer = self._answer
        reason = answer.behaviour.finish_reason or ("length" if answer.finish == "length" else "stop")
        end: Json = {"done": True, "done_reason": reason, "total_duration": 10**9, "load_duration": 10**6}
        prompt: Any = min(answer.prompt_tokens, window(answer.request))
        count: Any = len(answer.steps)
        usage = answer.behaviour.usage
        if usage in ("missing", "null"):
            return end
        if usage == "negative":
            prompt, count = -5, -count
        elif usage == "huge":
            prompt, count = 10**15, 10**15
        elif usage == "string":
            prompt, count = str(prompt), str(count)
        durations = {"prompt_eval_duration": 10**7, "eval_duration": 10**8}
        return end | {"prompt_eval_count": prompt, "eval_count": count} | durations


def window(request: Json) -> int:
    return int((request.get("options") or {}).get("num_ctx") or DEFAULT_WINDOW)


def embed_body(request: Json) -> Json:
    inputs = request.get("input", "")
    vectors = [embedding(text) for text in (inputs if isinstance(inputs, list) else [inputs])]
    head = {"model": request.get("model"), "embeddings": vectors}
    return head | {"total_duration": 10**7, "load_duration": 10**6, "prompt_eval_count": count_prompt(request)}


def tags_body(models: tuple[str, ...]) -> Json:
    entries = [
        {"name": name, "model": name, "modified_at": _WHEN, "size": 1, "digest": "0" * 64, "details": _DETAILS}
        for name in models
    ]
    return {"models": entries}


def show_body(context: int) -> Json:
    info = {"general.architecture": "llama", "llama.context_length": context, "llama.embedding_length": 8}
    capabilities = ["completion", "tools", "thinking", "embedding"]
    return {"parameters": "", "template": "", "details": _DETAILS, "model_info": info, "capabilities": capabilities}
