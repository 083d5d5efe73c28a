"""One embedded model: a child process with llama.cpp's server, kept in the state that is wished for.

    idle ── want ──> pulling ──> starting ──> loading ──> ready ── unload ──> draining ──> idle
                        │            └──────────┴───────────┴── died or hung ──> backoff ──> starting
                        └── no file to be had ──> failed (a wish after a pause tries again)

Callers say what they want and look at `state`; nobody drives the machine from outside.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from llmaas.clock import Clock
from llmaas.engine import probe
from llmaas.engine.manifest import ModelSpec
from llmaas.engine.pull import PullCancelled, Puller
from llmaas.engine.states import EngineState, State
from llmaas.errors import EngineFailed
from llmaas.settings import child_environment

_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_STABLE_S = 60.0
_POLL_S = 0.1
_WATCH_S = 2.0
_HUNG_AFTER = 3
_KILL_AFTER_S = 5.0
_FAILED_PAUSE_S = 30.0
_LOG_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.engine")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`command`: what to run in place of the built-in server; empty: the built-in."""

    command: Sequence[str]
    parallel: int
    threads: int
    load_timeout_s: float
    idle_unload_s: float
    drain_timeout_s: float
    log_folder: Path


def engine_command(llama_server: str) -> list[str]:
    """From the setting `llama_server`: `builtin`, a path, or `auto`, which takes the one on PATH."""
    if llama_server not in ("auto", "builtin"):
        return [llama_server]
    found = shutil.which("llama-server") if llama_server == "auto" else None
    return [found] if found else [sys.executable, "-P", "-m", "llmaas.engine.llama_server"]


