"""What the fake server says to a request, before any wire format: tokens, calls, counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tests.fakes.behaviour import Behaviour, Call, Flavour

CREATED = 1_760_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One token of one choice."""

    kind: Literal["reasoning", "content", "call", "arguments"]
    text: str
    call: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """`steps` are those of each choice: all choices say the same."""

    id: str
    model: str
    flavour: Flavour
    behaviour: Behaviour
    request: dict[str, Any]
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    finish: str
    choices: int
    prompt_tokens: int

    @property
    def completion_tokens(self) -> int:
        return len(self.steps) * self.choices

    @property
    def reasoning_tokens(self) -> int:
        return sum(step.kind == "reasoning" for step in self.steps) * self.choices

    def content(self) -> str:
        tags = self.behaviour.reasoning_style == "tags"
        return "".join(
            step.text for step in self.steps if step.kind == "content" or (tags and step.kind == "reasoning")
        )

    def reasoning(self) -> str:
        tags = self.behaviour.reasoning_style == "tags"
        return "" if tags else "".join(step.text for step in self.steps if step.kind == "reasoning")

    def complete_calls(self) -> list[tuple[int, Call, str]]:
        """Number, call and as much of its arguments as was said."""
        said = [(step.call, step.text) for step in self.steps if step.kind == "arguments"]
        begun = [step.call for step in self.steps if step.kind == "call"]
        return [(call, self.calls[call], "".join(text for at, text in said if at == call)) for call in begun]

    def endless_steps(self) -> Iterator[Step]:
        return (Step("content", text) for text in itertools.cycle(self.behaviour.pieces))


def plan(behaviour: Behaviour, flavour: Flavour, request: dict[str, Any], number: int) -> Answer:
    calls = behaviour.calls or _demanded(request)
    steps = [Step("reasoning", text) for text in _reasoning(behaviour)]
    if calls:
        for index, call in enumerate(calls):
            steps.append(Step("call", "", index))
            steps.extend(
                Step("arguments", call.arguments[at : at + 4], index) for at in range(0, len(call.arguments), 4)
            )
    else:
        texts = itertools.islice(itertools.cycle(behaviour.pieces), behaviour.tokens)
        steps.extend(Step("content", text) for text in texts)
    limit = allowed_tokens(request)
    cut = limit is not None and limit < len(steps)
    finish = "length" if cut else "tool_calls" if calls else "stop"
    return Answer(
        id=f"fake-{number}",
        model=str(request.get("model", "")),
        flavour=behaviour.flavour or flavour,
        behaviour=behaviour,
        request=request,
        steps=tuple(steps[:limit] if cut else steps),
        calls=calls,
        finish=behaviour.finish_reason or finish,
        choices=_choices(request),
        prompt_tokens=count_prompt(request) if behaviour.prompt_tokens is None else behaviour.prompt_tokens,
    )


def _reasoning(behaviour: Behaviour) -> list[str]:
    count = behaviour.reasoning_tokens
    texts = ["think "] * count
    if count and behaviour.reasoning_style == "tags":
        texts[0] = "<think>" + texts[0]
        texts[-1] += "</think>"
    return texts


def _demanded(request: dict[str, Any]) -> tuple[Call, ...]:
    """The call that `tool_choice` insists on."""
    tools, choice = request.get("tools"), request.get("tool_choice")
    if not tools or choice in (None, "auto", "none"):
        return ()
    name = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
    return (Call(name=name),)


def _choices(request: dict[str, Any]) -> int:
    prompt = request.get("prompt")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return int(request.get("n") or 1) * (len(prompt) if several and prompt else 1)


def allowed_tokens(request: dict[str, Any]) -> int | None:
    options = request.get("options") or {}
    limits = (request.get("max_completion_tokens"), request.get("max_tokens"), options.get("num_predict"))
    limit = next((limit for limit in limits if limit is not None), None)
    return None if limit is None or limit < 0 else int(limit)


def count_prompt(request: dict[str, Any]) -> int:
    """Words of the messages, the prompt or the input; token ids count as they are."""
    if "messages" in request:
        return sum(_count(_text(message.get("content"))) for message in request["messages"])
    return _count(request.get("prompt", request.get("input", "")))


def _count(text: object) -> int:
    if isinstance(text, str):
        return len(text.split())
    if isinstance(text, list):
        return sum(1 if isinstance(item, int) else _count(item) for item in text)
    return 0


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else ""


def embedding(text: object, dimensions: int = 8) -> list[float]:
    """A vector that depends on the input only; its numbers are exact in 32 bits."""
    seed = sum((position + 1) * byte for position, byte in enumerate(repr(text).encode()))
    return [((seed * (at + 1)) % 17 - 8) / 8 for at in range(dimensions)]
