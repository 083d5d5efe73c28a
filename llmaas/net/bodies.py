"""The memory that large request bodies may take: in all, and for each address and each key, so that one caller cannot have all."""

from __future__ import annotations

from llmaas.errors import Saturated

SMALL_BYTES = 64 * 1024
"""Bodies up to this size are not counted: they are most of them, and take little."""
_RETRY_AFTER_S = 5.0


class Bodies:
    """One for each process. `most_bytes`: None for no bound. One address, and one key, may hold half of it."""

    def __init__(self, most_bytes: int | None = None, *, least_share: int = 0) -> None:
        """`least_share`: what everyone may hold in any case, such as one body of the largest size."""
        self.share = None if most_bytes is None else max(most_bytes // 2, least_share)
        self.most = None if self.share is None or most_bytes is None else max(most_bytes, self.share)
        self._total = 0
        self._held: dict[str, int] = {}

    def hold(self, holders: tuple[str, ...], more_bytes: int) -> None:
        """Raises Saturated, and holds nothing, when that is too much for all or for one of the holders."""
        if self.most is None or self.share is None:
            return
        if self._total + more_bytes > self.most:
            raise Saturated("Too many large requests are under way.", retry_after_s=_RETRY_AFTER_S)
        if any(self._held.get(holder, 0) + more_bytes > self.share for holder in holders):
            raise Saturated("Too many large requests of yours are under way.", retry_after_s=_RETRY_AFTER_S)
        self._total += more_bytes
        for holder in holders:
            self._held[holder] = self._held.get(holder, 0) + more_bytes

    def release(self, holders: tuple[str, ...], held_bytes: int) -> None:
        if self.most is None:
            return
        self._total -= held_bytes
        for holder in holders:
            left = self._held.get(holder, 0) - held_bytes
            if left > 0:
                self._held[holder] = left
            else:
                self._held.pop(holder, None)