class EngineProcess:
    """`changed` is called at each change of `state`."""

    def __init__(
        self, spec: ModelSpec, puller: Puller, options: EngineOptions, clock: Clock, changed: Callable[[EngineState], None]
    ) -> None:
        self._spec = spec
        self._puller = puller
        self._options = options
        self._clock = clock
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._unload = asyncio.Event()
        self._pull_cancelled = False
        self._failed_at_s = 0.0
        self._last_lines: collections.deque[str] = collections.deque(maxlen=20)
        self.state = EngineState(spec.name, "idle")

    def want(self) -> None:
        """Bring it up, unless it is up or on its way."""
        if self._task is not None and not self._task.done():
            return
        if self.state.state == "failed" and self._clock.monotonic_s() - self._failed_at_s < _FAILED_PAUSE_S:
            return
        self._unload.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"engine {self._spec.name}")

    def unload(self) -> None:
        """Let running answers finish, then stop the process."""
        self._unload.set()

    async def stop(self) -> None:
        """Unload and wait for it."""
        self._pull_cancelled = True
        self._unload.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            path = await asyncio.to_thread(self._pull, asyncio.get_running_loop())
        except PullCancelled:
            self._set("idle")
            return
        except EngineFailed as error:
            self._fail(f"{error.message} {error.hint or ''}".strip())
            return
        failures = 0
        while not self._unload.is_set():
            started_s = self._clock.monotonic_s()
            detail = await self._live(path)
            if self._unload.is_set():
                break
            failures = 1 if self._clock.monotonic_s() - started_s > _STABLE_S else failures + 1
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
            _log.error("engine_ended", model=self._spec.name, detail=detail, restart_in_s=wait_s)
            self._set("backoff", detail=detail, eta_s=wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._unload.wait(), wait_s)
        self._set("idle")

    def _pull(self, loop: asyncio.AbstractEventLoop) -> Path:
        """In a thread."""
        started_s = self._clock.monotonic_s()
        shown = -1

        def progress(done: int, total: int) -> None:
            nonlocal shown
            if self._pull_cancelled:
                raise PullCancelled
            percent = done * 100 // total if total else 0
            if percent == shown:
                return
            shown = percent
            spent_s = self._clock.monotonic_s() - started_s
            eta_s = round(spent_s * (total - done) / done, 1) if done else None
            loop.call_soon_threadsafe(self._pulling, percent, eta_s)

        return self._puller.pull(self._spec, progress)

    def _pulling(self, percent: int, eta_s: float | None) -> None:
        if percent % 5 == 0:
            _log.info("model_pulling", model=self._spec.name, percent=percent, eta_s=eta_s)
        self._set("pulling", progress=percent / 100, eta_s=eta_s)

    async def _live(self, path: Path) -> str:
        """One life of the child process; says why it ended."""
        port, api_key = probe.free_port(), secrets.token_hex(16)
        self._set("starting")
        try:
            process = await self._start(path, port, api_key)
        except OSError as error:
            return f"the engine could not be started: {error.strerror}; check the setting llama_server"
        reading = asyncio.get_running_loop().create_task(self._keep_log(process))
        try:
            return await self._watch(process, port, api_key)
        finally:
            await self._end(process)
            await reading

    async def _start(self, path: Path, port: int, api_key: str) -> asyncio.subprocess.Process:
        spec, options = self._spec, self._options
        words = [*options.command, "--model", str(path), "--alias", spec.name, "--host", "127.0.0.1", "--port", str(port)]
        # llama.cpp divides its context among its slots, and each request is promised the whole window.
        words += ["--ctx-size", str(spec.context * options.parallel), "--parallel", str(options.parallel)]
        words += ["--jinja", "--slots", "--no-webui", "--no-context-shift"]
        if options.threads:
            words += ["--threads", str(options.threads)]
        if spec.kind == "embedding":
            words.append("--embeddings")
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=child_environment(LLAMA_API_KEY=api_key),
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    async def _watch(self, process: asyncio.subprocess.Process, port: int, api_key: str) -> str:
        ended = asyncio.get_running_loop().create_task(process.wait())
        unload = asyncio.get_running_loop().create_task(self._unload.wait())
        try:
            self._set("loading")
            if not await self._loaded(port, api_key, ended, unload):
                return self._why(process, "it did not become ready in time; see the setting engine_load_timeout_s")
            self._set("ready", base_url=f"http://127.0.0.1:{port}", api_key=api_key)
            _log.info("engine_ready", model=self._spec.name, port=port)
            missed, busy_at_s = 0, self._clock.monotonic_s()
            while not ended.done() and not unload.done():
                await asyncio.wait({ended, unload}, timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
                if ended.done() or unload.done():
                    break
                missed = 0 if await probe.is_healthy(port, api_key) else missed + 1
                if missed >= _HUNG_AFTER:
                    return "it did not answer any more and was stopped"
                if self._options.idle_unload_s:
                    if await probe.is_busy(port, api_key):
                        busy_at_s = self._clock.monotonic_s()
                    elif self._clock.monotonic_s() - busy_at_s > self._options.idle_unload_s:
                        self._unload.set()
            if not ended.done():
                self._set("draining")
                await self._drained(port, api_key, ended)
            return self._why(process, "it ended")
        finally:
            ended.cancel()
            unload.cancel()

    async def _loaded(self, port: int, api_key: str, ended: asyncio.Task[int], unload: asyncio.Task[bool]) -> bool:
        deadline_s = self._clock.monotonic_s() + self._options.load_timeout_s
        while self._clock.monotonic_s() < deadline_s:
            if await probe.is_healthy(port, api_key):
                return True
            await asyncio.wait({ended, unload}, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() or unload.done():
                return False
        return False

    async def _drained(self, port: int, api_key: str, ended: asyncio.Task[int]) -> None:
        deadline_s = self._clock.monotonic_s() + self._options.drain_timeout_s
        while self._clock.monotonic_s() < deadline_s and not ended.done() and await probe.is_busy(port, api_key):
            await asyncio.wait({ended}, timeout=_POLL_S)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _keep_log(self, process: asyncio.subprocess.Process) -> None:
        """The engine's own words go to a file that is turned over when it is full; the last lines are kept for errors."""
        assert process.stdout is not None  # noqa: S101 - asked for at the start
        self._options.log_folder.mkdir(parents=True, exist_ok=True)
        path = self._options.log_folder / f"engine-{self._spec.file}.log"
        with path.open("ab") as file:
            while chunk := await process.stdout.read(64 * 1024):
                self._last_lines.extend(chunk.decode("utf-8", "replace").splitlines())
                if file.tell() + len(chunk) > _LOG_BYTES:
                    file.truncate(0)
                    file.seek(0)
                file.write(chunk)
                file.flush()

    def _why(self, process: asyncio.subprocess.Process, otherwise: str) -> str:
        code = process.returncode
        if code is None:
            return otherwise
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        last = next((line for line in reversed(self._last_lines) if "error" in line.lower()), "")
        return f"the engine ended with {how}. {last.strip()[:200]}".strip()

    def _fail(self, detail: str) -> None:
        self._failed_at_s = self._clock.monotonic_s()
        _log.error("engine_failed", model=self._spec.name, detail=detail)
        self._set("failed", detail=detail)

    def _set(
        self,
        state: State,
        *,
        progress: float | None = None,
        eta_s: float | None = None,
        detail: str = "",
        base_url: str = "",
        api_key: str = "",
    ) -> None:
        self.state = EngineState(self._spec.name, state, progress, eta_s, detail, base_url, api_key)
        self._changed(self.state)


def _die_with_parent() -> None:
    """Linux: an engine does not outlive the host that owns it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == 1:
            os._exit(1)
