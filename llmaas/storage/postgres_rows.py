"""Usage rows into PostgreSQL: one statement, and so one round trip, for each batch with all that it adds to other tables.

The driver is asynchronous and the ledger's writer a thread, so the store has an event loop of its own that runs in calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec

from llmaas.domain.usage import COLUMNS, UsageRow
from llmaas.storage.database import SESSION
from llmaas.storage.row_store import SHARED, StoreAway, Unstorable, shard_of
from llmaas.storage.tally import HOUR_KEY, HOUR_SUMS

_DEADLINE_S = 2.0
_COUNTED = {"requests": "count(*)", "ttft_requests": "count(ttft_ms)"}
_HOUR = "started_ms / 3600000 * 3600000"
_KEYS = (_HOUR, *HOUR_KEY[1:4], "coalesce(backend_id, '')", "outcome", "coalesce(price_version, 0)", "currency")
_SUMS = [_COUNTED.get(name, f"coalesce(sum({name}), 0)") for name in HOUR_SUMS]
_NEEDED = (
    "key_id",
    "started_ms",
    "ttft_ms",
    "hold_nano",
    *HOUR_KEY[1:],
    *(name for name in HOUR_SUMS if name not in _COUNTED),
)
# Shares are locked in the order that `storage/budgets.py` locks them in, whatever the collation of the database.
_WRITE = f"""
WITH told AS (
    SELECT * FROM json_populate_recordset(NULL::usage, $1::text::json)
), fresh AS (
    INSERT INTO usage ({", ".join(COLUMNS)}) SELECT {", ".join(COLUMNS)} FROM told
    ON CONFLICT (id) DO NOTHING RETURNING {", ".join(dict.fromkeys(_NEEDED))}
), spent AS (
    SELECT id, sum(cost_nano) AS nano, coalesce(sum(cost_nano) FILTER (WHERE hold_nano > 0), 0) AS leased
    FROM (
        SELECT fresh.*, to_char(to_timestamp(started_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day,
            coalesce(first_id, key_id) AS limits_id
        FROM fresh LEFT JOIN keys ON keys.id = key_id
    ) AS f, LATERAL (VALUES ('key:' || limits_id || ':total'), ('key:' || limits_id || ':' || substr(day, 1, 7)),
            ('key:' || limits_id || ':' || day), ('project:' || project_id || ':total'),
            ('project:' || project_id || ':' || substr(day, 1, 7))) AS budget(id)
    WHERE cost_nano <> 0 GROUP BY id
), shares AS (
    INSERT INTO budget_shares AS share (budget_id, worker_id, spent_nano, leased_nano)
    SELECT id, $2::text, nano, 0 FROM spent ORDER BY id COLLATE "C"
    ON CONFLICT (budget_id, worker_id) DO UPDATE SET spent_nano = share.spent_nano + excluded.spent_nano,
        leased_nano = greatest(0, share.leased_nano - (SELECT leased FROM spent WHERE id = excluded.budget_id))
), hours AS (
    INSERT INTO usage_hours AS hour ({", ".join(HOUR_KEY)}, shard, {", ".join(HOUR_SUMS)})
    SELECT {", ".join(_KEYS)}, $3::int, {", ".join(_SUMS)} FROM fresh
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT ({", ".join(HOUR_KEY)}, shard) DO UPDATE SET
        {", ".join(f"{name} = hour.{name} + excluded.{name}" for name in HOUR_SUMS)}
)
SELECT count(*) FROM fresh
"""  # noqa: S608 - our own names
_PROBE = "SELECT pg_logical_emit_message(true, 'llmaas', 'probe')"
_SETTINGS = {
    **SESSION,
    "application_name": "llmaas-ledger",
    "statement_timeout": str(round(_DEADLINE_S * 1000)),
    "synchronous_commit": "on",
}
_BAD_DATA = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,  # a value too long for its index
)
T = TypeVar("T")


class PostgresRows:
    """Implements `RowStore`. A call ends within two seconds, whatever the server does.

    What a request was held for was leased by this worker, so what it cost leaves the lease in the same statement.
    """

    def __init__(self, url: str, worker_id: str) -> None:
        self._url = url
        self._worker_id = worker_id
        self._shard = shard_of(worker_id)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: asyncpg.Connection | None = None
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Sequence[UsageRow], *, foreign: bool = False) -> None:
        try:
            told = self._encoder.encode(rows).decode()
        except (msgspec.MsgspecError, OverflowError, ValueError, TypeError) as error:
            raise Unstorable(str(error)) from error
        self._within(self._execute(_WRITE, told, SHARED if foreign else self._worker_id, self._shard))

    def probe(self) -> None:
        """The message goes through the log and is heeded by nobody."""
        self._within(self._execute(_PROBE))

    def look(self) -> None:
        """A server knows where its files are."""

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()
        if self._loop is not None:
            loop, self._loop = self._loop, None
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    async def _execute(self, statement: str, *values: object) -> None:
        """The loop stands still between two calls, so the server's last word on a connection that was at hand waits unread, and
        the driver, which meets it in the midst of a statement, may raise anything. Whatever it is, a new connection is tried.
        """
        used = self._connection
        if used is not None:
            try:
                await used.fetchval(statement, *values)
            except _BAD_DATA:
                raise
            except Exception:  # noqa: BLE001 - the driver's edge: see above
                used.terminate()
            else:
                return
        self._connection = await asyncpg.connect(self._url, server_settings=_SETTINGS)
        await self._connection.fetchval(statement, *values)

    def _within(self, work: Coroutine[Any, Any, None]) -> None:
        loop = self._loop = self._loop or asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._limited(work))
        except _BAD_DATA as error:
            raise Unstorable(str(error)) from error
        except Exception as error:
            self.close()
            raise StoreAway(str(error) or type(error).__name__) from error

    async def _limited(self, work: Coroutine[Any, Any, None]) -> None:
        """A statement that is cancelled makes the driver ask the server to stop it, and wait: so the connection is cut first."""
        task = asyncio.ensure_future(work)
        if not (await asyncio.wait((task,), timeout=_DEADLINE_S))[0]:
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
            raise TimeoutError("the database took too long")
        task.result()
