"""Members that we add and a server does not take are its business and ours, never the caller's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from llmaas.upstreams.habits import REMEMBERED_S, Habits
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
    member, other = found
    assert json.loads(other) == sent
    assert not habits.known, "nothing is learnt before the other form was accepted"
    habits.learn(PLACE, [member])
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
async def one_server(folder: Path, kind: ProviderKind) -> AsyncIterator[tuple[GatewayProcess, FakeUpstream]]:
    """A gateway of its own, since it remembers."""
    async with FakeUpstream(flavour="vllm" if kind is ProviderKind.VLLM else "openai") as up:
        gateway = GatewayProcess(folder)
        await gateway.apply(fleet_of(up.base_url, ["m"], kind=kind))
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
