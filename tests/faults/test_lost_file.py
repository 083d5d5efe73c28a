"""SQLite's file goes under a running gateway: requests are answered on, it is said, and no row is lost when a copy takes its place."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import ask_all, chat
from tests.gateway import GatewayProcess, fleet_of
from tests.waiting import until

BODIES = [chat("m", words=words, stream=words % 2 == 0) for words in range(1, 7)]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with FakeUpstream() as upstream:
        gateway = GatewayProcess(tmp_path / "data")
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        yield gateway
        await gateway.close()


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for file in path.parent.glob("llmaas.db*"):
        file.unlink()


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


@pytest.mark.parametrize(("harm", "restart"), [(remove, False), (remove_all, False), (remove, True), (cut, True)])
async def test_B07_a_file_that_goes_under_a_gateway_costs_no_row(
    running: GatewayProcess, harm: Callable[[Path], None], *, restart: bool
) -> None:
    path = running.data_dir / "llmaas.db"
    told = await ask_all(running, BODIES)
    copy = running.data_dir / "copy"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    harm(path)
    told += await ask_all(running, BODIES)

    async def said() -> bool:
        ready = await running.get("/readyz")
        return (ready.status, ready.json()) == (200, {"status": "ready", "degraded": "database_away"})

    await until(said, "it is said")
    told += await ask_all(running, BODIES)
    assert all(one.complete for one in told)
    assert "restore a backup" in running.log
    assert path.exists() == (harm is cut)
    if restart:
        assert await running.terminate() == 0
        remove_all(path)
    copy.rename(path)
    if restart:
        await running.start()

    async def well() -> bool:
        return not list((running.data_dir / "spool").glob("*.rows")) and (await running.get("/readyz")).json() == {
            "status": "ready"
        }

    await until(well, "the spool is empty", 30)
    told += await ask_all(running, BODIES)
    assert Counter(row.id for row in await running.rows()) == Counter(one.answer_id for one in told)
    assert await running.ledger_faults() == []
