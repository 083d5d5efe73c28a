"""Writing answers: one place that puts a head together and survives a caller who is gone."""

from __future__ import annotations

from collections.abc import Iterable

from llmaas.web.requests import Request

Headers = Iterable[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")


async def respond(request: Request, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer; a HEAD gets the same head without the body."""
    await request.send(request.head(status, (*headers, (b"content-length", b"%d" % len(body)))))
    await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
