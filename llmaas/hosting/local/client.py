"""A gateway's view of the engine host: the state of every embedded model, held in memory and kept fresh by the host.

Implements `domain.ports.Launcher`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import structlog

from llmaas.domain.ports import EngineAddress, Preparation
from llmaas.errors import ConfigurationError, Loading, NoBackend
from llmaas.hosting.local.socket_path import openable
from llmaas.hosting.local.states import EngineState, Order, states_decoder
from llmaas.tasks import end, for_ever

_RECONNECT_S = 0.2
_TOUCH_S = 1.0
_RETRY_AFTER_S = {"pulling": 15.0, "failed": 30.0}
_TEXT = {
    "idle": "The model `{model}` is being started.",
    "pulling": "The model `{model}` is being pulled.",
    "starting": "The model `{model}` is being started.",
    "loading": "The model `{model}` is being loaded.",
    "draining": "The model `{model}` is being unloaded.",
    "backoff": "The engine of the model `{model}` is being restarted.",
}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.hosting")
_json = msgspec.json.Encoder()


class EngineClient:
    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._states: dict[str, EngineState] = {}
        self._touched_s: dict[str, float] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(
            for_ever(self._follow, name="engine host"), name="engine host"
        )

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)

    def states(self) -> dict[str, EngineState]:
        return dict(self._states)

    def ensure_ready(self, root: str) -> EngineAddress:
        if self._writer is None:
            raise Loading("The engines of this service are being started.", state="starting", retry_after_s=1)
        state = self._states.get(root)
        if state is None:
            raise NoBackend(
                f"The model `{root}` can't be run here.", hint="it is not in the model manifest", retry_after_s=60
            )
        if state.state == "ready":
            self._touch(root)
            return EngineAddress(state.base_url, state.api_key)
        self._writer.write(_json.encode(Order("want", root)) + b"\n")
        if state.state == "failed":
            raise NoBackend(
                f"The model `{root}` can't be run at the moment.",
                hint=state.detail,
                retry_after_s=_RETRY_AFTER_S["failed"],
            )
        wait_s = min(state.eta_s or _RETRY_AFTER_S.get(state.state, 2.0), 60.0)
        raise Loading(
            _TEXT[state.state].format(model=root),
            state=state.state,
            progress=state.progress,
            eta_s=state.eta_s,
            retry_after_s=wait_s,
        )

    def preparation(self, root: str) -> Preparation | None:
        state = self._states.get(root)
        if state is None or state.state in {"ready", "idle", "draining"}:
            return None
        return Preparation(state.state, state.progress)

    def _touch(self, root: str) -> None:
        """Tell the host now and then that the model is in use, so that it is not unloaded as idle."""
        now_s = asyncio.get_running_loop().time()
        if self._writer is not None and now_s - self._touched_s.get(root, -_TOUCH_S) >= _TOUCH_S:
            self._touched_s[root] = now_s
            self._writer.write(_json.encode(Order("want", root)) + b"\n")

    async def _follow(self) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            with openable(self._path) as path:
                reader, writer = await asyncio.open_unix_connection(path)
            while line := await reader.readline():
                self._states.update({state.model: state for state in states_decoder.decode(line)})
                self._writer = writer  # not before the first line, which has the state of every model
        except (OSError, ValueError, ConfigurationError) as error:
            _log.debug("engine_host_away", reason=str(error))
        finally:
            self._writer = None
            self._states.clear()
            if writer is not None:
                writer.close()
        await asyncio.sleep(_RECONNECT_S)
