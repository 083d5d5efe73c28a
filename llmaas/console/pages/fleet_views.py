"""The fleet as an operator looks at it: what is declared, with what this process sees of it and how fast it was in the last hour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llmaas.control.context import Services
from llmaas.control.spans import day_of
from llmaas.control.status.models import Live
from llmaas.control.status.speeds import Speed, speed_of
from llmaas.domain.catalogue import Target
from llmaas.domain.fleet import FleetState
from llmaas.domain.models import Backend, Deployment, Model, Phase, Provider
from llmaas.domain.usage import Grouping, Outcome, UsageFilter, UsageSum
from llmaas.domain.workers import Worker
from llmaas.errors import Unavailable

_HOUR_MS = 3_600_000
_UNKNOWN = Speed(0, None, None)


class Condition(StrEnum):
    """Of a machine, a deployment or a model. The names of `domain` and of what failed lately, in one word."""

    DEGRADED = "degraded"
    DOWN = "down"
    LOADING = "loading"
    OPERATIONAL = "operational"
    OUT = "out"
    """Taken out of service."""
    UNSERVED = "unserved"
    """Nothing serves it, or it serves nothing."""


@dataclass(frozen=True, slots=True)
class DeploymentLine:
    deployment: Deployment
    backend: Backend
    condition: Condition
    in_flight: int
    speed: Speed


@dataclass(frozen=True, slots=True)
class MachineLine:
    backend: Backend
    provider: Provider
    condition: Condition
    in_flight: int
    speed: Speed
    deployments: Sequence[DeploymentLine]


@dataclass(frozen=True, slots=True)
class ModelLine:
    model: Model
    condition: Condition
    in_flight: int
    speed: Speed
    deployments: Sequence[DeploymentLine]


@dataclass(frozen=True, slots=True)
class FleetView:
    """`me`: the process that answers, None before its first heartbeat. `workers`: those that did not sign off."""

    state: FleetState
    machines: Sequence[MachineLine]
    models: Sequence[ModelLine]
    workers: Sequence[Worker]
    me: Worker | None

    @property
    def in_flight(self) -> int:
        return sum(machine.in_flight for machine in self.machines)

    @property
    def working_machines(self) -> int:
        return sum(machine.condition in _WORKING for machine in self.machines)

    @property
    def working_models(self) -> int:
        return sum(line.condition in _WORKING for line in self.models)

    def machine(self, backend_id: str) -> MachineLine | None:
        return next((line for line in self.machines if line.backend.id == backend_id), None)

    def model(self, model_id: str) -> ModelLine | None:
        return next((line for line in self.models if line.model.id == model_id), None)


_WORKING = frozenset({Condition.OPERATIONAL, Condition.DEGRADED})


async def fleet_view(services: Services) -> FleetView:
    state, today = await services.fleet.state(), str(day_of(services.clock.now_ms()))
    parts = await _last_hour(services)
    fleet = state.fleet
    backends = {backend.id: backend for backend in fleet.backends}
    providers = {provider.id: provider for provider in fleet.providers}
    lines = [
        _deployment(services.live, deployment, backends[deployment.backend_id], providers, parts)
        for deployment in fleet.deployments
    ]
    workers = [worker for worker in await services.workers() if worker.seen_ms]
    return FleetView(
        state,
        [_machine(backend, providers[backend.provider_id], lines, parts) for backend in fleet.backends],
        [_model(model.on(today), lines, parts) for model in fleet.models],
        workers,
        next((worker for worker in workers if worker.id == services.system.worker_id), None),
    )


async def _last_hour(services: Services) -> Mapping[tuple[str | None, ...], UsageSum]:
    """Complete answers by backend and model; nothing while the database does not answer."""
    where = UsageFilter(from_ms=services.clock.now_ms() - _HOUR_MS, outcome=Outcome.COMPLETED.value)
    try:
        return {part.group: part for part in await services.usage.sums(where, [Grouping.BACKEND, Grouping.MODEL])}
    except Unavailable:
        return {}


def _deployment(
    live: Live,
    deployment: Deployment,
    backend: Backend,
    providers: Mapping[str, Provider],
    parts: Mapping[tuple[str | None, ...], UsageSum],
) -> DeploymentLine:
    target = Target(deployment, backend, providers[backend.provider_id])
    ready = Condition.OPERATIONAL if live.preparation(target) is None else Condition.LOADING
    condition = ready if live.works(target) else Condition.DOWN
    part = parts.get((backend.id, deployment.model_id))
    speed = _UNKNOWN if part is None else speed_of(part)
    shown = condition if backend.in_service else Condition.OUT
    return DeploymentLine(deployment, backend, shown, live.load.of_deployment(target), speed)


def _machine(
    backend: Backend,
    provider: Provider,
    lines: Iterable[DeploymentLine],
    parts: Mapping[tuple[str | None, ...], UsageSum],
) -> MachineLine:
    its = [line for line in lines if line.backend.id == backend.id]
    condition = Condition.OUT if not backend.in_service else _together(its)
    speed = _speed([part for group, part in parts.items() if group[0] == backend.id])
    return MachineLine(backend, provider, condition, sum(line.in_flight for line in its), speed, its)


def _model(
    model: Model, lines: Iterable[DeploymentLine], parts: Mapping[tuple[str | None, ...], UsageSum]
) -> ModelLine:
    its = [line for line in lines if line.deployment.model_id == model.id]
    serving = [line for line in its if line.condition is not Condition.OUT]
    condition = Condition.OUT if model.lifecycle.phase == Phase.RETIRED else _together(serving)
    speed = _speed([part for group, part in parts.items() if group[1] == model.id])
    return ModelLine(model, condition, sum(line.in_flight for line in its), speed, its)


def _together(lines: Sequence[DeploymentLine]) -> Condition:
    if not lines:
        return Condition.UNSERVED
    found = {line.condition for line in lines}
    if Condition.OPERATIONAL in found:
        return Condition.OPERATIONAL if len(found) == 1 else Condition.DEGRADED
    return Condition.LOADING if Condition.LOADING in found else Condition.DOWN


def _speed(parts: Sequence[UsageSum]) -> Speed:
    if not parts:
        return _UNKNOWN
    first = parts[0]
    added = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("requests", "output_tokens", "reasoning_tokens", "duration_ms", "ttft_ms", "ttft_requests")
    }
    return speed_of(
        UsageSum(
            group=(),
            currency=first.currency,
            requests=added["requests"],
            input_tokens=0,
            cached_input_tokens=0,
            output_tokens=added["output_tokens"],
            reasoning_tokens=added["reasoning_tokens"],
            cost_nano=0,
            duration_ms=added["duration_ms"],
            ttft_ms=added["ttft_ms"],
            ttft_requests=added["ttft_requests"],
        )
    )
