"""A name server on loopback: every name leads to 127.0.0.1, but for those that it says nothing about."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

_QUERY_A = 1
_ANSWERS = 0x8180


class NameServer(asyncio.DatagramProtocol):
    """`silent`: names that get no answer; None: all of them."""

    def __init__(self) -> None:
        self.silent: set[str] | None = set()
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport

    async def start(self, address: str) -> None:
        """Port 53 of that address. Raises OSError."""
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(address, 53))

    def stop(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name = ".".join(labels)
        self.asked.append(name)
        if self.silent is None or name in self.silent:
            return
        question = data[12 : at + 5]
        (kind,) = struct.unpack_from("!H", data, at + 1)
        found = (
            [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton("127.0.0.1")] if kind == _QUERY_A else []
        )
        head = data[:2] + struct.pack("!HHHHH", _ANSWERS, 1, len(found), 0, 0)
        self._transport.sendto(head + question + b"".join(found), addr)
