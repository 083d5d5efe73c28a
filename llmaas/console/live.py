"""What this gateway process knows from memory: the catalogue that it serves from, and which deployments work.

Each gateway process has its own picture of what failed lately; with several of them a page shows that of the one that answers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from llmaas.domain.catalogue import Catalogue, Entry
from llmaas.inference.service import CatalogueHolder
from llmaas.routing.health import Health
from llmaas.routing.load import Load


class State(StrEnum):
    """Of a model, by its deployments that are in service."""

    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    """Some failed lately and are left aside for a while."""
    DOWN = "down"
    """All failed lately."""
    UNSERVED = "unserved"
    """It has no deployment in service."""


@dataclass(frozen=True, slots=True)
class Live:
    holder: CatalogueHolder
    health: Health
    load: Load

    @property
    def catalogue(self) -> Catalogue:
        return self.holder.current

    def state(self, entry: Entry) -> State:
        if not entry.targets:
            return State.UNSERVED
        aside = sum(self.health.is_aside(target) for target in entry.targets)
        if not aside:
            return State.OPERATIONAL
        return State.DOWN if aside == len(entry.targets) else State.DEGRADED

    def in_flight(self, entry: Entry) -> int:
        """Requests that this process has under way with the model."""
        return sum(self.load.of_deployment(target) for target in entry.targets)

    def states(self, entries: Iterable[Entry]) -> list[tuple[Entry, State]]:
        return [(entry, self.state(entry)) for entry in entries]
