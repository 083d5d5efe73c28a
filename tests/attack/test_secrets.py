"""Canaries in everything that is secret: none of them turns up where it does not belong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

from llmaas.domain.keys import Permission
from tests.fakes.behaviour import NAMED, Behaviour
from tests.fakes.raw_http import RawConnection
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import CHAT, COMPLETIONS

CREDENTIAL = "canary-credential-7f3a"
PROMPT = "canary-prompt-91bc"
ANSWER = "canary-answer-5e2d"
FAILING = sorted(
    name
    for name, behaviour in NAMED.items()
    if (behaviour.error or behaviour.cut_at is not None or behaviour.body is not None or behaviour.gzip)
    and not behaviour.pause_at
)
# What engines say when they fail: our credential, the prompt and their own secrets among it.
TELLTALE = f"Incorrect API key provided: {CREDENTIAL}. Prompt: {PROMPT} {ANSWER}".encode()
ECHOES = [
    Behaviour(
        status=status,
        body=b'{"error":{"message":"%b","code":"%b"}}' % (TELLTALE, TELLTALE),
        headers=(("x-key", CREDENTIAL),),
    )
    for status in (400, 401, 403, 404, 413, 422, 429, 500, 502, 503)
] + [
    Behaviour(status=500, body=TELLTALE),
    Behaviour(status=200, content_type="text/html", body=TELLTALE),
    Behaviour(raw=b"HTTP/1.1 200 OK\r\n" + TELLTALE + b"\r\n\r\n"),
    Behaviour(raw=TELLTALE),
    Behaviour(raw=b"HTTP/1.1 500 " + TELLTALE + b"\r\ncontent-length: 0\r\n\r\n"),
    Behaviour(raw_events={1: b'data: {"error":{"message":"%b"}}\n\n' % TELLTALE}),
    Behaviour(raw_events={1: b"data: " + TELLTALE + b"\n\n"}),
    Behaviour(raw_events={1: b'data: {"choices":"' + TELLTALE + b'"}\n\n'}),
    Behaviour(status=307, headers=(("location", f"http://127.0.0.1:9/{CREDENTIAL}"),), body=TELLTALE),
]


async def test_A13_no_secret_turns_up_anywhere(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "data")
    names = [*FAILING, "fake"]
    try:
        async with FakeUpstream(api_key=CREDENTIAL) as upstream:
            fleet = fleet_of(upstream.base_url, names)
            provider = dataclasses.replace(fleet.providers[0], api_key_env="LLMAAS_PROVIDER_CANARY")
            await gateway.apply(dataclasses.replace(fleet, providers=(provider,)))
            await gateway.start(
                {"LLMAAS_PROVIDER_CANARY": CREDENTIAL, "LLMAAS_ACCESS_LOG": "true", "LLMAAS_LOG_LEVEL": "debug"}
            )
            watcher = await gateway.create_key(permissions=(Permission.METRICS_READ,))
            bodies = await _use(gateway, upstream, names)
            bodies.append((await gateway.get("/metrics", key=watcher)).body)
            assert upstream.last.credential == "provider"
        rows = repr(await gateway.rows())
        await gateway.terminate()
        secrets = _secrets(gateway, watcher)
        for secret in secrets:
            assert secret not in gateway.log.encode()
            assert secret not in rows.encode()
            for body in bodies:
                assert secret not in body
            for file in sorted(gateway.data_dir.rglob("*")):
                if file.is_file() and file.name != "master.key":
                    assert secret not in file.read_bytes(), file
        assert (gateway.data_dir / "master.key").stat().st_mode & 0o077 == 0
    finally:
        await gateway.close()


def _secrets(gateway: GatewayProcess, *more_keys: str) -> list[bytes]:
    master = (gateway.data_dir / "master.key").read_bytes().strip()
    keys = [
        part.encode() for key in (gateway.key, *more_keys) for part in (key, key.split("_")[2], key.split("_")[2][:40])
    ]
    forms = [master, master.hex().encode(), base64.b64encode(master)]
    return [CREDENTIAL.encode(), PROMPT.encode(), ANSWER.encode(), *keys, *forms]


async def _use(gateway: GatewayProcess, upstream: FakeUpstream, names: list[str]) -> list[bytes]:
    """Bodies of answers in which no secret has a place."""
    bodies: list[bytes] = []
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "user": "someone"}
    for name in names:
        for stream in (False, True):
            answer = await gateway.post(CHAT, {"model": name, "stream": stream, **chat})
            bodies.append(answer.body)
    for echo in ECHOES:
        for stream in (False, True):
            upstream.script(echo)
            answer = await gateway.post(CHAT, {"model": "fake", "stream": stream, **chat})
            bodies += [answer.body, repr(answer.headers).encode()]
    upstream.script(Behaviour(pieces=(ANSWER,)), Behaviour(pieces=(ANSWER,)))
    for stream in (False, True):
        assert ANSWER.encode() in (await gateway.post(CHAT, {"model": "fake", "stream": stream, **chat})).body
    # Refusals: broken bodies, keys in the wrong place, keys that no longer work.
    for broken in (
        f'{{"model":"fake","messages":[{{"content":"{PROMPT}"',
        f'{{"model":"fake","messages":"{PROMPT}"}}',
        f'"{PROMPT}"',
    ):
        bodies.append((await gateway.post(CHAT, broken.encode())).body)
    bodies.append((await gateway.post(COMPLETIONS, {"model": "fake", "prompt": {"a": PROMPT}})).body)
    bodies.append((await gateway.get(f"/v1/models?key={gateway.key}", key="")).body)
    bodies.append((await gateway.get("/v1/models", key=gateway.key[:-1] + "!")).body)
    bodies.append(
        (await gateway.get("/v1/models", key="", headers={"x-api-key": gateway.key, "cookie": gateway.key})).body
    )
    async with await RawConnection.open(gateway.url) as raw:
        await raw.send(
            f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\nbad header {PROMPT}\r\n\r\n".encode()
        )
        bodies.append(await raw.read_to_end())
    return bodies


async def test_A13_a_crash_leaves_no_secret_behind(tmp_path: Path) -> None:
    """Killed in the middle of an answer: what lies in the directory afterwards holds no text of anybody."""
    gateway = GatewayProcess(tmp_path / "data")
    try:
        async with FakeUpstream() as upstream:
            upstream.always(Behaviour(pieces=(ANSWER,), tokens=50, pause_at=(20,)))
            await gateway.apply(fleet_of(upstream.base_url, ["fake"]))
            await gateway.start()
            body = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
            asking = asyncio.ensure_future(gateway.post(CHAT, body))
            await upstream.wait_paused()
            await gateway.kill()
            await asyncio.gather(asking, return_exceptions=True)
        for secret in _secrets(gateway):
            for file in sorted(gateway.data_dir.rglob("*")):
                if file.is_file() and file.name != "master.key":
                    assert secret not in file.read_bytes(), file
    finally:
        await gateway.close()


async def test_A22_a_stored_provider_that_names_a_variable_of_the_host_is_left_without_it(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "data")
    variable = "AWS_SECRET_ACCESS_KEY"
    try:
        async with FakeUpstream(api_key=CREDENTIAL) as upstream, FakeUpstream() as other:
            fleet = fleet_of(upstream.base_url, ["fake"])
            named = dataclasses.replace(fleet.providers[0], api_key_env="LLMAAS_PROVIDER_CANARY")
            backend = dataclasses.replace(fleet.backends[0], id="ma09", provider_id="other", base_url=other.base_url)
            await gateway.apply(
                dataclasses.replace(
                    fleet,
                    providers=(named, dataclasses.replace(fleet.providers[0], id="other")),
                    backends=(*fleet.backends, backend),
                    models=(*fleet.models, dataclasses.replace(fleet.models[0], id="well")),
                    deployments=(*fleet.deployments, dataclasses.replace(fleet.deployments[0], model_id="well", backend_id="ma09")),
                )
            )  # fmt: skip
            with contextlib.closing(sqlite3.connect(gateway.data_dir / "llmaas.db")) as database, database:
                database.execute("UPDATE providers SET api_key_env = ? WHERE id = 'fake'", (variable,))
            await gateway.start({variable: CREDENTIAL})
            chat = {"messages": [{"role": "user", "content": "x"}]}
            assert (await gateway.post(CHAT, {"model": "fake", **chat})).status == 503
            assert (await gateway.post(CHAT, {"model": "well", **chat})).status == 200
            assert upstream.requests == []
            alarm = next(line for line in gateway.log.splitlines() if "credential_missing" in line)
            assert variable in alarm
            assert "credential_variables" in alarm
            assert CREDENTIAL not in gateway.log

            await gateway.terminate()
            await gateway.start({variable: CREDENTIAL, "LLMAAS_CREDENTIAL_VARIABLES": "AWS_*"})
            assert (await gateway.post(CHAT, {"model": "fake", **chat})).status == 200
            assert upstream.last.credential == "provider"
    finally:
        await gateway.close()
