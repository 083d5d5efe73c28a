"""One engine host and the gateways that follow it, over the real socket and with the real engine."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from llmaas.clock import SystemClock
from llmaas.domain.ports import EngineAddress
from llmaas.errors import Loading, NoBackend
from llmaas.hosting.local import probe
from llmaas.hosting.local.child import engine_command
from llmaas.hosting.local.client import EngineClient
from llmaas.hosting.local.host import EngineHost
from llmaas.hosting.local.process import EngineOptions
from llmaas.hosting.local.states import Order
from llmaas.hosting.models.manifest import FileSource, Manifest, ModelSpec
from tests.hosting.stores import puller_at

pytestmark = pytest.mark.usefixtures("engine_environment")
T = TypeVar("T")


@asynccontextmanager
async def hosting(folder: Path, model: Path) -> AsyncIterator[EngineHost]:
    """A host at `folder/engine.sock` that knows the models `tiny` and `absent`."""
    options = EngineOptions(
        command=engine_command("builtin"),
        parallel=1,
        threads=1,
        load_timeout_s=20,
        idle_unload_s=0,
        drain_timeout_s=5,
        log_folder=folder / "logs",
    )
    specs = [
        ModelSpec("tiny", "tiny.gguf", 512, [FileSource(str(model))]),
        ModelSpec("absent", "absent.gguf", 512, [FileSource(str(folder / "nowhere"))]),
    ]
    host = EngineHost(Manifest(specs), puller_at(folder / "models"), options, SystemClock())
    server = await host.serve(folder / "engine.sock")
    try:
        yield host
    finally:
        server.close()
        await host.stop()


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(folder / "engine.sock")
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def until(look: Callable[[], T | None]) -> T:
    async with asyncio.timeout(20):
        while (found := look()) is None:
            await asyncio.sleep(0.01)
    return found


async def ready(client: EngineClient, told: list[Loading] | None = None) -> EngineAddress:
    def look() -> EngineAddress | None:
        try:
            return client.ensure_ready("tiny")
        except Loading as loading:
            if told is not None:
                told.append(loading)
        return None

    return await until(look)


async def in_state(client: EngineClient, model: str, *names: str) -> None:
    def look() -> bool | None:
        state = client.states().get(model)
        return True if state is not None and state.state in names else None

    await until(look)


async def test_two_gateways_share_an_engine(tmp_path: Path, tiny_model: Path) -> None:
    async with hosting(tmp_path, tiny_model), following(tmp_path) as one, following(tmp_path) as other:
        assert stat.S_IMODE((tmp_path / "engine.sock").stat().st_mode) == 0o600
        told: list[Loading] = []
        address = await ready(one, told)
        assert await ready(other) == address
        assert {loading.state for loading in told} <= {"starting", "idle", "pulling", "loading"}
        assert all(loading.retry_after_s is not None and loading.retry_after_s > 0 for loading in told)
        port = int(address.base_url.rpartition(":")[2])
        assert await probe.is_ready(port, address.api_key, 5)
        # One leaves; the engine and the other stay.
        await one.stop()
        assert await ready(other) == address


async def test_a_wish_starts_what_nobody_preloaded(tmp_path: Path, tiny_model: Path) -> None:
    async with hosting(tmp_path, tiny_model), following(tmp_path) as client:
        await in_state(client, "tiny", "idle")
        with pytest.raises(Loading) as caught:
            client.ensure_ready("tiny")
        assert caught.value.state == "idle"
        await in_state(client, "tiny", "ready")


async def test_what_cannot_run_here_says_why(tmp_path: Path, tiny_model: Path) -> None:
    async with hosting(tmp_path, tiny_model), following(tmp_path) as client:
        await in_state(client, "absent", "idle")
        with pytest.raises(NoBackend) as unknown:
            client.ensure_ready("never heard of")
        assert "manifest" in (unknown.value.hint or "")
        with pytest.raises(Loading):
            client.ensure_ready("absent")
        await in_state(client, "absent", "failed")
        preparation = client.preparation("absent")
        assert preparation is not None
        assert preparation.state == "failed"
        assert client.preparation("unknown") is None
        with pytest.raises(NoBackend) as absent:
            client.ensure_ready("absent")
        assert f"there is no file {tmp_path / 'nowhere'}" in (absent.value.hint or "")
        assert str(tmp_path) not in absent.value.message
        assert (await ready(client)).base_url


async def test_F17_without_a_host_it_is_loading_and_a_new_host_is_found(tmp_path: Path, tiny_model: Path) -> None:
    async with following(tmp_path) as client:
        with pytest.raises(Loading) as away:
            client.ensure_ready("tiny")
        assert away.value.state == "starting"
        async with hosting(tmp_path, tiny_model):
            first = await ready(client)
        await until(lambda: True if not client.states() else None)
        with pytest.raises(Loading) as gone:
            client.ensure_ready("tiny")
        assert gone.value.state == "starting"
        async with hosting(tmp_path, tiny_model):
            assert (await ready(client)).api_key != first.api_key


async def test_a_stop_is_not_undone_by_a_wish(tmp_path: Path, tiny_model: Path) -> None:
    async with following(tmp_path) as client:
        async with hosting(tmp_path, tiny_model) as host:
            await ready(client)
            stopping = asyncio.create_task(host.stop())
            while not stopping.done():
                host.want("tiny")
                host.want("absent")
                await asyncio.sleep(0.01)
        assert not any(state.state == "ready" for state in client.states().values())


async def test_nonsense_ends_that_connection_only(tmp_path: Path, tiny_model: Path) -> None:
    async with hosting(tmp_path, tiny_model) as host, following(tmp_path) as client:
        host.want("tiny")
        await in_state(client, "tiny", "ready")
        for line in (b"nonsense\n", b'{"op": "explode", "model": "tiny"}\n', b"x" * 200_000 + b"\n", b"\xff\n"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
            writer.write(line)
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "engine.sock")
        writer.write(msgspec.json.encode(Order("unload", "never heard of")) + b"\n")
        writer.write(msgspec.json.encode(Order("unload", "tiny")) + b"\n")
        await in_state(client, "tiny", "idle")
        writer.close()
        assert (await ready(client)).base_url
