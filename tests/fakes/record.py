"""What the fake server saw and did: one Record for each request, and waits for what happens."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["open", "complete", "cancelled", "cut"]
"""`cancelled`: the client was gone before the answer was complete. `cut`: the server ended it on purpose."""

DEADLINE_S = 5.0


@dataclass(eq=False, slots=True)
class Record:
    number: int
    connection: int
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    json: Any = None
    credential: Literal["none", "provider", "foreign"] = "none"
    outcome: Outcome = "open"
    status: int = 0
    tokens_sent: int = 0
    chunks_sent: int = 0
    bytes_sent: int = 0
    paused: bool = False
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, name: str) -> str | None:
        """The last one of that name."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), None)

    @property
    def model(self) -> str | None:
        return self.json.get("model") if isinstance(self.json, dict) else None

    def to_json(self) -> dict[str, Any]:
        body = base64.b64encode(self.body).decode()
        names = (
            "number",
            "connection",
            "method",
            "path",
            "headers",
            "json",
            "model",
            "credential",
            "outcome",
            "status",
        )
        counts = ("tokens_sent", "chunks_sent", "bytes_sent", "paused")
        return {name: getattr(self, name) for name in names + counts} | {"body": body}


class Log:
    def __init__(self) -> None:
        self.requests: list[Record] = []
        self.open_connections = 0
        self.connections = 0
        self.dropped = 0
        self._release = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def finish(self, record: Record, outcome: Outcome) -> None:
        """The first outcome counts."""
        if record.outcome != "open":
            return
        record.outcome = outcome
        record.finished.set()
        if outcome == "cancelled":
            record.cancelled.set()
        self.changed()

    async def pause(self, record: Record) -> None:
        record.paused = True
        self.changed()
        try:
            await self._release.wait()
        finally:
            record.paused = False
            self.changed()

    def release_now(self) -> int:
        """Let everything go on that waits at this moment; gives how many that are."""
        self._release.set()
        self._release = asyncio.Event()
        return sum(record.paused for record in self.requests)

    async def until(self, done: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait for something to become true. AssertionError with the log after the deadline."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while not done():
            waiter = loop.create_future()
            self._waiting.add(waiter)
            try:
                await asyncio.wait_for(waiter, deadline_s - loop.time())
            except TimeoutError:
                seen = [f"{r.method} {r.path} {r.outcome} {r.tokens_sent} tokens" for r in self.requests]
                raise AssertionError(f"not within {timeout_s} s: {what}; seen: {seen}") from None
            finally:
                self._waiting.discard(waiter)
