"""Every route with every kind of credential gives what the route table declares."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from llmaas.domain import keys
from llmaas.domain.keys import Permission
from llmaas.web.routes import Route
from llmaas.worker import GatewayWorker
from tests.fakes.raw_http import RawConnection, RawResponse, request_bytes
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, Service, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOUR_MS = 3_600_000


async def _routes(target: Service) -> tuple[Route, ...]:
    return GatewayWorker(await target.gateway.installation()).routes.routes


def _path(route: Route) -> str:
    return route.path.replace("{rest}", "plain")


async def _bad_credentials(target: Service) -> dict[str, str | None]:
    """By what is wrong with it: the value of `authorization`, None for no such header."""
    installation = await target.gateway.installation()
    now_ms = installation.clock.now_ms()
    good = target.key
    expired = await target.gateway.create_key(expires_ms=now_ms - 1)
    revoked = await target.gateway.create_key()
    await installation.keys.revoke(_kid(revoked), now_ms)
    rotated = await target.gateway.create_key()
    old = await installation.keys.get(_kid(rotated))
    assert old is not None
    await installation.rotate_key(old, overlap_ms=0)
    bad_crc = good[:-1] + ("0" if good[-1] != "0" else "1")
    unknown, _ = keys.mint()
    someone, _ = keys.mint()
    foreign_secret = _with_secret(good, someone)
    return {
        "no key": None,
        "empty": "",
        "no token": "Bearer",
        "blank token": "Bearer  ",
        "garbage": "Bearer garbage",
        "another scheme": f"Basic {good}",
        "no scheme": good,
        "two tokens": f"Bearer {good} {good}",
        "comma": f"Bearer {good},{good}",
        "bad crc": f"Bearer {bad_crc}",
        "unknown": f"Bearer {unknown}",
        "another's secret": f"Bearer {foreign_secret}",
        "expired": f"Bearer {expired}",
        "revoked": f"Bearer {revoked}",
        "rotated, after the overlap": f"Bearer {rotated}",
        "upper case": f"Bearer {good.upper()}",
        "latin-1": f"Bearer {good[:-1]}é",
        "endless": "Bearer " + "x" * 30_000,
    }


def _kid(token: str) -> str:
    return token.split("_")[1]


def _with_secret(token: str, other: str) -> str:
    """A well-formed token of the id of one and the secret of another."""
    body = f"llmaas_{_kid(token)}_{other.split('_')[2][:-6]}"
    return body + keys._checksum(body)  # noqa: SLF001 - a forger knows how the checksum is made


async def _ask(target: Service, method: str, path: str, credential: str | None) -> RawResponse:
    """With a body of `{}` where one is taken."""
    headers = {} if credential is None else {"authorization": credential}
    if method == "POST":
        headers["content-type"] = "application/json"
    return await target.request(method, path, headers, b"{}" if method == "POST" else None, key="")


async def test_A01_bad_credentials_open_public_routes_only(target: Service) -> None:
    credentials = await _bad_credentials(target)
    texts = set()
    for route in await _routes(target):
        for name, credential in credentials.items():
            answer = await _ask(target, route.method, _path(route), credential)
            where = f"{route.method} {route.path} with {name}"
            if route.access == "public":
                assert answer.status in (200, 400), where
                continue
            assert answer.status == 401, where
            assert answer.header("www-authenticate") == "Bearer"
            assert error_of(answer)["code"] == "invalid_api_key"
            texts.add(answer.body)
    assert len(texts) == 1
    assert target.fake().requests == []


async def test_A01_good_keys_do_what_their_permissions_say(target: Service) -> None:
    installation = await target.gateway.installation()
    by_permission = {one: await target.gateway.create_key(permissions=(one,)) for one in Permission}
    nothing = await target.gateway.create_key(permissions=())
    for route in await _routes(target):
        for permission, key in by_permission.items():
            status = (await _ask(target, route.method, _path(route), f"bearer {key}")).status
            allowed = route.access in ("public", permission)
            assert status in ((200, 400) if allowed else (403,)), (route.method, route.path, permission)
        if route.access != "public":
            answer = await _ask(target, route.method, _path(route), f"BEARER {nothing}")
            assert (answer.status, error_of(answer)["type"]) == (403, "permission_error")
    first = await target.gateway.create_key()
    old = await installation.keys.get(_kid(first))
    assert old is not None
    second, _ = await installation.rotate_key(old, overlap_ms=HOUR_MS)
    for key in (first, second):
        assert (await target.request("GET", "/v1/models", key=key)).status == 200


async def test_A01_other_methods_open_nothing(target: Service) -> None:
    table = await _routes(target)
    taken = {(route.method, _path(route)) for route in table}
    for route in table:
        path = _path(route)
        for credential in (None, f"Bearer {target.key}"):
            answer = await _ask(target, "OPTIONS", path, credential)
            assert (answer.status, answer.body) == (204, b"")
            head = await _ask(target, "HEAD", path, credential)
            assert head.body == b""
            if ("GET", path) in taken:
                assert head.status == (await _ask(target, "GET", path, credential)).status
            else:
                assert head.status == 405
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get", "X"):
                answer = await _ask(target, method, path, credential)
                assert answer.status in (400, 405), (method, path)
    assert target.fake().requests == []


async def test_A01_the_body_is_not_waited_for_without_a_key(target: Service) -> None:
    for route in await _routes(target):
        if route.method == "POST":
            async with await RawConnection.open(target.gateway.url) as raw:
                head = f"POST {route.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n"
                await raw.send(f"{head}expect: 100-continue\r\n\r\n".encode())
                answer = await raw.response()
            assert (answer.status, answer.interim) == (401, [])


@pytest.mark.parametrize("access", [None, "", "none", "admin", "inference:*"])
async def test_A01_a_route_without_a_credential_cannot_be_built(access: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Route("GET", "/new", access, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Route("GET", "/new")  # type: ignore[call-arg]


async def test_A01_a_revocation_elsewhere_is_noticed_within_a_second(target: Service) -> None:
    installation = await target.gateway.installation()
    token = await target.gateway.create_key()
    assert (await target.request("GET", "/v1/models", key=token)).status == 200
    loop = asyncio.get_running_loop()
    await installation.keys.revoke(_kid(token), installation.clock.now_ms())
    revoked_s = loop.time()
    while (await target.request("GET", "/v1/models", key=token)).status == 200:
        assert loop.time() - revoked_s < 1.2
    assert loop.time() - revoked_s <= 1.2
    for _ in range(20):
        assert (await target.request("GET", "/v1/models", key=token)).status == 401


async def test_A01_a_rotated_key_works_to_the_end_of_the_overlap(target: Service) -> None:
    installation = await target.gateway.installation()
    token = await target.gateway.create_key()
    old = await installation.keys.get(_kid(token))
    assert old is not None
    ends_ms = installation.clock.now_ms() + 1_500
    successor, _ = await installation.rotate_key(old, overlap_ms=1_500)
    seen = []
    while True:
        before_ms = installation.clock.now_ms()
        status = (await target.request("GET", "/v1/models", key=token)).status
        seen.append(status)
        if status == 401:
            assert installation.clock.now_ms() >= ends_ms
            break
        assert before_ms < ends_ms + 10
    assert set(seen[:-1]) == {200}
    assert (await target.request("GET", "/v1/models", key=successor)).status == 200


async def test_A01_models_of_others_look_unknown(target: Service) -> None:
    key = await target.gateway.create_key(allowed_models=("fake-utf8",))
    listed = (await target.request("GET", "/v1/models", key=key)).json()["data"]
    assert [model["id"] for model in listed] == ["fake-utf8"]
    messages = [{"role": "user", "content": "x"}]
    texts = set()
    for name in ("plain", "granite3.3:8b", "granite", "GRANITE", "embed", "no-such-model", "vllm/plain"):
        answers = [
            await target.post(CHAT, {"model": name, "messages": messages}, key=key),
            await target.post(CHAT, {"model": name, "messages": messages, "stream": True}, key=key),
            await target.post(COMPLETIONS, {"model": name, "prompt": "x"}, key=key),
            await target.post(COMPLETIONS, {"model": name, "messages": messages}, key=key),
            await target.post(EMBEDDINGS, {"model": name, "input": "x"}, key=key),
            await target.request("GET", f"/v1/models/{name}", key=key),
            await target.request("GET", f"/v1/models/{name.replace('/', '%2F')}", key=key),
        ]
        for answer in answers:
            assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")
            texts.add(re.sub(rf"`{re.escape(name)}`", "`X`", answer.body.decode()))
    assert len(texts) == 1
    assert target.fake().requests == []
    answer = await target.post(CHAT, {"model": "FAKE-utf8", "messages": messages}, key=key)
    assert answer.status in (200, 404)


async def test_A20_a_key_that_is_revoked_while_its_body_arrives_runs_nothing(target: Service) -> None:
    installation = await target.gateway.installation()
    key, other = await target.gateway.create_key(), await target.gateway.create_key()
    body = json.dumps({"model": "fake-chat", "messages": [{"role": "user", "content": "hi"}]}).encode()
    for path in (CHAT, COMPLETIONS, EMBEDDINGS):
        request = request_bytes(
            "POST", path, headers=[("authorization", f"Bearer {key}"), ("content-type", "application/json")], body=body
        )
        async with await RawConnection.open(target.gateway.url) as raw:
            assert (await target.request("GET", "/v1/models", key=key)).status == 200
            await raw.send(request[:-1])
            assert (await target.request("GET", "/v1/models", key=other)).status == 200
            await installation.keys.revoke(_kid(key), installation.clock.now_ms())
            await refused(target, key)
            await raw.send(request[-1:])
            assert (await raw.response()).status == 401
        key = await target.gateway.create_key()
    assert target.fake().requests == []


async def refused(target: Service, key: str) -> None:
    """Wait until the gateway has heard that the key was revoked."""
    async with asyncio.timeout(10):
        while (await target.request("GET", "/v1/models", key=key)).status != 401:
            await asyncio.sleep(0.02)
