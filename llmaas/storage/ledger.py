"""The ledger's writer: one thread, one SQLite connection, group commits.

Rows that arrive while a commit runs go into the next one, so one sync is shared by all requests in flight. When the
database does not take them they go to the spool, and from there to the database when it is back. When neither takes
them their futures fail and `accepting` turns false until a probe succeeds. A failed sync is final for the process: after
it the kernel's word about the file is worth nothing (see PostgreSQL's "fsyncgate"), so no new work is taken.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from llmaas.domain.usage import COLUMNS, UsageRow
from llmaas.errors import LedgerUnavailable
from llmaas.storage.database import pragmas
from llmaas.storage.spool import Spool, SyncFailed

_BUSY_TIMEOUT_MS = 500
_RETRY_S = 1.0
_GATHER_S = 0.001
_GATHER_MOST_S = 0.005
_MAX_BATCH = 1_000
_CHUNKS = (64, 16, 4, 1)
_INSERTS = {
    rows: f"INSERT INTO usage ({', '.join(COLUMNS)}) VALUES "  # noqa: S608 - our own names
    + ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * rows)
    + " ON CONFLICT (id) DO NOTHING"
    for rows in _CHUNKS
}
_SYNC_ERRORS = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.ledger")
_Item = tuple[UsageRow, "asyncio.Future[None]"]


class SqliteLedger:
    """Implements `domain.ports.UsageLog`. Everything below `_run` happens in the writer thread."""

    def __init__(self, path: Path, spool: Spool) -> None:
        self._path = path
        self._spool = spool
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._accepting = True
        self._broken = False
        self._database_retry_at = 0.0
        self._last_batch = 1

    @property
    def accepting(self) -> bool:
        return self._accepting

    @property
    def backlog(self) -> bool:
        """Whether rows wait in the spool for the database."""
        return bool(self._spool.files())

    def start(self) -> None:
        """Start the writer; rows that an earlier process left in the spool go to the database first."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Write what was handed over, then end."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def append(self, row: UsageRow) -> asyncio.Future[None]:
        assert self._loop is not None  # noqa: S101 - started by the composition root
        future = self._loop.create_future()
        self._queue.put((row, future))
        return future

    def _run(self) -> None:
        self._safely(self._replay_spool)
        stopping = False
        while not stopping:
            batch, stopping = self._gather()
            if batch:
                self._settle(batch)
            elif not stopping:
                self._safely(self._heal)
        self._close_database()
        self._spool.close()

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - the thread's edge: without the thread no request would ever be settled
            _log.exception("ledger_writer_failed")
            self._close_database()
            self._database_retry_at = time.monotonic() + _RETRY_S

    def _gather(self) -> tuple[list[_Item], bool]:
        """The rows that wait now, at least one unless it is time to look after a fault, and whether to stop afterwards."""
        ailing = not self._accepting or self._database_retry_at > 0
        try:
            first = self._queue.get(timeout=_RETRY_S if ailing else None)
        except queue.Empty:
            return [], False
        if first is None:
            return [], True
        if self._last_batch > 1:
            # Under load a commit of one row costs ten times its share of a commit of ten: let a few more arrive.
            time.sleep(min(_GATHER_S * self._last_batch, _GATHER_MOST_S))
        batch = [first]
        while len(batch) < _MAX_BATCH:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        self._last_batch = len(batch)
        return batch, False

    def _settle(self, batch: Sequence[_Item]) -> None:
        rows = [row for row, _ in batch]
        durable = False

        def write() -> None:
            nonlocal durable
            durable = self._write(rows)

        self._safely(write)
        if durable != self._accepting:
            self._accepting = durable
            (_log.info if durable else _log.critical)("ledger_accepting" if durable else "ledger_refusing")
        assert self._loop is not None  # noqa: S101
        try:
            self._loop.call_soon_threadsafe(_resolve, [future for _, future in batch], durable)
        except RuntimeError:
            # The loop is closed: nobody waits for these any more, and the rows are where they belong.
            _log.warning("ledger_answer_unheard", rows=len(rows))

    def _write(self, rows: Sequence[UsageRow]) -> bool:
        if self._broken:
            return False
        if time.monotonic() >= self._database_retry_at and self._to_database(rows):
            return True
        try:
            self._spool.write(rows)
        except SyncFailed as error:
            self._break("spool", error)
            return False
        except OSError as error:
            _log.error("spool_failed", error=str(error), rows=len(rows))
            return False
        return not self._broken

    def _to_database(self, rows: Sequence[UsageRow]) -> bool:
        try:
            connection = self._connection or self._open_database()
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, rows)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._close_database()
            if getattr(error, "sqlite_errorcode", None) in _SYNC_ERRORS:
                self._break("database", error)
            else:
                _log.warning("ledger_database_failed", error=str(error), rows=len(rows))
            self._database_retry_at = time.monotonic() + _RETRY_S
            return False
        if self._database_retry_at:
            self._database_retry_at = 0.0
            _log.info("ledger_database_back")
            self._safely(self._replay_spool)
        return True

    def _replay_spool(self) -> None:
        for file in self._spool.files():
            try:
                rows = list(self._spool.read(file))
            except (OSError, msgspec.MsgspecError) as error:
                _log.error("spool_file_unreadable", file=file.name, error=str(error))
                continue
            if rows and not self._to_database(rows):
                return
            self._spool.forget(file)
            if rows:
                _log.info("spool_replayed", file=file.name, rows=len(rows))

    def _heal(self) -> None:
        """Nothing to write, but something is wrong: see whether it still is."""
        if self._broken or time.monotonic() < self._database_retry_at:
            return
        if self._to_database([]):
            if not self._accepting:
                self._accepting = self._probe()
        elif not self._accepting:
            self._accepting = self._probe_spool()
        if self._accepting:
            self._database_retry_at = self._database_retry_at if self._spool.files() else 0.0

    def _probe(self) -> bool:
        """A committed write that changes nothing. SQLite leaves out pages that an UPDATE does not change; it always
        writes the page of this number, which means nothing to us.
        """
        try:
            connection = self._connection or self._open_database()
            connection.execute("PRAGMA user_version = 0")
        except sqlite3.Error:
            self._close_database()
            return False
        _log.info("ledger_accepting")
        return True

    def _probe_spool(self) -> bool:
        try:
            self._spool.probe()
        except OSError:
            return False
        _log.info("ledger_accepting", to="spool")
        return True

    def _break(self, what: str, error: Exception) -> None:
        self._broken = True
        self._accepting = False
        _log.critical("ledger_sync_failed", where=what, error=str(error), hint="check the disk, then restart")

    def _open_database(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_MS / 1000
        )
        for pragma in pragmas(_BUSY_TIMEOUT_MS):
            connection.execute(pragma)
        self._connection = connection
        return connection

    def _close_database(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.warning("ledger_close_failed", error=str(error))


def _insert(connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> None:
    """Many rows a statement: each statement gives up the interpreter lock once, and getting it back from a busy event
    loop takes longer than everything else here.
    """
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            chunk = rows[start : start + size]
            connection.execute(_INSERTS[size], [value for row in chunk for value in msgspec.structs.astuple(row)])
            start += size


def _resolve(futures: Sequence[asyncio.Future[None]], durable: bool) -> None:  # noqa: FBT001 - a callback takes no keywords
    for future in futures:
        if future.done():
            continue
        if durable:
            future.set_result(None)
        else:
            future.set_exception(
                LedgerUnavailable("Usage cannot be recorded right now, so no answer can be given.", retry_after_s=5)
            )
            future.exception()  # an abandoned answer has nobody to look at it
