"""Connections and schema. SQLite in WAL with FULL synchronisation; one short write transaction at a time.

`prepare` makes what an empty database needs; a schema of another version is refused, never changed unasked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from llmaas.errors import ConfigurationError, Unavailable
from llmaas.storage import tables

BUSY_TIMEOUT_MS = 5_000
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """The control plane's connections. `begin()` for changes, `connect()` for reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}", hide_parameters=True)
        sa.event.listen(self._engine.sync_engine, "connect", _set_pragmas)
        sa.event.listen(self._engine.sync_engine, "begin", _begin_immediate)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: takes the write lock at once, so that what it reads stays true until it commits."""
        with _translated():
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(llmaas_write=True)
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Raises Unavailable when the database does not answer, as `begin` does."""
        with _translated():
            async with self._engine.connect() as connection:
                yield connection

    async def faults(self) -> list[str]:
        """What SQLite's own check of the file finds; nothing when it is sound."""
        try:
            async with self.connect() as connection:
                found = (await connection.exec_driver_sql("PRAGMA integrity_check(20)")).scalars().all()
        except Unavailable as error:
            return [(error.hint or error.message).splitlines()[0]]
        return [fault for fault in found if fault != "ok"]

    async def close(self) -> None:
        await self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """The border for SQLAlchemy's errors; a broken constraint is the adapters' own business."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise Unavailable("The database does not answer.", hint=str(error), retry_after_s=2) from error


def _set_pragmas(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    cursor = connection.cursor()
    for pragma in pragmas(BUSY_TIMEOUT_MS):
        cursor.execute(pragma)
    cursor.close()


def pragmas(busy_timeout_ms: int) -> list[str]:
    return [
        f"PRAGMA busy_timeout={busy_timeout_ms}",
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "PRAGMA foreign_keys=ON",
    ]


def _begin_immediate(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("llmaas_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


async def bump(connection: AsyncConnection, name: str) -> None:
    """Tell every process, within the transaction of the change, that `name` (`catalogue`, `keys` with projects, `money`) changed."""
    table = tables.revisions
    await connection.execute(sa.update(table).where(table.c.name == name).values(number=table.c.number + 1))


def prepare(path: Path) -> None:
    """Make the schema in an empty database. ConfigurationError when the database is of another version or unusable."""
    with _engine(path) as connection:
        present, wanted = _versions(connection)
        if present is None and not sa.inspect(connection).get_table_names():
            _upgrade(connection)
        elif present != wanted:
            raise ConfigurationError([_wrong_version(path, present, wanted)])


def migrate(path: Path) -> tuple[str | None, str]:
    """Bring an older schema to this version's; gives both versions. ConfigurationError when it is not an older one."""
    with _engine(path) as connection:
        present, wanted = _versions(connection)
        if present != wanted:
            known = {s.revision for s in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
            if present not in known and (present is not None or sa.inspect(connection).get_table_names()):
                raise ConfigurationError([_wrong_version(path, present, wanted)])
            _upgrade(connection)
        return present, wanted


@contextmanager
def _engine(path: Path) -> Iterator[sa.Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = sa.create_engine(f"sqlite:///{path}", hide_parameters=True)
        sa.event.listen(engine, "connect", _set_pragmas)
        sa.event.listen(engine, "begin", _begin_immediate)
        try:
            with engine.connect().execution_options(llmaas_write=True) as connection:
                yield connection
                connection.commit()
        finally:
            engine.dispose()
    except OSError as error:
        raise ConfigurationError(
            [f"data_dir: {path.parent} cannot be used: {error.strerror}; set --data-dir or LLMAAS_DATA_DIR"]
        ) from error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise ConfigurationError(
            [f"database {path} cannot be used: {cause}; check the directory (data_dir) and its free space"]
        ) from error


def _versions(connection: sa.Connection) -> tuple[str | None, str]:
    present: Any = None
    if "alembic_version" in sa.inspect(connection).get_table_names():
        present = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    wanted = ScriptDirectory.from_config(_config(connection)).get_current_head()
    assert wanted is not None  # noqa: S101 - the package ships at least one migration
    return present, wanted


def _wrong_version(path: Path, present: str | None, wanted: str) -> str:
    if present is not None and present < wanted:
        return f"database {path} has schema {present}, this version needs {wanted}: make a backup, then run `llmaas migrate`"
    found = present or "of an unknown origin"
    return f"database {path} has schema {found}, this version knows up to {wanted}: use the version that wrote it"


def _config(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: sa.Connection) -> None:
    command.upgrade(_config(connection), "head")
