"""One engine through its life, with the real llama.cpp on the tiny model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import CapturingLogger

from llmaas.clock import SystemClock
from llmaas.hosting.local import probe, process
from llmaas.hosting.local.child import engine_command
from llmaas.hosting.local.process import EngineOptions, EngineProcess
from llmaas.hosting.local.states import EngineState
from llmaas.hosting.models.manifest import FileSource, ModelSpec
from llmaas.hosting.models.pull import Progress, Puller
from tests.fakes.raw_http import RawConnection, request_bytes
from tests.hosting.stores import digest_of, puller_at

pytestmark = pytest.mark.usefixtures("engine_environment")
PROMPT = "a prompt that nobody else may read"


class InSteps(Puller):
    """Tells of these percents before it pulls, if there are any."""

    def __init__(self, puller: Puller, percents: Sequence[int]) -> None:
        self._puller = puller
        self._percents = percents

    def pull(self, spec: ModelSpec, progress: Progress) -> Path:
        for percent in self._percents:
            progress(percent, 100)
        return self._puller.pull(spec, (lambda _done, _total: None) if self._percents else progress)


class Watched:
    """An engine and all states that it was in."""

    def __init__(self, folder: Path, model: Path, **options: Any) -> None:
        spec_options: dict[str, Any] = {
            name: options.pop(name) for name in ("kind", "sha256", "context") if name in options
        }
        digest = spec_options.pop("sha256", None)
        puller = InSteps(puller_at(folder / "models"), options.pop("percents", ()))
        self.folder = folder
        self.states: list[EngineState] = []
        self._changed = asyncio.Event()
        fields: dict[str, Any] = {"context": 512, **spec_options}
        self.spec = ModelSpec(name="tiny", file="tiny.gguf", sources=[FileSource(str(model), digest)], **fields)
        defaults = EngineOptions(
            command=engine_command("builtin"),
            parallel=2,
            threads=1,
            load_timeout_s=20,
            idle_unload_s=0,
            drain_timeout_s=20,
            log_folder=folder / "logs",
            watch_s=0.05,
            answer_s=0.5,
            failed_pause_s=0,
            backoff_s=(0.05, 0.1),
        )
        self.engine = EngineProcess(self.spec, puller, replace(defaults, **options), SystemClock(), self._heard)

    def _heard(self, state: EngineState) -> None:
        self.states.append(state)
        self._changed.set()

    @property
    def names(self) -> list[str]:
        """States without repetitions."""
        names = [state.state for state in self.states]
        return [name for before, name in zip(["", *names], names, strict=False) if name != before]

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "engine-tiny.gguf.log").read_text()

    async def until(self, name: str, after: int = 0) -> EngineState:
        """The first state of that name, not counting the first `after` ones."""
        async with asyncio.timeout(20):
            while not (found := [state for state in self.states[after:] if state.state == name]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    async def ready(self) -> EngineState:
        self.engine.want()
        return await self.until("ready")

    def pid(self) -> int:
        """The engine's process, found by its port."""
        port = self.states[-1].base_url.rpartition(":")[2]
        return next(pid for pid, words in processes() if words[-40:].count(port) and "--port" in words)


def processes() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((int(entry.name), (entry / "cmdline").read_text().split("\0")))
            except OSError:
                continue
    return found


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def watched(folder: Path, model: Path, **options: Any) -> AsyncIterator[Watched]:
    one = Watched(folder, model, **options)
    try:
        yield one
    finally:
        await one.engine.stop()


async def ask(state: EngineState, path: str, body: dict[str, Any], key: str | None = None) -> tuple[int, Any]:
    async with await RawConnection.open(state.base_url, timeout_s=20) as connection:
        headers = [
            ("authorization", f"Bearer {state.api_key if key is None else key}"),
            ("content-type", "application/json"),
        ]
        await connection.send(request_bytes("POST", path, headers=headers, body=msgspec.json.encode(body)))
        answer = await connection.response()
        return answer.status, answer.json()


