"""Usage rows into SQLite, by the driver itself: for each batch one transaction of as few statements as possible.

Each statement gives up the interpreter lock once, and getting it back from a busy event loop takes longer than all else here.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import structlog

from llmaas.domain.usage import COLUMNS, UsageRow
from llmaas.storage.database import is_damage, pragmas
from llmaas.storage.row_store import SHARED, StoreAway, SyncFailed, Unstorable, shard_of
from llmaas.storage.tally import HOUR_KEY, HOUR_SUMS, Tally
from llmaas.storage.watched_file import REMEDY, FileLost, WatchedFile

_BUSY_TIMEOUT_MS = 500
_LOOK_S = 1.0
_MOST_ROWS = 64
_STATEMENTS = 256
_SYNC_ERRORS = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_FLAGS = ("streamed", "usage_suspect")
_MOSTLY_EMPTY = ("end_user", "error_code", "tier_id", "corrects")
_VALUES = tuple(name for name in COLUMNS if name not in _FLAGS + _MOSTLY_EMPTY)
_values_of = attrgetter(*_VALUES)
_mostly_empty_of = attrgetter(*_MOSTLY_EMPTY)
_DATA_ERRORS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeError)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.ledger")


class _Insert:
    """`INSERT INTO … VALUES (…), (…) …` for any number of records."""

    def __init__(self, table: str, columns: Sequence[str], conflict: str) -> None:
        self._head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608 - our own names
        self._record = f"({', '.join('?' * len(columns))})"
        self._conflict = f" ON CONFLICT {conflict}"
        self._texts: dict[int, str] = {}

    def run(self, connection: sqlite3.Connection, records: Sequence[Sequence[Any]]) -> int:
        """How many were inserted or changed. Few sizes, so that the driver has their statements ready."""
        done = start = 0
        while start < len(records):
            left = len(records) - start
            size = _MOST_ROWS if left >= _MOST_ROWS else min(left, _MOST_ROWS // 2)
            values = list(chain.from_iterable(records[start : start + size]))
            done += connection.execute(self._text(size), values).rowcount
            start += size
        return done

    def _text(self, size: int) -> str:
        if size not in self._texts:
            self._texts[size] = self._head + ", ".join([self._record] * size) + self._conflict
        return self._texts[size]


class SqliteRows:
    """Implements `RowStore`. There is one worker, so nothing is leased.

    The file is looked at once a second, and the rows of that second are kept until then: a file that is gone by then took them along.
    """

    def __init__(self, path: Path, worker_id: str, watched: WatchedFile | None = None) -> None:
        """`watched`: the file's, where the process has further connections to it."""
        self._watched = watched or WatchedFile(path)
        self._watched.watch_closely()
        self._number = 0
        self._look_at_s = 0.0
        self._since_look: list[UsageRow] = []
        self._ending: list[sqlite3.Connection] = []
        self._worker_id = worker_id
        self._shard = shard_of(worker_id)
        self._connection: sqlite3.Connection | None = None
        self._tally = Tally()
        self._first_ids: dict[str, str] = {}
        self._known_keys: set[str] = set()
        self._usage: dict[tuple[str, ...], _Insert] = {}
        self._shares = _Insert(
            "budget_shares",
            ("budget_id", "worker_id", "spent_nano", "leased_nano"),
            "(budget_id, worker_id) DO UPDATE SET spent_nano = spent_nano + excluded.spent_nano",
        )
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in HOUR_SUMS)
        keys = (*HOUR_KEY, "shard")
        self._hours = _Insert("usage_hours", (*keys, *HOUR_SUMS), f"({', '.join(keys)}) DO UPDATE SET {sums}")

    def write(self, rows: Sequence[UsageRow], *, foreign: bool = False) -> None:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            self._insert(connection, rows, SHARED if foreign else self._worker_id)
            connection.execute("COMMIT")
            self._since_look += rows
        except StoreAway:
            raise
        except _DATA_ERRORS as error:
            self.close()
            raise Unstorable(str(error)) from error
        except Exception as error:  # noqa: BLE001 - the driver's edge: MemoryError is none of its own, for example
            self._fail(error)

    def probe(self) -> None:
        """SQLite leaves out pages that an UPDATE does not change; it always writes the page of this number, which means
        nothing to us.
        """
        try:
            self._connected().execute("PRAGMA user_version = 0")
        except StoreAway:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)

    def look(self) -> None:
        self._look_at_s = time.monotonic() + _LOOK_S
        try:
            number = self._watched.look()
        except FileLost as error:
            raise self._lost(str(error)) from error
        if number != self._number:
            before, self._number = self._number, number
            if before:
                raise self._lost("the database was exchanged")
        self._since_look.clear()

    def close(self) -> None:
        """A transaction is rolled back first: closing alone leaves its lock as long as anything, like a traceback, holds a cursor.
        What fails, for want of memory for example, is tried again with the next connection.
        """
        if self._connection is not None:
            self._ending.append(self._connection)
            self._connection = None
        for connection in self._ending[:]:
            try:
                with contextlib.suppress(sqlite3.Error):
                    connection.rollback()
                connection.close()
            except (sqlite3.Error, MemoryError) as error:
                _log.warning("ledger_close_failed", error=str(error) or type(error).__name__)
            else:
                self._ending.remove(connection)

    def _lost(self, what: str) -> StoreAway:
        doubtful, self._since_look = self._since_look, []
        self.close()
        return StoreAway(what, remedy=REMEDY, doubtful=doubtful)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or time.monotonic() >= self._look_at_s:
            self.look()
        return self._connection or self._open()

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[UsageRow], worker_id: str) -> None:
        if self._insert_usage(connection, rows) != len(rows):
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            rows = _not_there(connection, rows)
            self._insert_usage(connection, rows)
        shares = [
            (budget_id, worker_id, nano, 0)
            for budget_id, nano in self._tally.shares(rows, self._first_of(connection, rows))
        ]
        self._shares.run(connection, shares)
        shard = (self._shard,)
        self._hours.run(connection, [(*key, *shard, *sums) for key, sums in self._tally.hours(rows)])

    def _first_of(self, connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> dict[str, str]:
        """The first keys of rotations. Which one that is never changes, so each key is looked up once."""
        for key_id in {row.key_id for row in rows} - self._known_keys:
            found = connection.execute("SELECT first_id FROM keys WHERE id = ?", (key_id,)).fetchone()
            if found is not None:
                self._known_keys.add(key_id)
                if found[0] is not None:
                    self._first_ids[key_id] = found[0]
        return self._first_ids

    def _insert_usage(self, connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> int:
        """How many were not there yet. The driver looks for an adapter of each None and bool, which takes longer than all else
        that it does with a row: so flags go as numbers, and a column that no row has a value for is left out.
        """
        if not rows:
            return 0
        columns = zip(*map(_mostly_empty_of, rows), strict=True)
        some = tuple(n for n, values in zip(_MOSTLY_EMPTY, columns, strict=True) if values.count(None) < len(rows))
        insert = self._usage.get(some)
        if insert is None:
            insert = self._usage[some] = _Insert("usage", (*_VALUES, *_FLAGS, *some), "(id) DO NOTHING")
        records = [(*_values_of(row), int(row.streamed), int(row.usage_suspect)) for row in rows]
        if some:
            records = [
                (*record, *(getattr(row, name) for name in some)) for record, row in zip(records, rows, strict=True)
            ]
        return insert.run(connection, records)

    def _open(self) -> sqlite3.Connection:
        self.close()
        connection = sqlite3.connect(
            f"{self._watched.uri}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_TIMEOUT_MS / 1000,
            cached_statements=_STATEMENTS,
        )
        for pragma in pragmas(_BUSY_TIMEOUT_MS):
            connection.execute(pragma)
        self._connection = connection
        return connection

    def _fail(self, error: Exception) -> NoReturn:
        self.close()
        if getattr(error, "sqlite_errorcode", None) in _SYNC_ERRORS:
            raise SyncFailed(str(error)) from error
        remedy = REMEDY if is_damage(error) else None
        raise StoreAway(str(error) or type(error).__name__, remedy=remedy) from error


def _not_there(connection: sqlite3.Connection, rows: Sequence[UsageRow]) -> list[UsageRow]:
    """Of rows with the same id the first; of those that are in the table none."""
    first: dict[str, UsageRow] = {}
    for row in rows:
        first.setdefault(row.id, row)
    for row_id in list(first):
        if connection.execute("SELECT 1 FROM usage WHERE id = ?", (row_id,)).fetchone():
            del first[row_id]
    return list(first.values())
