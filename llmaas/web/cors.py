"""Cross-origin rules: which browsers' pages may call, by an allow-list of origins. Never with cookies."""

from __future__ import annotations

from collections.abc import Iterable

from llmaas.web.requests import Request

_RATES = b", ".join(
    b"x-ratelimit-%b-%b" % (a, b) for b in (b"requests", b"tokens") for a in (b"limit", b"remaining", b"reset")
)
_EXPOSED = b"id, backend, x-request-id, retry-after, x-should-retry, " + _RATES
_MAX_AGE_S = b"600"


class Cors:
    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(o.encode() for o in origins)
        self._any = b"*" in self._origins

    def headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """For every answer, errors too."""
        origin = request.headers.get(b"origin")
        if origin is None or not self._origins:
            return []
        if not self._any and origin not in self._origins:
            return [(b"vary", b"origin")]
        allowed = b"*" if self._any else origin
        return [
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]

    def preflight(self, request: Request) -> list[tuple[bytes, bytes]]:
        """For the answer to an OPTIONS request. Grants nothing to an origin that is not allowed."""
        granted = self.headers(request)
        if not granted or granted[0][0] != b"access-control-allow-origin":
            return granted
        asked = request.headers.get(b"access-control-request-headers", b"authorization, content-type")[:2000]
        return [
            *granted,
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", _MAX_AGE_S),
        ]
