"""One embedded model: a child process with llama.cpp's server, kept in the state that is wished for.

    idle ── want ──> pulling ──> starting ──> loading ──> ready ── unload ──> draining ──> idle
                        │            └──────────┴───────────┴── died or hung ──> backoff ──> starting
                        └── no file to be had, or an engine that never loads ──> failed (a wish after a pause tries again)

Callers say what they want and look at `state`; nobody drives the machine from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from llmaas.clock import Clock
from llmaas.errors import EngineFailed
from llmaas.hosting.local import probe
from llmaas.hosting.local.child import EngineChild, engine_words
from llmaas.hosting.local.states import EngineState, State
from llmaas.hosting.models.manifest import ModelSpec
from llmaas.hosting.models.pull import PullCancelled, Puller
from llmaas.pulse import life_of

_STABLE_S = 60.0
_POLL_S = 0.1
_HUNG_AFTER = 3
_SPINS_AFTER = 30
_GIVE_UP_AFTER = 3
_TOLD_EACH_PERCENT = 5

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.hosting")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`command`: the program. `watch_s`: how often a running engine is asked how it is; `answer_s`: how long it may take to say."""

    command: Sequence[str]
    parallel: int
    threads: int
    load_timeout_s: float
    idle_unload_s: float
    drain_timeout_s: float
    log_folder: Path
    watch_s: float = 1.0
    answer_s: float = 3.0
    failed_pause_s: float = 30.0
    backoff_s: Sequence[float] = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    choose_port: Callable[[], int] = probe.free_port


