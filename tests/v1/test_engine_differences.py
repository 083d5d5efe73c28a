"""What not every engine can do: a request goes to one that can, or is refused with `param`; nothing is dropped in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour, Call
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, KINDS, Service, chunks, error_of, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENAI, VLLM, LLAMA_CPP, OLLAMA = KINDS
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
DATA_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SVG = {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg/%3E"}}


def broken_call() -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "cut o'}}
    return [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "4"}]


# Each parameter, with a value that means something, and the kinds of engines that can't do it.
CHAT_OPTIONS: list[tuple[dict[str, Any], tuple[ProviderKind, ...], str]] = [
    ({"max_tokens": 5}, (), ""),
    ({"max_completion_tokens": 5}, (), ""),
    ({"temperature": 0.5}, (), ""),
    ({"top_p": 0.5}, (), ""),
    ({"n": 2}, (OLLAMA,), "n"),
    ({"stop": ["x"]}, (), ""),
    ({"seed": 1}, (), ""),
    ({"presence_penalty": 1}, (), ""),
    ({"frequency_penalty": 1}, (), ""),
    ({"logit_bias": {"5": 1}}, (OLLAMA,), "logit_bias"),
    ({"logprobs": True}, (), ""),
    ({"logprobs": True, "top_logprobs": 2}, (), ""),
    ({"logprobs": True, "tools": [TOOL]}, (LLAMA_CPP,), "logprobs"),
    ({"logprobs": True, "tools": [TOOL], "tool_choice": "required"}, (LLAMA_CPP, OLLAMA), "logprobs"),
    ({"tools": [TOOL]}, (), ""),
    ({"tools": [TOOL], "tool_choice": "none"}, (), ""),
    ({"tools": [TOOL], "parallel_tool_calls": False}, (), ""),
    ({"response_format": {"type": "json_object"}}, (), ""),
    ({"reasoning_effort": "low"}, (), ""),
    ({"user": "me"}, (), ""),
    ({"messages": broken_call()}, (VLLM, LLAMA_CPP, OLLAMA), "messages[1].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "user", "content": [DATA_IMAGE]}]}, (), ""),
    ({"messages": [{"role": "user", "content": [SVG]}]}, (OLLAMA,), "messages[0].content[0]"),
]
COMPLETION_OPTIONS: list[tuple[dict[str, Any], tuple[ProviderKind, ...], str]] = [
    ({"prompt": ["a", "b"]}, (), ""),
    ({"prompt": [1, 2]}, (OLLAMA,), "prompt"),
    ({"prompt": [[1, 2], [3]]}, (OLLAMA,), "prompt"),
    ({"max_tokens": 5}, (), ""),
    ({"temperature": 0.5}, (), ""),
    ({"top_p": 0.5}, (), ""),
    ({"n": 2}, (OLLAMA,), "n"),
    ({"best_of": 2}, (VLLM, LLAMA_CPP, OLLAMA), "best_of"),
    ({"stop": "x"}, (), ""),
    ({"seed": 1}, (), ""),
    ({"presence_penalty": 1}, (), ""),
    ({"frequency_penalty": 1}, (), ""),
    ({"logit_bias": {"5": 1}}, (OLLAMA,), "logit_bias"),
    ({"logprobs": 2}, (), ""),
    ({"echo": True}, (LLAMA_CPP, OLLAMA), "echo"),
    ({"suffix": "x"}, (VLLM, LLAMA_CPP), "suffix"),
    ({"user": "me"}, (), ""),
]
EMBEDDING_OPTIONS: list[tuple[dict[str, Any], tuple[ProviderKind, ...], str]] = [
    ({"input": ["a", "b"]}, (), ""),
    ({"input": [1, 2]}, (OLLAMA,), "input"),
    ({"input": [[1, 2]]}, (OLLAMA,), "input"),
    ({"encoding_format": "base64"}, (), ""),
    ({"dimensions": 8}, (LLAMA_CPP,), "dimensions"),
    ({"user": "me"}, (), ""),
]
TABLE = [
    *((CHAT, "plain", {"messages": [USER]}, *row) for row in CHAT_OPTIONS),
    *((COMPLETIONS, "plain", {"prompt": "hi"}, *row) for row in COMPLETION_OPTIONS),
    *((EMBEDDINGS, "embed", {"input": "hi"}, *row) for row in EMBEDDING_OPTIONS),
]


def _name(row: Any) -> str:
    return f"{row[0]} {row[3]}"[:60]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", TABLE, ids=_name)
async def test_each_option_works_or_is_refused(service: Service, kind: ProviderKind, row: Any) -> None:
    path, name, base, options, unable, param = row
    answer = await service.post(path, {"model": model_of(kind, name), **base, **options})
    if kind in unable:
        assert (answer.status, error_of(answer)["param"]) == (400, param)
        assert not service.fake(kind).requests
    else:
        assert answer.status == 200, answer.body


@pytest.mark.parametrize("row", [row for row in TABLE if OLLAMA in row[4] and OPENAI not in row[4]], ids=_name)
async def test_of_two_kinds_of_engines_the_one_that_can_is_asked(service: Service, row: Any) -> None:
    path, name, base, options, _, _ = row
    for _ in range(3):
        model = "both" if name == "plain" else "both-embed"
        answer = await service.post(path, {"model": model, **base, **options})
        assert answer.status == 200, answer.body
    assert not service.fake(OLLAMA).requests
    assert len(service.fake(OPENAI).requests) == 3


async def test_what_both_can_do_goes_to_both(service: Service) -> None:
    for _ in range(4):
        assert (await service.chat("both")).status == 200
    assert len(service.fake(OLLAMA).requests) == len(service.fake(OPENAI).requests) == 2


EMPTY: dict[str, Any] = {
    "stop": [],
    "logit_bias": {},
    "tools": [],
    "metadata": {},
    "response_format": None,
    "user": "",
    "reasoning_effort": "",
    "stream_options": {},
    "top_logprobs": 0,
    "n": 1,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["", [], [""], None])
async def test_empty_options_are_no_wishes(service: Service, kind: ProviderKind, stop: Any) -> None:
    model = model_of(kind, "plain")
    assert (await service.chat(model, "hi", n=1)).status == 200
    plain = service.sent(kind).json
    answer = await service.chat(model, "hi", **{**EMPTY, "stop": stop})
    assert answer.status == 200, answer.body
    assert service.sent(kind).json == plain
    assert (await service.row(answer)).end_user is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["", [], [""], None])
async def test_empty_options_of_completions_are_no_wishes(service: Service, kind: ProviderKind, stop: Any) -> None:
    model = model_of(kind, "plain")
    assert (await service.complete("hi", model, n=1)).status == 200
    plain = service.sent(kind).json
    answer = await service.complete(
        "hi", model, stop=stop, logit_bias={}, suffix="", user="", best_of=1, n=1, stream_options={}
    )
    assert answer.status == 200, answer.body
    assert service.sent(kind).json == plain


async def test_empty_stop_texts_among_others_are_left_out(service: Service) -> None:
    await service.chat("ollama/plain", stop=["", "x"])
    assert service.sent(OLLAMA).json["options"]["stop"] == ["x"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", ["", " ", "{}"])
async def test_a_call_without_arguments_is_taken_back(service: Service, kind: ProviderKind, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
    ]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages, "tools": [TOOL]})
    assert answer.status == 200, answer.body
    sent = service.sent(kind).json["messages"][1]["tool_calls"][0]["function"]
    assert sent == {"name": "f", "arguments": {} if kind is OLLAMA else "{}"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", ["plain", "fake-reasoning", "fake-think", "fake-tools"])
async def test_what_is_answered_is_taken_back(service: Service, kind: ProviderKind, behaviour: str) -> None:
    said = (await service.chat(model_of(kind, behaviour), tools=[TOOL])).json()["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "4"} for call in said.get("tool_calls", ())]
    turns = [USER, said, *results, USER]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": turns})
    assert answer.status == 200, answer.body
    back = service.sent(kind).json["messages"][1]
    assert "refusal" not in back
    if "reasoning_content" in said:
        assert back["thinking" if kind is OLLAMA else "reasoning_content"] == said["reasoning_content"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ({"content": None, "refusal": "I will not"}, "I will not"),
        ({"refusal": "I will not"}, "I will not"),
        ({"content": "Well.", "refusal": "I will not"}, "Well.\nI will not"),
        ({"content": [{"type": "refusal", "refusal": "I will not"}]}, "I will not"),
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({"content": "a", "tool_calls": [], "function_call": None, "refusal": None}, "a"),
    ],
)
async def test_turns_of_the_assistant_are_taken_in_every_form(
    service: Service, kind: ProviderKind, turn: dict[str, Any], text: str
) -> None:
    messages = [USER, {"role": "assistant", **turn}, USER]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert answer.status == 200, answer.body
    sent = service.sent(kind).json["messages"][1]
    parts = sent["content"]
    assert (parts if isinstance(parts, str) else "".join(part["text"] for part in parts)) == text
    assert set(sent) == {"role", "content"}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_history_of_an_older_program_is_understood(service: Service, kind: ProviderKind) -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": "42"},
    ]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert answer.status == 200, answer.body
    _, call, result = service.sent(kind).json["messages"]
    assert (call["tool_calls"][0]["function"]["name"], result["role"], result["content"]) == ("f", "tool", "42")
    if kind is not OLLAMA:
        assert call["tool_calls"][0]["id"] == result["tool_call_id"]


@pytest.mark.parametrize("kind", KINDS)
async def test_reasoning_has_two_names(service: Service, kind: ProviderKind) -> None:
    turn = {"role": "assistant", "content": "a", "reasoning": "because"}
    await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": [USER, turn, USER]})
    sent = service.sent(kind).json["messages"][1]
    assert sent["thinking" if kind is OLLAMA else "reasoning_content"] == "because"
    for odd in ({"text": "x"}, ["x"], 5, None):
        turn = {"role": "assistant", "content": "a", "reasoning": odd}  # type: ignore[dict-item]
        answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": [USER, turn, USER]})
        assert answer.status == 200, answer.body
        assert set(service.sent(kind).json["messages"][1]) == {"role", "content"}


FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_functions_are_tools_and_their_calls_come_in_the_older_form(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    call = Behaviour(calls=(Call(name="get_weather", arguments='{"a": 1}'), Call(name="second")))
    service.fake(kind).script(call)
    answer = await service.chat(model_of(kind, "plain"), functions=[FUNCTION], function_call="auto", stream=stream)
    assert answer.status == 200, answer.body
    sent = service.sent(kind).json
    assert sent["tools"] == [{"type": "function", "function": FUNCTION}]
    assert "functions" not in sent
    if stream:
        choices = [choice for part in chunks(answer) for choice in part["choices"]]
        calls = [choice["delta"]["function_call"] for choice in choices if "function_call" in choice["delta"]]
        said = {"name": calls[0]["name"], "arguments": "".join(call["arguments"] for call in calls)}
        assert all("name" not in call for call in calls[1:])
        assert not any("tool_calls" in choice["delta"] for choice in choices)
        finish = choices[-1]["finish_reason"]
    else:
        [choice] = answer.json()["choices"]
        said, finish = choice["message"]["function_call"], choice["finish_reason"]
        assert "tool_calls" not in choice["message"]
    assert (said["name"], json.loads(said["arguments"]), finish) == ("get_weather", {"a": 1}, "function_call")


@pytest.mark.parametrize("kind", [OPENAI, VLLM])
async def test_a_demanded_function_is_a_demanded_tool(service: Service, kind: ProviderKind) -> None:
    await service.chat(model_of(kind, "plain"), functions=[FUNCTION], function_call={"name": "get_weather"})
    assert service.sent(kind).json["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"functions": [FUNCTION], "tools": [TOOL]}, "functions"),
        ({"functions": [FUNCTION], "function_call": {"name": "other"}}, "function_call"),
        ({"function_call": {"name": "other"}}, "function_call"),
        ({"functions": [FUNCTION, FUNCTION]}, "functions[1].name"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, "modalities"),
        ({"audio": {"voice": "a", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
async def test_what_no_engine_here_can_do_is_refused(
    service: Service, kind: ProviderKind, options: dict[str, Any], param: str
) -> None:
    answer = await service.chat(model_of(kind, "plain"), **options)
    assert (answer.status, error_of(answer)["param"]) == (400, param)
    assert not service.fake(kind).requests


@pytest.mark.parametrize("kind", KINDS)
async def test_hints_go_to_engines_that_know_them(service: Service, kind: ProviderKind) -> None:
    hints: dict[str, Any] = {"verbosity": "low", "prediction": {"type": "content", "content": "a"}}
    harmless: dict[str, Any] = {"modalities": ["text"], "store": True, "service_tier": "auto", "safety_identifier": "x"}
    empty: dict[str, Any] = {"functions": [], "function_call": "auto", "modalities": [], "audio": None}
    answer = await service.chat(model_of(kind, "plain"), **hints, **{**harmless, **empty})
    assert answer.status == 200, answer.body
    sent = service.sent(kind).json
    assert {name: value for name, value in sent.items() if name in hints} == (hints if kind is OPENAI else {})
    assert not set(sent) & {*harmless, *empty}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_without_arguments_has_an_empty_object_in_a_stream_too(
    service: Service, kind: ProviderKind
) -> None:
    service.fake(kind).script(
        Behaviour(calls=(Call(name="f", arguments=""),) if kind is not OLLAMA else (Call(name="f"),))
    )
    parts = chunks(await service.chat(model_of(kind, "plain"), tools=[TOOL], stream=True))
    deltas = [call for part in parts for choice in part["choices"] for call in choice["delta"].get("tool_calls", ())]
    assert "".join(delta["function"]["arguments"] for delta in deltas) == "{}"


PARTS: list[tuple[str, dict[str, Any], set[ProviderKind]]] = [
    ("input_audio", {"input_audio": {"data": "AAAA", "format": "wav"}}, {OPENAI, VLLM, LLAMA_CPP}),
    ("file", {"file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}, {OPENAI, VLLM}),
    ("video_url", {"video_url": {"url": "data:video/mp4;base64,AAAA"}}, {OPENAI, VLLM}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(PARTS)))
async def test_parts_go_to_engines_that_take_them(service: Service, kind: ProviderKind, number: int) -> None:
    type_, content, able = PARTS[number]
    part = {"type": type_, **content}
    turn = {"role": "user", "content": [{"type": "text", "text": "what?"}, part]}
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": [USER, turn]})
    assert (answer.status, error_of(answer)["param"]) == (400, "messages[1].content[1]")
    assert "plain" in error_of(answer)["message"], "a model has to declare what it takes"
    answer = await service.post(CHAT, {"model": model_of(kind, "hears-and-sees"), "messages": [USER, turn]})
    if kind in able:
        assert answer.status == 200, answer.body
        assert service.sent(kind).json["messages"][1]["content"][1] == part
    else:
        assert (answer.status, error_of(answer)["param"]) == (400, "messages[1].content[1]")


async def test_files_and_films_have_their_content_with_them(service: Service) -> None:
    for part in (
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "http://10.0.0.1/a.mp4"}},
    ):
        answer = await service.post(
            CHAT, {"model": "hears-and-sees", "messages": [{"role": "user", "content": [part]}]}
        )
        assert answer.status == 400
        assert str(error_of(answer)["param"]).startswith("messages[0].content")


async def test_a_schema_beside_json_object_is_refused_and_not_dropped(service: Service) -> None:
    wanted = {"type": "json_object", "schema": {"type": "object"}}
    body = {"model": model_of(KINDS[0], "plain"), "messages": [USER], "response_format": wanted}
    answer = await service.post(CHAT, body)
    assert answer.status == 400
    assert b"json_schema" in answer.body
    plain = await service.post(CHAT, {**body, "response_format": {"type": "json_object"}})
    assert plain.status == 200
