"""Whatever is asked and however badly an engine behaves: what it uses is at most what was held (CHECKS B02)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.domain.models import Model, ModelKind
from llmaas.domain.prices import Price, TokenCounts, bound_nano, cost_nano
from llmaas.errors import InvalidRequest
from llmaas.inference.admission import Bounds, admit_chat, admit_completion
from llmaas.protocol.requests import chat_decoder, completion_decoder, prompt_list

texts = st.text(max_size=60)
_nano = st.integers(0, 10**12)
prices = st.builds(lambda *amounts: Price(0, "m", 0, *amounts), _nano, _nano, _nano, _nano, _nano)


@st.composite
def messages(draw: st.DrawFn) -> list[dict[str, Any]]:
    contents = texts | st.lists(st.builds(lambda text: {"type": "text", "text": text}, texts), min_size=1, max_size=3)
    role = st.sampled_from(["system", "user", "assistant"])
    return draw(st.lists(st.fixed_dictionaries({"role": role, "content": contents}), min_size=1, max_size=5))


def tools() -> st.SearchStrategy[list[dict[str, Any]]]:
    function = st.fixed_dictionaries(
        {"name": st.sampled_from(["f", "get_weather"]), "description": texts, "parameters": st.just({"type": "object"})}
    )
    tool = st.fixed_dictionaries({"type": st.just("function"), "function": function})
    return st.lists(tool, max_size=3, unique_by=lambda tool: str(tool["function"]["name"]))


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "m", "messages": draw(messages())}
    if draw(st.booleans()):
        body["tools"] = draw(tools())
    for name, values in (
        ("n", st.integers(1, 8)),
        ("max_tokens", st.integers(1, 10**6)),
        ("max_completion_tokens", st.integers(1, 10**6)),
        ("stream", st.booleans()),
    ):
        if draw(st.booleans()):
            body[name] = draw(values)
    return body


models = st.builds(
    lambda window, most: Model("m", ModelKind.CHAT, 0, max_model_len=window, max_output_tokens=most),
    st.none() | st.integers(1, 200_000),
    st.none() | st.integers(1, 50_000),
)


def most_input(texts_read: list[str], messages: int, model: Model) -> int:
    """Of an engine with a token for each byte and a wordy template; it refuses what is longer than its window."""
    tokens = sum(len(text.encode()) for text in texts_read) + 400 + 12 * messages
    return tokens if model.max_model_len is None else min(tokens, model.max_model_len)


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *strings(inner))]
    return [text for inner in value for text in strings(inner)] if isinstance(value, list) else []


def check_money(bounds: Bounds, price: Price, tokens: TokenCounts) -> None:
    held = bound_nano(price, bounds.input_tokens, tokens.completion) + price.request
    assert cost_nano(price, tokens) <= held


@given(bodies(), models, st.booleans(), prices, st.floats(0, 1))
def test_B02_a_chat_uses_at_most_what_is_held(
    body: dict[str, Any], model: Model, escaped: bool, price: Price, part: float
) -> None:
    data = json.dumps(body, ensure_ascii=escaped).encode()
    request = chat_decoder.decode(data)
    bounds = admit_chat(request, model, body_bytes=len(data), remote_images=False, countable=True)
    read = strings(body["messages"]) + (strings(body["tools"]) if body.get("tools") else [])
    prompt = most_input(read, len(body["messages"]), model)
    assert prompt <= bounds.input_tokens
    told = request.max_tokens or request.max_completion_tokens
    most = told if told is not None else model.max_model_len
    if most is None:
        assert bounds.output_tokens is None  # held in steps, and cut where a step is refused
        return
    made = most * body.get("n", 1)
    assert bounds.output_tokens is not None
    assert made <= bounds.output_tokens
    cached, reasoning = round(prompt * part), round(made * part)
    check_money(bounds, price, TokenCounts(prompt - cached, cached, made - reasoning, reasoning))


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=3), st.booleans())
def test_B02_a_small_file_may_be_a_large_picture(sizes: list[int], remote: bool) -> None:
    start = "https://pictures.example/" if remote else "data:image/png;base64,"
    parts = [{"type": "image_url", "image_url": {"url": start + "A" * size}} for size in sizes]
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()
    bounds = admit_chat(
        chat_decoder.decode(data),
        Model("m", ModelKind.CHAT, 0),
        body_bytes=len(data),
        remote_images=remote,
        countable=True,
    )
    assert bounds.input_tokens >= 16_384 * len(sizes) + 400
    assert bounds.input_tokens <= 16_384 * len(sizes) + 1_000, "and a large file is no more"


@given(
    st.one_of(texts, st.lists(texts, min_size=1, max_size=4), st.lists(st.integers(0, 10**6), min_size=1, max_size=50)),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 10**6),
    models,
)
def test_B02_a_completion_uses_at_most_what_is_held(
    prompt: str | list[str] | list[int], n: int | None, max_tokens: int | None, model: Model
) -> None:
    body = {"model": "m", "prompt": prompt, "n": n, "max_tokens": max_tokens}
    data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    request = completion_decoder.decode(data)
    bounds = admit_completion(request, model, body_bytes=len(data), countable=True)
    prompts = prompt if isinstance(prompt, list) and isinstance(prompt[0], str) else [prompt]
    sizes = [len(one.encode()) if isinstance(one, str) else len(one) if isinstance(one, list) else 1 for one in prompts]
    window = model.max_model_len
    assert sum(size if window is None else min(size, window) for size in sizes) <= bounds.input_tokens
    most = request.max_tokens if request.max_tokens is not None else window
    if most is not None:
        assert bounds.output_tokens is not None
        assert most * (n or 1) * len(prompts) <= bounds.output_tokens


@given(
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 10**6),
    models,
    st.booleans(),
)
def test_B02_the_least_step_is_part_of_the_first(
    n: int | None, best_of: int | None, max_tokens: int | None, model: Model, countable: bool
) -> None:
    best_of = max(best_of, n or 1) if best_of is not None else None
    body = {"model": "m", "prompt": "p", "n": n, "best_of": best_of, "max_tokens": max_tokens}
    data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    bounds = admit_completion(completion_decoder.decode(data), model, body_bytes=len(data), countable=countable)
    assert bounds.made == max(n or 1, best_of or 1) >= bounds.choices
    assert 0 < bounds.least_step <= bounds.first_step
    assert max_tokens is None or bounds.least_step == bounds.first_step, "what was asked for is held as it is"
    assert bounds.output_tokens is None or bounds.first_step <= bounds.output_tokens


@pytest.mark.parametrize(
    ("prompts", "options", "param"),
    [
        (64, {"n": 128}, None),
        (65, {"n": 128}, "n"),
        (2048, {"n": 4}, None),
        (2048, {"n": 5}, "n"),
        (65, {"n": 2, "best_of": 128}, "best_of"),
    ],
)
def test_A08_choices_are_bounded_over_all_prompts(prompts: int, options: dict[str, int], param: str | None) -> None:
    data = json.dumps({"model": "m", "prompt": ["a"] * prompts, **options}).encode()
    request, model = completion_decoder.decode(data), Model("m", ModelKind.COMPLETION, 0)
    if param is None:
        assert admit_completion(request, model, body_bytes=len(data), countable=True).made == 8192
        return
    with pytest.raises(InvalidRequest) as caught:
        admit_completion(request, model, body_bytes=len(data), countable=True)
    assert caught.value.param == param


def test_A08_parts_and_calls_are_bounded_over_all_messages() -> None:
    part = {"type": "text", "text": ""}
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}] * 768
    said = [{"role": "user", "content": [part] * 4096}] * 7 + [
        {"role": "assistant", "tool_calls": calls},
        {"role": "user", "content": [part] * (4096 - 768)},
    ]
    model = Model("m", ModelKind.CHAT, 0)
    for more, taken in (([], True), ([{"role": "user", "content": [part]}], False)):
        data = json.dumps({"model": "m", "messages": said + more}).encode()
        request = chat_decoder.decode(data)
        if taken:
            admit_chat(request, model, body_bytes=len(data), remote_images=False, countable=True)
            continue
        with pytest.raises(InvalidRequest, match="32768 parts and tool calls"):
            admit_chat(request, model, body_bytes=len(data), remote_images=False, countable=True)


@pytest.mark.parametrize("name", ["prompt", "input"])
def test_too_many_texts_are_told_by_the_name_of_their_parameter(name: str) -> None:
    assert len(prompt_list(["a"] * 2048, name)) == 2048
    with pytest.raises(InvalidRequest) as caught:
        prompt_list(["a"] * 2049, name)
    assert caught.value.param == name
