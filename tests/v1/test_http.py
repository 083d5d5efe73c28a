"""What holds on every route: methods, paths, sizes, types, keys, CORS, request ids, reused connections."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest

from tests.fakes.raw_http import RawConnection, RawResponse, request_bytes
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, MAX_BODY_BYTES, ORIGIN, Service, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

BODY = {"model": "plain", "messages": [{"role": "user", "content": "hi"}]}
JSON = msgspec.json.encode(BODY)
POSTS = (CHAT, COMPLETIONS, EMBEDDINGS)


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1", "/v1/chat", "/v2/chat/completions", "/v1/chat/completions/", "/v1/models/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths(service: Service, method: str, path: str) -> None:
    answer = await service.request(method, path, body=b"{}" if method == "POST" else None)
    assert answer.status == 404, answer.body[:200]
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [*POSTS, "/v1/models", "/v1/models/granite", "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_wrong_methods_name_the_right_ones(service: Service, method: str, path: str) -> None:
    right = "POST" if path in POSTS else "GET"
    if method == right:
        return
    answer = await service.request(method, path, body=b"" if method == "POST" else None)
    assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
    allow = answer.header("allow")
    assert allow == ("OPTIONS, POST" if right == "POST" else "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp"]
)
@pytest.mark.parametrize("path", POSTS)
async def test_other_content_types_are_415(service: Service, path: str, kind: str) -> None:
    answer = await service.request("POST", path, {"content-type": kind}, JSON)
    assert (answer.status, error_of(answer)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8", "application/json;x=1"]
)
async def test_json_content_types_are_taken(service: Service, kind: str) -> None:
    assert (await service.request("POST", CHAT, {"content-type": kind}, JSON)).status == 200


async def test_compressed_requests_are_415(service: Service) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert (await service.request("POST", CHAT, headers, JSON)).status == 415


async def test_too_large_bodies_are_413(service: Service) -> None:
    answer = await service.post(CHAT, b" " * MAX_BODY_BYTES + JSON)
    assert (answer.status, error_of(answer)["code"]) == (413, "body_too_large")
    assert str(MAX_BODY_BYTES) in error_of(answer)["message"]
    assert (await service.post(CHAT, b" " * (MAX_BODY_BYTES - len(JSON)) + JSON)).status == 200


async def test_too_large_chunked_bodies_are_413(service: Service) -> None:
    async with await RawConnection.open(service.gateway.url) as raw:
        headers = [
            ("authorization", f"Bearer {service.key}"),
            ("content-type", "application/json"),
            ("transfer-encoding", "chunked"),
        ]
        await raw.send(request_bytes("POST", CHAT, headers=headers))
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            await raw.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        answer = await raw.response()
    assert answer.status == 413


async def _expecting(service: Service, headers: list[tuple[str, str]], body: bytes | None) -> RawResponse:
    async with await RawConnection.open(service.gateway.url) as raw:
        await raw.send(request_bytes("POST", CHAT, headers=[("expect", "100-continue"), *headers]))
        if body is not None:
            interim = await raw.read_until(b"\r\n\r\n")
            assert interim.startswith(b"HTTP/1.1 100 "), interim
            await raw.send(body)
        return await raw.response()


async def test_who_expects_is_refused_before_the_body_by_key_size_and_type(service: Service) -> None:
    key, kind = ("authorization", f"Bearer {service.key}"), ("content-type", "application/json")
    size, huge = ("content-length", str(len(JSON))), ("content-length", str(MAX_BODY_BYTES + 1))
    for headers, status in (([kind, size], 401), ([key, kind, huge], 413), ([key, size], 415)):
        answer = await _expecting(service, headers, None)
        assert (answer.status, answer.interim) == (status, [])
        error_of(answer)
    assert (await _expecting(service, [key, kind, size], JSON)).status == 200


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer nope", "Basic dXNlcjpwYXNz", "bearer llmaas_x", "Bearer ñ"]
)
@pytest.mark.parametrize("path", [*POSTS, "/v1/models", "/v1/models/granite"])
async def test_without_a_key_everything_looks_the_same(service: Service, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await service.request(
        "POST" if path in POSTS else "GET", path, headers, b"no json" if path in POSTS else None, key=""
    )
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert error_of(answer) == {
        "message": "Incorrect API key provided. Send a valid key as 'Authorization: Bearer KEY'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_taken_in_any_case(service: Service, scheme: str) -> None:
    answer = await service.request("GET", "/v1/models", {"authorization": f"{scheme} {service.key}"}, key="")
    assert answer.status == 200


async def test_metrics_need_a_permission(service: Service) -> None:
    answer = await service.gateway.get("/metrics")
    assert (answer.status, error_of(answer)["type"]) == (403, "permission_error")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_key(service: Service, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await service.request(method, path, key="")
        assert (answer.status, answer.header("content-type")) == (200, "application/json")


@pytest.mark.parametrize("path", [*POSTS, "/v1/models", "/v1/nothing"])
async def test_preflight_is_answered_without_a_key(service: Service, path: str) -> None:
    asked = "authorization, content-type, x-stainless-lang"
    headers = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": asked}
    answer = await service.request("OPTIONS", path, headers, key="")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("access-control-allow-origin") == ORIGIN
    assert answer.header("access-control-allow-headers") == asked
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert answer.header("access-control-allow-credentials") is None


async def test_other_origins_are_granted_nothing(service: Service) -> None:
    for method, key in (("OPTIONS", ""), ("GET", None)):
        answer = await service.request(method, "/v1/models", {"origin": "https://evil.example"}, key=key)
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


async def test_errors_and_streams_carry_cors_headers(service: Service) -> None:
    origin = {"origin": ORIGIN}
    answers = [
        await service.request("GET", "/v1/models", origin, key=""),
        await service.request("GET", "/v1/nothing", origin),
        await service.post(CHAT, {**BODY, "stream": True}, headers=origin),
        await service.post(CHAT, {**BODY, "model": "fake-500"}, headers=origin),
    ]
    assert [answer.status for answer in answers] == [401, 404, 200, 502]
    for answer in answers:
        assert answer.header("access-control-allow-origin") == ORIGIN
        assert answer.header("vary") == "origin"
        exposed = (answer.header("access-control-expose-headers") or "").split(", ")
        assert {"id", "backend", "x-request-id", "retry-after", "x-ratelimit-reset-tokens"} <= set(exposed)


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "trace/1:2;3"])
async def test_a_sane_request_id_is_kept(service: Service, given: str) -> None:
    answer = await service.post(CHAT, BODY, headers={"x-request-id": given})
    assert answer.header("x-request-id") == given
    assert (await service.row(answer)).request_id == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "ñ", "a\tb"])
async def test_else_it_is_ours(service: Service, given: str | None) -> None:
    headers = {} if given is None else {"x-request-id": given}
    answer = await service.request("GET", "/v1/nothing", headers)
    assert re.fullmatch(r"[0-9a-f]{32}", answer.header("x-request-id") or "")


async def test_every_answer_carries_an_id(service: Service) -> None:
    for method, path, prefix in (
        ("POST", CHAT, "chatcmpl-"),
        ("POST", EMBEDDINGS, "embd-"),
        ("GET", "/v1/nothing", "req-"),
    ):
        answer = await service.request(method, path, body=b"{" if method == "POST" else None)
        assert (answer.header("id") or "").startswith(prefix)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"42",
        b"null",
        b"{}{}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"model":NaN}',
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"model":"\\ud800"}',
        b'{"model":"a\\u0000"}',
        b'{"model":"\x01"}',
    ],
    ids=lambda body: repr(body[:20]),
)
@pytest.mark.parametrize("path", POSTS)
async def test_bodies_that_are_no_request_are_400(service: Service, path: str, body: bytes) -> None:
    answer = await service.post(path, body)
    assert (answer.status, error_of(answer)["type"]) == (400, "invalid_request_error")
    assert len(answer.body) < 1000


async def test_a_connection_survives_errors_and_streams(service: Service) -> None:
    headers = [("authorization", f"Bearer {service.key}")]
    async with await RawConnection.open(service.gateway.url) as raw:
        for path, body, status in (
            (CHAT, BODY, 200),
            (CHAT, {"model": 5}, 400),
            (CHAT, {**BODY, "stream": True}, 200),
            ("/v1/nothing", BODY, 404),
            (CHAT, {**BODY, "model": "fake-cut-fin", "stream": True}, 200),
            (CHAT, {**BODY, "model": "fake-500"}, 502),
            (CHAT, BODY, 200),
        ):
            assert (await raw.post(path, body, headers=headers)).status == status


async def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    one = request_bytes("GET", "/v1/models/granite", headers=[("authorization", f"Bearer {service.key}")])
    other = request_bytes("GET", "/healthz")
    async with await RawConnection.open(service.gateway.url) as raw:
        await raw.send(one + other + one)
        answers = [await raw.response() for _ in range(3)]
    assert [answer.json().get("id") for answer in answers] == ["granite3.3:8b", None, "granite3.3:8b"]


async def test_a_head_request_does_not_upset_the_connection(service: Service) -> None:
    async with await RawConnection.open(service.gateway.url) as raw:
        assert (await raw.request("HEAD", "/healthz")).status == 200
        assert (await raw.request("GET", "/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/v1/chat/completion", "/v1/v1/chat/completions", "/v1/engines/plain", "/v1"])
async def test_an_unknown_path_is_told_with_the_routes_there_are(service: Service, path: str) -> None:
    answer = await service.post(path, {"model": "plain"})
    error = error_of(answer)
    assert (answer.status, error["code"]) == (404, "unknown_path")
    assert f"`{path}`" in error["message"]
    for route in ("POST /v1/chat/completions", "POST /v1/embeddings", "GET /v1/models/{id}"):
        assert route in error["message"]


@pytest.mark.parametrize(
    ("path", "likely"),
    [
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/completions", "/v1/completions"),
        ("/v1/v1/models/", "/v1/models"),
    ],
)
async def test_a_base_url_with_too_much_is_told_the_likely_address(service: Service, path: str, likely: str) -> None:
    error = error_of(await service.post(path, {"model": "plain"}))
    assert error["code"] == "unknown_path"
    assert f"Did you mean `{likely}`? A base URL ends in `/v1`, once" in error["message"]


async def test_an_address_like_no_other_gets_no_guess(service: Service) -> None:
    assert "Did you mean" not in error_of(await service.post("/v1/engines/plain", {"model": "plain"}))["message"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/embeddings"])
async def test_a_base_url_without_v1_is_told(service: Service, path: str) -> None:
    error = error_of(await service.post(path, {"model": "plain"}))
    assert f"`{path}`" in error["message"]
    assert "/v1" in error["message"]


async def test_health_has_two_names(service: Service) -> None:
    for path in ("/health", "/healthz"):
        answer = await service.request("GET", path, key="")
        assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_are_ascii_whatever_a_machine_is_called(tmp_path: Path, stream: bool) -> None:
    async with FakeUpstream() as up:
        fleet = fleet_of(up.base_url, ["m"])
        named = dataclasses.replace(fleet.backends[0], machine_name="Straße-模😀")
        gateway = GatewayProcess(tmp_path)
        await gateway.apply(dataclasses.replace(fleet, backends=(named,)))
        await gateway.start()
        try:
            answer = await gateway.post(CHAT, {**BODY, "model": "m", "stream": stream})
        finally:
            await gateway.close()
    value = answer.header("backend") or ""
    assert value.isascii()
    assert msgspec.json.decode(value)["machine_name"] == "Straße-模😀"
