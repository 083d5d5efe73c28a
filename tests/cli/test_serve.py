"""`llmaas serve` as a program: what stops a start, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.serving import Serving, gone, write_models


@pytest.fixture
async def serving(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Serving]:
    one = Serving(tmp_path / "data")
    write_models(one.data_dir, tiny=(tiny_model, "chat"))
    yield one
    await one.close()


def errors(one: Serving) -> list[str]:
    return [line.removeprefix("llmaas: error: ") for line in one.err.splitlines() if line.startswith("llmaas: error: ")]


async def test_a_first_start_shows_its_secrets_once_and_stops_drain(serving: Serving) -> None:
    await serving.start("--default-model", "tiny")
    out = await serving.greeted()
    assert re.search(r"  API key   llmaas_\S+\n", out)
    assert re.search(r"sign in   admin@localhost\n  password  \S{12,}   \(one-time\)\n", out)
    assert out.count(serving.key) == 2
    assert f"curl {serving.url}/v1/chat/completions" in out
    assert '"model": "tiny"' in out
    pids = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    assert serving.process is not None
    os.killpg(serving.process.pid, signal.SIGINT)
    assert await serving.ended() == 0
    await gone(*pids)
    assert "Traceback" not in serving.err
    assert serving.key not in serving.err

    await serving.start("--default-model", "tiny")
    again = await serving.greeted()
    assert "models: tiny" in again
    assert "Shown once" not in again
    body = b'{"model": "tiny", "stream": true, "max_tokens": 600, "messages": [{"role": "user", "content": "x"}]}'
    async with asyncio.timeout(20):
        while (await serving.post("/v1/chat/completions", body.replace(b"600", b"1"))).status != 200:
            await asyncio.sleep(0.02)
    reader, writer = await serving.begin("/v1/chat/completions", body)
    begun = await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    serving.process.send_signal(signal.SIGTERM)
    rest = await asyncio.wait_for(reader.read(), 20)
    assert b"data: [DONE]" in begun + rest
    writer.close()
    assert await serving.ended() == 0


async def test_a_start_that_is_broken_off_has_shown_its_secrets(serving: Serving) -> None:
    await serving.start("--no-model")
    async with asyncio.timeout(20):
        while not keys(serving.data_dir):
            await asyncio.sleep(0.001)
    assert serving.process is not None
    serving.process.send_signal(signal.SIGTERM)
    assert await serving.ended() == 0
    assert "API key   llmaas_" in serving.out


def keys(data_dir: Path) -> int:
    try:
        with sqlite3.connect(f"file:{data_dir / 'llmaas.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM keys").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


async def test_killed_it_takes_its_processes_along(serving: Serving) -> None:
    await serving.start("--default-model", "tiny")
    await serving.greeted()
    pids = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    assert serving.process is not None
    serving.process.kill()
    await serving.ended()
    await gone(*pids)


async def test_without_a_model_and_two_on_one_data_directory(serving: Serving) -> None:
    await serving.start("--no-model")
    assert "no models yet" in await serving.greeted()
    assert set(serving.children()) == {"gateway", "engines"}
    assert not (serving.data_dir / "models").exists()
    (serving.data_dir.parent / "second").mkdir()
    second = Serving(serving.data_dir.parent / "second" / "data")
    second.data_dir = serving.data_dir
    await second.start("--no-model")
    assert await second.ended() == 3
    assert serving.process is not None
    (error,) = errors(second)
    assert error.startswith(
        f"data_dir: another `llmaas serve` (process {serving.process.pid}) works on {serving.data_dir}; stop it"
    )
    assert await serving.answers()


async def test_every_reason_against_a_start_is_told(serving: Serving) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (serving.data_dir / "models.toml").write_text("[[models]]\nname = 'x'\n[[models]]\nfile = 'y'\n")
        await serving.start("--port", str(port), "--metrics-listen", f"127.0.0.1:{port}")
        assert await serving.ended() == 3
    told = errors(serving)
    address = f"can't listen on 127.0.0.1:{port}: Address already in use; free it, or set"
    assert told[:2] == [
        f"port: {address} --port or LLMAAS_PORT",
        f"metrics_listen: {address} --metrics-listen or LLMAAS_METRICS_LISTEN",
    ]
    assert len(told) == 4
    assert not (serving.data_dir / "llmaas.db").exists()


async def test_a_data_directory_that_cannot_be_written(serving: Serving) -> None:
    shutil.rmtree(serving.data_dir)
    serving.data_dir.write_bytes(b"")
    serving.data_dir /= "below"
    await serving.start()
    assert await serving.ended() == 3
    assert errors(serving) == [
        f"data_dir: {serving.data_dir} is not writable: Not a directory; set --data-dir or LLMAAS_DATA_DIR"
    ]


async def test_every_mistake_in_the_settings_is_told(serving: Serving) -> None:
    (serving.data_dir / "llmaas.toml").write_text('prot = 1\nlog_level = "loud"\n')
    await serving.start(
        "--drain-timeout-s",
        "-1",
        env={"LLMAAS_WORKER": "2", "LLMAAS_HUB_TOKEN": "s3cret", "LLMAAS_MAX_BODY_BYTES": "x"},
    )
    assert await serving.ended() == 3
    told = errors(serving)
    assert len(told) == 5
    for text in (
        "unknown setting `prot`",
        "log_level",
        "LLMAAS_WORKER: unknown setting",
        "LLMAAS_MAX_BODY_BYTES",
        "--drain-timeout-s",
    ):
        assert any(text in line for line in told), text
    assert "s3cret" not in serving.err


async def test_an_unknown_default_model_and_an_old_schema(serving: Serving) -> None:
    await serving.start("--default-model", "nothing")
    assert await serving.ended() == 3
    assert errors(serving) == [
        "default_model: `nothing` is not in the model manifest; set --default-model or --no-model"
    ]
    with sqlite3.connect(serving.data_dir / "llmaas.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    await serving.start("--no-model")
    assert await serving.ended() == 3
    assert len(errors(serving)) == 1
    assert "Traceback" not in serving.err
