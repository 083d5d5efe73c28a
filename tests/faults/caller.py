"""A caller who remembers all that it saw, also of an answer that breaks off."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.fakes.raw_http import Incomplete, RawConnection, request_bytes
from tests.gateway import GatewayProcess

DONE = b"data: [DONE]\n\n"


def chat(model: str, *, words: int = 3, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """A request whose prompt the fake counts as so many tokens."""
    messages = [{"role": "user", "content": " ".join(["word"] * words)}]
    return {"model": model, "messages": messages, "stream": stream, **fields}


@dataclass(slots=True)
class Heard:
    """`status` 0: no head came. `body` is without its framing, as far as it came; `ended`: it came whole."""

    status: int = 0
    answer_id: str | None = None
    body: bytes = b""
    ended: bool = False

    @property
    def streamed(self) -> bool:
        return self.body.startswith((b"data:", b":"))

    @property
    def events(self) -> list[Any]:
        """What the whole events of a stream say, without [DONE]."""
        payloads = [b[len(b"data: ") :] for b in self.body.split(b"\n\n")[:-1] if b.startswith(b"data: ")]
        return [json.loads(p) for p in payloads if p != b"[DONE]"]

    @property
    def errors(self) -> list[Any]:
        return [event["error"] for event in self.events if "error" in event]

    @property
    def text(self) -> str:
        if not self.streamed:
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        deltas = [event["choices"][0]["delta"] for event in self.events if event.get("choices")]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def complete(self) -> bool:
        """The caller has a good answer in hand and must be billed for it."""
        if self.status != 200:
            return False
        return (DONE in self.body and not self.errors) if self.streamed else self.ended


def wire(gateway: GatewayProcess, body: dict[str, Any], *, path: str = "/v1/chat/completions") -> bytes:
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {gateway.key}")]
    return request_bytes("POST", path, headers=headers, body=json.dumps(body).encode())


async def ask(
    gateway: GatewayProcess, body: dict[str, Any], *, timeout_s: float = 30.0, heard: Heard | None = None
) -> Heard:
    """One request on a connection of its own. Never raises for what the gateway does, only when nothing happens. `heard` tells
    meanwhile what came so far.
    """
    heard = heard or Heard()
    try:
        connection = await RawConnection.open(gateway.url)
    except OSError:
        return heard
    async with connection:
        await connection.send(wire(gateway, body))
        try:
            head = await connection.read_until(b"\r\n\r\n", timeout_s=timeout_s)
        except Incomplete:
            return heard
        lines = head.decode().split("\r\n")
        heard.status = int(lines[0].split()[1])
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        heard.answer_id = fields.get("id")
        try:
            if "content-length" in fields:
                await _exactly(connection, int(fields["content-length"]), heard, timeout_s)
            else:
                await _chunks(connection, heard, timeout_s)
            heard.ended = True
        except Incomplete:
            pass
    return heard


async def _chunks(connection: RawConnection, heard: Heard, timeout_s: float) -> None:
    while size := int(await connection.read_until(b"\r\n", timeout_s=timeout_s), 16):
        await _exactly(connection, size, heard, timeout_s)
        await connection.read_until(b"\r\n", timeout_s=timeout_s)
    await connection.read_until(b"\r\n", timeout_s=timeout_s)


async def _exactly(connection: RawConnection, size: int, heard: Heard, timeout_s: float) -> None:
    while size:
        data = await connection.read(size, timeout_s=timeout_s)
        if not data:
            raise Incomplete(b"")
        heard.body += data
        size -= len(data)


async def ask_all(gateway: GatewayProcess, bodies: list[dict[str, Any]]) -> list[Heard]:
    return list(await asyncio.gather(*(ask(gateway, body) for body in bodies)))
