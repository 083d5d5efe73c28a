"""What the engine host and the gateways say to each other: one line of JSON at a time. The host says lists of
states, all of them in its first line; gateways say orders.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["idle", "pulling", "starting", "loading", "ready", "draining", "backoff", "failed"]


class EngineState(msgspec.Struct):
    """What the host tells gateways of one model. `progress` 0..1; `base_url` and `api_key` only while ready."""

    model: str
    state: State
    progress: float | None = None
    eta_s: float | None = None
    detail: str = ""
    base_url: str = ""
    api_key: str = ""


class Order(msgspec.Struct):
    """A gateway's wish."""

    op: Literal["want", "unload"]
    model: str


order_decoder = msgspec.json.Decoder(Order)
states_decoder = msgspec.json.Decoder(list[EngineState])
