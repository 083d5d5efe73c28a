"""PostgreSQL says good-bye (ended by an administrator, idle for too long, restarted) between and within statements: no answered
request loses its row, and nobody is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from typing_extensions import override

from llmaas.domain.ports import BudgetWant
from llmaas.domain.usage import UsageRow
from llmaas.errors import Unavailable
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.changes import PostgresChanges
from llmaas.storage.database import Database, again_when_cut, bump
from llmaas.storage.ledger import Ledger
from llmaas.storage.postgres_rows import PostgresRows
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.row_store import SHARED
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from llmaas.storage.tables import budget_shares, usage
from tests.postgres import PostgresServer, execute
from tests.schema import write_schema
from tests.storage.rows import row
from tests.waiting import until

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = '{}'"
)


def terminate(url: str, application: str = "llmaas-ledger") -> int:
    """How many there were; they have ended on return."""
    return int(execute(url, TERMINATE.format(application))[0][0])


def charged(name: str) -> UsageRow:
    return row(id=name, cost_nano=1)


async def count(url: str) -> int:
    rows = await asyncio.to_thread(execute, url, "SELECT count(*) FROM usage")
    return int(rows[0][0])


@pytest.fixture
async def ledger(postgres_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    made = Ledger(PostgresRows(postgres_url, "worker-1"), Spool(tmp_path / "spool"))
    made.start()
    yield made
    await made.stop()


async def test_F21_goodbyes_between_batches_cost_nothing(ledger: Ledger, postgres_url: str) -> None:
    for n in range(10):
        await asyncio.wait_for(ledger.append(charged(f"row-{n}")), 10)
        assert await asyncio.to_thread(terminate, postgres_url) == 1
    assert ledger.accepting
    assert not ledger.backlog
    assert await count(postgres_url) == 10


async def test_F21_a_hundred_goodbyes_under_load_lose_no_row(ledger: Ledger, postgres_url: str) -> None:
    done = asyncio.Event()
    told = 0

    async def caller(number: int) -> None:
        nonlocal told
        while not done.is_set():
            await asyncio.wait_for(ledger.append(charged(f"row-{number}-{told}")), 10)
            assert ledger.accepting
            told += 1

    calling = [asyncio.create_task(caller(n)) for n in range(8)]
    for _ in range(100):
        await asyncio.to_thread(terminate, postgres_url)
        before = told
        await until(lambda least=before + 20: told >= least, "calls are answered")  # type: ignore[misc]
    done.set()
    await asyncio.gather(*calling)
    await until(lambda: not ledger.backlog, "the spool is empty", 60)
    assert await count(postgres_url) == told
    spent = "SELECT sum(spent_nano) FROM budget_shares WHERE budget_id = 'project:default:total'"
    assert int(execute(postgres_url, spent)[0][0]) == told


async def test_F21_a_goodbye_within_a_batch_writes_it_once(ledger: Ledger, postgres_url: str) -> None:
    """The statement waits for a lock when its connection is ended; it is free before the new one waits in its turn."""
    await ledger.append(charged("before"))
    database = Database(postgres_url)
    async with database.begin() as connection:
        await connection.execute(sa.text("LOCK TABLE budget_shares"))
        within = ledger.append(charged("within"))
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'llmaas-ledger' AND wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        await until(lambda: bool(execute(postgres_url, waiting)), "it waits")
        assert await asyncio.to_thread(terminate, postgres_url) == 1
    await asyncio.wait_for(within, 10)
    await until(lambda: not ledger.backlog, "the spool is empty")
    async with database.connect() as connection:
        ids = (await connection.execute(sa.select(usage.c.id).order_by(usage.c.id))).scalars().all()
        spent = (
            await connection.execute(
                sa.select(budget_shares.c.spent_nano).where(budget_shares.c.budget_id == "project:default:total")
            )
        ).scalar_one()
    assert (list(ids), spent) == (["before", "within"], 2)
    await database.close()


async def test_F21_connections_that_are_idle_for_too_long_for_the_server_cost_nothing(
    ledger: Ledger, postgres_url: str
) -> None:
    elsewhere, _, name = postgres_url.rpartition("/")
    execute(postgres_url, f"ALTER DATABASE {name} SET idle_session_timeout = 300")
    gone = f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'llmaas-ledger' AND datname = '{name}'"
    for n in range(3):
        await asyncio.wait_for(ledger.append(charged(f"row-{n}")), 10)
        await until(lambda: not execute(f"{elsewhere}/postgres", gone), "the server ended it")
    assert not ledger.backlog
    execute(f"{elsewhere}/postgres", f"ALTER DATABASE {name} RESET idle_session_timeout")
    assert await count(postgres_url) == 3


async def test_F21_fast_restarts_lose_no_row_and_refuse_nobody(own_postgres: PostgresServer, tmp_path: Path) -> None:
    ledger = Ledger(PostgresRows(own_postgres.url(), "worker-1"), Spool(tmp_path / "spool"))
    ledger.start()
    told = 0

    async def restart() -> None:
        await asyncio.to_thread(own_postgres.shut_down)
        await asyncio.to_thread(own_postgres.start)

    for turn in range(3):
        await ledger.append(charged(f"before-{turn}"))
        restarting = asyncio.create_task(restart())
        told += 1
        while not restarting.done():
            await asyncio.wait_for(ledger.append(charged(f"row-{turn}-{told}")), 10)
            assert ledger.accepting
            told += 1
            await asyncio.sleep(0.005)
        await restarting
        await ledger.append(charged(f"after-{turn}"))
        told += 1
    await until(lambda: not ledger.backlog, "the spool is empty")
    assert await count(own_postgres.url()) == told
    await ledger.stop()


async def test_F21_a_goodbye_in_the_midst_of_a_replay_loses_nothing(
    ledger: Ledger, postgres_url: str, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "other")
    spool.write([charged(f"row-{n}") for n in range(20_000)])
    spool.close()
    replaying = Ledger(PostgresRows(postgres_url, "worker-2"), Spool(tmp_path / "other"))
    replaying.start()
    ended = 0
    while replaying.backlog and ended < 10:
        ended += await asyncio.to_thread(terminate, postgres_url)
    assert ended
    await until(lambda: not replaying.backlog, "the spool is empty", 60)
    assert await count(postgres_url) == 20_000
    await replaying.stop()


async def test_F21_the_probe_after_an_outage_bears_a_goodbye(postgres_url: str) -> None:
    store = PostgresRows(postgres_url, "worker-1")
    for _ in range(3):
        await asyncio.to_thread(store.probe)
        await asyncio.to_thread(terminate, postgres_url)
    await asyncio.to_thread(store.probe)
    await asyncio.to_thread(store.close)


class _Failing(SqliteRows):
    """A store that fails in a way that nobody foresaw."""

    failures = 3

    @override
    def write(self, rows: object, *, foreign: bool = False) -> None:
        if self.failures:
            self.failures -= 1
            raise MemoryError
        super().write(rows, foreign=foreign)  # type: ignore[arg-type]

    @override
    def probe(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("unheard of")
        super().probe()

    @override
    def close(self) -> None:
        super().close()
        if self.failures:
            raise RuntimeError("nor this")


async def test_F21_a_store_that_fails_in_an_unforeseen_way_sends_rows_to_the_spool(tmp_path: Path) -> None:
    write_schema(tmp_path / "llmaas.db")
    ledger = Ledger(_Failing(tmp_path / "llmaas.db", SHARED), Spool(tmp_path / "spool"))
    ledger.start()
    await asyncio.wait_for(ledger.append(row(id="first")), 10)
    assert ledger.accepting
    assert ledger.backlog
    await until(lambda: not ledger.backlog, "the spool is empty")
    await ledger.append(row(id="second"))
    await ledger.stop()
    database = Database(tmp_path / "llmaas.db")
    async with database.connect() as connection:
        ids = (await connection.execute(sa.select(usage.c.id).order_by(usage.c.id))).scalars().all()
    assert list(ids) == ["first", "second"]
    await database.close()


async def test_F21_what_requests_wait_for_is_asked_again_on_a_new_connection(postgres_url: str) -> None:
    """Also when the good-bye arrives while this process is busy, so that the driver meets it in the midst of a statement."""
    database = Database(postgres_url)
    store, budgets = SqlRevisionStore(database), SqlBudgetStore(database, "worker-1")
    for _ in range(20):
        before = await store.read()
        terminate(postgres_url, "llmaas")  # the event loop stands still meanwhile
        assert await store.read() == before
        terminate(postgres_url, "llmaas")
        await budgets.take([BudgetWant("project:default:total", 100, 1, 1)])
    await database.close()


async def test_F21_a_good_bye_to_the_connection_that_took_the_place_of_another_is_borne_too(postgres_url: str) -> None:
    database = Database(postgres_url)
    tries = 0

    @again_when_cut
    async def read() -> int:
        nonlocal tries
        tries += 1
        async with database.connect() as connection:
            if tries <= 3:
                await asyncio.to_thread(terminate, postgres_url, "llmaas")
            return int((await connection.execute(sa.text("SELECT 7"))).scalar_one())

    assert (await read(), tries) == (7, 4)
    await database.close()


async def test_F21_a_server_that_hangs_up_on_new_connections_is_asked_again_and_one_that_is_not_there_is_not() -> None:
    """It hangs up as PostgreSQL does while it starts or stops."""
    tries = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # asks for TLS
        writer.write(b"N")
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
        told = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
        writer.write(b"E" + (len(told) + 4).to_bytes(4, "big") + told)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        database = Database(f"postgresql://llmaas@127.0.0.1:{server.sockets[0].getsockname()[1]}/none")

        @again_when_cut
        async def read() -> None:
            nonlocal tries
            tries += 1
            async with database.connect():
                raise AssertionError("there is no database")

        with pytest.raises(Unavailable):
            await read()
        assert tries == 5
        server.close()
        with pytest.raises(Unavailable):
            await read()
        assert tries == 6
    await database.close()


async def test_F21_a_lease_that_is_cut_off_while_it_is_taken_is_taken_once(postgres_url: str) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    budgets = SqlBudgetStore(database, "worker-1")
    await budgets.take([BudgetWant("project:default:total", 100, 1, 1)])
    async with other.begin() as connection:
        await connection.execute(sa.text("SET LOCAL application_name = 'other'"))
        await connection.execute(sa.text("LOCK TABLE budget_shares"))
        taking = asyncio.create_task(budgets.take([BudgetWant("project:default:total", 100, 10, 10, 1)]))
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'llmaas' AND wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        await until(lambda: bool(execute(postgres_url, waiting)), "it waits")
        assert terminate(postgres_url, "llmaas") == 1
    assert (await taking)[0].net_nano == 11
    assert (await budgets.standing(["project:default:total"]))["project:default:total"].leased_nano == 11
    await database.close()
    await other.close()


async def test_F21_changes_are_heard_after_each_goodbye(postgres_url: str) -> None:
    database = Database(postgres_url)
    changes = PostgresChanges(postgres_url, "worker-1", alone=True)
    await changes.start()
    listening = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle' AND datname = current_database()"
    )
    for _ in range(3):
        await until(lambda: bool(execute(postgres_url, listening)), "it listens")
        execute(postgres_url, TERMINATE.format("llmaas"))
        await until(lambda: bool(execute(postgres_url, listening)), "it listens again")
        await changes.wait(1)
        started_s = time.monotonic()
        async with database.begin() as connection:
            await bump(connection, "keys")
        await changes.wait(30)
        assert time.monotonic() - started_s < 15
    await changes.stop()
    await database.close()
