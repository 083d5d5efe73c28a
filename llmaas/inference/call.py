"""What is known of a request besides its own fields, from its arrival on."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.access import Caller


class Call(Struct, frozen=True, gc=False):
    """`explain`: the caller wants to see how it was routed."""

    caller: Caller
    answer_id: str
    request_id: str
    body: bytes
    explain: bool
    started_ms: int
    started_s: float
