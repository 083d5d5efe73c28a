"""A gateway's view of the engine host: the state of every embedded model, held in memory and kept fresh by the host.

Implements `domain.ports.Launcher`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import structlog

from llmaas.domain.ports import EngineAddress
from llmaas.engine.states import EngineState, Order, state_decoder
from llmaas.errors import Loading, NoBackend

_RECONNECT_S = 0.2
_RETRY_AFTER_S = {"pulling": 15.0, "failed": 30.0}
_TEXT = {
    "idle": "The model `{model}` is being started.",
    "pulling": "The model `{model}` is being pulled.",
    "starting": "The model `{model}` is being started.",
    "loading": "The model `{model}` is being loaded.",
    "draining": "The model `{model}` is being unloaded.",
    "backoff": "The engine of the model `{model}` is being restarted.",
}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.engine")
_json = msgspec.json.Encoder()


class EngineClient:
    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._states: dict[str, EngineState] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="engine host")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def states(self) -> dict[str, EngineState]:
        return dict(self._states)

    def ensure_ready(self, root: str) -> EngineAddress:
        if self._writer is None:
            raise Loading("The engines of this service are being started.", state="starting", retry_after_s=1)
        state = self._states.get(root)
        if state is None:
            raise NoBackend(f"The model `{root}` can't be run here.", hint="it is not in the model manifest", retry_after_s=60)
        if state.state == "ready":
            return EngineAddress(state.base_url, state.api_key)
        self._writer.write(_json.encode(Order("want", root)) + b"\n")
        if state.state == "failed":
            raise NoBackend(f"The model `{root}` can't be run at the moment.", hint=state.detail, retry_after_s=_RETRY_AFTER_S["failed"])
        wait_s = min(state.eta_s or _RETRY_AFTER_S.get(state.state, 2.0), 60.0)
        raise Loading(
            _TEXT[state.state].format(model=root),
            state=state.state,
            progress=state.progress,
            eta_s=state.eta_s,
            retry_after_s=wait_s,
        )

    async def _follow(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                while line := await reader.readline():
                    state = state_decoder.decode(line)
                    self._states[state.model] = state
            except (OSError, msgspec.MsgspecError) as error:
                _log.debug("engine_host_away", reason=str(error))
            finally:
                if self._writer is not None:
                    self._writer.close()
                self._writer = None
                self._states.clear()
            await asyncio.sleep(_RECONNECT_S)