def chat(max_tokens: int = 3, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": max_tokens, **more}


async def test_the_log_tells_of_a_pull_in_whatever_steps_it_comes(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CapturingLogger()
    monkeypatch.setattr(process, "_log", logger)
    async with watched(tmp_path, tiny_model, percents=[4, 9, 14, 18, 23, 99, 100]) as one:
        await one.ready()
    told = [call.kwargs["percent"] for call in logger.calls if call.args == ("model_pulling",)]
    assert told == [4, 9, 14, 23, 99, 100]


async def test_it_comes_up_answers_and_ends(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path, tiny_model) as one:
        state = await one.ready()
        assert one.names == ["pulling", "starting", "loading", "ready"]
        status, answer = await ask(state, "/v1/chat/completions", chat())
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        assert (await ask(state, "/v1/chat/completions", chat(), key="wrong"))[0] == 401
        slots = await probe.get(int(state.base_url.rpartition(":")[2]), "/slots", state.api_key, 5)
        assert slots is not None
        assert [slot["n_ctx"] for slot in msgspec.json.decode(slots[1])] == [512, 512]
        pid = one.pid()
        words = dict(processes())[pid]
        assert state.api_key not in " ".join(words)
        await one.engine.stop()
        assert one.names[-2:] == ["draining", "idle"]
        assert not runs(pid)
    assert state.api_key not in one.log
    assert PROMPT not in one.log


async def test_embeddings(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path, tiny_model, kind="embedding", context=1024) as one:
        state = await one.ready()
        status, answer = await ask(state, "/v1/embeddings", {"model": "tiny", "input": ["one", "two " * 230]})
        assert status == 200, answer
        assert [len(item["embedding"]) for item in answer["data"]] == [64, 64]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_F17_one_that_dies_or_hangs_is_started_again(
    tmp_path: Path, tiny_model: Path, number: signal.Signals
) -> None:
    async with watched(tmp_path, tiny_model, answer_s=0.1) as one:
        first = await one.ready()
        pid, before = one.pid(), len(one.states)
        os.kill(pid, number)
        backoff = await one.until("backoff", before)
        assert backoff.eta_s == 0.05
        assert backoff.detail == (
            "the engine ended with signal SIGKILL (out of memory?)."
            if number is signal.SIGKILL
            else "it did not answer any more and was killed"
        )
        second = await one.until("ready", before)
        assert (second.base_url, second.api_key) != (first.base_url, first.api_key)
        assert (await ask(second, "/v1/chat/completions", chat()))[0] == 200
        assert not runs(pid)


async def test_one_that_works_hard_is_not_taken_for_hung(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path, tiny_model, answer_s=0.2) as one:
        state = await one.ready()
        pid = one.pid()
        body = chat(150, stream=True)
        calls = [asyncio.create_task(ask_stream(state, body)) for _ in range(24)]
        await asyncio.gather(*calls)
        assert one.pid() == pid
        assert one.names[-1] == "ready"


async def ask_stream(state: EngineState, body: dict[str, Any], begun: Callable[[], None] = lambda: None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(state.base_url.rpartition(":")[2]))
    headers = [
        ("authorization", f"Bearer {state.api_key}"),
        ("content-type", "application/json"),
        ("connection", "close"),
    ]
    writer.write(request_bytes("POST", "/v1/chat/completions", headers=headers, body=msgspec.json.encode(body)))
    parts = []
    while part := await reader.read(65536):
        parts.append(part)
        begun()
    writer.close()
    return b"".join(parts)


async def test_an_unload_lets_a_stream_finish_and_a_wish_meanwhile_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path, tiny_model, context=2048) as one:
        state = await one.ready()
        begun = asyncio.Event()
        stream = asyncio.create_task(ask_stream(state, chat(1200, stream=True), begun.set))
        await asyncio.wait_for(begun.wait(), 10)
        before = len(one.states)
        one.engine.unload()
        await one.until("draining", before)
        one.engine.want()
        assert (await stream).rstrip().endswith(b"data: [DONE]\n\n\r\n0")
        await one.until("ready", before)
        assert one.names[-5:] == ["draining", "idle", "starting", "loading", "ready"]


async def test_an_idle_one_is_unloaded_but_not_while_it_is_wanted(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path, tiny_model, idle_unload_s=0.4) as one:
        await one.ready()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 0.9
        while loop.time() < end_s:
            one.engine.want()
            await asyncio.sleep(0.1)
        assert one.names[-1] == "ready"
        await one.until("idle", len(one.states))
        await one.ready()


async def test_F17_a_port_that_is_taken_leads_to_another(tmp_path: Path, tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1]])
        async with watched(tmp_path, tiny_model, choose_port=lambda: next(ports, 0) or probe.free_port()) as one:
            state = await one.ready()
            assert one.names[-5:] == ["loading", "backoff", "starting", "loading", "ready"]
            assert not state.base_url.endswith(str(taken.getsockname()[1]))


