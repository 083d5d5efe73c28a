"""The schema on both databases: the tables are what the migrations make, what is not ours is refused, nothing waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from llmaas.domain.keys import Key
from llmaas.domain.usage import Grouping, UsageFilter
from llmaas.errors import ConfigurationError, InvalidRequest, Unavailable
from llmaas.storage import database as module
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.database import SCHEMA, Database, migrate, prepare
from llmaas.storage.file_locks import folder_locked
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.ledger_check import SqlLedgerCheck
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.rollups import SqlRollups
from llmaas.storage.tables import metadata
from llmaas.storage.usage import SqlUsageReader
from tests.postgres import PostgresServer, execute

Place = str | Path
LIMIT_S = 3.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "llmaas.db"


def run(place: Place, *statements: str) -> list[tuple[Any, ...]]:
    """As another program does it; gives the rows of the last statement."""
    if isinstance(place, str):
        return [tuple(row) for row in execute(place, *statements)]
    with closing(sqlite3.connect(place)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def test_the_schema_number_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA


async def test_the_tables_are_what_the_migrations_make(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []


def test_preparing_twice_changes_nothing(empty_place: Place) -> None:
    assert not prepare(empty_place)
    run(empty_place, "INSERT INTO projects (id, name, created_ms) VALUES ('p', 'P', 1)")
    assert not prepare(empty_place)
    assert migrate(empty_place) == (SCHEMA, SCHEMA)
    assert run(empty_place, "SELECT count(*) FROM projects") == [(1,)]


def test_first_starts_at_once_do_not_clash(empty_place: Place) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(prepare, [empty_place] * 3)) == [False] * 3
    assert run(empty_place, "SELECT name FROM revisions ORDER BY name") == [("catalogue",), ("keys",), ("money",)]


def test_a_first_start_waits_for_another_one_to_make_the_file(path: Path) -> None:
    """SQLite itself would not wait: while one turns a new file to WAL, the other fails with "database is locked"."""
    path.parent.mkdir()
    with ThreadPoolExecutor(1) as thread:
        with folder_locked(path.parent):
            starting = thread.submit(prepare, path)
            done, _ = wait([starting], timeout=0.2)
            assert not done
            assert not path.exists()
        assert starting.result(timeout=30) is False


@pytest.mark.parametrize("version", ["0000", "9999", "something"])
def test_another_version_is_refused(place: Place, version: str) -> None:
    run(place, f"UPDATE alembic_version SET version_num = '{version}'")
    with pytest.raises(ConfigurationError) as refused:
        prepare(place)
    assert version in str(refused.value)
    assert str(place) in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"use the version that wrote it|make a backup"):
        migrate(place)


def test_the_database_of_another_program_is_refused(empty_place: Place) -> None:
    if isinstance(empty_place, Path):
        empty_place.parent.mkdir()
    run(empty_place, "CREATE TABLE theirs (id integer)")
    for function in (prepare, migrate):
        with pytest.raises(ConfigurationError, match="unknown origin"):
            function(empty_place)
    listing = {
        True: "SELECT name FROM sqlite_master WHERE type = 'table'",
        False: "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    }
    assert run(empty_place, listing[isinstance(empty_place, Path)]) == [("theirs",)]


OLD_ROWS = (
    "INSERT INTO projects (id, name, tier_id, created_ms) VALUES ('p', 'P', 'gold', 1)",
    (
        "INSERT INTO users (id, email, password_hash, is_admin, must_change_password, created_ms)"
        " VALUES ('u', 'a@b', 'h', true, false, 1)"
    ),
    (
        "INSERT INTO keys (id, project_id, name, secret_hash, created_ms, allowed_models, permissions)"
        " VALUES ('kkkkkkkkkkkk', 'p', 'old', '{hash}', 5, '[\"m\"]', '[]')"
    ),
    "INSERT INTO tiers (id, limits) VALUES ('gold', '{{\"requests_per_minute\": 7}}')",
    "INSERT INTO providers (id, kind, cancel_stops_billing, extra_parameters) VALUES ('v', 'vllm', true, '[]')",
    "INSERT INTO backends (id, provider_id, base_url, machine_name, engine_type) VALUES ('b', 'v', 'http://b', 'm', 'vllm')",
    (
        "INSERT INTO prices (model_id, valid_from_ms, input, cached_input, output, reasoning, request, documents)"
        " VALUES ('m', 1, 1, 2, 3, 4, 5, 6)"
    ),
    (
        "INSERT INTO usage (id, request_id, project_id, key_id, endpoint, streamed, started_ms, duration_ms, model_id,"
        " requested_model, attempts, catalogue_revision, outcome, input_tokens, cached_input_tokens, output_tokens,"
        " reasoning_tokens, usage_source, usage_suspect, billing_reason, currency, cost_nano)"
        " VALUES ('r', 'r', 'p', 'k', 'chat', false, 1780012800001, 2, 'm', 'm', 1, 1, 'completed', 3, 0, 5, 0, 'engine', false,"
        " 'answered', 'EUR', 9007199254740993)"
    ),
)


async def test_a_database_of_the_schema_before_is_migrated_with_what_is_in_it(empty_place: Place) -> None:
    if isinstance(empty_place, Path):
        empty_place.parent.mkdir()
    module._on_schema(empty_place, lambda connection, _: module.upgrade(connection, "0001"))  # noqa: SLF001 - no door leads back
    hashed = "\\x6861" if isinstance(empty_place, str) else "ha"
    run(empty_place, *(statement.format(hash=hashed) for statement in OLD_ROWS))
    if isinstance(empty_place, Path):
        run(empty_place, "UPDATE keys SET secret_hash = CAST(secret_hash AS BLOB)")
    with pytest.raises(ConfigurationError, match="llmaas migrate"):
        prepare(empty_place)
    assert migrate(empty_place) == ("0001", SCHEMA)
    assert prepare(empty_place)
    database = Database(empty_place)
    (key,) = await SqlKeyStore(database).list()
    assert key == Key("k" * 12, "p", "old", b"ha", 5, allowed_models=frozenset({"m"}), permissions=frozenset())
    async with database.connect() as connection:
        for name, filled in (
            ("usage", (0, 0)),
            ("backends", (True,)),
            ("prices", (None,)),
            ("users", ("",)),
            ("providers", (None,)),
        ):
            columns = {
                "usage": "documents, energy_uwh",
                "backends": "in_service",
                "prices": "tier_id",
                "users": "name",
                "providers": "explain_refusals",
            }
            found = (await connection.exec_driver_sql(f"SELECT {columns[name]} FROM {name}")).all()
            assert [tuple(row) for row in found] == [filled]
        assert (await connection.exec_driver_sql("SELECT cost_nano FROM usage")).scalar() == 9007199254740993
    assert (await SqlRevisionStore(database).read()).money == 1
    for by, group in ((Grouping.DAY, "2026-05-29"), (Grouping.MONTH, "2026-05")):
        (total,) = await SqlUsageReader(database).sums(UsageFilter(), [by])
        assert (total.group, total.requests, total.cost_nano) == ((group,), 1, 9007199254740993)
    assert [fault async for fault in SqlRollups(database).faults()] == []
    assert [fault async for fault in SqlLedgerCheck(database).faults(0)] == []
    budget = "key:k:2026-05-29"
    assert (await SqlBudgetStore(database).standing([budget]))[budget].spent_nano == 9007199254740993
    await database.close()


def test_sums_by_end_user_from_before_they_counted_unpriced_requests_are_made_anew(empty_place: Place) -> None:
    if isinstance(empty_place, Path):
        empty_place.parent.mkdir()
    module._on_schema(empty_place, lambda connection, _: module.upgrade(connection, "0004"))  # noqa: SLF001 - no door leads back
    run(empty_place, "INSERT INTO usage_end_user_parts (unit_ms, start_ms, maker) VALUES (86400000, 0, 0)")
    assert migrate(empty_place) == ("0004", SCHEMA)
    found = module._on_schema(  # noqa: SLF001 - as above
        empty_place, lambda connection, _: connection.scalar(sa.text("SELECT count(*) FROM usage_end_user_parts"))
    )
    assert found == 0, "no part counts as whole before it is made from rows"


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello " * 1000)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        prepare(path)


def test_a_directory_that_cannot_be_made_is_said_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--data-dir"):
        prepare(tmp_path / "file" / "llmaas.db")


def test_a_server_that_is_not_there_is_said_with_the_setting_and_without_the_password() -> None:
    with pytest.raises(ConfigurationError, match="database_url") as refused:
        prepare("postgresql://me:hunter2@127.0.0.1:1/llmaas")
    assert "127.0.0.1:1" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_a_missing_table_is_unavailable_and_not_a_driver_error(place: Place) -> None:
    run(place, "DROP TABLE usage")
    database = Database(place)
    with pytest.raises(Unavailable) as refused:
        async with database.connect() as connection:
            await connection.exec_driver_sql("SELECT * FROM usage")
    assert refused.value.retry_after_s
    assert "usage" not in refused.value.message
    await database.close()


async def test_a_write_that_fails_half_way_leaves_nothing(database: Database) -> None:
    async def half_way() -> None:
        async with database.begin() as connection:
            await connection.exec_driver_sql("INSERT INTO projects (id, name, created_ms) VALUES ('p', 'P', 1)")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        await half_way()
    async with database.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM projects")).scalar() == 0
    assert await database.faults() == []


async def test_writes_run_one_after_the_other(database: Database) -> None:
    """Each reads a number and writes the next one: whoever reads what is about to change loses a step."""

    async def step() -> None:
        async with database.begin() as connection:
            number = (
                await connection.exec_driver_sql("SELECT number FROM revisions WHERE name = 'money'")
            ).scalar_one()
            await connection.exec_driver_sql(f"UPDATE revisions SET number = {number + 1} WHERE name = 'money'")

    await asyncio.gather(*(step() for _ in range(20)))
    assert (await SqlRevisionStore(database).read()).money == 21


@pytest.mark.parametrize("text", ["a\x00b", "a" * 10])
async def test_a_text_that_cannot_be_stored_is_the_callers_fault(database: Database, text: str) -> None:
    """PostgreSQL takes no NUL; that is no sign of its being away. SQLite takes it."""
    try:
        assert await SqlKeyStore(database).get(text) is None
    except InvalidRequest:
        assert (text, database.file) == ("a\x00b", None)


async def test_a_number_that_cannot_be_stored_is_the_callers_fault(database: Database) -> None:
    with pytest.raises(InvalidRequest):
        await SqlUsageReader(database).page(UsageFilter(from_ms=2**63), limit=1)


async def test_a_write_that_is_cancelled_locks_nobody_out(database: Database) -> None:
    """Even while its traceback is kept, and with it the cursors of its connection."""

    async def write() -> None:
        async with database.begin(one_at_a_time=False) as connection:
            for _ in range(20):
                query = "UPDATE revisions SET number = number + 1 RETURNING number"
                (await connection.exec_driver_sql(query)).scalars().all()

    kept: list[object] = []
    for turns in range(0, 90, 3):
        writer = asyncio.create_task(write())
        for _ in range(turns):  # from before it has a connection to the midst of its statements
            await asyncio.sleep(0.0002)
        writer.cancel()
        kept += await asyncio.gather(writer, return_exceptions=True)
        async with asyncio.timeout(module.BUSY_TIMEOUT_MS / 1000 - 1):
            await write()
    assert asyncio.CancelledError in [type(error) for error in kept]


async def test_reads_are_of_one_moment(database: Database) -> None:
    async with database.connect() as connection:
        query = "SELECT number FROM revisions WHERE name = 'keys'"
        before = (await connection.exec_driver_sql(query)).scalar_one()
        async with database.begin() as other:
            await module.bump(other, "keys")
        assert (await connection.exec_driver_sql(query)).scalar_one() == before
    assert (await SqlRevisionStore(database).read()).keys == before + 1


async def test_F11_without_postgresql_nothing_waits_beyond_the_limit_and_all_heals(
    own_postgres: PostgresServer,
) -> None:
    database = Database(own_postgres.url(), limit_s=LIMIT_S)
    revisions = SqlRevisionStore(database)

    async def waited_s() -> float:
        begun_s = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await revisions.read()
        assert refused.value.retry_after_s
        return time.monotonic() - begun_s

    first = await revisions.read()
    own_postgres.freeze()
    try:
        assert max(await asyncio.gather(*(waited_s() for _ in range(12)))) < LIMIT_S + 0.5
    finally:
        own_postgres.thaw()
    assert await revisions.read() == first
    own_postgres.stop()
    assert await waited_s() < 0.5
    own_postgres.start()
    assert await revisions.read() == first
    async with database.begin() as connection:
        await module.bump(connection, "keys")
    assert (await revisions.read()).keys == first.keys + 1
    await database.close()


async def test_F11_a_writer_that_stands_still_does_not_hold_the_others_for_ever(postgres_url: str) -> None:
    """PostgreSQL itself cuts it off; here with a shorter patience than the real one."""
    database = Database(postgres_url, limit_s=LIMIT_S)
    async with database.begin() as connection:
        patience = (await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar_one()
        assert patience == "10s"
        locks = await connection.exec_driver_sql("SELECT objid FROM pg_locks WHERE locktype = 'advisory'")
        (lock,) = locks.scalars().all()
    holder = await asyncpg.connect(postgres_url)
    await holder.execute("SET idle_in_transaction_session_timeout = 300")
    await holder.execute(f"BEGIN; SELECT pg_advisory_xact_lock({lock})")
    begun_s = time.monotonic()
    async with database.begin() as connection:
        await module.bump(connection, "keys")
    assert 0.1 < time.monotonic() - begun_s < LIMIT_S
    assert (await SqlRevisionStore(database).read()).keys == 2
    await holder.close()
    await database.close()
