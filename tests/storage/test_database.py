"""The schema: the tables are what the migrations make, and what is not ours is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llmaas.errors import ConfigurationError, Unavailable
from llmaas.storage.database import Database, migrate, prepare
from llmaas.storage.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "llmaas.db"


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_the_tables_are_what_the_migrations_make(path: Path) -> None:
    prepare(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_preparing_twice_changes_nothing(path: Path) -> None:
    prepare(path)
    change(path, "INSERT INTO projects (id, name, created_ms) VALUES ('p', 'P', 1)")
    prepare(path)
    migrate(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("version", ["0000", "9999", "something"])
def test_another_version_is_refused(path: Path, version: str) -> None:
    prepare(path)
    change(path, f"UPDATE alembic_version SET version_num = '{version}'")
    with pytest.raises(ConfigurationError) as refused:
        prepare(path)
    assert version in str(refused.value)
    assert str(path) in str(refused.value)


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    change(path, "CREATE TABLE theirs (id)")
    for function in (prepare, migrate):
        with pytest.raises(ConfigurationError, match="unknown origin"):
            function(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello " * 1000)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        prepare(path)


def test_a_directory_that_cannot_be_made_is_said_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--data-dir"):
        prepare(tmp_path / "file" / "llmaas.db")


async def test_a_missing_table_is_unavailable_and_not_a_driver_error(path: Path) -> None:
    prepare(path)
    change(path, "DROP TABLE usage")
    database = Database(path)
    with pytest.raises(Unavailable) as refused:
        async with database.connect() as connection:
            await connection.exec_driver_sql("SELECT * FROM usage")
    assert refused.value.retry_after_s
    assert "usage" not in refused.value.message
    await database.close()


async def test_a_write_that_fails_half_way_leaves_nothing(path: Path) -> None:
    prepare(path)
    database = Database(path)

    async def half_way() -> None:
        async with database.begin() as connection:
            await connection.exec_driver_sql("INSERT INTO projects (id, name, created_ms) VALUES ('p', 'P', 1)")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        await half_way()
    async with database.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM projects")).scalar() == 0
    assert await database.faults() == []
    await database.close()
