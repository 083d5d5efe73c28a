"""Identifiers: globally unique, sortable by time of making. RFC 9562 version 7 UUIDs as 32 hex digits.

`IdSource` makes the random parts in blocks, since one system call for each request would cost as much as the rest of it.
"""

from __future__ import annotations

import os
import time

_BLOCK_IDS = 256
_TAIL_BYTES = 10
_VERSION = bytes(0x70 | byte & 0x0F for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))
"""Each byte as it stands where the version or the variant takes its highest bits."""


class IdSource:
    """Not safe across threads or after fork: each worker makes its own."""

    def __init__(self) -> None:
        self._tails: list[str] = []
        self._last_ms = 0
        self._time = ""

    def uuid7(self) -> str:
        """48 bits of Unix milliseconds, never going back within one source, then 74 random bits; 32 lower-case hex digits."""
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            self._time = f"{ms:012x}"
        if not self._tails:
            self._tails = _random_tails()
        return self._time + self._tails.pop()


def _random_tails() -> list[str]:
    """What follows the time: the version and 12 random bits, the variant and 62, as hex digits."""
    tails = bytearray(os.urandom(_BLOCK_IDS * _TAIL_BYTES))
    tails[0::_TAIL_BYTES] = tails[0::_TAIL_BYTES].translate(_VERSION)
    tails[2::_TAIL_BYTES] = tails[2::_TAIL_BYTES].translate(_VARIANT)
    return tails.hex(" ", _TAIL_BYTES).split()
