"""Asking a running engine how it is: a few bytes of HTTP to loopback, each with a deadline."""

from __future__ import annotations

import asyncio
import socket

_MAX_BYTES = 1024 * 1024


async def get(port: int, path: str, api_key: str, deadline_s: float) -> tuple[int, bytes] | None:
    """Status and body of a GET; None when nothing answers in time."""
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {api_key}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode())
                answer = await reader.read(_MAX_BYTES)
                while chunk := await reader.read(_MAX_BYTES):
                    answer += chunk
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    top, _, body = answer.partition(b"\r\n\r\n")
    parts = top.split(b" ", 2)
    if len(parts) < 2 or not parts[1].isdigit():
        return None
    return int(parts[1]), body


async def is_healthy(port: int, api_key: str, deadline_s: float) -> bool:
    answer = await get(port, "/health", api_key, deadline_s)
    return answer is not None and answer[0] == 200


async def is_ready(port: int, api_key: str, deadline_s: float) -> bool:
    """Healthy, and ours: it knows the key. Somebody else's server may have taken the port."""
    if not await is_healthy(port, api_key, deadline_s):
        return False
    known, other = await get(port, "/props", api_key, deadline_s), await get(port, "/props", "", deadline_s)
    return known is not None and known[0] == 200 and other is not None and other[0] == 401


async def is_busy(port: int, api_key: str, deadline_s: float) -> bool:
    """Whether the engine makes an answer at the moment. One that does not answer counts as busy, one that does not say as idle."""
    answer = await get(port, "/slots", api_key, deadline_s)
    return answer is None or (answer[0] == 200 and b'"is_processing":true' in answer[1].replace(b" ", b""))


def free_port() -> int:
    """A loopback port that was free a moment ago; who loses the race starts again with another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
