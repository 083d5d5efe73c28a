"""The places of usage rows fail, one and both: no answer goes out unrecorded, and after healing the sums are exact."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.raw_http import RawConnection
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import DONE, Heard, ask, ask_all, chat, wire
from tests.faults.tracing import inject
from tests.gateway import GatewayProcess, fleet_of
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIXED = [chat("m", words=words, stream=words % 2 == 0) for words in range(1, 21)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: GatewayProcess, upstream: FakeUpstream) -> AsyncIterator[GatewayProcess]:
    await shared_gateway.apply(fleet_of(upstream.base_url, ["m"]))
    yield shared_gateway


@pytest_asyncio.fixture(loop_scope="module")
async def running(gateway: GatewayProcess) -> GatewayProcess:
    if gateway.process is None or gateway.process.returncode is not None:
        await gateway.start()
    await becomes_ready(gateway)
    return gateway


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes and does not end."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def full_disk(gateway: GatewayProcess, limit_bytes: int = 1) -> Iterator[None]:
    """No file of the gateway's grows past the limit; not the database, not the spool, not the log."""
    assert gateway.process is not None
    pid = gateway.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def spooled(gateway: GatewayProcess) -> list[Path]:
    return sorted((gateway.data_dir / "spool").glob("*.rows"))


async def becomes_ready(gateway: GatewayProcess) -> None:
    async def ready() -> bool:
        return (await gateway.get("/readyz")).status == 200

    await until(ready, "ready")


async def all_recorded(gateway: GatewayProcess, heard: list[Heard], *, before: int) -> None:
    """Each complete answer has exactly one row, what was refused has at most one, and the ledger is clean."""
    wanted = [h.answer_id for h in heard if h.complete]

    async def there() -> bool:
        return not spooled(gateway) and set(wanted) <= {row.id for row in await gateway.rows()}

    await until(there, "all rows are in the database")
    ids = [row.id for row in await gateway.rows()]
    assert len(ids) == len(set(ids))
    assert before + len(wanted) <= len(ids) <= before + len(heard)
    assert await gateway.ledger_faults() == []


async def test_B07_a_locked_database_is_bridged_by_the_spool(running: GatewayProcess, upstream: FakeUpstream) -> None:
    before = len(await running.rows())
    with locked(running.data_dir / "llmaas.db"):
        heard = await ask_all(running, MIXED)
        assert all(h.complete for h in heard)
        assert spooled(running)
        assert len(await running.rows()) == before
        assert (await running.get("/readyz")).status == 200
        # Known to be away by now, it is not waited for any more.
        heard += await ask_all(running, MIXED)
    await all_recorded(running, heard, before=before)
    rows = (await running.rows())[: len(heard)]
    assert sum(row.input_tokens for row in rows) == 2 * sum(range(1, 21))
    assert sum(row.output_tokens for row in rows) == 5 * len(heard)


