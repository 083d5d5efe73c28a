"""The `x-ratelimit-*` headers: how the tightest limits of a caller stand."""

from __future__ import annotations

import math

from llmaas.domain.ports import Standing
from llmaas.net.channel import Header


def standing_headers(standing: Standing) -> list[Header]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; nothing for what is not limited."""
    headers: list[Header] = []
    if standing.limit_requests is not None:
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % standing.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % (standing.remaining_requests or 0)),
            (b"x-ratelimit-reset-requests", duration(standing.reset_requests_s or 0.0)),
        ]
    if standing.limit_tokens is not None:
        headers += [
            (b"x-ratelimit-limit-tokens", b"%d" % standing.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % (standing.remaining_tokens or 0)),
            (b"x-ratelimit-reset-tokens", duration(standing.reset_tokens_s or 0.0)),
        ]
    return headers


def duration(seconds: float) -> bytes:
    """A time as OpenAI writes it: `20ms`, `1.5s`, `6m0s`, `2h5m0s`. Never shorter than it is."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    tenths = math.ceil(seconds * 10)
    if tenths < 600:
        whole, rest = divmod(tenths, 10)
        return b"%d.%ds" % (whole, rest) if rest else b"%ds" % whole
    minutes, left = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, left) if hours else b"%dm%ds" % (minutes, left)
