"""The page at `/`: what this service is and how to call it. Public, static, without scripts."""

from __future__ import annotations

from importlib import resources

from llmaas.domain.access import Caller
from llmaas.web.requests import Request
from llmaas.web.responses import respond

_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class LandingPage:
    def __init__(self) -> None:
        self._page = resources.files("llmaas.console").joinpath("landing.html").read_bytes()

    async def show(self, request: Request, _caller: Caller | None) -> None:
        await respond(request, 200, _HEADERS, self._page)
