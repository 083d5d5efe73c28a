"""Processes of the service that stand still: what it is for callers, how soon they are replaced, and that a stop does not wait."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hosting.serving import ROOT, Serving, gone, write_models
from tests.waiting import until

NOWHERE = "valkey://127.0.0.1:1/0"
NOTICED_S = 5.0
BUSY_MACHINE_S = 10.0
HANGS = """
import signal, time

def spin(*_):
    while True:
        pass

signal.signal(signal.SIGUSR1, spin)
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(1000))
"""


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    one = Serving(tmp_path / "data")
    write_models(one.data_dir)
    yield one
    await one.close()


async def models(serving: Serving) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
    writer.write(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {serving.key}\r\n\r\n".encode())
    status = (await asyncio.wait_for(reader.readline(), 20)).split()
    writer.close()
    return int(status[1])


async def replaced(serving: Serving, number: int, pid: int) -> None:
    def back() -> bool:
        now = serving.gateways()
        return len(now) > number and now[number] != pid

    await until(lambda: "process_frozen" in serving.err, "it is noticed", NOTICED_S + BUSY_MACHINE_S)
    await gone(pid)
    await until(back, "another in its place", 30)


@pytest.mark.slow
async def test_F20_one_frozen_of_four_keeps_no_new_caller_waiting(serving: Serving, postgres_url: str) -> None:
    environment = {"LLMAAS_DATABASE_URL": postgres_url, "LLMAAS_STATE_URL": NOWHERE}
    await serving.start("--no-model", "--workers", "4", env=environment)
    await serving.greeted()
    pids = serving.gateways()
    os.kill(pids[1], signal.SIGSTOP)
    # Its share of these is there before anybody can have noticed.
    begun_s = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(models(serving) for _ in range(60))) == [200] * 60
    assert asyncio.get_running_loop().time() - begun_s < 2 + BUSY_MACHINE_S
    await replaced(serving, 1, pids[1])
    assert await asyncio.gather(*(models(serving) for _ in range(60))) == [200] * 60
    assert [pid for pid in serving.gateways() if pid in pids] == [pids[0], *pids[2:]]

    last = serving.gateways()
    os.kill(last[2], signal.SIGSTOP)
    assert serving.process is not None
    begun_s = asyncio.get_running_loop().time()
    serving.process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0
    assert asyncio.get_running_loop().time() - begun_s < 5 + BUSY_MACHINE_S
    await gone(*last)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGSTOP,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, marks=pytest.mark.slow),
    ],
)
async def test_F20_a_caller_of_the_only_process_is_answered_by_the_next(serving: Serving, how: signal.Signals) -> None:
    """Frozen by a signal, hanging in a loop, and waiting for ever."""
    hangs = serving.data_dir.parent / "hangs"
    hangs.mkdir()
    (hangs / "sitecustomize.py").write_text(HANGS)
    await serving.start("--no-model", env={"PYTHONPATH": f"{hangs}:{ROOT}"})
    await serving.greeted()
    pid = serving.gateways()[0]
    os.kill(pid, how)
    asking = asyncio.create_task(models(serving))
    await replaced(serving, 0, pid)
    assert await asking == 200


@pytest.mark.slow
async def test_F20_a_frozen_engine_host_is_replaced_and_no_stop_waits_for_it(serving: Serving) -> None:
    await serving.start("--no-model")
    await serving.greeted()
    first = await serving.child("engines")
    os.kill(first, signal.SIGSTOP)
    await until(lambda: "process_frozen" in serving.err, "it is noticed", 10 + BUSY_MACHINE_S)
    await gone(first)
    second = await serving.child("engines", first)
    os.kill(second, signal.SIGSTOP)
    assert serving.process is not None
    begun_s = asyncio.get_running_loop().time()
    serving.process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0
    assert asyncio.get_running_loop().time() - begun_s < 5 + BUSY_MACHINE_S


@pytest.mark.slow
async def test_F20_nobody_is_blamed_when_all_were_stopped_together(serving: Serving) -> None:
    """As a laptop sleeps, or a container is frozen. Who watches is the first to wake."""
    await serving.start("--no-model")
    await serving.greeted()
    assert serving.process is not None
    pids = [serving.process.pid, *serving.gateways(), await serving.child("engines")]
    for pid in reversed(pids):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(5)  # longer than silence is borne
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(5)
    assert "process_frozen" not in serving.err
    assert [serving.process.pid, *serving.gateways(), await serving.child("engines")] == pids
    assert await models(serving) == 200
