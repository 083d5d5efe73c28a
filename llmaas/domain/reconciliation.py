"""Holding the ledger against what engines say themselves: their own log of requests, or how their counters grew.

A log is JSON lines; a line names a request by our answer's id or our request's id and says its tokens in OpenAI's words.
Counters are the text of an engine's `/metrics`; two readings and the rows between them have to tell the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmaas.domain.usage import UsageRow, UsageSource

_IDS = ("id", "request_id")
_PROMPT = ("prompt_tokens", "input_tokens", "prompt_eval_count")
_COMPLETION = ("completion_tokens", "output_tokens", "eval_count")
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?\s+([0-9.eE+-]+)")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the engine read and what it wrote."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Counters:
    """An engine's totals since it started. `fresh_prompt`: without what it took from its cache."""

    prompt: int
    completion: int
    fresh_prompt: bool


class EngineLog:
    """The lines of an engine's log, by request. A request that was tried again has several; one of them has to fit."""

    def __init__(self, lines: Iterable[str]) -> None:
        """ValueError with the number of the first line that says no id or no tokens."""
        self._made: dict[str, list[Tokens]] = {}
        self._names: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._add(number, line)

    def differences(self, row: UsageRow) -> list[str]:
        """What the log says otherwise about this row; to be asked for each row once."""
        name = self._names.get(row.id) or self._names.get(row.request_id)
        said = self._made.pop(name, None) if name is not None else None
        mine = Tokens(row.input_tokens + row.cached_input_tokens, row.output_tokens + row.reasoning_tokens)
        if said is None:
            return [] if row.usage_source == UsageSource.NONE else [f"{row.id}: the engine's log has no such request"]
        if row.usage_source == UsageSource.NONE or mine in said:
            return []
        other = said[-1]
        theirs = f"the engine {other.prompt} + {other.completion}"
        return [f"{row.id}: the ledger has {mine.prompt} + {mine.completion} tokens, {theirs}"]

    def left(self) -> list[str]:
        """Requests of the log that no row was asked about."""
        return [f"{name}: the engine served it, the ledger has no row" for name in self._made]

    def _add(self, number: int, line: str) -> None:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"line {number} is no JSON object")  # noqa: TRY004 - a wrong line of a file
        names = [values[key] for key in _IDS if isinstance(values.get(key), str) and values[key]]
        inner = values["usage"] if isinstance(values.get("usage"), dict) else values
        prompt, completion = _count(inner, _PROMPT), _count(inner, _COMPLETION)
        if not names or prompt is None:
            raise ValueError(f'line {number} says no "id" or "request_id", or no "prompt_tokens"')
        name = next((self._names[each] for each in names if each in self._names), names[0])
        self._names.update(dict.fromkeys(names, name))
        self._made.setdefault(name, []).append(Tokens(prompt, completion or 0))


def read_counters(text: str) -> Counters | None:
    """From Prometheus text of vLLM or llama.cpp; None when there are none of their counters in it."""
    totals: dict[str, int] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is not None:
            totals[sample[1]] = totals.get(sample[1], 0) + round(float(sample[2]))
    if "vllm:prompt_tokens_total" in totals:
        completion = totals.get("vllm:generation_tokens_total", 0)
        return Counters(totals["vllm:prompt_tokens_total"], completion, fresh_prompt=False)
    if "llamacpp:prompt_tokens_total" in totals:
        completion = totals.get("llamacpp:tokens_predicted_total", 0)
        return Counters(totals["llamacpp:prompt_tokens_total"], completion, fresh_prompt=True)
    return None


def _count(values: dict[str, Any], names: Iterable[str]) -> int | None:
    found = [values[name] for name in names if isinstance(values.get(name), int)]
    return found[0] if found else None
