"""Identifiers: globally unique, sortable by time of making. RFC 9562 version 7 UUIDs as 32 hex digits.

`IdSource` makes the random parts in blocks, since one system call for each request would cost as much as the rest of it.
"""

from __future__ import annotations

import os
import time

_BLOCK_IDS = 256
_RANDOM_DIGITS = 20
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


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
    """What follows the time: the version, and the variant in the highest two bits of the fifth digit."""
    digits = os.urandom(_BLOCK_IDS * _RANDOM_DIGITS // 2).hex()
    blocks = [digits[at : at + _RANDOM_DIGITS] for at in range(0, len(digits), _RANDOM_DIGITS)]
    return [f"7{block[:3]}{_VARIANTS[block[3]]}{block[4:19]}" for block in blocks]
