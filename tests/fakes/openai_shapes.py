"""Answers in OpenAI's format, with what llama.cpp and vLLM do differently."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.fakes.answer import CREATED, Answer, Step, count_prompt, embedding

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a stream. `tokens`: how many tokens it says."""

    data: Json
    tokens: int = 0


class OpenAiAnswer:
    def __init__(self, answer: Answer, *, chat: bool) -> None:
        self._answer = answer
        self._chat = chat
        self._behaviour = answer.behaviour
        self._llamacpp = answer.flavour == "llama.cpp"
        options = answer.request.get("stream_options") or {}
        self._usage_asked = bool(options.get("include_usage"))
        continuous = answer.flavour == "vllm" and bool(options.get("continuous_usage_stats"))
        self._usage_always = continuous or self._behaviour.usage == "every_chunk"
        merge = self._behaviour.merge_finish
        self._merge = answer.flavour == "vllm" if merge is None else merge
        self._said = 0

    def events(self) -> Iterator[Event]:
        answer = self._answer
        if self._chat and self._behaviour.role != "never":
            for choice in range(answer.choices):
                yield self._event(choice, {"role": "assistant", "content": None if self._llamacpp else ""})
        steps = list(self._steps())
        for at, (step, tokens) in enumerate(steps):
            for choice in range(answer.choices):
                self._said += tokens
                last = self._merge and at == len(steps) - 1
                yield self._step_event(choice, step, tokens, answer.finish if last else None)
        if self._behaviour.endless:
            for step in answer.endless_steps():
                self._said += 1
                yield self._step_event(0, step, 1, None)
        yield from self._end(merged=bool(steps) and self._merge)

    def whole(self) -> Json:
        answer = self._answer
        choices = [self._whole_choice(choice) for choice in range(answer.choices)]
        body = self._envelope(choices, chunk=False)
        self._said = len(answer.steps) * (1 if self._llamacpp else answer.choices)
        if self._behaviour.usage != "missing":
            body["usage"] = self._usage()
        if self._llamacpp:
            body["timings"] = self._timings()
        return body

    def _steps(self) -> Iterator[tuple[Step, int]]:
        """What goes into one event each, and for how many tokens it counts."""
        if self._behaviour.call_style != "object":
            yield from ((step, 1) for step in self._answer.steps)
            return
        for step in self._answer.steps:
            if step.kind == "call":
                yield step, sum(other.call == step.call for other in self._answer.steps)
            elif step.kind != "arguments":
                yield step, 1

    def _end(self, *, merged: bool) -> Iterator[Event]:
        answer, usage = self._answer, self._behaviour.usage
        one_by_one = self._llamacpp and answer.choices > 1
        closing: list[Event] = []
        for choice in range(answer.choices):
            if not merged:
                closing.append(self._event(choice, {}, finish=answer.finish))
            if self._usage_asked and usage != "missing" and (one_by_one or choice == answer.choices - 1):
                said = {"usage": self._usage(len(answer.steps) if one_by_one else None)}
                if self._llamacpp and not self._chat:
                    closing[-1].data.update(said)
                else:
                    closing.append(Event(self._envelope([], chunk=True) | said))
        if usage == "twice" and self._usage_asked:
            closing.append(closing[-1])
        if self._llamacpp and closing:
            closing[-1].data["timings"] = self._timings()
        yield from closing

    def _event(self, choice: int, delta: Json, *, tokens: int = 0, finish: str | None = None) -> Event:
        body = {"index": choice, "delta": delta, "finish_reason": finish}
        if not self._chat:
            body = {"text": delta.get("content", ""), "index": choice, "logprobs": None, "finish_reason": finish}
        data = self._envelope([body], chunk=True)
        if self._usage_always:
            data["usage"] = self._usage()
        elif self._usage_asked and self._answer.flavour == "openai":
            data["usage"] = None
        if self._llamacpp and self._answer.request.get("timings_per_token"):
            data["timings"] = self._timings()
        return Event(data, tokens)

    def _step_event(self, choice: int, step: Step, tokens: int, finish: str | None) -> Event:
        delta: Json = {"role": "assistant"} if self._behaviour.role == "every_chunk" else {}
        if step.kind in ("call", "arguments"):
            delta["tool_calls"] = [self._call_delta(step)]
        elif step.kind == "reasoning" and self._behaviour.reasoning_style == "field":
            delta["reasoning_content"] = step.text
        else:
            delta["content"] = step.text
        event = self._event(choice, delta, tokens=tokens, finish=finish)
        if self._wants_logprobs(self._answer.request) and "content" in delta:
            event.data["choices"][0]["logprobs"] = self._logprobs([step.text])
        return event

    def _call_delta(self, step: Step) -> Json:
        style = self._behaviour.call_style
        call = self._answer.calls[step.call]
        identity = {"id": f"call_{step.call}", "type": "function"}
        delta: Json = {} if style == "no_index" else {"index": step.call}
        if style == "object":
            return delta | identity | {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}
        if step.kind == "call":
            name = {} if style == "late_name" else {"name": call.name}
            return delta | identity | {"function": name | {"arguments": ""}}
        if style in {"repeated", "late_name"}:
            return delta | identity | {"function": {"name": call.name, "arguments": step.text}}
        return delta | {"function": {"arguments": step.text}}

    def _whole_choice(self, index: int) -> Json:
        answer = self._answer
        logprobs = None
        if self._wants_logprobs(answer.request):
            logprobs = self._logprobs([step.text for step in answer.steps if step.kind == "content"])
        if not self._chat:
            return {"text": answer.content(), "index": index, "logprobs": logprobs, "finish_reason": answer.finish}
        message: Json = {"role": "assistant", "content": answer.content()}
        if reasoning := answer.reasoning():
            message["reasoning_content"] = reasoning
        if calls := answer.complete_calls():
            message["content"] = None
            message["tool_calls"] = [
                {"id": f"call_{number}", "type": "function", "function": {"name": call.name, "arguments": said}}
                for number, call, said in calls
            ]
            if self._behaviour.call_style == "object":
                for call_body, (_, call, _) in zip(message["tool_calls"], calls, strict=True):
                    call_body["function"]["arguments"] = json.loads(call.arguments)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}

    def _envelope(self, choices: list[Json], *, chunk: bool) -> Json:
        kind = "text_completion" if not self._chat else "chat.completion.chunk" if chunk else "chat.completion"
        answer = self._answer
        return {"id": answer.id, "object": kind, "created": CREATED, "model": answer.model, "choices": choices}

    def _usage(self, said: int | None = None) -> Any:
        answer = self._answer
        prompt, completion = answer.prompt_tokens, self._said if said is None else said
        cached = self._behaviour.cached_tokens
        if self._behaviour.usage == "null":
            return None
        if self._behaviour.usage == "negative":
            prompt, completion = -5, -completion
        elif self._behaviour.usage == "huge":
            prompt, completion = 10**15, 10**15
        usage: Json = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if not self._llamacpp:
            usage["completion_tokens_details"] = {"reasoning_tokens": answer.reasoning_tokens}
        if self._behaviour.usage == "string":
            return {name: str(value) for name, value in usage.items()}
        return usage

    def _timings(self) -> Json:
        cached = self._behaviour.cached_tokens
        prompt = self._answer.prompt_tokens - cached
        return {"cache_n": cached, "prompt_n": prompt, "prompt_ms": 1.0, "predicted_n": self._said, "predicted_ms": 1.0}

    def _wants_logprobs(self, request: Json) -> bool:
        """0 is a wish of completions: those of the tokens alone. llama.cpp takes it for none."""
        asked = request.get("logprobs")
        if self._llamacpp:
            return bool(asked)
        return asked is not None and asked is not False

    def _logprobs(self, texts: list[str]) -> Json:
        entries = [{"token": text, "logprob": -0.25, "bytes": list(text.encode())} for text in texts]
        if not self._chat:
            return {
                "tokens": texts,
                "token_logprobs": [-0.25] * len(texts),
                "top_logprobs": [{text: -0.25} for text in texts],
                "text_offset": [len("".join(texts[:at])) for at in range(len(texts))],
            }
        top = int(self._answer.request.get("top_logprobs") or 0)
        return {"content": [entry | {"top_logprobs": [dict(entry)] * top} for entry in entries], "refusal": None}


def embeddings_body(request: Json) -> Json:
    inputs = request.get("input", "")
    if not isinstance(inputs, list) or (inputs and isinstance(inputs[0], int)):
        inputs = [inputs]
    data = []
    for index, text in enumerate(inputs):
        vector: Any = embedding(text)
        if request.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = count_prompt(request)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": request.get("model"), "data": data, "usage": usage}


def models_body(models: tuple[str, ...], window: int) -> Json:
    entries = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "fake", "max_model_len": window}
        for name in models
    ]
    return {"object": "list", "data": entries}
