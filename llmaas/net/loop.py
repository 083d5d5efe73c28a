"""The event loop of every process: uvloop's, but for its look-ups of host names, which share a few threads that a silent name
server keeps. Whoever opens connections by name gets ours: the client of engines, PostgreSQL's, Valkey's and the one for OpenID.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from llmaas.net.names import HostNames


class Loop(uvloop.Loop):
    def __init__(self) -> None:
        super().__init__()
        self._names = HostNames()

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str | bytes | None,
        port: str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if not host:
            return socket.getaddrinfo(host, port, family, type, proto, flags)
        name = host.decode("ascii") if isinstance(host, bytes) else host
        number = int(port) if port else 0
        return await self._names.find(name, number, family=family, kind=type, proto=proto, flags=flags)

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        server_hostname: str | None = None,
        **more: Any,
    ) -> Any:
        if not host:
            return await super().create_connection(protocol_factory, server_hostname=server_hostname, **more)
        if more.get("ssl") and server_hostname is None:
            server_hostname = host
        failure = OSError(f"{host} has no address")
        places = await self.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags)
        for *_, place in places:
            try:
                return await super().create_connection(
                    protocol_factory, place[0], place[1], server_hostname=server_hostname, **more
                )
            except OSError as error:
                failure = error
        try:
            raise failure
        finally:
            del failure  # or it would hold, by its traceback, the frame that holds it
