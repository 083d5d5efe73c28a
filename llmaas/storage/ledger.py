"""The ledger's writer: one thread, one database connection, group commits.

Rows that arrive while a commit runs go into the next one, so one sync is shared by all requests in flight. When the
database does not take them they go to the spool, and from there to the database when it is back. When neither takes
them their futures fail and `accepting` turns false until a probe succeeds. A failed sync is final for the process: after
it the kernel's word about the file is worth nothing (see PostgreSQL's "fsyncgate"), so no new work is taken.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from llmaas.domain.usage import UsageRow
from llmaas.errors import LedgerUnavailable
from llmaas.storage.row_store import RowStore, StoreAway, SyncFailed, Unstorable
from llmaas.storage.spool import Spool

_RETRY_S = 1.0
_GATHER_S = 0.001
_GATHER_MOST_S = 0.005
_MAX_BATCH = 1_000
_REPLAYED_ROWS = 200
"""Of the spool, between two batches of rows that somebody waits for."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.ledger")
_Item = tuple[UsageRow, "asyncio.Future[None]"]


class Inbox:
    """Rows on their way to the writer thread, which is woken once for a batch: being woken for each row would have it and the
    event loop take the interpreter from each other all the time.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._wanted = 1
        self._closed = False
        self._lock = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, item: _Item) -> bool:
        """False after `close`."""
        with self._lock:
            if self._closed:
                return False
            self._items.append(item)
            if len(self._items) == self._wanted and self._bell.locked():
                self._bell.release()
        return True

    def close(self) -> None:
        """Nothing more comes, so nobody waits for it."""
        with self._lock:
            self._closed = True
            if self._bell.locked():
                self._bell.release()

    def wait(self, count: int, timeout_s: float | None) -> bool:
        """Until so many are there, or none will come any more; False when time ran out before. None: without an end."""
        with self._lock:
            self._bell.acquire(blocking=False)  # it may have rung for what was taken meanwhile
            self._wanted = count
            if self._closed or len(self._items) >= count:
                return True
        return self._bell.acquire(timeout=-1 if timeout_s is None else timeout_s)

    def ring(self) -> None:
        """Wake who waits, for something else than a row."""
        with self._lock:
            if self._bell.locked():
                self._bell.release()

    def take(self, most: int) -> tuple[list[_Item], bool]:
        """What is there, in its order, and whether nothing more comes."""
        with self._lock:
            taken, self._items = self._items[:most], self._items[most:]
            return taken, self._closed and not self._items


class Ledger:
    """Implements `domain.ports.UsageLog`. Everything below `_run` happens in the writer thread, which owns store and spool.

    While the database is away the store belongs to a thread that probes it, since a server that stands still keeps a probe
    waiting for seconds, and rows that go to the spool need not wait for that.
    """

    def __init__(self, store: RowStore, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._inbox = Inbox()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.accepting = True
        self.away = False
        self._broken = False
        self._probe_at_s = 0.0
        self._probes = ThreadPoolExecutor(1, "ledger-probe")
        self._probing: Future[None] | None = None
        self._replay: Iterator[None] | None = None
        self._last_batch = 1
        self._last: asyncio.Future[None] | None = None

    @property
    def backlog(self) -> bool:
        """Whether rows wait in the spool for the database."""
        return bool(self._spool.files())

    def start(self) -> None:
        """Start the writer; rows that an earlier process left in the spool begin to go to the database first."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Write what was handed over, then end."""
        if self._thread is not None:
            self._inbox.close()
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def append(self, row: UsageRow) -> asyncio.Future[None]:
        assert self._loop is not None  # noqa: S101 - started by the composition root
        future = self._last = self._loop.create_future()
        if not self._inbox.put((row, future)):
            _log.critical("usage_row_too_late", row=row.id)
            _fail(future)
        return future

    async def flushed(self) -> bool:
        """Wait until all rows handed over so far are in the database; False when they are elsewhere."""
        if self._last is not None:
            await asyncio.wait([self._last])  # they are settled in their order
        return not self.backlog

    def _run(self) -> None:
        self._replay = self._replay_spool()
        self._safely(self._tend)
        stopping = False
        while not stopping:
            batch, stopping = self._gather()
            if batch:
                self._settle(batch)
            if self._replay is not None or self.away or not batch:
                self._safely(self._tend)
        self._probes.shutdown()
        if self._probing is not None:
            self._safely(self._tend)
        self._safely(self._look_at_store)
        self._close_store()
        self._spool.close()

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - the thread's edge: without the thread no request would ever be settled
            _log.exception("ledger_writer_failed")
            self._store_away()

    def _gather(self) -> tuple[list[_Item], bool]:
        """The rows that wait now, none when there is something else to do, and whether to stop afterwards."""
        ailing = not self.accepting or self.away
        if not self._inbox.wait(1, 0 if self._replay is not None and not ailing else _RETRY_S):
            return [], False
        if self._last_batch > 1:
            # Under load a commit of one row costs ten times its share of a commit of ten: let as many come as last time.
            self._inbox.wait(self._last_batch, min(_GATHER_S * self._last_batch, _GATHER_MOST_S))
        batch, last = self._inbox.take(_MAX_BATCH)
        self._last_batch = len(batch)
        return batch, last

    def _settle(self, batch: Sequence[_Item]) -> None:
        rows = [row for row, _ in batch]
        unstorable: set[str] | None = None

        def write() -> None:
            nonlocal unstorable
            unstorable = self._write(rows)

        self._safely(write)
        self._accept(unstorable is not None)
        lost = {row.id for row in rows} if unstorable is None else unstorable
        assert self._loop is not None  # noqa: S101
        try:
            self._loop.call_soon_threadsafe(_resolve, batch, lost)
        except RuntimeError:
            # The loop is closed: nobody waits for these any more, and the rows are where they belong.
            _log.warning("ledger_answer_unheard", rows=len(rows))

    def _accept(self, accepting: bool) -> None:  # noqa: FBT001 - it is the whole message
        if accepting != self.accepting:
            self.accepting = accepting
            (_log.info if accepting else _log.critical)("ledger_accepting" if accepting else "ledger_refusing")

    def _write(self, rows: Sequence[UsageRow]) -> set[str] | None:
        """Make rows durable somewhere; gives the ids of those that can nowhere be, None when no place takes any."""
        if self._broken:
            return None
        if not self.away:
            unstorable = self._to_database(rows)
            if unstorable is not None or self._broken:
                return unstorable
        try:
            return self._put(rows, self._spool.write)
        except SyncFailed as error:
            self._break("spool", error)
        except OSError as error:
            _log.error("spool_failed", error=str(error), rows=len(rows))
        return None

    def _to_database(self, rows: Sequence[UsageRow], *, foreign: bool = False) -> set[str] | None:
        """Like `_write`, to the database only; None when it is away."""
        try:
            unstorable = self._put(rows, lambda some: self._store.write(some, foreign=foreign))
        except SyncFailed as error:
            self._break("database", error)
            return None
        except Exception as error:  # noqa: BLE001 - whatever a store fails with, there is still the spool
            self._lose_store(error, len(rows))
            return None
        self._store_back()
        return unstorable

    def _put(self, rows: Sequence[UsageRow], write: Callable[[Sequence[UsageRow]], None]) -> set[str]:
        """Hand rows over. One that can never be stored is set aside, and the others are not kept from their place by it."""
        try:
            write(rows)
        except Unstorable as error:
            if len(rows) == 1:
                _log.critical(
                    "usage_row_unstorable", row=rows[0].id, error=str(error), file=self._set_aside(rows[0], error)
                )
                return {rows[0].id}
            middle = len(rows) // 2
            return self._put(rows[:middle], write) | self._put(rows[middle:], write)
        return set()

    def _set_aside(self, row: UsageRow, why: Exception) -> str | None:
        try:
            return self._spool.set_aside(row, str(why)).name
        except OSError as error:
            _log.error("spool_failed", error=str(error), rows=1)
            return None

    def _lose_store(self, error: Exception, rows: int = 0) -> None:
        self._store_away()
        remedy = error.remedy if isinstance(error, StoreAway) else None
        (_log.error if remedy else _log.warning)(
            "ledger_database_failed",
            error=str(error) or type(error).__name__,
            rows=rows,
            hint=remedy or "they go to the spool, and from there to the database when it is back",
            exc_info=not isinstance(error, StoreAway),
        )
        self._save_doubtful(error)

    def _save_doubtful(self, error: BaseException) -> None:
        """Rows that were answered for, and that the database may have lost with its file."""
        if not isinstance(error, StoreAway) or not error.doubtful:
            return
        try:
            self._put(error.doubtful, self._spool.write)
        except SyncFailed as failed:
            self._break("spool", failed)
        except OSError as failed:
            ids = [row.id for row in error.doubtful]
            _log.critical("usage_rows_in_doubt", error=str(failed), rows=len(ids), ids=ids)

    def _look_at_store(self) -> None:
        if self._broken:
            return
        try:
            self._store.look()
        except StoreAway as error:
            self._lose_store(error)

    def _store_away(self) -> None:
        self._replay = None
        self.away = True
        self._probe_at_s = time.monotonic() + _RETRY_S
        self._close_store()

    def _close_store(self) -> None:
        try:
            self._store.close()
        except Exception:  # noqa: BLE001 - its rows matter more than how a store that failed lets go
            _log.exception("ledger_close_failed")

    def _store_back(self) -> None:
        if self.away:
            self.away = False
            self._replay = self._replay_spool()
            _log.info("ledger_database_back")

    def _replay_spool(self) -> Iterator[None]:
        """Move some rows from the spool to the database at each step. A file that is interrupted begins anew another time."""
        self._spool.close()  # what is spooled from now on goes to another file
        for file in self._spool.files():
            try:
                rows, unreadable = self._spool.read(file)
            except (OSError, MemoryError) as error:
                _log.critical("spool_file_unreadable", file=file.name, error=str(error) or type(error).__name__)
                continue
            for start in range(0, len(rows), _REPLAYED_ROWS):
                if self._to_database(rows[start : start + _REPLAYED_ROWS], foreign=not self._spool.own(file)) is None:
                    return
                yield
            try:
                self._spool.forget(file, keep=unreadable > 0)
            except OSError as error:
                _log.error("spool_file_stays", file=file.name, error=str(error), hint="its rows are in the database")
                continue
            if unreadable:
                _log.critical("spool_rows_unreadable", file=file.name, rows=unreadable, hint="kept beside it as .bad")
            if rows:
                _log.info("spool_replayed", file=file.name, rows=len(rows))

    def _tend(self) -> None:
        """See whether what is wrong still is; else move something of the spool."""
        if self._broken:
            return
        if self._replay is not None:
            replay = self._replay
            if next(replay, self) is self and self._replay is replay:
                self._replay = None
        elif self._probing is not None:
            if self._probing.done():
                probed, self._probing = self._probing, None
                self._judge(probed.exception())
        elif (self.away or not self.accepting) and time.monotonic() >= self._probe_at_s:
            self.away = True
            self._probing = self._probes.submit(self._store.probe)
            self._probing.add_done_callback(lambda _: self._inbox.ring())
        elif not self.away:
            self._look_at_store()

    def _judge(self, error: BaseException | None) -> None:
        """What a probe found."""
        if error is None:
            self._store_back()
            self._accept(True)
        elif isinstance(error, SyncFailed):
            self._break("database", error)
        else:
            self._store_away()
            self._save_doubtful(error)
            self._probe_spool()

    def _probe_spool(self) -> None:
        if self.accepting:
            return
        try:
            self._spool.probe()
        except SyncFailed as error:
            self._break("spool", error)
        except OSError:
            return
        else:
            self._accept(True)

    def _break(self, what: str, error: Exception) -> None:
        self._broken = True
        self._close_store()
        self._accept(False)
        _log.critical("ledger_sync_failed", where=what, error=str(error), hint="check the disk, then restart")


def _resolve(batch: Sequence[_Item], lost: set[str]) -> None:
    for row, future in batch:
        if future.done():
            continue
        if row.id not in lost:
            future.set_result(None)
        else:
            _fail(future)


def _fail(future: asyncio.Future[None]) -> None:
    future.set_exception(
        LedgerUnavailable("Usage cannot be recorded right now, so no answer can be given.", retry_after_s=5)
    )
    future.exception()  # an abandoned answer has nobody to look at it
