"""Alerts: what the owners of a project should know of, from the moment it holds until it does not any more, and whom to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from llmaas.domain.audit import Actor
from llmaas.domain.users import valid_email

LOW_CREDIT: Final = "low_credit"
CAP_PERCENTS: Final = (80, 100)
"""Parts of the monthly cap, in percent, that an alert is raised at: `cap_80`, `cap_100`."""
MOST_CHANNELS: Final = 20
_MOST_URL_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Alert:
    """`detail`: numbers by name, money in nano-units. `resolved_ms` None: it still holds."""

    id: str
    project_id: str
    kind: str
    created_ms: int
    detail: Mapping[str, Any]
    resolved_ms: int | None = None


class ChannelKind(StrEnum):
    EMAIL = "email"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Channel:
    """`target`: an address, or a URL. `told_ms`: the last attempt; `fault`: why it failed, None when it did not."""

    id: str
    project_id: str
    kind: ChannelKind
    target: str
    created_ms: int
    told_ms: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to tell one channel. `event`: raised, resolved or test; `id` stays the same however often it is tried."""

    id: str
    event: str
    at_ms: int
    channel: Channel
    alert: Alert
    project_name: str
    attempts: int = 0


class NotDelivered(Exception):
    """The text says why, to who set the channel up."""


class Outbox(Protocol):
    async def due(self, now_ms: int, *, limit: int) -> Sequence[Delivery]:
        """What is to be told now: what was not tried yet first, then the oldest."""
        ...

    async def settle(self, delivery: Delivery, *, now_ms: int, fault: str | None, again_ms: int | None) -> None:
        """An attempt was made; `again_ms` None: it was the last one."""
        ...


class AlertStore(Outbox, Protocol):
    async def latest(self, project_id: str, *, limit: int) -> Sequence[Alert]:
        """Newest first."""
        ...

    async def channels(self, project_id: str) -> Sequence[Channel]:
        """At most MOST_CHANNELS, oldest first."""
        ...

    async def add_channel(self, channel: Channel, *, by: Actor) -> None:
        """Raises Conflict when it is there already, or when there are too many."""
        ...

    async def remove_channel(self, project_id: str, channel_id: str, *, by: Actor) -> None:
        """What was still to be told by it is forgotten. Raises NotFound."""
        ...


class Teller(Protocol):
    async def tell(self, delivery: Delivery) -> None:
        """Raises NotDelivered."""
        ...


def channel_fault(kind: ChannelKind, target: str) -> str | None:
    """Why nothing can be told there; None when it can."""
    if kind is ChannelKind.EMAIL:
        return None if valid_email(target) else "is no e-mail address"
    try:
        parts = urlsplit(target)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if not whole or len(target) > _MOST_URL_CHARS or not target.isascii() or not target.isprintable() or " " in target:
        return "is no URL such as https://example.org/hooks/llmaas"
    if parts.username is not None or parts.fragment:
        return "must hold neither a password nor a fragment"
    return None
