"""Gateway processes on PostgreSQL and Valkey under one supervisor, and callers that keep their connections."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain.fleet import Fleet
from llmaas.domain.limits import Limits
from llmaas.domain.models import Model, ModelKind
from llmaas.domain.prices import NANO, Price
from llmaas.domain.usage import UsageFilter, UsageRow
from tests.fakes.upstream import FakeUpstream
from tests.gateway import fleet_of
from tests.hosting.serving import Serving

WORKERS = 4


class Workers:
    """`installation` is how an administrator's command sees it."""

    def __init__(self, serving: Serving, installation: Installation) -> None:
        self.serving = serving
        self.installation = installation

    async def apply(self, fleet: Fleet) -> None:
        """In force in every process on return."""
        now_ms = self.installation.clock.now_ms()
        await self.installation.catalogue.apply(fleet, now_ms=now_ms, prune=True)
        await asyncio.sleep(1.0)  # the promise: everywhere within a second

    async def key_with(self, limits: Limits) -> str:
        token, _ = await self.installation.create_key(project_id="default", name="limited", limits=limits)
        return token

    async def rows(self, key_id: str | None = None) -> list[UsageRow]:
        return [row async for row in self.installation.usage.rows(UsageFilter(key_id=key_id))]

    async def ledger_faults(self) -> list[str]:
        return [fault async for fault in self.installation.ledger_check.faults(self.installation.clock.now_ms())]

    def kill_one(self) -> None:
        """SIGKILL; the supervisor starts another."""
        os.kill(random.choice(self.serving.gateways()), signal.SIGKILL)


class OneModel(Workers):
    """They serve the model `one` of a fake engine, at one unit of money for each request."""

    def __init__(self, serving: Serving, installation: Installation, upstream: FakeUpstream) -> None:
        super().__init__(serving, installation)
        self.upstream = upstream


@asynccontextmanager
async def workers(folder: Path, database_url: str, state_url: str, count: int = WORKERS) -> AsyncIterator[Workers]:
    # A busy machine is not a Valkey that is away.
    environment = {
        "LLMAAS_DATABASE_URL": database_url, "LLMAAS_STATE_URL": state_url, "LLMAAS_STATE_TIMEOUT_S": "2",
    }  # fmt: skip
    data_dir = folder / "data"
    serving = Serving(data_dir)
    loaded = settings.load({"data_dir": str(data_dir)}, environment)
    installation = await Installation(loaded.settings).open()
    try:
        await serving.start("--no-model", "--workers", str(count), env=environment)
        await serving.greeted()
        yield Workers(serving, installation)
    finally:
        await serving.close()
        await installation.close()


@asynccontextmanager
async def one_model(folder: Path, database_url: str, state_url: str, count: int = WORKERS) -> AsyncIterator[OneModel]:
    async with FakeUpstream() as upstream, workers(folder, database_url, state_url, count) as running:
        model = Model("one", ModelKind.CHAT, 0, price=Price(0, "one", 0, request=NANO))
        await running.apply(replace(fleet_of(upstream.base_url, ["one"]), models=(model,)))
        yield OneModel(running.serving, running.installation, upstream)


@dataclass(slots=True)
class Told:
    """What a caller saw of one request. `whole`: the answer came to its end. `said`: what it says, unless it is a stream."""

    request_id: str
    status: int = 0
    answer_id: str = ""
    whole: bool = False
    said: bytes = b""


@dataclass(slots=True)
class Job:
    key: str
    body: dict[str, Any]
    request_id: str
    leave_after_bytes: int | None = None
    path: str = "/v1/chat/completions"


def jobs(key: str, count: int, first: int = 0) -> list[Job]:
    """Of the one model."""
    body = {"model": "one", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    return [Job(key, body, f"r-{n}") for n in range(first, first + count)]


@dataclass
class Caller:
    """Sends jobs one after the other on one connection, and a new one where that ends."""

    port: int
    told: list[Told]
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def run(self, jobs: asyncio.Queue[Job | None]) -> None:
        while (job := await jobs.get()) is not None:
            told = Told(job.request_id)
            self.told.append(told)
            try:
                async with asyncio.timeout(30):
                    await self._send(job, told)
            except (OSError, asyncio.IncompleteReadError):
                self._close()
        self._close()

    async def _send(self, job: Job, told: Told) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self._reader is not None
        reader, writer = self._reader, self._writer
        data = json.dumps(job.body).encode()
        head = (
            f"POST {job.path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {job.key}\r\nx-request-id: {job.request_id}"
            f"\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        told.status = int(lines[0].split()[1])
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        told.answer_id = fields["id"]
        if job.leave_after_bytes is not None:
            await reader.readexactly(job.leave_after_bytes)
            self._close()
            return
        if "content-length" in fields:
            told.said = await reader.readexactly(int(fields["content-length"]))
        else:
            while size := int(await reader.readuntil(b"\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        told.whole = True
        if fields.get("connection") == "close":
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def call(port: int, jobs: Sequence[Job], callers: int, told: list[Told] | None = None) -> list[Told]:
    """All jobs, by so many callers at once; what each was told, also in `told` while it goes on."""
    told = [] if told is None else told
    queue: asyncio.Queue[Job | None] = asyncio.Queue()
    for job in [*jobs, *[None] * callers]:
        queue.put_nowait(job)
    await asyncio.gather(*(Caller(port, told).run(queue) for _ in range(callers)))
    return told
