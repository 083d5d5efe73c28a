"""The caller's side of a request, as the relay sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from llmaas.domain.ports import Standing
from llmaas.errors import LlmaasError


class Reply(Protocol):
    @property
    def gone(self) -> bool:
        """Whether the caller has hung up."""
        ...

    def on_gone(self, callback: Callable[[LlmaasError], None]) -> None:
        """Call back once, with ClientGone, when the caller hangs up, at once when it has already. A later callback replaces an
        earlier one.
        """
        ...

    def show_standing(self, standing: Standing) -> None:
        """Tell the caller, with whatever answer comes, how its limits stand."""
        ...

    async def begin_stream(self, answer_id: str, backend: dict[str, str], data: bytes) -> None:
        """Send the head of a stream and its first part, which may be empty; from here on the status can't change."""
        ...

    def send(self, data: bytes) -> bool:
        """Send a part of a stream. False: the caller reads slowly, so wait for `ready` before the next one."""
        ...

    async def ready(self) -> None:
        """Until the caller has taken most of what was sent."""
        ...

    async def end(self, data: bytes) -> None:
        """Send the last part of a stream."""
        ...

    def whole(self, answer_id: str, backend: dict[str, str], body: bytes) -> Awaitable[None]:
        """Send a whole JSON answer."""
        ...
