"""Doors of several gateway processes on one port: each takes the connections of its own, and those that another leaves waiting.

The kernel deals out connections by their addresses, whether the process behind a door takes them or not: it may be frozen, hang in
a loop, or just be started again. A door at which somebody has waited through three looks belongs to such a one, and whoever looks
takes what waits there. To be wrong about it costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Sequence

from llmaas.net.server import HttpServer
from llmaas.tasks import for_ever

_LOOK_S = 0.2
_PATIENT_LOOKS = 3
_AT_ONCE = 64


class Neighbours:
    """`doors`: the listening sockets of the other processes, held by all of them."""

    def __init__(self, server: HttpServer, doors: Sequence[socket.socket]) -> None:
        self._server = server
        self._doors = {door.fileno(): door for door in doors}
        self._waited = dict.fromkeys(self._doors, 0)
        self._poll = select.poll()
        self._task: asyncio.Task[None] | None = None
        for number in self._doors:
            self._poll.register(number, select.POLLIN)

    def start(self) -> None:
        if self._doors:
            self._task = asyncio.get_running_loop().create_task(
                for_ever(self._look, name="neighbours' doors"), name="neighbours' doors"
            )

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for door in self._doors.values():
            door.close()

    async def _look(self) -> None:
        await asyncio.sleep(_LOOK_S)
        waiting = {number for number, event in self._poll.poll(0) if event & select.POLLIN}
        for number, door in self._doors.items():
            self._waited[number] = self._waited[number] + 1 if number in waiting else 0
            if self._waited[number] >= _PATIENT_LOOKS:
                await self._take_from(door)

    async def _take_from(self, door: socket.socket) -> None:
        # Another neighbour may have been faster, or there are no descriptors left.
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                connection, _address = door.accept()
                await self._server.take(connection)
