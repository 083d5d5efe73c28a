"""Spellings of an address: each gets the decision that the plain address gets, or none at all."""

from __future__ import annotations

import pytest

from tests.fakes.raw_http import Incomplete, RawConnection, RawResponse
from tests.service import Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = {400, 401, 404, 405, 414}
TRICKS = [
    "http://evil.example/v1/models",
    "http://127.0.0.1/v1/models",
    "https://evil.example:1/v1/models",
    "http://user:pass@evil.example/v1/models",
    "HTTP://EVIL/v1/models",
    "file:///v1/models",
    "//v1/models",
    "//evil.example/v1/models",
    "/v1//models",
    "/v1/models//",
    "/v1/models/",
    "/v1%2fmodels",
    "/v1%2Fmodels",
    "/%76%31/models",
    "/v1%252fmodels",
    "/v1;/models",
    "/v1/models;x=/healthz",
    "/healthz;/../v1/models",
    "/healthz/../v1/models",
    "/healthz/..%2fv1/models",
    "/v1/../v1/models",
    "/v1/../metrics",
    "/v1/models/../../metrics",
    "/v1/models/..%2f..%2fmetrics",
    "/v1/models/%2e%2e/%2e%2e/metrics",
    "/./metrics",
    "/metrics/",
    "/metrics/.",
    "/metrics%00",
    "/metrics%20",
    "/metrics%0d%0a",
    "/Metrics",
    "/metrics?x=/healthz",
    "/metrics#/healthz",
    "/%6detrics",
    "/healthz?/../metrics",
    "/healthz%3f/../metrics",
    "/healthz/",
    "/healthz\\..\\metrics",
    "/metrics\\",
    "/v1/models?key=x&authorization=Bearer+x",
    "/v1/models/%ff%fe",
    "/v1/models/" + "a" * 8_000,
    "*",
    "v1/models",
    "",
    "?",
    "/\u00e9",
]
HOSTS: list[list[str]] = [
    ["x/v1/models?"],
    ["127.0.0.1/healthz"],
    ["evil.example"],
    ["127.0.0.1:1"],
    ["a", "b"],
    ["a", "a"],
    [""],
    [],
    ["/healthz"],
    ["a b"],
    ["[::1"],
    ["*"],
    ["a,b"],
    ["x" * 9_000],
]


async def _get(target: Service, path: str, hosts: list[str], key: str) -> RawResponse | None:
    """None: the connection was closed without a word."""
    lines = [f"GET {path} HTTP/1.1", *(f"host: {host}" for host in hosts)]
    if key:
        lines.append(f"authorization: Bearer {key}")
    async with await RawConnection.open(target.gateway.url) as raw:
        await raw.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        try:
            return await raw.response()
        except Incomplete as error:
            assert error.received == b""
            return None


@pytest.mark.parametrize("path", TRICKS, ids=lambda path: repr(path[:40]))
async def test_A04_no_spelling_of_a_path_opens_more(target: Service, path: str) -> None:
    without = await _get(target, path, ["127.0.0.1"], "")
    shows_nothing = without is None or (
        b"llmaas_requests" not in without.body and b'"object":"list"' not in without.body
    )
    assert shows_nothing
    public = path.startswith("/healthz?")
    assert without is None or without.status in ({200} if public else REFUSED)
    # This key may list models and must never come to the measurements.
    answer = await _get(target, path, ["127.0.0.1"], target.key)
    if answer is not None:
        assert answer.status in REFUSED | {200, 403}
        assert b"llmaas_requests" not in answer.body
        if answer.status == 200 and not public:
            plain = await _get(target, "/v1/models", ["127.0.0.1"], target.key)
            assert plain is not None
            assert answer.body == plain.body


@pytest.mark.parametrize("path", ["//api/v1/me", "/%2fapi/v1/me", "/api//v1/me", "/admin//fleet", "//sign-in"])
async def test_A04_several_slashes_are_no_other_spelling_of_one(target: Service, path: str) -> None:
    answer = await _get(target, path, ["127.0.0.1"], "")
    assert answer is not None
    assert answer.status == 404


@pytest.mark.parametrize("hosts", HOSTS, ids=lambda hosts: repr(hosts)[:40])
async def test_A04_no_host_opens_more(target: Service, hosts: list[str]) -> None:
    for path, plain, with_key in (("/v1/models", 401, 200), ("/metrics", 401, 403), ("/healthz", 200, 200)):
        without = await _get(target, path, hosts, "")
        assert without is None or without.status in {400, plain, 431}
        answer = await _get(target, path, hosts, target.key)
        assert answer is None or answer.status in {400, with_key, 431}
        if len(hosts) > 1 or hosts in ([""], []):
            assert answer is None or answer.status == 400


async def test_A04_a_host_without_a_name_is_taken_by_http_1_0_only(target: Service) -> None:
    async with await RawConnection.open(target.gateway.url) as raw:
        await raw.send(f"GET /v1/models HTTP/1.0\r\nauthorization: Bearer {target.key}\r\n\r\n".encode())
        assert (await raw.response()).status == 200
