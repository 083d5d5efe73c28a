"""Work, not time: what a request costs in steps of Python, SQL statements and transactions once its key is known."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa

import llmaas
from llmaas import settings
from llmaas.datadir import Installation
from llmaas.net.asgi import Message
from llmaas.worker import GatewayWorker
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import chat
from tests.gateway import fleet_of
from tests.service import CHAT
from tests.storage.test_ledger import commits
from tests.waiting import until

REQUESTS = 60
WARM_UP = 20
STEPS_OF_A_REQUEST = 4_750
STEPS_OF_AN_EVENT = 560
"""Bytecodes of ours in the thread of the event loop, without our HTTP server: a few per cent above what was counted."""
_BY_TIME = {"duties", "follow_changes", "heartbeat"}
"""Tasks of a worker that look at the database now and then, however many requests there are."""


_SWEEPS = {"HttpTransport._sweep", "Exchange.check_limits"}
"""They look at all that runs ten times a second: the slower the machine, the more often within a request."""


class Worker:
    """A worker in this process, spoken to by ASGI, and each statement of the control plane that it makes."""

    def __init__(self, worker: GatewayWorker, path: Path, key: str, upstream: FakeUpstream) -> None:
        self.path = path
        self.upstream = upstream
        self._worker = worker
        self._key = key
        self.statements: Counter[str] = Counter()

        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            task = asyncio.current_task()
            by_time = task is not None and task.get_name() in _BY_TIME
            if not by_time and not statement.startswith(("BEGIN", "PRAGMA")):
                self.statements[statement] += 1

        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        self._note = note

    @property
    def spools(self) -> bool:
        return self._worker.ledger.backlog

    def forget(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._note)

    async def post(self, body: dict[str, Any], path: str = CHAT) -> tuple[int, bytes]:
        data = json.dumps(body).encode()
        inbox: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]
        sent: list[Message] = []
        gone = asyncio.get_running_loop().create_future()

        async def receive() -> Message:
            return inbox.pop() if inbox else await gone

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [
                (b"host", b"test"),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(data)),
                (b"authorization", b"Bearer " + self._key.encode()),
            ],
        }
        await self._worker.gateway(scope, receive, send)
        gone.cancel()
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    async with FakeUpstream() as upstream:
        loaded = settings.load({"data_dir": str(tmp_path / "data"), "refresh_interval_s": 1.0}, {})
        installation = await Installation(loaded.settings).open()
        await installation.catalogue.apply(fleet_of(upstream.base_url, ["m"]), now_ms=0, prune=True)
        key, _ = await installation.create_key(project_id="default", name="test")
        running = GatewayWorker(installation)
        await running.start()
        counted = Worker(running, loaded.settings.database_path, key, upstream)
        yield counted
        counted.forget()
        await running.stop()
        await installation.close()


async def test_a_request_makes_no_statement_of_its_own(worker: Worker) -> None:
    status, _ = await worker.post(chat("m"))
    assert status == 200
    assert worker.statements, "the first use of a key asks the database"
    worker.statements.clear()
    for number in range(REQUESTS):
        status, body = await worker.post(chat("m", stream=number % 2 == 0))
        assert (status, bool(body)) == (200, True)
    assert not worker.statements, worker.statements


async def test_a_burst_with_a_new_key_looks_it_up_once(worker: Worker) -> None:
    answers = await asyncio.gather(*(worker.post(chat("m")) for _ in range(REQUESTS)))
    assert {status for status, _ in answers} == {200}
    assert sum(worker.statements.values()) == 1


async def test_requests_in_flight_share_transactions(worker: Worker) -> None:
    await worker.post(chat("m"))
    reader = sqlite3.connect(worker.path)
    before = commits(worker.path)
    await asyncio.gather(*(worker.post(chat("m", stream=n % 2 == 0)) for n in range(REQUESTS)))
    # Where the machine has no time for others, a first turn of a duty may hold the lock for so long that rows take the way of the spool.
    await until(lambda: not worker.spools, "the spool is empty", 60)
    assert reader.execute("SELECT count(*) FROM usage").fetchone() == (REQUESTS + 1,)
    assert commits(worker.path) - before <= REQUESTS // 2
    reader.close()


class Steps:
    """Bytecodes of the package that ran, by function."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(str(Path(llmaas.__file__).parent)):
                return None
            if frame.f_code.co_qualname in _SWEEPS:
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        elif event == "opcode":
            self.of[frame.f_code.co_qualname] += 1
        return self.trace


@contextmanager
def counted_steps() -> Iterator[Steps]:
    steps, before = Steps(), sys.gettrace()
    sys.settrace(steps.trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


async def test_a_request_takes_few_steps(worker: Worker) -> None:
    worker.upstream.always(Behaviour(burst=True))  # how many packets an answer takes is the machine's affair
    for _ in range(WARM_UP):
        await worker.post(chat("m"))
    with counted_steps() as steps:
        for _ in range(REQUESTS):
            await worker.post(chat("m"))
    assert steps.of.total() / REQUESTS < STEPS_OF_A_REQUEST, steps.of.most_common(20)


async def test_an_event_of_a_stream_takes_few_steps(worker: Worker) -> None:
    async def steps_of(tokens: int) -> int:
        worker.upstream.script(Behaviour(tokens=tokens))
        with counted_steps() as steps:
            await worker.post(chat("m", stream=True))
        return steps.of.total()

    await steps_of(10)
    short, long = await steps_of(10), await steps_of(110)
    assert (long - short) / 100 < STEPS_OF_AN_EVENT
