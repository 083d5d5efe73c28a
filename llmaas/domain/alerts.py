"""Alerts: what the owners of a project should know of, from the moment it holds until it does not any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Alert:
    """`detail`: numbers by name, money in nano-units. `resolved_ms` None: it still holds."""

    id: str
    project_id: str
    kind: str
    created_ms: int
    detail: Mapping[str, Any]
    resolved_ms: int | None = None


class AlertReader(Protocol):
    async def latest(self, project_id: str, *, limit: int) -> Sequence[Alert]:
        """Newest first."""
        ...
