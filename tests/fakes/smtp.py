"""A mail server on loopback that keeps what it is given; it can refuse recipients, or hang up after it took a message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Self


@dataclass
class FakeSmtp:
    """`refuses`: its answer to each recipient, such as `550 no such user`."""

    refuses: str = ""
    users: list[str] = field(default_factory=list)
    messages: list[EmailMessage] = field(default_factory=list)
    port: int = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 fake\r\n")
        while line := await reader.readline():
            word = line.split()[0].upper() if line.split() else b""
            if word == b"EHLO":
                writer.write(b"250-fake\r\n250 AUTH PLAIN\r\n")
            elif word == b"AUTH":
                self.users.append(line.split()[-1].decode())
                writer.write(b"235 ok\r\n")
            elif word == b"RCPT" and self.refuses:
                writer.write(f"{self.refuses}\r\n".encode())
            elif word == b"DATA":
                writer.write(b"354 go on\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                message = message_from_bytes(data[:-3], policy=policy.default)
                assert isinstance(message, EmailMessage)
                self.messages.append(message)
                writer.write(b"250 taken\r\n")
            elif word == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 ok\r\n")
        await writer.drain()
        writer.close()
