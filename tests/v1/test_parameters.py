"""Parameters of requests: each one's type and range with `param`, what counts as absent, what reaches an engine."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, KINDS, Service, error_of, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


def _values(*values: Any) -> tuple[Any, ...]:
    return values


def each(name: str, *values: Any) -> list[tuple[str, Any]]:
    """The parameter of that name with each of these values."""
    return [(name, value) for value in values]


COMMON_BAD: list[tuple[str, Any]] = [
    *each("max_tokens", 0, -1, 1.5, "7", True, 2**40),
    *each("temperature", -0.1, 2.1, "1", True, [1]),
    *each("top_p", -0.1, 1.1, "1"),
    *each("n", 0, -1, 129, 1.5, "2"),
    *each("stop", 5, {"a": 1}, ["a"] * 5, [1]),
    *each("seed", 1.5, "1", 2**64),
    *each("presence_penalty", -2.1, 2.1, "0"),
    *each("frequency_penalty", -2.1, 2.1, "0"),
    *each("logit_bias", 5, [1], {"1": "x"}),
    *each("stream", 1, "true", []),
    *each("stream_options", 1, [], {"include_usage": 1}),
    *each("user", 5, {}, "x" * 513),
    *each("model", None, 5, "", "x" * 513, []),
]
CHAT_BAD: list[tuple[str, Any]] = [
    *COMMON_BAD,
    *each("max_completion_tokens", 0, -1, "7"),
    *each("logprobs", 1, "yes"),
    *each("top_logprobs", -1, 21, "1", 3),
    *each("messages", None, [], {}, "hi", 5, [5], [None]),
    *each(
        "messages",
        *(
            [bad]
            for bad in _values(
                {}, {"role": "user"}, {"role": "user", "content": None}, {"role": "king", "content": "a"}
            )
        ),
    ),
    *each(
        "messages",
        *([bad] for bad in _values({"content": "a"}, {"role": "user", "content": 5}, {"role": "user", "content": [5]})),
    ),
    *each(
        "messages",
        *([{"role": "user", "content": [part]}] for part in _values({"type": "text"}, {"type": "what"}, {"text": "a"})),
    ),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}}]}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
    ("messages", [USER, {"role": "tool", "content": "x"}]),
    ("messages", [USER, {"role": "assistant", "tool_calls": [{"id": "a"}]}]),
    *each("tools", {}, "f", [5], [{}], [{"type": "function"}], [{"type": "web", "function": FUNCTION}]),
    *each(
        "tools",
        *(
            [{"type": "function", "function": bad}]
            for bad in _values({}, {"name": ""}, {"name": "f", "parameters": []})
        ),
    ),
    *each("tool_choice", 5, "always", {"type": "function"}, {"type": "function", "function": {}}),
    *each("tool_choice", "required", {"type": "function", "function": {"name": "f"}}),
    *each("parallel_tool_calls", 1, "yes"),
    *each("response_format", "json", {}, {"type": "xml"}, {"type": "json_schema"}),
    *each(
        "response_format",
        *({"type": "json_schema", "json_schema": bad} for bad in _values({}, {"name": "a"}, {"schema": {}})),
    ),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}),
    ("reasoning_effort", 5),
]
COMPLETION_BAD: list[tuple[str, Any]] = [
    *COMMON_BAD,
    *each("prompt", None, [], 5, {}, ["a", 1], [[1], "a"], [[]], [-1], [1.5], [[["a"]]]),
    *each("logprobs", -1, 6, True, "1"),
    *each("best_of", 0, "2", 129),
    ("echo", 1),
    ("suffix", 5),
]
EMBEDDING_BAD: list[tuple[str, Any]] = [
    *each("input", None, [], "", 5, {}, ["a", 1], [[]], [1.5]),
    *each("encoding_format", "hex", 5),
    *each("dimensions", 0, -1, "8", 1.5),
    ("user", 5),
    ("model", None),
]


def _name(value: object) -> str:
    return str(value)[:40]


async def _refused(service: Service, path: str, body: dict[str, Any], name: str) -> None:
    answer = await service.post(path, body)
    assert answer.status == 400, answer.body[:300]
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert error["param"] is not None
    assert error["param"].split("[")[0].split(".")[0] == name
    assert not service.fake().requests, "nothing of it reaches an engine"


@pytest.mark.parametrize(("name", "bad"), CHAT_BAD, ids=_name)
async def test_chat_parameters_are_checked(service: Service, name: str, bad: Any) -> None:
    await _refused(service, CHAT, {"model": "plain", "messages": [USER], name: bad}, name)


@pytest.mark.parametrize(("name", "bad"), COMPLETION_BAD, ids=_name)
async def test_completion_parameters_are_checked(service: Service, name: str, bad: Any) -> None:
    await _refused(service, COMPLETIONS, {"model": "plain", "prompt": "hi", name: bad}, name)


@pytest.mark.parametrize(("name", "bad"), EMBEDDING_BAD, ids=_name)
async def test_embedding_parameters_are_checked(service: Service, name: str, bad: Any) -> None:
    await _refused(service, EMBEDDINGS, {"model": "embed", "input": "hi", name: bad}, name)


@pytest.mark.parametrize(
    ("path", "name"), [(CHAT, "model"), (CHAT, "messages"), (COMPLETIONS, "prompt"), (EMBEDDINGS, "input")]
)
async def test_what_is_missing_is_named(service: Service, path: str, name: str) -> None:
    body = {"model": "plain", "messages": [USER]} if path == CHAT else {"model": "plain"}
    await _refused(service, path, {k: v for k, v in body.items() if k != name}, name)


async def test_where_it_is_wrong_is_told(service: Service) -> None:
    answer = await service.post(CHAT, {"model": "plain", "messages": [USER, {"role": "user", "content": 5}]})
    assert answer.json()["error"]["param"].startswith("messages[")
    assert answer.json()["error"]["param"].endswith("content")


@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_fields_are_dropped(service: Service, kind: ProviderKind) -> None:
    unknown: dict[str, Any] = {
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "x-evil": {"a": [1]},
    }
    own: dict[str, Any] = {
        "timings_per_token": True,
        "continuous_usage_stats": True,
        "return_token_ids": True,
        "slot_id": 3,
        "num_ctx": 1,
    }
    answer = await service.chat(model_of(kind, "plain"), **unknown, **own, user="someone", options={"num_ctx": 1})
    assert answer.status == 200
    sent = service.sent(kind).json
    assert not set(sent) & (set(unknown) | set(own) - {"timings_per_token"})
    assert "someone" not in service.sent(kind).body.decode()
    row = await service.row(answer)
    assert row.end_user == "someone"


async def test_unknown_fields_are_dropped_deep_inside_too(service: Service) -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    message = {"role": "user", "content": [part], "evil": 1}
    options = {"include_usage": True, "evil": 1, "continuous_usage_stats": True}
    await service.post(CHAT, {"model": "plain", "messages": [message], "stream": True, "stream_options": options})
    sent = service.sent().json
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert sent["stream_options"] == {"include_usage": True}


async def test_what_an_engine_gets(service: Service) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 7,
        "n": 2,
        "stop": ["a", "b"],
        "seed": -5,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"5": -100},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
    }
    assert (await service.chat("plain", "hi", **asked)).status == 200
    assert service.sent().json == {"model": "plain", "messages": [USER], **asked}


NULLS = (
    *("max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"),
    *("response_format", "stream", "stream_options", "reasoning_effort", "metadata", "store", "user"),
)


async def test_nulls_and_empty_lists_of_tools_count_as_absent(service: Service) -> None:
    assert (await service.chat("plain", "hi", **dict.fromkeys(NULLS))).status == 200
    assert service.sent().json == {"model": "plain", "messages": [USER]}
    assert (await service.chat("plain", "hi", tools=[], tool_choice="auto", parallel_tool_calls=True)).status == 200
    assert service.sent().json == {"model": "plain", "messages": [USER]}
    assert (await service.chat("plain", "hi", tools=[], tool_choice="none")).status == 200


@pytest.mark.parametrize(("kind", "name"), [(ProviderKind.VLLM, "max_tokens"), (ProviderKind.LLAMA_CPP, "max_tokens")])
async def test_both_names_of_the_output_limit_work(service: Service, kind: ProviderKind, name: str) -> None:
    for given in ("max_tokens", "max_completion_tokens"):
        limit: dict[str, Any] = {given: 2}
        answer = await service.chat(model_of(kind, "plain"), **limit)
        assert answer.json()["usage"]["completion_tokens"] == 2
        assert service.sent(kind).json[name] == 2


async def test_a_models_output_limit_holds(service: Service) -> None:
    wishes: list[dict[str, Any]] = [{}, {"max_tokens": 100_000}, {"max_completion_tokens": 100_000}]
    for asked in wishes:
        await service.chat("granite", **asked)
        assert service.sent(ProviderKind.VLLM).json["max_tokens"] == 8192
    await service.chat("granite", max_tokens=5)
    assert service.sent(ProviderKind.VLLM).json["max_tokens"] == 5


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("logit_bias", {"5": 1})])
async def test_what_ollama_cannot_do_is_refused(service: Service, name: str, value: Any) -> None:
    answer = await service.chat("ollama/plain", tools=[TOOL], **{name: value})
    assert (answer.status, error_of(answer)["param"]) == (400, name)
    assert not service.fake(ProviderKind.OLLAMA).requests
    assert (await service.chat("ollama/plain", n=1)).status == 200


async def test_a_kind_of_model_answers_its_own_kind_of_request(service: Service) -> None:
    for answer in (
        await service.chat("embed"),
        await service.complete("a", "embed"),
        await service.embed("a", "plain"),
    ):
        assert (answer.status, error_of(answer)["param"]) == (400, "model")


@pytest.mark.parametrize("image", ["data:image/png;base64,iVBORw0KGgo="])
async def test_images_in_data_urls_are_passed_on(service: Service, image: str) -> None:
    part = {"type": "image_url", "image_url": {"url": image, "detail": "low"}}
    message = {"role": "user", "content": [{"type": "text", "text": "what?"}, part]}
    assert (await service.post(CHAT, {"model": "plain", "messages": [message]})).status == 200
    assert service.sent().json["messages"][0]["content"][1] == part


async def test_a_conversation_with_tools_is_passed_on(service: Service) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert (await service.post(CHAT, {"model": "plain", "messages": messages, "tools": [TOOL]})).status == 200
    sent = service.sent().json["messages"]
    assert sent[1]["tool_calls"] == [call]
    assert sent[2] == messages[2]
