"""Health, load and policy: who is asked, and in which order."""

from __future__ import annotations

from collections import Counter

import pytest

from llmaas.clock import ManualClock
from llmaas.domain.catalogue import Target
from llmaas.domain.models import Backend, Deployment, Provider, ProviderKind
from llmaas.errors import NoBackend, Saturated
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.routing.policy import LeastBusy

PROVIDER = Provider("lab", ProviderKind.VLLM)


def target(number: int, *, weight: int = 1, room: int | None = None, model: str = "m") -> Target:
    backend = Backend(f"b{number}", "lab", f"http://b{number}", f"ma{number}", "vllm", max_concurrency=room)
    return Target(Deployment(model, backend.id, "m", weight), backend, PROVIDER)


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.load = Load()
        self.health = Health(self.clock)
        self.policy = LeastBusy(self.load, self.health)

    def first(self, *targets: Target) -> Target:
        return self.policy.plan("m", targets).targets[0]


def test_requests_go_to_the_least_busy_by_weight() -> None:
    rig = Rig()
    light, heavy = target(1), target(2, weight=3)
    for _ in range(40):
        rig.load.begin(rig.first(light, heavy))
    assert (rig.load.of_deployment(light), rig.load.of_deployment(heavy)) == (10, 30)


def test_equals_share_by_turns() -> None:
    rig = Rig()
    targets = [target(n) for n in range(4)]
    chosen = Counter(rig.first(*targets).backend.id for _ in range(40))
    assert set(chosen.values()) == {10}


def test_a_failed_target_is_tried_last_for_a_time_that_doubles() -> None:
    rig = Rig()
    good, bad = target(1), target(2)
    rig.load.begin(good)
    for aside_s in (1, 2, 4, 8, 16, 30, 30):
        rig.health.failed(bad)
        rig.clock.advance(aside_s - 0.01)
        assert [t.backend.id for t in rig.policy.plan("m", [good, bad]).targets] == ["b1", "b2"]
        rig.clock.advance(0.02)
        assert rig.first(good, bad) == bad
    rig.health.succeeded(bad)
    rig.health.failed(bad)
    rig.clock.advance(1.01)
    assert rig.first(good, bad) == bad


def test_the_wish_of_a_busy_engine_is_honoured_within_bounds() -> None:
    rig = Rig()
    busy = target(1)
    rig.health.busy(busy, retry_after_s=7)
    rig.clock.advance(6.9)
    assert rig.health.is_aside(busy)
    rig.clock.advance(0.2)
    assert not rig.health.is_aside(busy)
    rig.health.busy(busy, retry_after_s=86_400)
    rig.clock.advance(30.1)
    assert not rig.health.is_aside(busy)


def test_what_failed_is_broken_until_it_answers() -> None:
    rig = Rig()
    one = target(1)
    rig.health.busy(one, retry_after_s=5)
    assert not rig.health.is_broken(one)
    rig.health.failed(one)
    rig.health.busy(one)
    rig.clock.advance(86_400)
    assert (rig.health.is_aside(one), rig.health.is_broken(one)) == (False, True)
    rig.health.succeeded(one)
    assert not rig.health.is_broken(one)


def test_an_engine_may_fail_thousands_of_times() -> None:
    rig = Rig()
    for _ in range(2000):
        rig.health.failed(target(1))
    rig.clock.advance(30.01)
    assert not rig.health.is_aside(target(1))


def test_when_all_failed_one_is_tried_all_the_same() -> None:
    rig = Rig()
    targets = [target(1), target(2)]
    for one in targets:
        rig.health.failed(one)
    plan = rig.policy.plan("m", targets)
    assert plan.reason == "last_resort"
    assert len(plan.targets) == 2


def test_a_full_backend_counts_over_all_its_models() -> None:
    rig = Rig()
    one, other = target(1, room=2), target(1, room=2, model="other")
    rig.load.begin(one)
    rig.load.begin(other)
    with pytest.raises(Saturated) as refused:
        rig.policy.plan("m", [one])
    assert refused.value.retry_after_s
    assert rig.first(one, target(2)).backend.id == "b2"
    rig.load.end(other)
    assert rig.first(one) == one


def test_no_deployment_at_all() -> None:
    with pytest.raises(NoBackend) as refused:
        Rig().policy.plan("m", [])
    assert refused.value.retry_after_s


def test_idle_targets_leave_nothing_behind() -> None:
    load = Load()
    for n in range(100):
        load.begin(target(n))
        load.end(target(n))
    assert all(not load.of_backend(target(n)) for n in range(100))