async def test_B07_a_full_disk_refuses_work_and_heals(running: GatewayProcess, upstream: FakeUpstream) -> None:
    before = len(await running.rows())
    with full_disk(running):
        heard = await ask_all(running, MIXED)
        assert not [h for h in heard if h.complete]
        whole = [h for h in heard if not h.streamed]
        assert {h.status for h in whole} == {503}
        for h in heard:
            if h.streamed:
                assert h.body.endswith(DONE)
                assert h.errors[0]["code"] == "ledger_unavailable"
        seen = len(upstream.requests)
        # It stays so: looking whether the disk has room again must really write.
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 2.5
        while loop.time() < until_s:
            ready = await running.get("/readyz")
            assert (ready.status, ready.json()["status"]) == (503, "ledger_unavailable")
            await asyncio.sleep(0.05)
        refused = await running.post("/v1/chat/completions", chat("m"))
        assert (refused.status, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert refused.header("retry-after") is not None
        assert len(upstream.requests) == seen, "no engine is asked for what cannot be recorded"
        assert (await running.get("/healthz")).status == 200
    await becomes_ready(running)
    later = await ask_all(running, MIXED)
    assert all(h.complete for h in later)
    await all_recorded(running, [*heard, *later], before=before)


async def test_B07_neither_database_nor_spool(running: GatewayProcess, upstream: FakeUpstream) -> None:
    before = len(await running.rows())
    spool = running.data_dir / "spool"
    moved = running.data_dir / "spool.away"
    if spool.exists():
        spool.rename(moved)
    spool.write_text("no directory")
    with locked(running.data_dir / "llmaas.db"):
        heard = await ask_all(running, MIXED)
        assert not [h for h in heard if h.complete]
        assert (await running.get("/readyz")).status == 503
        spool.unlink()
        await becomes_ready(running)
        later = await ask_all(running, MIXED)
        assert all(h.complete for h in later), "the spool alone is enough"
    await all_recorded(running, [*heard, *later], before=before)


async def test_B07_a_read_only_database_fills_the_spool_and_the_next_start_empties_it(gateway: GatewayProcess) -> None:
    if gateway.process is not None and gateway.process.returncode is None:
        await gateway.terminate()
    before = len(await gateway.rows())
    await gateway.start(prefix=inject("pwrite64:error=EROFS:when=1+"))
    heard = await ask_all(gateway, MIXED)
    assert all(h.complete for h in heard)
    assert len(await gateway.rows()) == before
    await gateway.kill()
    assert spooled(gateway)
    await gateway.start()
    await all_recorded(gateway, heard, before=before)


async def test_B07_a_failed_sync_ends_new_work_until_the_next_start(gateway: GatewayProcess) -> None:
    if gateway.process is not None and gateway.process.returncode is None:
        await gateway.terminate()
    before = len(await gateway.rows())
    # The first commit of a process syncs the log and, once, its directory; the third sync is the second commit's.
    await gateway.start(prefix=inject("fdatasync:error=EIO:when=3"))
    heard = [await ask(gateway, body) for body in MIXED[:6]]
    assert heard[0].complete
    assert not heard[-1].complete
    assert (await gateway.get("/readyz")).status == 503
    refused = await gateway.post("/v1/chat/completions", chat("m"))
    assert (refused.status, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert "ledger_sync_failed" in gateway.log
    await gateway.kill()
    await gateway.start()
    await becomes_ready(gateway)
    await all_recorded(gateway, heard, before=before)


@pytest.mark.slow  # tests/storage/test_ledger.py replays twice without processes
async def test_B06_a_spool_that_is_replayed_twice_adds_nothing(gateway: GatewayProcess) -> None:
    if gateway.process is None or gateway.process.returncode is not None:
        await gateway.start()
    with locked(gateway.data_dir / "llmaas.db"):
        heard = await ask_all(gateway, MIXED)
        kept = {file.name: file.read_bytes() for file in spooled(gateway)}
        await gateway.kill()
    assert kept
    before = len(await gateway.rows())
    await gateway.start()
    await all_recorded(gateway, heard, before=before)
    sums = sorted((row.id, row.cost_nano) for row in await gateway.rows())
    await gateway.kill()
    for name, data in kept.items():
        (gateway.data_dir / "spool" / name).write_bytes(data + b"0badc0de {torn")
    await gateway.start()
    await all_recorded(gateway, heard, before=before)
    assert sorted((row.id, row.cost_nano) for row in await gateway.rows()) == sums


async def test_B07_a_start_under_a_locked_database_serves(running: GatewayProcess) -> None:
    """As a backup or a shell left open would lock it."""
    await running.terminate()
    before = len(await running.rows())
    with locked(running.data_dir / "llmaas.db"):
        await running.start()
        heard = await ask_all(running, MIXED)
        assert all(h.complete for h in heard)
    await all_recorded(running, heard, before=before)


async def test_two_gateways_on_one_data_directory_are_refused(running: GatewayProcess) -> None:
    second = GatewayProcess(running.data_dir)
    second.key = running.key
    with pytest.raises(AssertionError, match="the gateway did not start"):
        await second.start()
    assert second.process is not None
    assert await second.process.wait() == 3
    assert "another gateway works on" in second.log
    await second.close()
    assert (await ask(running, MIXED[0])).complete


async def test_B07_an_answer_waits_for_its_row_only_at_its_end(running: GatewayProcess, upstream: FakeUpstream) -> None:
    before = len(await running.rows())
    with locked(running.data_dir / "llmaas.db"):
        async with await RawConnection.open(running.url) as connection:
            await connection.send(wire(running, chat("m", stream=True)))
            begun = await connection.read_until(b"\r\n\r\n")
            for _ in range(5):
                await connection.read_until(b"hello ")
            last_piece_s = time.monotonic()
            await connection.read_until(DONE)
            # The writer waits half a second for the lock before it turns to the spool.
            assert time.monotonic() - last_piece_s > 0.1
    assert begun.startswith(b"HTTP/1.1 200")
    await all_recorded(running, [], before=before + 1)
