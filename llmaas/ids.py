"""Identifiers: globally unique, sortable by time of making. RFC 9562 version 7 UUIDs as 32 hex digits.

`IdSource` draws randomness in blocks, since one system call for each request would cost as much as the rest of it.
"""

from __future__ import annotations

import os
import time

_BLOCK_IDS = 256
_RANDOM_BYTES = 10


class IdSource:
    """Not safe across threads or after fork: each worker makes its own."""

    def __init__(self) -> None:
        self._pool = b""
        self._offset = 0
        self._last_ms = 0

    def uuid7(self) -> str:
        """48 bits of Unix milliseconds, never going back within one source, then 74 random bits; 32 lower-case hex digits."""
        ms = time.time_ns() // 1_000_000
        ms = max(ms, self._last_ms)
        self._last_ms = ms
        if self._offset >= len(self._pool):
            self._pool = os.urandom(_BLOCK_IDS * _RANDOM_BYTES)
            self._offset = 0
        chunk = int.from_bytes(self._pool[self._offset : self._offset + _RANDOM_BYTES], "big")
        self._offset += _RANDOM_BYTES
        high = (ms << 16) | 0x7000 | (chunk >> 68)
        low = 0x8000_0000_0000_0000 | (chunk & 0x3FFF_FFFF_FFFF_FFFF)
        return f"{high:016x}{low:016x}"
