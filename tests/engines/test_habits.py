"""Members that we add and a server does not take are its business and ours, never the caller's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llmaas.domain.limits import Limits
from llmaas.domain.models import ProviderKind
from llmaas.engines.habits import OWN_BOUND, REMEMBERED_S, Habits
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import CHAT, chunks, error_of, text_of

PLACE, OTHER = ("b", "m"), ("b", "n")
OPTIONS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


class Time:
    now_s = 0.0


@pytest.mark.parametrize(
    ("said", "asked", "sent"),
    [
        ("Unrecognized request argument supplied: stream_options", OPTIONS, {}),
        ('[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]', OPTIONS, {}),
        ("unknown field continuous_usage_stats", OPTIONS, {"stream_options": {"include_usage": True}}),
        ("unexpected keyword argument 'timings_per_token'", {"timings_per_token": True, "a": 1}, {"a": 1}),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            {"max_tokens": 5},
            {"max_completion_tokens": 5},
        ),
        (
            "Unrecognized request argument supplied: max_completion_tokens",
            {"max_completion_tokens": 5},
            {"max_tokens": 5},
        ),
    ],
)
def test_a_member_that_a_server_does_not_know_is_sent_otherwise(said: str, asked: Any, sent: Any) -> None:
    habits, request = Habits(lambda: Time.now_s), json.dumps(asked).encode()
    assert not habits.known
    found = habits.other_form(400, said.encode(), request)
    assert found is not None
    assert json.loads(found.body) == sent
    assert not habits.known, "nothing is learnt before the other form was accepted"
    habits.learn(PLACE, [found.member])
    assert json.loads(habits.adapted(PLACE, request)) == sent, "it is remembered"
    assert habits.adapted(OTHER, request) == request, "for this place alone"


@pytest.mark.parametrize(
    ("status", "said", "asked"),
    [
        (400, "max_tokens is too large: 100000", {"max_tokens": 100_000}),
        (400, "temperature is not supported", OPTIONS),
        (400, "unknown parameter stream_options", {"a": 1}),
        (500, "unknown parameter stream_options", OPTIONS),
        (429, "stream_options is not supported", OPTIONS),
        (400, "Unknown type stream_options", {**OPTIONS, "schema": {"type": "stream_options"}}),
        (400, "unknown tool STREAM_OPTIONS", {**OPTIONS, "tools": [{"name": "Stream_Options"}]}),
        (400, "Invalid parameter: max_tokens must be in [1, 8192]", {"max_tokens": 9000}),
        (400, "invalid argument max_tokens: 9000 is not allowed, the valid range is [1, 8192]", {"max_tokens": 9000}),
    ],
)
def test_other_refusals_teach_nothing(status: int, said: str, asked: Any) -> None:
    habits = Habits(lambda: Time.now_s)
    assert habits.other_form(status, said.encode(), json.dumps(asked).encode()) is None
    assert not habits.known


TOO_MUCH = [
    (
        "max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you provided 16384.",
        4097,
    ),
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8193),
    ("max_tokens: 16384 > 8,192, which is the maximum allowed number of output tokens for this model", 8193),
    (
        (
            "This model's maximum context length is 8192 tokens. However, you requested 16400 tokens (16 in the messages, "
            "16384 in the completion). Please reduce the length of the messages or completion."
        ),
        8192,
    ),
    (
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 16384. This model's maximum context length is 8192 tokens "
            "and your request has 16 input tokens (16384 > 8192 - 16)."
        ),
        8192,
    ),
    (
        (
            "This model's maximum context length is 32768 tokens. However, you requested 36384 tokens (20000 in the "
            "messages, 16384 in the completion)."
        ),
        None,
    ),
    ("max_new_tokens is too high", None),
]
"""What servers say of a bound of 16,384, and the first one that they never take."""


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("said", "too_much"), TOO_MUCH)
def test_R19_a_bound_that_is_ours_and_too_large_is_left_out(said: str, too_much: int | None, name: str) -> None:
    habits, request = Habits(lambda: Time.now_s), json.dumps({"a": 1, name: 16_384}).encode()
    assert habits.other_form(400, said.encode(), request) is None, "a caller's own"
    found = habits.other_form(400, said.encode(), request, own_bound=True)
    assert found is not None
    assert (json.loads(found.body), found.member, found.too_much) == ({"a": 1}, OWN_BOUND, too_much)
    assert habits.other_form(400, said.encode(), found.body, own_bound=True) is None
    if too_much is None:
        return
    habits.learn(PLACE, [], too_much)
    for bound, kept in ((too_much, False), (too_much - 1, True)):
        asked = json.dumps({"a": 1, name: bound}).encode()
        assert (json.loads(habits.adapted(PLACE, asked, own_bound=True)).get(name) == bound) is kept
        assert json.loads(habits.adapted(PLACE, asked)) == {"a": 1, name: bound}, "a caller's own"
    assert habits.adapted(OTHER, request, own_bound=True) == request
    habits.learn(PLACE, [], too_much + 1)
    habits.learn(PLACE, ["stream_options"])
    assert json.loads(habits.adapted(PLACE, request, own_bound=True)) == {"a": 1}, "the smaller one holds"


@pytest.mark.parametrize(
    "said", ["temperature must be at most 2", "Invalid value for tools[0].name", "Input flagged by moderation"]
)
def test_refusals_of_something_else_leave_the_bound(said: str) -> None:
    habits = Habits(lambda: Time.now_s)
    assert habits.other_form(400, said.encode(), b'{"max_tokens":16384}', own_bound=True) is None


def test_a_habit_is_forgotten_after_a_while() -> None:
    time = Time()
    habits, request = Habits(lambda: time.now_s), b'{"max_tokens":5}'
    habits.learn(PLACE, ["max_tokens"])
    assert json.loads(habits.adapted(PLACE, request)) == {"max_completion_tokens": 5}
    time.now_s = REMEMBERED_S + 1
    assert habits.adapted(PLACE, request) == request


def test_of_two_names_for_one_thing_the_later_one_holds() -> None:
    habits = Habits(lambda: Time.now_s)
    habits.learn(PLACE, ["max_tokens"])
    habits.learn(PLACE, ["max_completion_tokens"])
    assert habits.members(PLACE) == ("max_completion_tokens",)


@asynccontextmanager
async def one_server(
    folder: Path, kind: ProviderKind, **model: Any
) -> AsyncIterator[tuple[GatewayProcess, FakeUpstream]]:
    """A gateway of its own, since it remembers."""
    async with FakeUpstream(flavour="vllm" if kind is ProviderKind.VLLM else "openai") as up:
        gateway = GatewayProcess(folder)
        await gateway.apply(fleet_of(up.base_url, ["m"], kind=kind, **model))
        await gateway.start()
        try:
            yield gateway, up
        finally:
            await gateway.close()


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        (ProviderKind.OPENAI, "stream_options"),
        (ProviderKind.VLLM, "continuous_usage_stats"),
        (ProviderKind.LLAMA_CPP, "timings_per_token"),
    ],
)
async def test_callers_do_not_hear_of_what_they_did_not_send(tmp_path: Path, kind: ProviderKind, member: str) -> None:
    async with one_server(tmp_path, kind) as (gateway, up):
        up.script(Behaviour(status=400, body=f'{{"error":"Unrecognized argument supplied: {member}"}}'.encode()))
        answer = await gateway.post(CHAT, body(stream=True))
        assert (answer.status, text_of(chunks(answer))) == (200, "hello " * 5)
        first, second = up.requests
        assert member in first.body.decode()
        (told,) = [line for line in gateway.log.splitlines() if "engine_takes_another_form" in line]
        assert member in told
        assert member not in second.body.decode()
        (row,) = await gateway.rows()
        assert (row.outcome, row.output_tokens) == ("completed", 5)
        assert (await gateway.post(CHAT, body(stream=True))).status == 200
        assert len(up.requests) == 3, "it is asked in the right form at once"
        assert member not in up.last.body.decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "too_much"), [TOO_MUCH[0], TOO_MUCH[3], TOO_MUCH[5]])
async def test_R19_no_caller_hears_of_a_bound_that_he_did_not_set(
    tmp_path: Path, said: str, too_much: int | None, stream: bool
) -> None:
    async with one_server(tmp_path, ProviderKind.OPENAI) as (gateway, up):
        installation = await gateway.installation()
        key, _ = await installation.create_key(
            project_id="default", name="limited", limits=Limits(requests_per_minute=600)
        )
        refusal = Behaviour(status=400, body=json.dumps({"error": {"message": said}}).encode())
        up.script(refusal)
        assert (await gateway.post(CHAT, body(stream=stream), key=key)).status == 200
        assert [request.json.get("max_tokens") for request in up.requests] == [16_384, None]
        (row,) = await gateway.rows()
        assert (row.outcome, row.output_tokens, row.attempts) == ("completed", 5, 1)
        if too_much is None:
            up.script(refusal)
        assert (await gateway.post(CHAT, body(stream=stream), key=key)).status == 200
        assert len(up.requests) == (3 if too_much else 4), "what the server told is remembered"
        assert ("engine_takes_another_form" in gateway.log) is (too_much is not None)
        up.always(refusal)
        answer = await gateway.post(CHAT, body(stream=stream, max_tokens=16_384), key=key)
        assert (answer.status, up.last.json["max_tokens"]) == (400, 16_384), "his own is told him"


async def test_a_bound_of_the_operators_is_no_callers_either(tmp_path: Path) -> None:
    said = "This model's maximum context length is 8192 tokens. However, you requested 8200 tokens."
    async with one_server(tmp_path, ProviderKind.VLLM, max_output_tokens=8192) as (gateway, up):
        up.script(Behaviour(status=400, body=json.dumps({"error": {"message": said}}).encode()))
        for _ in range(2):
            assert (await gateway.post(CHAT, body())).status == 200
        assert [request.json.get("max_tokens") for request in up.requests] == [8192, None, None]
        assert (await gateway.post(CHAT, body(max_tokens=4))).status == 200
        assert up.last.json["max_tokens"] == 4


async def test_a_prompt_that_is_too_long_is_told_so_whoever_set_the_bound(tmp_path: Path) -> None:
    said = TOO_MUCH[3][0]
    async with one_server(tmp_path, ProviderKind.OPENAI, max_output_tokens=16_384) as (gateway, up):
        up.always(Behaviour(status=400, body=json.dumps({"error": {"message": said}}).encode()))
        answer = await gateway.post(CHAT, body())
        assert (answer.status, error_of(answer)["code"], len(up.requests)) == (400, "context_length_exceeded", 2)
        up.always(Behaviour())
        assert (await gateway.post(CHAT, body())).status == 200
        assert up.last.json["max_tokens"] == 16_384, "nothing was learnt"


async def test_a_server_may_refuse_all_that_we_add_one_after_the_other(tmp_path: Path) -> None:
    async with one_server(tmp_path, ProviderKind.VLLM, max_output_tokens=8192) as (gateway, up):
        said = [
            *("Unknown argument: continuous_usage_stats", "Unknown argument: stream_options"),
            *("Unsupported parameter: 'max_tokens'", "max_completion_tokens is too large: at most 4096"),
        ]
        up.script(*(Behaviour(status=400, body=json.dumps({"error": {"message": one}}).encode()) for one in said))
        assert (await gateway.post(CHAT, body())).status == 200
        assert up.last.json.keys() == {"model", "messages", "stream"}
        assert (await gateway.post(CHAT, body())).status == 200
        assert len(up.requests) == 6
        assert up.last.json.keys() == {"model", "messages", "stream"}


@pytest.mark.parametrize(
    ("sent", "taken"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
async def test_the_bound_on_an_answer_has_the_name_that_a_server_knows(tmp_path: Path, sent: str, taken: str) -> None:
    said = f"Unsupported parameter: '{sent}' is not supported with this model. Use '{taken}' instead."
    async with one_server(tmp_path, ProviderKind.OPENAI) as (gateway, up):
        up.script(Behaviour(status=400, body=json.dumps({"error": {"message": said}}).encode()))
        for stream in (False, True):
            assert (await gateway.post(CHAT, body(stream=stream, **{sent: 3}))).status == 200
            assert (up.last.json[taken], sent in up.last.json) == (3, False)
        assert len(up.requests) == 3


async def test_a_refusal_of_what_the_caller_sent_is_told_after_one_try(tmp_path: Path) -> None:
    async with one_server(tmp_path, ProviderKind.OPENAI) as (gateway, up):
        up.always(Behaviour(error="bad_parameter"))
        answer = await gateway.post(CHAT, body(stream=True, temperature=0.2))
        assert (answer.status, error_of(answer)["code"], len(up.requests)) == (400, "engine_refused", 1)
        up.always(Behaviour(status=400, body=b'{"error":"unknown member stream_options"}'))
        answer = await gateway.post(CHAT, body(stream=True))
        assert (answer.status, error_of(answer)["code"], len(up.requests)) == (400, "engine_refused", 3)


@pytest.mark.parametrize(
    ("kind", "said", "more", "asked"),
    [
        (
            ProviderKind.LLAMA_CPP,
            "JSON schema conversion failed: Unrecognized schema: stream_options",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "stream_options"}},
                }
            },
            1,
        ),
        (
            ProviderKind.OPENAI,
            "Unknown tool: stream_options",
            {"tools": [{"type": "function", "function": {"name": "stream_options"}}]},
            1,
        ),
        (ProviderKind.OPENAI, "Invalid parameter: max_tokens must be in [1, 8192]", {"max_tokens": 9000}, 1),
        (ProviderKind.OPENAI, "unknown: stream_options, max_tokens, max_completion_tokens", {"max_tokens": 9}, 3),
    ],
)
async def test_no_caller_changes_how_a_server_is_spoken_to_for_others(
    tmp_path: Path, kind: ProviderKind, said: str, more: dict[str, Any], asked: int
) -> None:
    async with one_server(tmp_path, kind) as (gateway, up):
        up.always(Behaviour(status=400, body=json.dumps({"error": {"message": said}}).encode()))
        assert (await gateway.post(CHAT, body(stream=True, **more))).status == 400
        assert len(up.requests) == asked
        up.always(Behaviour())
        assert (await gateway.post(CHAT, body(stream=True, max_tokens=3))).status == 200
        assert {"stream_options", "max_tokens"} <= up.last.json.keys()
        assert "engine_takes_another_form" not in gateway.log
