"""The contract between the ledger's writer and the databases that it writes to. Everything here blocks."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

from llmaas.domain.usage import UsageRow

SHARED = ""
"""The worker whose share of a budget holds what no living worker answers for."""
_SHARDS = 8


class RowStore(Protocol):
    """A database, with a connection that it opens when it needs one. `close` may be followed by further use."""

    def write(self, rows: Sequence[UsageRow], *, foreign: bool = False) -> None:
        """Insert the rows that are not there yet, with what they add to budgets and hours; durable on return.

        All or nothing. `foreign`: rows of an earlier process, whose leases are not this worker's.
        Raises StoreAway, Unstorable, and SyncFailed when the disk could not confirm a write.
        """
        ...

    def probe(self) -> None:
        """A durable write that changes nothing. Raises StoreAway, SyncFailed."""
        ...

    def look(self) -> None:
        """Make sure that what was written is where it is to stay. Raises StoreAway, with the rows of which that is not known."""
        ...

    def close(self) -> None: ...


class StoreAway(Exception):
    """The database did not take the rows now; it may another time. They may be in it all the same.

    `remedy`: what to do about it, where it does not pass by itself. `doubtful`: rows that it took earlier and may have lost since.
    """

    def __init__(self, message: str, *, remedy: str | None = None, doubtful: Sequence[UsageRow] = ()) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.doubtful = doubtful


class Unstorable(Exception):
    """At least one of the rows can never be stored. None was."""


class SyncFailed(OSError):
    """The disk could not confirm a write. What it says afterwards about the same file means nothing."""


def shard_of(worker_id: str) -> int:
    """Which rows of `usage_hours` a worker raises, so that workers rarely wait for one another."""
    return blake2b(worker_id.encode(), digest_size=1).digest()[0] % _SHARDS
