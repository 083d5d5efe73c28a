"""Writing answers: one place that puts a head together."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from llmaas.net.channel import Header
from llmaas.web.requests import Request

JSON = (b"content-type", b"application/json")


def respond(request: Request, status: int, headers: Sequence[Header], body: bytes) -> Awaitable[None]:
    """Send a whole answer; a HEAD gets the same head without the body."""
    return request.channel.whole(status, request.head(status, headers), body)