class EngineProcess:
    """`changed` is called at each change of `state`."""

    def __init__(
        self,
        spec: ModelSpec,
        puller: Puller,
        options: EngineOptions,
        clock: Clock,
        changed: Callable[[EngineState], None],
    ) -> None:
        self._spec = spec
        self._puller = puller
        self._options = options
        self._clock = clock
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._unload = asyncio.Event()
        self._wanted_again = False
        self._stopped = False
        self._wanted_at_s = 0.0
        self._failed_at_s = 0.0
        self._told_percent = -_TOLD_EACH_PERCENT
        self.state = EngineState(spec.name, "idle")

    def want(self) -> None:
        """Bring it up, unless it is up or on its way; keeps an idle one from being unloaded."""
        if self._stopped:
            return
        self._wanted_at_s = self._clock.monotonic_s()
        if self._task is not None and not self._task.done():
            self._wanted_again = self._unload.is_set()
            return
        if self.state.state == "failed" and self._wanted_at_s - self._failed_at_s < self._options.failed_pause_s:
            return
        self._unload.clear()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"engine {self._spec.name}")

    def unload(self) -> None:
        """Let running answers finish, then stop the process."""
        self._wanted_again = False
        self._unload.set()

    async def stop(self) -> None:
        """Unload and wait for it; wishes are not heard any more."""
        self._stopped = True
        self.unload()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._keep_up()
                self._set("idle")
            except PullCancelled:
                self._set("idle")
            except EngineFailed as error:
                self._fail(f"{error.message} {error.hint or ''}".strip())
            except OSError as error:
                self._fail(f"The model `{self._spec.name}` can't be started: {error}")
            except Exception:  # noqa: BLE001 - the edge of a task: nobody else would hear of it
                _log.exception("engine_task_broke", model=self._spec.name)
                self._fail("An internal error; the log of the engine host has more.")
            if not self._wanted_again:
                return
            self._wanted_again = False
            self._unload.clear()

    async def _keep_up(self) -> None:
        """Start it again whenever it ends, until it is not wanted. Raises what pulling raises, EngineFailed when it never loads."""
        failures = never_loaded = 0
        while not self._unload.is_set():
            # Each life begins with a look at the file, which may be why the last one ended.
            path = await asyncio.to_thread(self._pull, asyncio.get_running_loop())
            if self._unload.is_set():
                return
            started_s = self._clock.monotonic_s()
            detail = await self._live(path)
            if self._unload.is_set():
                return
            never_loaded = 0 if self.state.state == "ready" else never_loaded + 1
            if never_loaded >= _GIVE_UP_AFTER:
                raise EngineFailed(f"The engine of the model `{self._spec.name}` can't be started:", hint=detail)
            failures = 1 if self._clock.monotonic_s() - started_s > _STABLE_S else failures + 1
            wait_s = self._options.backoff_s[min(failures, len(self._options.backoff_s)) - 1]
            _log.error("engine_ended", model=self._spec.name, detail=detail, restart_in_s=wait_s)
            self._set("backoff", detail=detail, eta_s=wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._unload.wait(), wait_s)

    def _pull(self, loop: asyncio.AbstractEventLoop) -> Path:
        """In a thread."""
        started: tuple[float, int] | None = None
        shown = -1

        def progress(done: int, total: int) -> None:
            nonlocal shown, started
            if self._unload.is_set():
                raise PullCancelled
            now_s = self._clock.monotonic_s()
            # What an earlier try left took none of this one's time.
            since_s, before = started = started or (now_s, done)
            percent = done * 100 // total if total else 0
            if percent == shown:
                return
            shown = percent
            eta_s = round((now_s - since_s) * (total - done) / (done - before), 1) if done > before else None
            loop.call_soon_threadsafe(self._pulling, percent, eta_s)

        return self._puller.pull(self._spec, progress)

    def _pulling(self, percent: int, eta_s: float | None) -> None:
        if percent == 100 or not 0 <= percent - self._told_percent < _TOLD_EACH_PERCENT:
            self._told_percent = percent
            _log.info("model_pulling", model=self._spec.name, percent=percent, eta_s=eta_s)
        self._set("pulling", progress=percent / 100, eta_s=eta_s)

    async def _live(self, path: Path) -> str:
        """One life of the child process; says why it ended. `state` is left at how far it came."""
        options = self._options
        port, api_key = options.choose_port(), secrets.token_hex(16)
        words = engine_words(self._spec, path, port=port, parallel=options.parallel, threads=options.threads)
        self._set("starting")
        try:
            log_path = options.log_folder / f"engine-{self._spec.file}.log"
            child = await EngineChild.start([*options.command, *words], api_key, log_path)
        except OSError as error:
            return f"{options.command[0]} can't be run: {error.strerror or error}; see the setting llama_server"
        unload = asyncio.get_running_loop().create_task(self._unload.wait())
        reason = ""
        try:
            reason = await self._watch(child, port, api_key, unload)
        finally:
            unload.cancel()
            await child.end(at_once=bool(reason))
        why = reason or child.why()
        return (
            why
            if self.state.state == "ready"
            else f"{why} (program: {options.command[0]}, see the setting llama_server)"
        )

    async def _watch(self, child: EngineChild, port: int, api_key: str, unload: asyncio.Task[bool]) -> str:
        """Until it ends, or is not wanted and idle. Says why it has to be killed, else nothing."""
        over = {child.ended, unload}
        self._set("loading")
        deadline_s = self._clock.monotonic_s() + self._options.load_timeout_s
        while not await probe.is_ready(port, api_key, self._options.answer_s):
            await asyncio.wait(over, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if child.ended.done() or unload.done():
                return ""
            if self._clock.monotonic_s() > deadline_s:
                return "it did not become ready in time; see the setting engine_load_timeout_s"
        if child.ended.done():
            return ""
        self._set("ready", base_url=f"http://127.0.0.1:{port}", api_key=api_key)
        _log.info("engine_ready", model=self._spec.name, port=port, pid=child.pid)
        reason = await self._stay(child, port, api_key, unload)
        if not reason and not child.ended.done():
            self._set("draining")
            await self._drained(child, port, api_key)
        return reason

    async def _stay(self, child: EngineChild, port: int, api_key: str, unload: asyncio.Task[bool]) -> str:
        limits = self._options
        silent = spinning = 0
        busy_at_s, life = self._clock.monotonic_s(), life_of(child.pid)
        while True:
            await asyncio.wait({child.ended, unload}, timeout=limits.watch_s, return_when=asyncio.FIRST_COMPLETED)
            if child.ended.done() or unload.done():
                return ""
            before, life = life, life_of(child.pid)
            if await probe.is_healthy(port, api_key, limits.answer_s):
                silent = spinning = 0
            elif before is not None and life is not None and before.ticks != life.ticks:
                spinning += 1  # all its threads may be taken by callers; it does work
            else:
                silent += 1
            if silent >= _HUNG_AFTER or spinning >= _SPINS_AFTER:
                return "it did not answer any more and was killed"
            if limits.idle_unload_s:
                if await probe.is_busy(port, api_key, limits.answer_s):
                    busy_at_s = self._clock.monotonic_s()
                elif self._clock.monotonic_s() - max(busy_at_s, self._wanted_at_s) > limits.idle_unload_s:
                    self._unload.set()

    async def _drained(self, child: EngineChild, port: int, api_key: str) -> None:
        """Idle twice: a request may be on its way from a gateway that has not heard yet."""
        deadline_s = self._clock.monotonic_s() + self._options.drain_timeout_s
        idle = 0
        while idle < 2 and self._clock.monotonic_s() < deadline_s and not child.ended.done():
            idle = 0 if await probe.is_busy(port, api_key, self._options.answer_s) else idle + 1
            await asyncio.wait({child.ended}, timeout=_POLL_S)

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
