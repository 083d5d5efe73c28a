"""Waiting for something that gives no sign of its own, with a deadline instead of a guess."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(done: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 10.0) -> None:
    """Look again and again until it is true. AssertionError after the deadline."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while True:
        answer = done()
        if (await answer) if inspect.isawaitable(answer) else answer:
            return
        assert asyncio.get_running_loop().time() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)
