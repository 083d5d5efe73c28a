"""One request and its answer on a connection, as the server gives it: what routes, handlers and replies build on.

Two servers implement it: our own (`web/server.py`) and any ASGI server (`web/asgi.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Header = tuple[bytes, bytes]


class Channel(Protocol):
    """`path` is decoded, `query` is not; names in `raw_headers` are lower-case. `pieces`: how many parts the body came in so
    far. `keep_alive` set to False: no other request may follow on the connection. Sending to a caller who is gone does
    nothing.
    """

    method: str
    path: str
    query: bytes
    version: str
    raw_headers: Sequence[Header]
    address: str
    pieces: int
    keep_alive: bool

    async def part(self) -> bytes | None:
        """What has come of the body since the last call, waiting for some; None after its end.

        Raises InvalidRequest when it breaks off.
        """
        ...

    def expect(self, size: int, key_id: str) -> None:
        """Make sure of room for a body of that size, in the name of a key. Raises Saturated."""
        ...

    def body_at_hand(self) -> bytes | None:
        """The body, when all of it came in one piece and nothing of it was taken; else None, and `part` gives it."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the caller has hung up."""
        ...

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Listen for the caller's hang-up from now on; call back once, at once when it was already. The body must have
        been read or be unwanted. A later callback replaces an earlier one.
        """
        ...

    async def whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Answer at once; the length is added."""
        ...

    async def begin(self, status: int, headers: Sequence[Header], data: bytes) -> None:
        """Answer with a body of unknown length, of which `data` is the first part; `data` may be empty."""
        ...

    def send(self, data: bytes) -> bool:
        """Another part. False: the caller reads slowly, so wait for `ready` before the next one."""
        ...

    async def ready(self) -> None:
        """Until the caller has taken most of what was sent."""
        ...

    async def end(self, data: bytes) -> None:
        """The last part."""
        ...
