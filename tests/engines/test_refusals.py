"""What engines say when they refuse, in their own words."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.engines.refusals import LONGEST_WAIT_S, Asked, decompressed, from_error_body, sentence
from llmaas.errors import ContextTooLong, EngineBusy, EngineFailed, EngineRefused
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawResponse
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import KINDS, Service, error_of, model_of

CHAT, OUTSIDE = Asked("messages", explain=True), Asked("messages", explain=False)

TOO_LONG = [
    ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", 8192),
    ("This model's maximum context length is 128,000 tokens. However, you requested 65535 output tokens", 128_000),
    (
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure",
        8192,
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 400. This model's maximum context length is 8192 tokens",
        8192,
    ),
    ("Requested token count exceeds the model's maximum context length of 8192 tokens. You requested 9000", 8192),
    ("The input (9000 tokens) is longer than the model's context length (8192 tokens).", 8192),
    ("Input length 9000 exceeds the maximum allowed input length of 8192 tokens.", 8192),
    ("request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it", 8192),
    ("the request exceeds the available context size. try increasing the context size or enable context shift", None),
    ("input (9000 tokens) is too large to process. increase the physical batch size (current batch size: 512)", None),
    ("the input length exceeds the context length", None),
    ("prompt too long; exceeded max context length by 512 tokens", None),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. Given: 9000 `inputs` tokens", 8192),
    ("Input validation error: `inputs` must have less than 8192 tokens. Given: 9000", 8192),
    (
        "Trying to keep the first 9000 tokens when context the overflows. It is loaded with context length of only 8192 tokens",
        8192,
    ),
    ("The number of tokens to keep from the initial prompt is greater than the context length (n_ctx: 8192)", 8192),
    ("prompt is too long: 213462 tokens > 200000 maximum", 200_000),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length", 200_000),
    ("The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).", 1_048_576),
    ("Please reduce the length of the messages or completion.", None),
    ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131_072),
    ("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 428548 tokens.", 272_000),
    ("Your input exceeds the context window of this model. Please adjust your input and try again.", None),
    ("Prompt contains 9000 tokens and 0 draft tokens, too large for model with 8192 maximum context length", 8192),
    ("Input is too long for requested model.", None),
    ("invalid params, context window exceeds limit (2013)", 2013),
    ("Your request exceeded model token limit: 262144 (requested: 300000)", 262_144),
    ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]", 129_024),
    ("the input length exceeds maximum context length", None),
    ("input exceeds maximum context length", None),
    ("The prompt (total length 5000) is too long to fit into the model (context length 4096). Make sure", 4096),
    ("The sum of prompt length (5000), query length (1) should not exceed max_num_tokens (4096)", 4096),
    ("Requested tokens (5000) exceed context window of 4096", 4096),
    ("maximum context length exceeded", None),
    ("Context window exceeded", None),
    ("too many tokens: total number of tokens in the prompt cannot exceed 4081", None),
]


@pytest.mark.parametrize(("said", "window"), TOO_LONG, ids=lambda value: str(value)[:50])
@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 0])
def test_too_long_is_known_in_everybodys_words(said: str, window: int | None, status: int) -> None:
    error = from_error_body(status, json.dumps({"error": {"message": said}}).encode(), OUTSIDE)
    assert isinstance(error, ContextTooLong)
    assert "maximum context length" in error.message
    if window is not None:
        assert f"maximum context length is {window} tokens" in error.message
        assert f"Input tokens exceed the configured limit of {window} tokens" in error.message


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        ({"message": "Invalid value", "type": "invalid_request_error", "code": 400}, EngineRefused),
        ({"message": "Invalid value", "type": "invalid_request_error", "code": None}, EngineRefused),
        ({"message": "no", "type": "BadRequestError"}, EngineRefused),
        ({"message": "no", "code": "422"}, EngineRefused),
        ({"text": "no", "error_code": 40001}, EngineRefused),
        ({"message": "slow down", "code": 429}, EngineBusy),
        ({"message": "slow down", "type": "rate_limit_error"}, EngineBusy),
        ({"message": "no", "type": "invalid_request_error", "code": "invalid_api_key"}, EngineFailed),
        ({"text": "NETWORK ERROR", "error_code": 50002}, EngineFailed),
        ({"message": "boom", "code": 500}, EngineFailed),
        ("boom", EngineFailed),
    ],
    ids=str,
)
def test_an_error_of_status_200_means_what_its_code_says(error: Any, meaning: type[Exception]) -> None:
    for body in (error, {"error": error}):
        assert type(from_error_body(0, json.dumps(body).encode(), CHAT)) is meaning


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "Unsupported value: 'temperature' does not support 0.2 with this model.",
        "The image is too large",
        "rate limit exceeded",
    ],
)
def test_other_refusals_are_not_too_long(said: str) -> None:
    error = from_error_body(400, json.dumps({"error": {"message": said}}).encode(), OUTSIDE)
    assert isinstance(error, EngineRefused)
    assert error.message == "The engine can't take this request: one of its parameters is not supported or not valid."


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7.5 "}, 7.5),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "0.2"}, 1),
        ({"retry-after": "9" * 400}, LONGEST_WAIT_S),
        ({"retry-after": "1e400"}, LONGEST_WAIT_S),
        ({"retry-after": "94608000"}, LONGEST_WAIT_S),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "\xff"}, None),
        ({"retry-after": "Mon, 30 Nov 2026 20:00:30 GMT", "date": "Mon, 30 Nov 2026 20:00:00 GMT"}, 30),
        ({"retry-after": "Fri, 30 Nov 2029 20:00:30 GMT", "date": "Mon, 30 Nov 2026 20:00:00 GMT"}, LONGEST_WAIT_S),
        ({"retry-after": "Mon, 30 Nov 2026 19:00:00 GMT", "date": "Mon, 30 Nov 2026 20:00:00 GMT"}, None),
        ({"retry-after": "Mon, 30 Nov 2026 20:00:30 GMT"}, None),
        ({"retry-after": "Mon, 99 Foo 99999 25:00:00"}, None),
    ],
)
def test_a_wait_is_bounded_whatever_form_it_has(headers: dict[str, str], wait_s: float | None) -> None:
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    for status in (429, 503):
        error = from_error_body(status, b"", CHAT, sent)
        assert isinstance(error, EngineBusy)
        assert error.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "temperature must be at most 2"}}, "temperature must be at most 2"),
        ({"error": "temperature must\n be\tat most\x00 2"}, "temperature must be at most 2"),
        ({"message": "bad", "object": "error"}, "bad"),
        ({"detail": [{"loc": ["body"], "msg": "one"}, {"msg": "two"}]}, "one; two"),
        ({"detail": "bad"}, "bad"),
        ({"error": {"message": "no file /srv/models/x.gguf at http://10.0.0.7:8000/v1"}}, "no file … at …"),
        (
            {"error": {"message": "10.0.0.7:8000 said no to ma02.lab.example:8000 and [fe80::1:2:3]"}},
            "… said no to … and …",
        ),
        (
            {"error": {"message": "key sk-abcdef12345 of a@b.example, Bearer xyz.abc is wrong"}},
            "key … of …, … is wrong",
        ),
        ({"error": {"message": "C:\\Users\\me\\model.bin is 0123456789abcdef0123456789abcdef"}}, "… is …"),
        ({"error": {"message": "x" * 1_000}}, "x" * 300 + "…"),
        ({"error": {"message": ""}}, None),
        ({"error": {"code": 5}}, None),
        ([], None),
    ],
)
def test_a_sentence_is_short_and_tells_no_secret(body: Any, told: str | None) -> None:
    assert sentence(json.dumps(body).encode()) == told
    assert sentence(b"<html>no JSON</html>") is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('bad config {"api_key":"abc"}', 'bad config {"…"}'),
        ("the password is hunter2", "the …"),
        ("password=hunter2", "…"),
        ("got eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl", "got …"),
        ("key AKIAIOSFODNN7EXAMPLE", "key …"),
        ("cannot reach gpu-7:8000", "cannot reach …"),
        ("cannot reach gpu-7.internal.corp now", "cannot reach … now"),
        ("ssh root@gpu7 failed", "ssh … failed"),
        ("unexpected token } at position 5", "unexpected token } at position 5"),
        ("the token is invalid", "the token is invalid"),
        ("top_k: 5 is above 3.5 at 10:20", "top_k: 5 is above 3.5 at 10:20"),
    ],
)
def test_a_sentence_loses_secrets_and_hosts_and_keeps_harmless_words(said: str, told: str) -> None:
    assert sentence(json.dumps({"error": said}).encode()) == told


def test_what_is_too_large_for_an_engine_is_told_so() -> None:
    error = from_error_body(413, b"<html>413 Request Entity Too Large</html>", CHAT)
    assert (type(error), error.message) == (EngineRefused, "The engine can't take this request: it is too large.")


def test_an_engine_that_is_overloaded_is_busy() -> None:
    busy = from_error_body(529, b"{}", Asked("messages", explain=False), {b"retry-after": b"7"})
    assert isinstance(busy, EngineBusy)
    assert busy.retry_after_s == 7


def test_half_characters_of_an_engine_are_written_properly() -> None:
    assert sentence(b'{"error":"a\\ud800b\xff"}') == "a\ufffdb\ufffd"


def test_only_ones_own_engines_are_quoted_and_only_when_they_refuse() -> None:
    body = b'{"error":{"message":"top_k must be positive"}}'
    own, outside = from_error_body(400, body, CHAT), from_error_body(400, body, OUTSIDE)
    assert own.message == "The engine can't take this request: top_k must be positive"
    assert "top_k" not in outside.message
    failed = from_error_body(500, body, CHAT)
    assert isinstance(failed, EngineFailed)
    assert "top_k" not in failed.message


FLAGGED = "Input flagged by moderation"


@pytest.mark.parametrize(
    ("status", "said", "meaning", "denied"),
    [
        *(
            (status, FLAGGED, EngineRefused, False)
            for status in (*range(400, 429), 431, 451, 499)
            if status not in (401, 407)
        ),
        (451, "", EngineRefused, False),
        (403, "Request blocked by content policy", EngineRefused, False),
        (401, FLAGGED, EngineFailed, False),
        (407, "", EngineFailed, False),
        (401, "Incorrect API key provided", EngineFailed, False),
        (402, "Insufficient Balance", EngineFailed, False),
        (402, "You requested 65536 tokens. Use fewer max_tokens", EngineFailed, True),
        (403, "You do not have permission to use this model", EngineFailed, False),
        (403, "no", EngineFailed, True),
        (404, "The model `m` does not exist.", EngineFailed, False),
        (404, "model 'm' not found, try pulling it first", EngineFailed, False),
        (404, "Not Found", EngineFailed, True),
        (404, "No endpoints found that support tool use.", EngineFailed, True),
        (404, "This is a chat model and not supported in the v1/completions endpoint.", EngineFailed, True),
        *(
            (status, "no", EngineFailed, True)
            for status in (405, 406, 408, 409, 410, 411, 412, 418, 423, 424, 425, 431, 499)
        ),
        *((status, "no", EngineFailed, False) for status in (201, 204, 301, 307, 500, 502, 504, 520, 600, 999)),
        (429, FLAGGED, EngineBusy, False),
    ],
)
def test_F04_whose_fault_a_status_is(status: int, said: str, meaning: type[Exception], denied: bool) -> None:
    error = from_error_body(
        status, json.dumps({"error": {"message": said, "type": "x", "code": status}}).encode(), CHAT
    )
    assert type(error) is meaning
    assert (isinstance(error, EngineFailed) and error.denied) is denied


def test_a_firewall_that_refuses_what_is_in_a_request_speaks_of_permission_too() -> None:
    error = from_error_body(403, b"<html>403 Forbidden: you have no permission to access this</html>", CHAT)
    assert isinstance(error, EngineFailed)
    assert error.denied


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("endpoint", ["chat", "completion", "embeddings"])
async def test_F04_what_two_backends_refuse_sets_neither_aside(
    gateway: GatewayProcess, kind: ProviderKind, endpoint: str
) -> None:
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        "completion": ("/v1/completions", {"prompt": "hi"}),
        "embeddings": ("/v1/embeddings", {"input": "hi"}),
    }
    path, fields = asked[endpoint]
    async with FakeUpstream() as one, FakeUpstream() as other:
        made = ModelKind.EMBEDDING if endpoint == "embeddings" else ModelKind.CHAT
        urls = [up.url if kind is ProviderKind.OLLAMA else up.base_url for up in (one, other)]
        provider = Provider("p", kind)
        backends = [Backend(f"b{number}", "p", url, f"ma{number}", str(kind)) for number, url in enumerate(urls)]
        fleet = Fleet(
            providers=(provider,),
            backends=tuple(backends),
            models=(Model(id="m", kind=made, created_ms=0),),
            deployments=tuple(Deployment("m", backend.id, "m") for backend in backends),
        )
        await gateway.apply(fleet)
        await gateway.start()
        for status, said, code, tries in ((403, FLAGGED, "engine_refused", 1), (409, "no", "engine_failed", 2)):
            before = len(one.requests) + len(other.requests)
            refusal = Behaviour(status=status, body=json.dumps({"error": {"message": said}}).encode())
            one.always(refusal)
            other.always(refusal)
            assert error_of(await gateway.post(path, {"model": "m", **fields}))["code"] == code
            assert len(one.requests) + len(other.requests) - before == tries
        one.reset()
        other.reset()
        for _ in range(4):
            assert (await gateway.post(path, {"model": "m", **fields})).status == 200
        assert (len(one.requests), len(other.requests)) == (2, 2)


async def ask(service: Service, kind: ProviderKind, endpoint: str, behaviour: Behaviour) -> RawResponse:
    service.fake(kind).script(behaviour)
    if endpoint == "embeddings":
        return await service.embed("a", model_of(kind, "embed"))
    return await (service.chat if endpoint == "chat" else service.complete)(
        model=model_of(kind, "plain"), **({} if endpoint == "chat" else {"prompt": "a"})
    )


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("endpoint", "param"), [("chat", "messages"), ("completion", "prompt"), ("embeddings", "input")]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_too_long_is_named(service: Service, kind: ProviderKind, endpoint: str, param: str) -> None:
    answer = await ask(service, kind, endpoint, Behaviour(error="context_vllm"))
    error = error_of(answer)
    assert (answer.status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert param in error["message"]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("endpoint", ["chat", "completion", "embeddings"])
@pytest.mark.parametrize("kind", KINDS)
async def test_callers_read_what_their_own_engine_finds_wrong(
    service: Service, kind: ProviderKind, endpoint: str
) -> None:
    answer = await ask(
        service, kind, endpoint, Behaviour(body=b'{"error":{"message":"top_k must be positive"}}', status=400)
    )
    error = error_of(answer)
    assert (answer.status, error["code"]) == (400, "engine_refused")
    assert ("top_k must be positive" in error["message"]) is (kind is not ProviderKind.OPENAI)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("endpoint", ["chat", "completion", "embeddings"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_a_refusal_that_is_compressed_unasked_is_read(
    service: Service, kind: ProviderKind, endpoint: str, compress: Callable[[bytes], bytes]
) -> None:
    said = b'{"error":{"message":"prompt is too long: 213462 tokens > 200000 maximum"}}'
    coding = "gzip" if compress is gzip.compress else "deflate"
    refusal = Behaviour(body=compress(said), status=400, headers=(("content-encoding", coding),))
    answer = await ask(service, kind, endpoint, refusal)
    assert (answer.status, error_of(answer)["code"]) == (400, "context_length_exceeded")
    plain = await ask(service, kind, endpoint, Behaviour(body=b"{}", status=400, headers=(("content-encoding", "br"),)))
    assert (plain.status, error_of(plain)["code"]) == (400, "engine_refused")


def test_of_a_compressed_refusal_no_more_is_read_than_of_a_plain_one() -> None:
    assert len(decompressed(gzip.compress(b"a" * 10_000_000))) == 64 * 1024
    assert decompressed(gzip.compress(b"half of it")[:-3]) == b"half of it"
    assert decompressed(b"{}") == b"{}"


@pytest.mark.parametrize(
    ("kind", "declared", "quoted"),
    [
        (ProviderKind.VLLM, None, True),
        (ProviderKind.VLLM, False, False),
        (ProviderKind.LLAMA_CPP, False, False),
        (ProviderKind.OLLAMA, True, True),
        (ProviderKind.OLLAMA, False, False),
        (ProviderKind.OPENAI, False, False),
        (ProviderKind.OPENAI, True, False),  # which no declaration can say
    ],
)
async def test_a_provider_says_whether_callers_read_why_its_engines_refuse(
    gateway: GatewayProcess, kind: ProviderKind, declared: bool | None, quoted: bool
) -> None:
    async with FakeUpstream() as upstream:
        upstream.always(Behaviour(body=b'{"error":{"message":"top_k must be positive"}}', status=400))
        fleet = fleet_of(upstream.base_url, ["m"], kind=kind)
        providers = tuple(dataclasses.replace(p, explain_refusals=declared) for p in fleet.providers)
        await gateway.apply(dataclasses.replace(fleet, providers=providers))
        await gateway.start()
        for stream in (False, True):
            answer = await gateway.post(
                "/v1/chat/completions",
                {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream},
            )
            error = error_of(answer)
            assert (answer.status, error["code"]) == (400, "engine_refused")
            assert ("top_k must be positive" in error["message"]) is quoted
        answer = await gateway.post("/v1/completions", {"model": "m", "prompt": "hi"})
        assert ("top_k must be positive" in error_of(answer)["message"]) is quoted


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("value", ["9" * 400, "94608000", "1e999", "-1", "Fri, 30 Nov 2029 20:00:30 GMT"])
async def test_a_wait_without_a_bound_ends_no_connection(service: Service, value: str) -> None:
    service.fake().script(Behaviour(error="rate_limit", headers=(("retry-after", value),)))
    answer = await service.chat()
    assert (answer.status, error_of(answer)["code"]) == (503, "engine_busy")
    assert 1 <= int(answer.header("retry-after") or 0) <= LONGEST_WAIT_S
