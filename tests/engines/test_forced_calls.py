"""The call that `tool_choice` demands, on engines that are asked for it by a schema: what they are sent, what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour, Call
from tests.fakes.raw_http import RawResponse
from tests.service import CHAT, Service, chunks, error_of, model_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

KINDS = (ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ARGUMENTS = '{"city": "Má\\"}{\\\\", "at": [1, {"x": "}"}]}'
TEXT = '{"name": "get_weather", "arguments": ' + ARGUMENTS + " }\n"


def one_call(name: str, arguments: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def schema_sent(service: Service, kind: ProviderKind) -> Any:
    sent = service.sent(kind).json
    if kind is ProviderKind.OLLAMA:
        assert "tool_choice" not in sent
        return sent["format"]
    assert sent["tool_choice"] == "none"
    assert sent["response_format"]["type"] == "json_schema"
    return sent["response_format"]["json_schema"]["schema"]


def pieces(text: str, size: int) -> tuple[str, ...]:
    return tuple(text[at : at + size] for at in range(0, len(text), size))


def saying(text: str, size: int = 3, **more: Any) -> Behaviour:
    parts = pieces(text, size)
    return Behaviour(tokens=len(parts), pieces=parts, **more)


def calls_of(answer: RawResponse, *, stream: bool) -> list[tuple[str, str, str]]:
    """Each call's name and arguments, and its choice's finish reason, of an answer that has nothing else."""
    if not stream:
        found = []
        for choice in answer.json()["choices"]:
            assert choice["message"]["content"] is None
            for call in choice["message"]["tool_calls"]:
                assert call["id"]
                function = call["function"]
                found.append((function["name"], function["arguments"], choice["finish_reason"]))
        return found
    parts = chunks(answer)
    assert text_of(parts) == ""
    calls: dict[int, list[str]] = {}
    finishes = {}
    for choice in (choice for part in parts for choice in part["choices"]):
        for delta in choice["delta"].get("tool_calls", ()):
            assert delta["index"] == 0
            if choice["index"] not in calls:
                assert delta["id"]
                assert delta["type"] == "function"
                calls[choice["index"]] = [delta["function"]["name"], ""]
            else:
                assert set(delta) == {"index", "function"}
                assert set(delta["function"]) == {"arguments"}
            calls[choice["index"]][1] += delta["function"]["arguments"]
        if choice["finish_reason"]:
            finishes[choice["index"]] = choice["finish_reason"]
    return [(name, arguments, finishes[index]) for index, (name, arguments) in sorted(calls.items())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_tool_is_called(service: Service, kind: ProviderKind, stream: bool) -> None:
    service.fake(kind).script(saying(TEXT))
    answer = await service.chat(
        model_of(kind, "plain"), tools=[WEATHER, TIME], tool_choice=NAMED, parallel_tool_calls=False, stream=stream
    )
    assert calls_of(answer, stream=stream) == [("get_weather", ARGUMENTS, "tool_calls")]
    assert schema_sent(service, kind) == one_call("get_weather", WEATHER["function"]["parameters"])  # type: ignore[index]
    assert service.sent(kind).json["tools"] == [WEATHER, TIME], "the model sees what the tools are for"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_of_the_models_choice_is_called(service: Service, kind: ProviderKind, stream: bool) -> None:
    service.fake(kind).script(saying('{"name":"get_time","arguments":{}}', 5))
    answer = await service.chat(
        model_of(kind, "plain"), tools=[WEATHER, TIME], tool_choice="required", stream=stream, stop=["\n"],
        response_format={"type": "json_object"},
    )  # fmt: skip
    assert calls_of(answer, stream=stream) == [("get_time", "{}", "tool_calls")]
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert schema_sent(service, kind) == {
        "anyOf": [one_call("get_weather", WEATHER["function"]["parameters"]), one_call("get_time", nothing)]  # type: ignore[index]
    }
    sent = service.sent(kind).json
    assert "stop" not in sent
    assert "stop" not in sent.get("options", {})


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("stream", [False, True])
async def test_pieces_may_be_of_any_size(service: Service, size: int, stream: bool) -> None:
    text = ' {\n"name" : "get_weather" ,\n"arguments" :\t' + ARGUMENTS + "\n}"
    service.fake(ProviderKind.OLLAMA).script(saying(text, size))
    answer = await service.chat("ollama/plain", tools=[WEATHER], tool_choice="required", stream=stream)
    assert calls_of(answer, stream=stream) == [("get_weather", ARGUMENTS, "tool_calls")]


async def test_references_in_parameters_stay_true(service: Service) -> None:
    parameters = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/num"}, "self": {"$ref": "#"}, "$ref": {"const": {"$ref": "#/x"}}},
        "$defs": {"num": {"type": "integer"}},
    }
    tools = [WEATHER, {"type": "function", "function": {"name": "g", "parameters": parameters}}]
    service.fake(ProviderKind.LLAMA_CPP).script(saying('{"name":"g","arguments":{}}'))
    await service.chat("llama.cpp/plain", tools=tools, tool_choice="required")
    schema = schema_sent(service, ProviderKind.LLAMA_CPP)
    assert schema["anyOf"][1] == one_call("g", {"$ref": "#/$defs/call0"})
    assert schema["$defs"] == {
        "call0": {
            "type": "object",
            "properties": {
                "n": {"$ref": "#/$defs/call0/$defs/num"},
                "self": {"$ref": "#/$defs/call0"},
                "$ref": {"const": {"$ref": "#/x"}},
            },
            "$defs": {"num": {"type": "integer"}},
        }
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_cut_ends_with_length(service: Service, kind: ProviderKind, stream: bool) -> None:
    service.fake(kind).script(saying('{"name":"get_weather","arguments":{"city":"Málaga"}}', 10))
    answer = await service.chat(
        model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED, stream=stream, max_tokens=4
    )
    assert calls_of(answer, stream=stream) == [("get_weather", '{"city', "length")]
    # Not even the name was there.
    service.fake(kind).script(saying('{"name":"get_weather","arguments":{"city":"Málaga"}}', 10))
    answer = await service.chat(
        model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED, stream=stream, max_tokens=1
    )
    if stream:
        assert chunks(answer)[-1]["choices"][0]["finish_reason"] == "length"
    else:
        choice = answer.json()["choices"][0]
        assert (choice["message"].get("tool_calls"), choice["finish_reason"]) == (None, "length")
        assert answer.json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["field", "tags"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_may_think_before_its_call(
    service: Service, kind: ProviderKind, style: Any, stream: bool
) -> None:
    service.fake(kind).script(saying(TEXT, reasoning_tokens=3, reasoning_style=style))
    answer = await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED, stream=stream)
    assert calls_of(answer, stream=stream) == [("get_weather", ARGUMENTS, "tool_calls")]
    thought = (
        text_of(chunks(answer), "reasoning_content")
        if stream
        else answer.json()["choices"][0]["message"]["reasoning_content"]
    )
    assert thought == "think " * 3


@pytest.mark.parametrize("stream", [False, True])
async def test_each_choice_has_its_call(service: Service, stream: bool) -> None:
    service.fake(ProviderKind.LLAMA_CPP).script(saying(TEXT))
    answer = await service.chat("llama.cpp/plain", tools=[WEATHER], tool_choice=NAMED, stream=stream, n=2)
    assert calls_of(answer, stream=stream) == [("get_weather", ARGUMENTS, "tool_calls")] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_engine_makes_by_itself_is_one_too(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    service.fake(kind).script(Behaviour(calls=(Call(name="get_weather", arguments='{"city":"a"}'),)))
    answer = await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED, stream=stream)
    [(name, arguments, finish)] = calls_of(answer, stream=stream)
    assert (name, json.loads(arguments), finish) == ("get_weather", {"city": "a"}, "tool_calls")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        '{"name":"\\q","arguments":{}}',
        '{"name":"\\ud800","arguments":{}}',
        "Sure!",
        '{"name":"other","arguments":{}}',
        '{"name":"get_weather"}',
        "{}",
        "[]",
    ],
)
async def test_no_call_is_no_answer(service: Service, kind: ProviderKind, text: str) -> None:
    service.fake(kind).script(saying(text))
    answer = await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "blank", [" ", "\n", "<think>a</think>\n", TEXT], ids=["blanks", "newlines", "after a thought", "after it"]
)
async def test_A16_an_engine_that_writes_blanks_for_ever_is_stopped(
    service: Service, kind: ProviderKind, stream: bool, blank: str
) -> None:
    """However many tokens were asked for: nothing of them is handed on that could be counted."""
    behaviour = Behaviour(
        tokens=20_000, pieces=(*([blank] if blank == TEXT else blank), *[blank[-1]] * 20_000), burst=True
    )
    service.fake(kind).script(behaviour)
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "stream": stream}
    answer = await service.chat(model_of(kind, "plain"), **fields)
    assert answer.status == 502 or stream
    assert b"did not make the call" in answer.body
    assert (b'"get_weather"' in answer.body) is (stream and blank == TEXT)
    assert (await service.row(answer)).cost_nano == 0


async def test_A17_tools_that_are_nested_too_deeply_are_the_callers_mistake(service: Service) -> None:
    for levels, statuses in ((100, {200, 502}), (490, {400}), (700, {400})):
        parameters: dict[str, Any] = {"$ref": "#"}
        for _ in range(levels):
            parameters = {"a": parameters}
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
        for choice in ("required", NAMED):
            fields: dict[str, Any] = {"tools": [tool], "tool_choice": choice}
            answer = await service.chat(model_of(ProviderKind.LLAMA_CPP, "plain"), **fields)
            assert answer.status in statuses, levels
            if answer.status == 400:
                assert (error_of(answer)["param"] or "tools") == "tools"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_object_in_another_order_is_the_same_call(service: Service, kind: ProviderKind) -> None:
    service.fake(kind).script(saying('{"arguments":{"city":"a"},"name":"get_weather"}'))
    answer = await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED)
    assert calls_of(answer, stream=False) == [("get_weather", '{"city":"a"}', "tool_calls")]


@pytest.mark.parametrize("kind", KINDS)
async def test_log_probabilities_of_a_demanded_call_are_refused(service: Service, kind: ProviderKind) -> None:
    answer = await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=NAMED, logprobs=True)
    assert (answer.status, error_of(answer)["param"]) == (400, "logprobs")
    assert not service.fake(kind).requests


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.VLLM])
async def test_engines_that_make_the_call_are_told_so(service: Service, kind: ProviderKind) -> None:
    for choice in ("required", NAMED):
        await service.chat(model_of(kind, "plain"), tools=[WEATHER], tool_choice=choice)
        sent = service.sent(kind).json
        assert (sent["tools"], sent["tool_choice"]) == ([WEATHER], choice)
        assert "response_format" not in sent


@pytest.mark.parametrize("model", ["plain", "vllm/plain", "llama.cpp/plain", "ollama/plain"])
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": NAMED, "tools": []}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"tools": [WEATHER, TIME, WEATHER]}, "tools[2].function.name"),
    ],
)
async def test_tools_and_the_choice_among_them_must_fit(
    service: Service, model: str, options: dict[str, Any], param: str
) -> None:
    answer = await service.post(CHAT, {"model": model, "messages": [{"role": "user", "content": "hi"}], **options})
    assert (answer.status, error_of(answer)["param"]) == (400, param)


@pytest.mark.parametrize("name", ["a b", "a.b", "é", 'a"', "a\n", "a/b", "", "x" * 257])
async def test_names_of_functions_are_plain(service: Service, name: str) -> None:
    answer = await service.chat("plain", tools=[{"type": "function", "function": {"name": name}}])
    assert (answer.status, error_of(answer)["param"]) == (400, "tools[0].function.name")
