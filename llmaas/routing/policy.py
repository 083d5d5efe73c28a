"""The ordered plan of a request: usable targets first, the least busy of them in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from llmaas.domain.catalogue import Target
from llmaas.errors import NoBackend, Saturated
from llmaas.routing.health import Health
from llmaas.routing.load import Load

Reason = Literal["only", "least_busy", "last_resort"]


class Plan(Struct, frozen=True):
    """Targets in the order in which they are to be tried, and why the first is first."""

    targets: Sequence[Target]
    reason: Reason


class LeastBusy:
    """Fewest requests in flight for its weight; equals share by turns."""

    def __init__(self, load: Load, health: Health) -> None:
        self._load = load
        self._health = health
        self._turn = 0

    def plan(self, model_id: str, targets: Sequence[Target]) -> Plan:
        """Raises NoBackend when the model has no deployment, Saturated when each one is at its capacity."""
        if not targets:
            raise NoBackend(f"No backend serves the model `{model_id}` at the moment.", retry_after_s=10)
        open_targets = [t for t in targets if not self._load.is_full(t)]
        if not open_targets:
            raise Saturated(f"Every backend of the model `{model_id}` is at its capacity.", retry_after_s=1)
        if len(open_targets) == 1:
            return Plan(open_targets, "only")
        self._turn += 1
        start = self._turn % len(open_targets)
        turned = [*open_targets[start:], *open_targets[:start]]
        ordered = sorted(turned, key=self._busyness)
        healthy = [t for t in ordered if not self._health.is_aside(t)]
        if not healthy:
            # All failed lately: trying one is better than refusing for sure.
            return Plan(ordered, "last_resort")
        aside = [t for t in ordered if self._health.is_aside(t)]
        return Plan([*healthy, *aside], "least_busy")

    def _busyness(self, target: Target) -> float:
        return self._load.of_deployment(target) / target.deployment.weight
