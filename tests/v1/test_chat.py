"""Chat answers that are not streamed: their exact shape, their headers, their row in the ledger."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour, Call
from tests.service import CHAT, KINDS, Service, error_of, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

USER = {"role": "user", "content": "one two three"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


async def test_an_answer_has_exactly_the_documented_shape(service: Service) -> None:
    before_s = int(time.time())
    answer = await service.chat()
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    body = answer.json()
    id_, created = body.pop("id"), body.pop("created")
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", id_)
    assert before_s <= created <= time.time()
    assert body == {
        "object": "chat.completion",
        "model": "plain",
        "backend": {"engine_type": "openai", "machine_name": "ma01"},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello " * 5, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "reasoning_tokens": 0,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_id_and_backend_are_headers_too_and_the_id_is_the_rows_key(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    answer = await service.chat(model_of(kind, "plain"), stream=stream)
    id_ = answer.header("id")
    assert id_ is not None
    backend = msgspec.json.decode(answer.header("backend") or "")
    assert set(backend) == {"engine_type", "machine_name"}
    assert backend["engine_type"] == str(kind)
    if stream:
        assert all(msgspec.json.decode(e)["id"] == id_ for e in answer.events()[:-1])
    else:
        assert (answer.json()["id"], answer.json()["backend"]) == (id_, backend)
    row = await service.row(answer)
    assert (row.model_id, row.outcome, row.streamed) == (model_of(kind, "plain"), "completed", stream)
    assert (row.engine_type, row.machine_name) == (str(kind), backend["machine_name"])
    assert (row.input_tokens, row.output_tokens) == (3, 5)


async def test_ids_grow_with_time(service: Service) -> None:
    ids = [(await service.chat()).json()["id"] for _ in range(5)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
@pytest.mark.parametrize("stream", [False, True])
async def test_cached_and_reasoning_tokens_are_classes_of_their_own(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    model = model_of(kind, "plain")
    service.fake(kind).script(Behaviour(prompt_tokens=100, cached_tokens=64, reasoning_tokens=3), model="plain")
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await service.chat(model, **options)
    usage = msgspec.json.decode(answer.events()[-2])["usage"] if stream else answer.json()["usage"]
    assert usage == {
        "prompt_tokens": 100,
        "completion_tokens": 8,
        "reasoning_tokens": 3,
        "total_tokens": 108,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    row = await service.row(answer)
    assert (row.input_tokens, row.cached_input_tokens, row.output_tokens, row.reasoning_tokens) == (36, 64, 5, 3)
    assert (row.usage_source, row.usage_suspect) == ("engine", False)


@pytest.mark.parametrize("name", ["granite3.3:8b", "GRANITE3.3:8B", "granite", "Granite", "granite-latest"])
async def test_names_and_aliases_resolve_in_any_case(service: Service, name: str) -> None:
    answer = await service.chat(name)
    assert answer.json()["model"] == "granite3.3:8b"
    assert service.sent(ProviderKind.VLLM).json["model"] == "ibm-granite/granite-3.3-8b-instruct"
    row = await service.row(answer)
    assert (row.model_id, row.requested_model) == ("granite3.3:8b", name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["fake-think", "fake-reasoning"])
async def test_reasoning_is_a_field_of_its_own(service: Service, kind: ProviderKind, name: str) -> None:
    body = (await service.chat(model_of(kind, name))).json()
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "think think think "
    assert message["content"] == "hello " * 5
    assert body["usage"]["reasoning_tokens"] == 3


async def test_think_tags_stay_where_the_model_is_not_known_to_write_them(service: Service) -> None:
    service.fake().script(Behaviour(reasoning_tokens=1, reasoning_style="tags", tokens=1))
    message = (await service.chat("plain")).json()["choices"][0]["message"]
    assert message["content"] == "<think>think </think>hello "
    assert "reasoning_content" not in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["fake-tools", "fake-tools-no-index", "fake-tools-repeated", "fake-tools-object", "fake-tools-late-name"],
)
async def test_tool_calls_carry_their_arguments_as_a_string(service: Service, kind: ProviderKind, name: str) -> None:
    choice = (await service.chat(model_of(kind, name), tools=[TOOL])).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    calls = message["tool_calls"]
    assert [set(call) for call in calls] == [{"id", "type", "function"}] * 2
    assert [(c["type"], c["function"]["name"]) for c in calls] == [
        ("function", "get_weather"),
        ("function", "get_time"),
    ]
    assert len({call["id"] for call in calls}) == 2
    arguments = [msgspec.json.decode(call["function"]["arguments"]) for call in calls]
    assert arguments == [{"city": "Málaga"}, {"zone": "Europe/Madrid"}]


async def test_a_call_without_arguments_has_an_empty_object(service: Service) -> None:
    service.fake().script(Behaviour(calls=(Call(name="now", arguments=""),)))
    call = (await service.chat(tools=[TOOL])).json()["choices"][0]["message"]["tool_calls"][0]
    assert call["function"] == {"name": "now", "arguments": "{}"}


async def test_several_choices_are_ordered(service: Service) -> None:
    body = (await service.chat(n=3, max_tokens=2)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        *[(reason, "stop") for reason in ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "STOP", "COMPLETE")],
        *[(reason, "length") for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length")],
        *[(reason, "content_filter") for reason in ("content_filter", "content_filtered", "SAFETY", "refusal")],
    ],
)
async def test_finish_reasons_are_only_known_ones(service: Service, reason: str, told: str) -> None:
    service.fake().script(Behaviour(finish_reason=reason))
    assert (await service.chat()).json()["choices"][0]["finish_reason"] == told


async def test_logprobs_are_in_chats_form(service: Service) -> None:
    answer = await service.chat(max_tokens=2, logprobs=True, top_logprobs=1)
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert [entry["token"] for entry in logprobs["content"]] == ["hello ", "hello "]
    assert {len(entry["top_logprobs"]) for entry in logprobs["content"]} == {1}


async def test_routing_is_told_only_to_those_who_ask(service: Service) -> None:
    body = {"model": "plain", "messages": [USER]}
    assert "routing" not in (await service.post(CHAT, body)).json()
    explained = (await service.post(CHAT, body, headers={"x-llmaas-explain": "1"})).json()["routing"]
    assert set(explained) == {"reason", "attempts", "queue_ms"}
    assert (explained["reason"], explained["attempts"]) == ("only", 1)
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = await service.post(CHAT, streamed, headers={"x-llmaas-explain": "1"})
    assert msgspec.json.decode(answer.events()[-2])["routing"]["attempts"] == 1


async def test_an_empty_answer_is_an_answer(service: Service) -> None:
    service.fake().script(Behaviour(tokens=0))
    body = (await service.chat()).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_a_model_without_a_backend_is_503(service: Service) -> None:
    answer = await service.chat("nowhere")
    assert answer.status == 503
    assert error_of(answer)["code"] == "no_backend"
    assert int(answer.header("retry-after") or "") >= 1