async def test_F17_somebody_elses_server_on_the_port_is_not_ours(tmp_path: Path, tiny_model: Path) -> None:
    async with watched(tmp_path / "a", tiny_model) as other:
        state = await other.ready()
        port = int(state.base_url.rpartition(":")[2])
        assert await probe.is_ready(port, state.api_key, 5)
        assert await probe.is_healthy(port, "another", 5)
        assert not await probe.is_ready(port, "another", 5)


async def test_F17_a_corrupt_file_is_told_and_pulled_again(tmp_path: Path, tiny_model: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(tiny_model.read_bytes())
    async with watched(tmp_path, origin, sha256=digest_of(origin.read_bytes())) as one:
        await one.ready()
        one.engine.unload()
        await one.until("idle")
        file = tmp_path / "models" / "tiny.gguf"
        file.write_bytes(b"GGUF" + b"?" * 1000)
        kept = origin.read_bytes()
        origin.unlink()
        before = len(one.states)
        one.engine.want()
        failed = await one.until("failed", before)
        assert "The file of the model `tiny` is corrupt." in failed.detail
        assert "there is no file" in failed.detail
        assert file.with_suffix(".corrupt").exists()
        origin.write_bytes(kept)
        one.engine.want()
        await one.until("ready", before)


async def test_F17_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"GGUF" + b"?" * 1000)
    async with watched(tmp_path, origin) as one:
        one.engine.want()
        failed = await one.until("failed")
        assert one.names.count("backoff") == 2
        assert "GGUF" in failed.detail


def script(folder: Path, text: str, mode: int = stat.S_IRWXU) -> str:
    path = folder / "program"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (lambda folder: str(folder / "missing"), "No such file or directory"),
        (str, "Permission denied"),
        (lambda folder: script(folder, "no program"), "Exec format error"),
        (
            lambda folder: script(folder, "#!/bin/sh\necho error: this is no llama >&2\nexit 7\n"),
            "code 7. error: this is no llama",
        ),
    ],
)
async def test_F17_a_wrong_program_is_told(
    tmp_path: Path, tiny_model: Path, program: Callable[[Path], str], says: str
) -> None:
    command = engine_command(program(tmp_path))
    async with watched(tmp_path, tiny_model, command=command) as one:
        one.engine.want()
        failed = await one.until("failed")
        assert says in failed.detail
        assert command[0] in failed.detail
        assert "see the setting llama_server" in failed.detail


async def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with watched(tmp_path, tiny_model, log_folder=tmp_path / "file" / "logs") as one:
        state = await one.ready()
        for _ in range(5):
            assert (await ask(state, "/v1/chat/completions", chat()))[0] == 200


async def test_a_store_that_cannot_be_written_is_told(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "models").write_bytes(b"")
    async with watched(tmp_path, tiny_model) as one:
        one.engine.want()
        assert "File exists" in (await one.until("failed")).detail


def test_the_program_comes_from_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builtin: Sequence[str] = [sys.executable, "-P", "-m", "llmaas.hosting.local.llama_server"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine_command("auto") == builtin
    own = tmp_path / "llama-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(stat.S_IRWXU)
    assert engine_command("auto") == [str(own)]
    assert engine_command("builtin") == builtin
    assert engine_command("/opt/x") == ["/opt/x"]
