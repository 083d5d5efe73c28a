"""Every signal that asks for a stop, alone and in storms: answers are finished, and the exit code is the documented one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas import settings
from llmaas.datadir import Installation
from llmaas.pulse import STOPS
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection
from tests.fakes.upstream import FakeUpstream
from tests.gateway import fleet_of
from tests.hosting.serving import Serving, gone, write_models
from tests.schema import write_schema
from tests.waiting import until

BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}'


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    one = Serving(tmp_path / "data")
    write_models(one.data_dir)
    yield one
    await one.close()


@pytest.fixture
async def upstream(serving: Serving) -> AsyncIterator[FakeUpstream]:
    """The service knows it, and it pauses within each answer."""
    write_schema(serving.data_dir / "llmaas.db")
    loaded = settings.load({"data_dir": str(serving.data_dir)}, {})
    async with FakeUpstream() as one:
        installation = await Installation(loaded.settings).open()
        await installation.catalogue.apply(fleet_of(one.base_url, ["m"]), now_ms=0, prune=True)
        await installation.close()
        one.always(Behaviour(pause_at=(3,)))
        yield one


async def begin(serving: Serving, upstream: FakeUpstream) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await serving.begin("/v1/chat/completions", BODY)
    await upstream.wait_paused(1)
    return reader, writer


@pytest.mark.parametrize("word", STOPS)
async def test_each_word_to_stop_lets_answers_finish(
    serving: Serving, upstream: FakeUpstream, word: signal.Signals
) -> None:
    await serving.start()
    await serving.greeted()
    children = serving.children()
    reader, writer = await begin(serving, upstream)
    assert serving.process is not None
    serving.process.send_signal(word)
    await until(lambda: "draining" in serving.err, "it drains")
    # Who stops the service may tell all its processes, and once more; only SIGINT means to hurry.
    for again in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(children["gateway"], again)
    await upstream.release(1)
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    writer.close()
    assert await serving.ended() == 0
    await gone(*children.values())
    assert "Traceback" not in serving.err
    assert "stopped" in serving.err.splitlines()[-1]


async def test_a_start_is_told_that_what_was_before_it_is_still_ending(
    serving: Serving, upstream: FakeUpstream
) -> None:
    """The supervisor was killed, and its gateway finishes an answer."""
    await serving.start()
    await serving.greeted()
    children = serving.children()
    reader, writer = await begin(serving, upstream)
    assert serving.process is not None
    serving.process.kill()
    await serving.ended()
    await serving.start()
    assert await serving.ended() == 3
    assert (
        "Address already in use; a previous `llmaas serve` of this data directory is still ending; wait up to 40 s"
        in (serving.err)
    )
    await upstream.release(1)
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    writer.close()
    await gone(*children.values())


async def test_a_stop_told_to_all_processes_lets_the_built_in_engine_finish(serving: Serving, tiny_model: Path) -> None:
    write_models(serving.data_dir, tiny=(tiny_model, "chat"))
    await serving.start("--default-model", "tiny")
    await serving.greeted()
    body = BODY.replace(b'"m"', b'"tiny"').replace(b"{", b'{"max_tokens": 600, ', 1)
    async with asyncio.timeout(30):
        while (await serving.post("/v1/chat/completions", body.replace(b"600", b"1"))).status != 200:
            await asyncio.sleep(0.05)
    assert serving.process is not None
    pids = [*serving.children().values(), serving.process.pid]
    reader, writer = await serving.begin("/v1/chat/completions", body)
    begun = await asyncio.wait_for(reader.readuntil(b"data: "), 20)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    rest = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert (begun + rest).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b'"error"' not in begun + rest
    assert await serving.ended() == 0
    await gone(*pids)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
async def test_a_storm_of_them_ends_as_three_do(serving: Serving, upstream: FakeUpstream, seed: int) -> None:
    await serving.start()
    await serving.greeted()
    children = serving.children()
    _, writer = await begin(serving, upstream)
    process = serving.process
    assert process is not None
    storm = random.Random(seed)
    os.kill(children["engines"], signal.SIGSTOP)  # so that there is somebody to be killed
    while process.returncode is None:
        send(process, storm.choice(STOPS))
        await asyncio.sleep(storm.choice((0, 0.001, 0.02)))
    assert await serving.ended() == 130
    await gone(*children.values())
    assert "processes_killed" in serving.err
    writer.close()


async def test_a_storm_over_an_idle_service_ends_with_a_documented_code(serving: Serving) -> None:
    await serving.start("--no-model")
    await serving.greeted()
    process = serving.process
    assert process is not None
    while process.returncode is None:
        send(process, random.choice(STOPS))
        await asyncio.sleep(0)
    assert await serving.ended() in {0, 130}


async def test_a_closed_terminal_is_a_word_to_stop(serving: Serving, upstream: FakeUpstream) -> None:
    """What it still has to say then goes nowhere."""
    master, slave = pty.openpty()
    await serving.start(terminal=slave)
    os.close(slave)
    shown = b""
    while b"is ready at" not in shown:
        shown += await asyncio.to_thread(os.read, master, 65536)
    serving.key = await new_key(serving)
    reader, writer = await begin(serving, upstream)
    assert serving.process is not None
    os.close(master)
    await until(lambda: refuses(serving), "it drains")
    await upstream.release(1)
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    writer.close()
    assert await serving.ended() == 0


async def test_under_nohup_a_closed_terminal_is_nothing(serving: Serving) -> None:
    await serving.start("--no-model", prefix=("nohup",))
    await serving.greeted()
    process = serving.process
    assert process is not None
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        assert await serving.answers()
    process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0
    assert "hurrying" not in serving.err


def send(process: asyncio.subprocess.Process, word: signal.Signals) -> None:
    """Without a look at how it is, which would take its exit code from who waits for that."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, word)


async def new_key(serving: Serving) -> str:
    loaded = settings.load({"data_dir": str(serving.data_dir)}, {})
    installation = await Installation(loaded.settings).open()
    token, _ = await installation.create_key(project_id="default", name="t")
    await installation.close()
    return token


async def refuses(serving: Serving) -> bool:
    async with await RawConnection.open(serving.url) as connection:
        return (await connection.request("GET", "/readyz")).status == 503
