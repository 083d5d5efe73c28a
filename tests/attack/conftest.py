"""One gateway for all attacks, with fake engines behind it. After the last attack it must be as it was: same files, same memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.attack.process import Process
from tests.gateway import GatewayProcess
from tests.service import PROVIDER_KEY, Service, Upstreams

MEMORY_GROWTH_BYTES = (
    128 * 2**20
)  # the C library keeps up to 64 MiB of freed memory at the top of its heap, and pieces below
FILES_GROWTH = 4  # connections to the database that were not open at the start
ENVIRONMENT = {
    "LLMAAS_PROVIDER_FAKE_KEY": PROVIDER_KEY,
    "LLMAAS_FIRST_BYTE_TIMEOUT_S": "1",
    "LLMAAS_BETWEEN_CHUNKS_TIMEOUT_S": "1",
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    upstreams = Upstreams()
    gateway = GatewayProcess(tmp_path_factory.mktemp("target"))
    try:
        await upstreams.start()
        await gateway.apply(upstreams.fleet())
        await gateway.start(ENVIRONMENT)
        service = Service(gateway, upstreams)
        for _ in range(50):
            assert (await service.chat("plain")).status == 200
        assert gateway.process is not None
        process = Process(gateway.process.pid)
        files, memory = process.files(), process.memory_bytes()
        yield service
        upstreams.reset()
        await upstreams.stop()
        async with asyncio.timeout(5):
            while process.files() > files + FILES_GROWTH:
                await asyncio.sleep(0.05)
        assert process.memory_bytes() <= memory + MEMORY_GROWTH_BYTES
        log = gateway.log
        assert "request_failed" not in log, log[-3000:]
        assert "Traceback" not in log, log[-3000:]
    finally:
        await upstreams.stop()
        await gateway.close()


@pytest.fixture
def target(session_target: Service) -> Service:
    session_target.upstreams.reset()
    return session_target


@pytest.fixture
def process(target: Service) -> Process:
    assert target.gateway.process is not None
    return Process(target.gateway.process.pid)


@pytest.fixture
def data_dir(target: Service) -> Path:
    return target.gateway.data_dir
