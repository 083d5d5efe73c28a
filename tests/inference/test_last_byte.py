"""A defect of ours at any point between an engine's last bytes and the end of the answer: the row and the answer tell the same."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from structlog.testing import capture_logs

import llmaas
from llmaas import settings
from llmaas.datadir import Installation
from llmaas.domain.limits import Limits
from llmaas.domain.models import Deployment, Model, ModelKind, ProviderKind
from llmaas.domain.usage import FREE, UsageFilter, UsageRow
from llmaas.worker import GatewayWorker
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.gateway import fleet_of
from tests.inference.test_hot_path import Worker
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS
from tests.waiting import until

PACKAGE = f"{Path(llmaas.__file__).parent}/"
OF_THE_REQUEST = tuple(f"{PACKAGE}{place}" for place in ("inference/", "protocol/", "upstreams/openai.py"))
"""What is of this request alone outside of its task too: transport and ledger call back for everybody."""
SENDING = {"HttpReply.end", "HttpReply.whole"}
BESIDE = {"HttpReply._ping"}
"""It runs by time, whatever the request does."""
MOST_POINTS = 500
MESSAGES = [{"role": "user", "content": "hi"}]
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (CHAT, {"model": "m", "messages": MESSAGES}),
    "streamed": (CHAT, {"model": "m", "messages": MESSAGES, "stream": True}),
    "streamed with usage": (CHAT, {"model": "m", "messages": MESSAGES, **STREAMED}),
    "streamed text": (COMPLETIONS, {"model": "m", "prompt": "hi", **STREAMED}),
    "embeddings": (EMBEDDINGS, {"model": "embed", "input": "hi"}),
}


class Defect(RuntimeError):
    """One of ours that is nowhere foreseen."""


class Saboteur:
    """From the moment that it is armed, it raises a Defect at the package's call of that number, as long as the last bytes are not
    on their way.
    """

    def __init__(self, point: int, request: asyncio.Task[Any]) -> None:
        self._left = point
        self._request = request
        self.where: str | None = None

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_qualname in BESIDE:
            return
        if code.co_name == "<genexpr>":
            return  # what is raised when it is closed, nobody hears of
        if code.co_code[frame.f_lasti + 1]:
            return  # a coroutine that goes on: the argument of RESUME, 0 where a call begins
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return
        if task is not self._request and (task is not None or not code.co_filename.startswith(OF_THE_REQUEST)):
            return
        if code.co_qualname in SENDING:
            self._left = 0
        self._left -= 1
        if self._left == 0:
            self.where = code.co_qualname
            sys.settrace(None)
            raise Defect(self.where)


@pytest.fixture(params=[ProviderKind.OPENAI, ProviderKind.VLLM])
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Worker, Installation]]:
    """A key with a limit, so that holds are exchanged too."""
    async with FakeUpstream(flavour="vllm" if request.param is ProviderKind.VLLM else "openai") as upstream:
        loaded = settings.load({"data_dir": str(tmp_path / "data"), "refresh_interval_s": 1.0}, {})
        installation = await Installation(loaded.settings).open()
        fleet = fleet_of(upstream.base_url, ["m"], kind=request.param)
        embed = Model(id="embed", kind=ModelKind.EMBEDDING, created_ms=0)
        deployments = (*fleet.deployments, Deployment("embed", "ma01", "embed"))
        fleet = replace(fleet, models=(*fleet.models, embed), deployments=deployments)
        await installation.catalogue.apply(fleet, now_ms=0, prune=True)
        limits = Limits(output_tokens_per_day=100_000_000)
        key, _ = await installation.create_key(project_id="default", name="test", limits=limits)
        running = GatewayWorker(installation)
        await running.start()
        counted = Worker(running, loaded.settings.database_path, key, upstream)
        yield counted, installation
        counted.forget()
        await running.stop()
        await installation.close()


async def _rows(installation: Installation, count: int) -> list[UsageRow]:
    """All rows, newest first, when so many are there: on a busy machine they come by the spool."""
    rows: list[UsageRow] = []

    async def there() -> bool:
        rows[:] = [row async for row in installation.usage.rows(UsageFilter())]
        return len(rows) >= count

    await until(there, f"{count} rows", 20)
    assert len(rows) == count, "one row for each request"
    return rows


@pytest.mark.parametrize("way", WAYS)
async def test_B16_a_defect_after_the_engines_last_byte_is_told_by_row_and_answer(
    worker: tuple[Worker, Installation], way: str
) -> None:
    path, body = WAYS[way]
    gateway, installation = worker
    seen: set[str] = set()
    outcomes: Counter[bool] = Counter()
    await gateway.post(body, path)
    for point in range(1, MOST_POINTS):
        gateway.upstream.script(Behaviour(pause_at=("before_end",)))
        asked = asyncio.create_task(gateway.post(body, path))
        await gateway.upstream.wait_paused()
        saboteur = Saboteur(point, asked)
        with capture_logs(), saboteur:
            gateway.upstream.release_now()
            status, answer = await asked
        if saboteur.where is None:
            break
        seen.add(saboteur.where)
        rows = await _rows(installation, point + 1)
        complete = (
            status == 200
            and b'"error"' not in answer
            and ("stream" not in body or answer.endswith(b"data: [DONE]\n\n"))
        )
        told = rows[0].outcome == "completed", rows[0].billing_reason not in FREE
        assert told == (complete, complete), (saboteur.where, status, answer[-200:], rows[0])
        outcomes[complete] += 1
    else:
        pytest.fail("it never came to its end")
    assert outcomes[False] > 10
    assert {"Settlement.settle", "Ledger.append"} <= seen
