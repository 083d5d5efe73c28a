"""What this gateway process knows from memory: the catalogue that it serves from, and which deployments work.

Each gateway process has its own picture of what failed lately; with several of them a page shows that of the one that answers it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from llmaas.domain.catalogue import Catalogue, Entry, Target
from llmaas.domain.models import Backend, Phase, ProviderKind
from llmaas.domain.ports import Launcher, Preparation
from llmaas.inference.service import CatalogueHolder
from llmaas.routing.health import Health
from llmaas.routing.load import Load


class State(StrEnum):
    """Of a model, by its deployments that are in service; the better ones first."""

    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    """Some failed when they were last asked."""
    LOADING = "loading"
    """Embedded engines are pulling or loading it, and nothing else answers."""
    DOWN = "down"
    """All did."""
    UNSERVED = "unserved"
    """It has no deployment in service."""


@dataclass(frozen=True, slots=True)
class Live:
    holder: CatalogueHolder
    health: Health
    load: Load
    launcher: Launcher

    @property
    def catalogue(self) -> Catalogue:
        return self.holder.current

    def state(self, entry: Entry) -> State:
        if not entry.targets:
            return State.UNSERVED
        answering = sum(self.works(target) and self.preparation(target) is None for target in entry.targets)
        if answering:
            return State.OPERATIONAL if answering == len(entry.targets) else State.DEGRADED
        return State.LOADING if any(self.works(target) for target in entry.targets) else State.DOWN

    def working_first(self, entries: Iterable[Entry]) -> list[Entry]:
        """For whoever has to pick one: those that answer and are meant to stay, then the others, each by name."""
        ranks = {state: n for n, state in enumerate(State)}

        def rank(entry: Entry) -> tuple[int, bool, str]:
            state = self.state(entry)
            return ranks[state], entry.model.lifecycle.phase == Phase.DEPRECATED, entry.model.id

        return sorted(entries, key=rank)

    def works(self, target: Target) -> bool:
        """Whether it did not fail when it was last asked. What is still being loaded may work."""
        preparation = self.preparation(target)
        return not self.health.is_broken(target) and (preparation is None or preparation.state != "failed")

    def found(self, backend: Backend, *, answers: bool) -> None:
        """Somebody looked whether a backend answers: from now on it counts as broken or not, until a request tells more."""
        note = self.health.succeeded if answers else self.health.failed
        for entry in self.catalogue.entries.values():
            for target in entry.targets:
                if target.backend.id == backend.id and self.health.is_broken(target) is answers:
                    note(target)

    def preparation(self, target: Target) -> Preparation | None:
        """How far an embedded engine is that cannot answer yet."""
        if target.provider.kind is not ProviderKind.EMBEDDED:
            return None
        return self.launcher.preparation(target.deployment.root)

    def percent(self, entry: Entry) -> int | None:
        """How much of a model is loaded, where that can be told."""
        told = [self.preparation(target) for target in entry.targets]
        done = [one.progress for one in told if one is not None and one.progress is not None]
        return int(100 * max(done)) if done else None

    def in_flight(self, entry: Entry) -> int:
        """Requests that this process has under way with the model."""
        return sum(self.load.of_deployment(target) for target in entry.targets)

    def states(self, entries: Iterable[Entry]) -> list[tuple[Entry, State]]:
        return [(entry, self.state(entry)) for entry in entries]
