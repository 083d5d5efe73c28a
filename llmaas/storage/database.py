"""Connections and schema, on SQLite (WAL, FULL synchronisation) and on PostgreSQL; write transactions run one at a time.

`prepare` makes what an empty database needs; a schema of another version is refused, never changed unasked.
Places are written as a path, which is an SQLite file, or as a URL: `sqlite:///PATH`, `postgresql://USER@HOST/NAME`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
import structlog
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmaas.errors import ConfigurationError, InvalidRequest, Unavailable
from llmaas.settings import without_password
from llmaas.storage import tables
from llmaas.storage.file_locks import folder_locked
from llmaas.storage.watched_file import REMEDY, FileLost, WatchedFile, is_damaged, log_of
from llmaas.tasks import to_its_end

if TYPE_CHECKING:
    import aiosqlite
    import asyncpg
    from alembic.config import Config
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS = 5_000
_PRIVATE = 0o600
_LOG_DAMAGED = (
    "database {path} cannot be used: {log} is damaged, and SQLite would leave out what was written last without a word; restore a backup"
    " (`llmaas restore`), or move {log} away to go on without that"
)
_OF_FILE = "llmaas_file"
CHANGES_CHANNEL = "llmaas_changes"
CALL_BACK = "call back "
"""Begins the notifications of a budget whose idle leases somebody waits for; others tell of a new revision."""
SCHEMA = "0005"
"""The version that this program works with: the newest migration (a test compares the two)."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://"
_WRITE_LOCK = 0x6C6C6D_01
_SCHEMA_LOCK = 0x6C6C6D_02
_FORGOTTEN_MS = 10_000
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY = 0xFF
"""The part of SQLite's error codes that all kinds of one error share."""
_LET_GO_S = 2.0
"""What SQLAlchemy may take to let go of a connection that it gives up."""
SESSION = {
    # The server keeps a session and its locks for half a minute when a machine went away without a word, not for hours.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Settings of every connection to PostgreSQL."""
_MAY_PAUSE = sa.select(sa.func.set_config("idle_in_transaction_session_timeout", "0", sa.true()))
"""For a report whose reader is slow: it holds no lock that others wait for."""
_BEGIN_WRITE = sa.select(
    sa.func.pg_advisory_xact_lock(_WRITE_LOCK),
    sa.func.set_config("idle_in_transaction_session_timeout", str(_FORGOTTEN_MS), sa.true()),
)
_CUT_PAUSES_S = (0.0, 0.05, 0.1, 0.2)
_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.database")
P = ParamSpec("P")
T = TypeVar("T")
Condition = Callable[[AsyncConnection], Awaitable[None]]
in_each_transaction: ContextVar[Condition | None] = ContextVar("in_each_transaction", default=None)
"""What each write transaction of a task begins with. It raises when the task may not write any more."""


def sqlite_path(place: str | Path) -> Path | None:
    """The file of an SQLite place; None for PostgreSQL."""
    if isinstance(place, Path):
        return place
    return Path(place.removeprefix(_SQLITE)) if place.startswith(_SQLITE) else None


class Database:
    """The control plane's connections. `begin()` for changes, `connect()` for reads.

    On PostgreSQL both end with Unavailable when a block takes longer than `limit_s`, which must be above 2. SQLite waits
    for a lock at most `BUSY_TIMEOUT_MS`, and for nothing else.
    """

    def __init__(self, place: str | Path, *, limit_s: float = 5.0, pool_size: int = 5) -> None:
        self.file = sqlite_path(place)
        self._limit_s = limit_s
        self._drivers: WeakSet[aiosqlite.Connection] = WeakSet()
        self._in_blocks: set[aiosqlite.Connection] = set()
        self._file_number = 0
        self.watched = WatchedFile(self.file) if self.file is not None else None
        if self.watched is not None:
            url = sa.URL.create("sqlite+aiosqlite", database=self.watched.uri, query={"mode": "rw", "uri": "true"})
            self._engine = create_async_engine(url, hide_parameters=True)
            sa.event.listen(self._engine.sync_engine, "checkout", self._still_of_the_file)
            sa.event.listen(self._engine.sync_engine, "connect", _set_pragmas)
            sa.event.listen(self._engine.sync_engine, "connect", self._made)
            sa.event.listen(self._engine.sync_engine, "begin", _begin_immediate)
            sa.event.listen(self._engine.sync_engine, "invalidate", _roll_back)
            self._reading = self._engine
        else:
            self._engine = _postgres_engine(str(place), limit_s, pool_size=pool_size, pool_pre_ping=True)
            sa.event.listen(self._engine.sync_engine, "handle_error", _see_whether_cut)
            self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @property
    def path(self) -> Path:
        """The file. Only SQLite has one."""
        assert self.file is not None  # noqa: S101 - asked for by who knows that it is SQLite
        return self.file

    @asynccontextmanager
    async def begin(self, *, one_at_a_time: bool = True, long: bool = False) -> AsyncIterator[AsyncConnection]:
        """A write transaction. What it reads stays true until it commits, since no other one runs meanwhile.

        With `one_at_a_time` false others do, on PostgreSQL: for a single statement, or a caller that locks its rows.
        `long` lifts the time limit.
        """
        async with self._within_limit(long=long), self._opened(self._engine) as plain:
            await self._end_stranded()
            connection = await plain.execution_options(llmaas_write=True)
            async with connection.begin():
                if self.file is None and one_at_a_time:
                    await connection.execute(_BEGIN_WRITE)
                elif self.file is None and long:
                    await connection.execute(_MAY_PAUSE)
                condition = in_each_transaction.get()
                if condition is not None:
                    await condition(connection)
                yield connection

    @asynccontextmanager
    async def connect(self, *, long: bool = False) -> AsyncIterator[AsyncConnection]:
        """For reads, all of the same moment. Raises Unavailable when the database does not answer, as `begin` does.

        `long` lifts the time limit: for reports and exports.
        """
        async with self._within_limit(long=long), self._opened(self._reading) as connection:
            if long and self.file is None:
                await connection.execute(_MAY_PAUSE)
            yield connection

    @asynccontextmanager
    async def _opened(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection that is closed when the block has ended, also one of SQLite in a task that is cancelled meanwhile.

        SQLAlchemy leaves that to a task of its own, which the end of the loop cancels in its turn; the driver then waits
        for its thread for ever, or leaves the file locked.
        """
        if self.file is None:
            async with engine.connect() as connection:
                yield connection
            return
        self._file_number = self._look()
        connection = engine.connect()
        driver: aiosqlite.Connection | None = None
        try:
            raw = await (await to_its_end(connection.start())).get_raw_connection()
            driver = raw.driver_connection
            assert driver is not None  # noqa: S101 - it was just made or taken from the pool
            self._in_blocks.add(driver)
            yield connection
        finally:
            try:
                if connection.sync_connection is not None:
                    await to_its_end(connection.close())
            finally:
                if driver is not None:
                    self._in_blocks.discard(driver)

    def _look(self) -> int:
        assert self.watched is not None  # noqa: S101 - asked for where it is SQLite
        try:
            return self.watched.look()
        except FileLost as error:
            raise Unavailable("The database is lost.", hint=f"{error}; {REMEDY}", retry_after_s=2) from error

    def _made(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_OF_FILE] = self._file_number
        self._drivers.add(connection.driver_connection)

    def _still_of_the_file(self, _connection: object, record: ConnectionPoolEntry, _fairy: object) -> None:
        if record.info[_OF_FILE] != self._file_number:
            raise sa.exc.InvalidatePoolError("the file was exchanged")

    async def _end_stranded(self) -> None:
        """Roll back what a block left behind that could not: memory was short, or the driver failed at it. Its connection would keep
        the lock for which all further writers wait.
        """
        for driver in [driver for driver in self._drivers if driver not in self._in_blocks and _in_transaction(driver)]:
            _log.warning("stranded_transaction", database=str(self.file), hint="it is rolled back")
            try:
                await driver.rollback()
            except (sqlite3.Error, ValueError, MemoryError):
                stopped = driver.stop()  # which closes it
                if stopped is not None:
                    await stopped

    @asynccontextmanager
    async def _within_limit(self, *, long: bool) -> AsyncIterator[None]:
        unlimited = long or self.file is not None
        with _translated():
            async with asyncio.timeout(None if unlimited else self._limit_s - _LET_GO_S):
                yield

    async def faults(self) -> list[str]:
        """What SQLite's own check of the file finds, or that PostgreSQL does not answer; nothing when it is sound."""
        statement = "PRAGMA integrity_check(20)" if self.file is not None else "SELECT 'ok'"
        try:
            async with self.connect(long=True) as connection:
                found = (await connection.exec_driver_sql(statement)).scalars().all()
        except Unavailable as error:
            return [(error.hint or error.message).splitlines()[0]]
        return [fault for fault in found if fault != "ok"]

    async def close(self) -> None:
        await self._engine.dispose()


def _postgres_engine(url: str, limit_s: float, **options: Any) -> AsyncEngine:
    """Connections that give up on a server which does not answer, and on a lock that is not free in time. One whose transaction
    stands still for longer than any block may take is abandoned: the server ends it, so that its locks stop nobody for long.
    """
    import asyncpg  # noqa: PLC0415 - commands on SQLite start without it

    settings = {
        **SESSION,
        "application_name": "llmaas",
        "lock_timeout": str(round(limit_s * 1000)),
        "idle_in_transaction_session_timeout": str(round(max(1.0, limit_s - _LET_GO_S) * 1000)),
    }

    async def connect() -> asyncpg.Connection:
        # By the driver itself: SQLAlchemy's reading of a URL knows neither `sslmode` nor several hosts.
        return await asyncpg.connect(url, timeout=limit_s, server_settings=settings)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, hide_parameters=True, **options)


@contextmanager
def _translated() -> Iterator[None]:
    """The border for the errors of SQLAlchemy and the drivers; a broken constraint is the adapters' own business."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except OverflowError as error:  # what Python's driver of SQLite says of a number beyond 64 bits
        raise _unfit() from error
    except _foreign() as error:
        if _is_about_values(error):
            raise _unfit() from error
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if is_damage(cause):
            raise Unavailable(
                "The database is damaged.", hint=f"{cause}; stop llmaas, move the file away and restore a backup"
            ) from error
        hint = str(error) or "it took too long"
        raise Unavailable("The database does not answer.", hint=hint, retry_after_s=2) from error


def is_damage(error: BaseException | None) -> bool:
    """Whether it is SQLite's word for a file that is damaged."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _DAMAGED


def _see_whether_cut(context: ExceptionContext) -> None:
    """SQLAlchemy goes by whether the driver has closed the connection, which it has not yet when it met the server's last word in
    the midst of a statement. The connections beside it are made anew too: a server rarely says good-bye to one alone.
    """
    if context.is_pre_ping or _is_last_word(context.original_exception.__cause__):
        context.is_disconnect = True


def _is_last_word(error: BaseException | None) -> bool:
    """Whether a server ended the connection with it, or the driver could not make sense of a connection that was ended."""
    driver = sys.modules.get("asyncpg")
    if driver is None or isinstance(error, driver.QueryCanceledError):
        return False
    last_words = (driver.PostgresConnectionError, driver.InternalClientError, driver.OperatorInterventionError)
    return isinstance(error, last_words)


def again_when_cut(work: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Do it again when PostgreSQL said good-bye to the connection (a restart, an idle time-out), also to the one that took its place:
    for what requests wait for, and only for what may be done twice. A server that does not answer is not asked again.
    """

    @wraps(work)
    async def again(*values: P.args, **named: P.kwargs) -> T:
        for pause_s in _CUT_PAUSES_S:
            try:
                return await work(*values, **named)
            except Unavailable as error:
                if not _is_cut(error.__cause__):
                    raise
            await asyncio.sleep(pause_s)
        return await work(*values, **named)

    return again


def _is_cut(error: BaseException | None) -> bool:
    """Also while a connection was being made, where SQLAlchemy does not wrap what the driver says."""
    return error.connection_invalidated if isinstance(error, sa.exc.DBAPIError) else _is_last_word(error)


def _unfit() -> InvalidRequest:
    return InvalidRequest("The request holds a character or a number that cannot be stored.")


def _is_about_values(error: Exception) -> bool:
    """Whether PostgreSQL or its driver refuses what it was given: a NUL in a text, a number beyond 64 bits."""
    driver = sys.modules.get("asyncpg")
    cause: BaseException | None = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    while driver is not None and cause is not None:
        if isinstance(cause, driver.DataError):
            return True
        cause = cause.__cause__
    return False


def _foreign() -> tuple[type[Exception], ...]:
    """While a connection is made, what goes wrong is not wrapped by SQLAlchemy. TimeoutError is an OSError."""
    driver = sys.modules.get("asyncpg")
    drivers = (driver.PostgresError, driver.InterfaceError, driver.InternalClientError) if driver is not None else ()
    return (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, *drivers)


def _set_pragmas(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    # A text that is not UTF-8 spoils itself: by itself the driver fails on all rows of the answer.
    driver: Any = connection.driver_connection if hasattr(connection, "driver_connection") else connection
    driver.text_factory = partial(str, encoding="utf-8", errors="replace")
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


def _roll_back(connection: DBAPIConnection, _record: object, error: BaseException | None) -> None:
    """Of a task that was cancelled: closing alone leaves the file locked as long as anything, like a traceback, holds a cursor.

    SQLAlchemy closes the connection only when this raises nothing.
    """
    if error is not None:
        with contextlib.suppress(Exception):
            connection.rollback()


def _in_transaction(driver: aiosqlite.Connection) -> bool:
    try:
        return driver.in_transaction
    except ValueError:  # it is closed
        return False


async def bump(connection: AsyncConnection, name: str) -> None:
    """Tell every process, within the transaction of the change, that `name` (`catalogue`, `keys` with projects, `money`) changed."""
    table = tables.revisions
    await connection.execute(sa.update(table).where(table.c.name == name).values(number=table.c.number + 1))
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_notify(CHANGES_CHANNEL, name)))


def upsert(connection: AsyncConnection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that has `on_conflict_do_update` and `on_conflict_do_nothing`, for the database at hand."""
    from sqlalchemy.dialects import postgresql, sqlite  # noqa: PLC0415 - commands that read start without them

    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def prepare(place: str | Path, begin: Callable[[], None] = lambda: None) -> bool:
    """Make the schema in an empty database; whether it is one that was in use, whose master key has to be there.

    `begin` is called before an empty one is filled. ConfigurationError when the database is of another version or unusable.
    Blocks.
    """
    # A database that is there is only looked at, so that a start does not wait for whoever holds SQLite's write lock.
    known = look(place)
    return (
        _on_schema(place, lambda connection, name: _prepare(connection, name, begin), begin) if known is None else known
    )


def look(place: str | Path) -> bool | None:
    """What `prepare` gives, of a database that is left as it is; None: it is empty, or its file is not there."""
    path = sqlite_path(place)
    return None if path is not None and _is_blank(path) else _on_schema(place, _look, write=False)


def migrate(place: str | Path, begin: Callable[[], None] = lambda: None) -> tuple[str | None, str]:
    """Bring an older schema to this version's; gives both versions. ConfigurationError when it is not an older one. Blocks.

    `begin`: as of `prepare`.
    """
    return _on_schema(place, lambda connection, name: _migrate(connection, name, begin), begin)


def _look(connection: sa.Connection, name: str) -> bool | None:
    present = _version(connection)
    if present is None and not sa.inspect(connection).get_table_names():
        return None
    if present != SCHEMA:
        raise ConfigurationError([_wrong_version(name, present)])
    used = (tables.vault.c.name, tables.keys.c.id, tables.users.c.id)
    return any(connection.execute(sa.select(column).limit(1)).first() is not None for column in used)


def _prepare(connection: sa.Connection, name: str, begin: Callable[[], None]) -> bool:
    known = _look(connection, name)  # again: another process may have been faster
    if known is None:
        begin()
        upgrade(connection)
    return bool(known)


def _migrate(connection: sa.Connection, name: str, begin: Callable[[], None]) -> tuple[str | None, str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - a third of a second, needed only here

    present = _version(connection)
    if present != SCHEMA:
        known = {s.revision for s in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
        empty = present is None and not sa.inspect(connection).get_table_names()
        if present not in known and not empty:
            raise ConfigurationError([_wrong_version(name, present)])
        if empty:
            begin()
        upgrade(connection)
    return present, SCHEMA


def upgrade(connection: sa.Connection, version: str = "head") -> None:
    """Run the migrations up to a version, within the connection's transaction."""
    from alembic import command  # noqa: PLC0415 - a third of a second, needed only here

    command.upgrade(_config(connection), version)


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - a third of a second, needed only here

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    present: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return present


def _wrong_version(name: str, present: str | None) -> str:
    if present is not None and present < SCHEMA:
        return f"database {name} has schema {present}, this version needs {SCHEMA}: make a backup, then run `llmaas migrate`"
    found = present or "of an unknown origin"
    return f"database {name} has schema {found}, this version knows up to {SCHEMA}: use the version that wrote it"


def _is_blank(path: Path) -> bool:
    """Whether there is no file, or one without a byte. To open it would write its first page."""
    return not path.exists() or not path.stat().st_size


def _on_schema(
    place: str | Path,
    work: Callable[[sa.Connection, str], T],
    begin: Callable[[], None] = lambda: None,
    *,
    write: bool = True,
) -> T:
    """Work on the schema in a transaction that no other such work runs beside. `begin` is called before a file is made, and may raise.
    `write`: false when it only looks.
    """
    path = sqlite_path(place)
    return _on_sqlite(path, work, begin, write=write) if path is not None else _on_postgres(str(place), work)


def _on_sqlite(path: Path, work: Callable[[sa.Connection, str], T], begin: Callable[[], None], *, write: bool) -> T:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = sa.create_engine(f"{_SQLITE}{path}", hide_parameters=True)
        sa.event.listen(engine, "connect", _set_pragmas)
        sa.event.listen(engine, "begin", _begin_immediate)
        try:
            # SQLite does not wait for another process that turns the same new file to WAL: it fails at once.
            with folder_locked(path.parent):
                if _is_blank(path):
                    begin()
                    path.touch(mode=_PRIVATE)
                    path.chmod(_PRIVATE)  # somebody may have made it for us, for everybody to read
                log = log_of(path)
                if is_damaged(log):
                    raise ConfigurationError([_LOG_DAMAGED.format(path=path, log=log)])
                with engine.connect() as connection:
                    done = work(connection.execution_options(llmaas_write=write), str(path))
                    connection.commit()
                return done
        finally:
            engine.dispose()
    except OSError as error:
        raise ConfigurationError(
            [f"data_dir: {path.parent} cannot be used: {error.strerror}; set --data-dir or LLMAAS_DATA_DIR"]
        ) from error
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        fix = "check the directory (data_dir) and its free space"
        if is_damage(cause):
            fix = "the file is damaged, so move it away and restore a backup (`llmaas restore`)"
        raise ConfigurationError([f"database {path} cannot be used: {cause}; {fix}"]) from error


def _on_postgres(url: str, work: Callable[[sa.Connection, str], T]) -> T:
    """The driver has no blocking form, so it gets a loop of its own, in a thread that may have one."""
    name = without_password(url)

    async def within() -> T:
        engine = _postgres_engine(url, limit_s=30.0, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            return await connection.run_sync(work, name)

    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, within()).result()
    except _foreign() as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise ConfigurationError(
            [f"database {name} cannot be used: {cause}; check database_url and the server"]
        ) from error
