"""Every misbehaviour of engines ends in a valid answer, stream or error; never in our 500, never in a leak."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import NAMED, Behaviour
from tests.fakes.raw_http import RawResponse
from tests.service import KINDS, Service, chunks, error_of, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SKIPPED = {name for name in NAMED if name.startswith("fake-hang")} | {
    "fake-endless",  # the limits of answers: tests/faults
    "fake-slow",
    "fake-bytewise",  # takes seconds; fake-sliced says the same
}
ENDS_WELL = {
    *("fake-long", "fake-utf8", "fake-cookie", "fake-sliced", "fake-crlf", "fake-comments", "fake-double-done"),
    *("fake-no-done", "fake-roles", "fake-no-role", "fake-merged-finish", "fake-tools", "fake-tools-no-index"),
    *(
        "fake-tools-repeated",
        "fake-tools-object",
        "fake-tools-late-name",
        "fake-think",
        "fake-reasoning",
        "fake-cached",
        "fake-usage-missing",
    ),
    *("fake-usage-null", "fake-usage-negative", "fake-usage-huge", "fake-usage-string", "fake-usage-twice"),
    *("fake-usage-every", "fake-extra", "fake-until-close", "fake-close-announced", "fake-close-idle"),
    *("fake-drop-next", "fake-drop-next-rst"),
}
STATUSES = {
    "fake-401": (502, "engine_failed"),
    "fake-404": (502, "engine_failed"),
    "fake-429": (503, "engine_busy"),
    "fake-500": (502, "engine_failed"),
    "fake-503": (503, "engine_busy"),
    "fake-html": (502, "engine_failed"),
    "fake-redirect": (502, "engine_failed"),
    "fake-gzip": (502, "engine_failed"),
    "fake-cut-head": (502, "engine_failed"),
    "fake-cut-head-rst": (502, "engine_failed"),
    "fake-cut-after-head": (502, "engine_failed"),
}
SECRETS = ("/srv/secret", "sk-pr", "org-secret", "10.0.0.7", "stolen", "Welcome to the router", "127.0.0.1:9")


async def test_the_lists_here_know_only_named_behaviours() -> None:
    assert set(NAMED) >= ENDS_WELL | set(STATUSES) | SKIPPED


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", sorted(set(NAMED) - SKIPPED))
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_the_engine_does_the_caller_gets_something_valid(
    service: Service, kind: ProviderKind, name: str, stream: bool
) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await service.chat(model_of(kind, name), **options)
    _check(answer, stream=stream)
    assert not any(secret in answer.body.decode() for secret in SECRETS)
    assert not any(secret in value for _, value in answer.headers for secret in SECRETS)
    # An answer of Ollama's without its last line has no end and no counts.
    if name in ENDS_WELL and (kind, name) != (ProviderKind.OLLAMA, "fake-no-done"):
        assert answer.status == 200
        parts = chunks(answer) if stream else []
        assert all("error" not in part for part in parts)
    if name in STATUSES:
        assert (answer.status, error_of(answer)["code"]) == STATUSES[name]
    if name.startswith("fake-context"):
        error = error_of(answer)
        assert (answer.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "maximum context length" in error["message"]
        if name != "fake-context-ollama-old":
            assert "maximum context length is 2048 tokens" in error["message"]
    row = await service.row(answer)
    assert (row.outcome == "completed") == (answer.status == 200 and b'"error"' not in answer.body)


def _check(answer: RawResponse, *, stream: bool) -> None:
    assert answer.status in (200, 400, 502, 503, 504), answer.body[:300]
    if answer.status != 200:
        error_of(answer)
        return
    if not stream:
        body = answer.json()
        assert body["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")
        usage = body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["completion_tokens"] >= 0
        return
    parts = chunks(answer)
    if "error" in parts[-1]:
        assert set(parts[-1]["error"]) == {"message", "type", "param", "code"}
        return
    usage = parts[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    ends = [c["finish_reason"] for p in parts for c in p["choices"] if c["finish_reason"]]
    assert len(ends) == 1


async def test_a_busy_engines_wish_is_passed_on(service: Service) -> None:
    answer = await service.chat("fake-429")
    assert answer.header("retry-after") == "7"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"42",
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"index":7}]}',
        b'{"choices":[{"message":{"content":{}}}]}',
        b'{"choices":[{"message":{"content":""}}]}',
        b'{"choices":{}}',
        b'{"choices":"no"}',
        b"[" * 100000,
        b'{"error":"x"}',
        b'{"choices":[{"index":-1}]}',
    ],
    ids=lambda body: body[:30].decode(),
)
async def test_whole_answers_that_are_none(service: Service, body: bytes) -> None:
    service.fake().script(Behaviour(body=body))
    answer = await service.chat("plain")
    assert (answer.status, error_of(answer)["type"]) == (502, "server_error")


@pytest.mark.parametrize("kind", [ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_choices_that_nobody_asked_for_are_a_failure(service: Service, kind: ProviderKind) -> None:
    event = b'data: {"choices":[{"index":1,"delta":{"content":"more"}}]}\n\n'
    service.fake(kind).script(Behaviour(raw_events={2: event}))
    answer = await service.chat(model_of(kind, "plain"), stream=True)
    error = error_of(answer) if answer.status != 200 else chunks(answer)[-1]["error"]
    assert error["code"] == "engine_failed"
    assert b"more" not in answer.body


async def test_members_that_are_kept_raw_are_checked_too(service: Service) -> None:
    choice = b'{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"%b}]%b}'
    service.fake().script(Behaviour(body=choice % (b"", b',"usage":{"x":"\xff","prompt_tokens":3}')))
    answer = await service.chat("plain")
    assert (answer.status, answer.json()["usage"]["total_tokens"] > 0) == (200, True)
    service.fake().script(Behaviour(body=choice % (b',"logprobs":{"content":[{"token":"\xff"}]}', b"")))
    answer = await service.chat("plain", logprobs=True)
    logprobs = answer.json()["choices"][0]["logprobs"]
    assert (answer.status, logprobs) == (200, {"content": [{"token": "\ufffd"}], "refusal": None})


async def test_the_ledger_is_clean_after_all_that(service: Service) -> None:
    assert await service.gateway.ledger_faults() == []
