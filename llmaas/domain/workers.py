"""A gateway process as the others know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worker:
    """`id` is its for its life; `seen_ms` is its last heartbeat, `catalogue_revision` what it ran then."""

    id: str
    host: str
    pid: int
    started_ms: int
    seen_ms: int
    catalogue_revision: int
