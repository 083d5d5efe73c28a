"""Little memory and few file descriptors: those who have a key go on, and the process lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import Incomplete, RawConnection, request_bytes
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of

CHAT = "/v1/chat/completions"
BODY = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def limited(folder: Path, ulimit: str) -> AsyncIterator[tuple[GatewayProcess, FakeUpstream]]:
    async with FakeUpstream() as upstream:
        gateway = GatewayProcess(folder)
        await gateway.apply(fleet_of(upstream.base_url, ["fake"]))
        try:
            await gateway.start(prefix=["sh", "-c", f'ulimit {ulimit}; exec "$@"', "sh"])
            yield gateway, upstream
        finally:
            await gateway.close()


async def test_A23_idle_connections_leave_files_for_those_who_call(tmp_path: Path) -> None:
    async with limited(tmp_path, "-n 64") as (gateway, _), AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(await RawConnection.open(gateway.url))
        for _ in range(20):
            assert (await gateway.post(CHAT, BODY)).status == 200
            assert (await gateway.get("/readyz")).status == 200
        answers = await asyncio.gather(*(gateway.post(CHAT, BODY) for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        assert len(await gateway.wait_rows(28)) == 28
        assert "attempt_failed" not in gateway.log


async def test_A23_large_bodies_at_once_do_not_end_the_process(tmp_path: Path) -> None:
    text = "x" * (16 * 2**20 - 200)
    body = b'{"model":"fake","messages":[{"role":"user","content":"%b"}]}' % text.encode()
    async with limited(tmp_path, "-v 900000") as (gateway, upstream):
        upstream.script(Behaviour(tokens=1))

        async def call() -> int:
            headers = [("authorization", f"Bearer {gateway.key}"), ("content-type", "application/json")]
            async with await RawConnection.open(gateway.url) as raw:
                answering = asyncio.ensure_future(raw.response(timeout_s=60))
                await raw.send(request_bytes("POST", CHAT, headers=headers, body=body))
                try:
                    return (await answering).status
                except Incomplete:
                    return 0  # cut off while it went on sending after its answer

        statuses = await asyncio.gather(*(call() for _ in range(30)))
        assert set(statuses) <= {200, 503, 0}
        assert 200 in statuses
        assert gateway.process is not None
        assert gateway.process.returncode is None
        assert (await gateway.post(CHAT, BODY)).status == 200
        assert "MemoryError" not in gateway.log
