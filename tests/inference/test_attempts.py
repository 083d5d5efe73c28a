"""Attempts: one target after the other, within the budget, and every place is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from llmaas.clock import ManualClock
from llmaas.domain.catalogue import Target
from llmaas.domain.models import Backend, Deployment, Provider, ProviderKind
from llmaas.errors import ClientGone, EngineBusy, EngineFailed, EngineRefused, EngineTimeout, LlmaasError, NoBackend
from llmaas.inference.attempts import Attempts
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Settlement
from llmaas.metrics import Metrics
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.routing.policy import LeastBusy, Plan

PROVIDER = Provider("lab", ProviderKind.OPENAI)
PAID = Provider("paid", ProviderKind.OPENAI, cancel_stops_billing=False)


def target(number: int, provider: Provider = PROVIDER) -> Target:
    backend = Backend(f"b{number}", provider.id, f"http://b{number}", f"ma{number}", "vllm")
    return Target(Deployment("m", backend.id, "m"), backend, provider)


TARGETS = [target(n) for n in range(5)]


class Facts:
    """What attempts write down of themselves; stands where the settlement's fields are."""

    def __init__(self) -> None:
        self.request_id = "r"
        self.target: Target | None = None
        self.routing_reason: str | None = None
        self.attempts = 0


class Caller:
    def __init__(self) -> None:
        self.gone = False
        self.callback: Callable[[LlmaasError], None] | None = None

    def on_gone(self, callback: Callable[[LlmaasError], None]) -> None:
        self.callback = callback

    def hang_up(self) -> None:
        self.gone = True
        assert self.callback is not None
        self.callback(ClientGone("The caller hung up."))


class Handle:
    def __init__(self, outcome: LlmaasError | None, meanwhile: Callable[[], None] | None = None) -> None:
        self.outcome = outcome
        self.meanwhile = meanwhile
        self.aborted: LlmaasError | None = None

    async def first(self) -> str:
        if self.meanwhile is not None:
            self.meanwhile()
        if self.outcome is not None:
            raise self.outcome
        return "answer"

    def abort(self, error: LlmaasError) -> None:
        self.aborted = error


Started = tuple[Handle, Callable[[str], str]]


class Rig:
    def __init__(self) -> None:
        self.load = Load()
        self.health = Health(ManualClock())
        self.attempts = Attempts(load=self.load, health=self.health, metrics=Metrics())
        self.caller = Caller()
        self.started: list[Target] = []
        self.unfit: list[EngineFailed] = []

    async def run(self, outcomes: list[LlmaasError | None], targets: list[Target] | None = None) -> Facts:
        facts = Facts()
        left = list(outcomes)

        def start(at: Target) -> Started:
            self.started.append(at)
            return Handle(left.pop(0)), self.take

        settlement = cast(Settlement, facts)
        plan = Plan(targets or TARGETS, "least_busy")
        try:
            await self.attempts.run(plan, settlement, cast(Reply, self.caller), start)
        finally:
            self.attempts.over(settlement)
        return facts

    def take(self, given: str) -> str:
        if self.unfit:
            raise self.unfit.pop(0)
        return given

    def idle(self) -> bool:
        return not any(self.load.of_backend(one) or self.load.of_deployment(one) for one in TARGETS)


RETRYABLE: list[LlmaasError] = [
    EngineFailed("x"),
    EngineTimeout("x", phase="first_byte"),
    EngineBusy("x", retry_after_s=3),
    NoBackend("x"),
]


@pytest.mark.parametrize("error", RETRYABLE, ids=lambda e: type(e).__name__)
async def test_F02_a_failure_before_the_first_byte_goes_to_the_next(error: LlmaasError) -> None:
    rig = Rig()
    facts = await rig.run([error, None])
    assert rig.started == TARGETS[:2]
    assert (facts.attempts, facts.routing_reason, facts.target) == (2, "failover", TARGETS[1])
    assert rig.health.is_aside(TARGETS[0])
    assert rig.health.is_broken(TARGETS[0]) is not isinstance(error, EngineBusy)
    assert not rig.health.is_aside(TARGETS[1])
    assert rig.idle()


async def test_F04_a_refusal_is_final_and_says_nothing_about_the_engine() -> None:
    rig = Rig()
    with pytest.raises(EngineRefused):
        await rig.run([EngineRefused("x")])
    assert len(rig.started) == 1
    assert not rig.health.is_aside(TARGETS[0])
    assert rig.idle()


async def test_F04_a_4xx_sets_nobody_aside_unless_another_takes_the_request() -> None:
    rig = Rig()
    with pytest.raises(EngineFailed):
        await rig.run([EngineFailed("x", denied=True) for _ in range(3)])
    assert rig.started == TARGETS[:3]
    with pytest.raises(EngineRefused):
        await rig.run([EngineFailed("x", denied=True), EngineRefused("x")])
    assert not any(rig.health.is_aside(one) for one in TARGETS)
    facts = await rig.run([EngineFailed("x", denied=True), EngineFailed("x"), None])
    assert (facts.attempts, facts.routing_reason) == (3, "failover")
    assert [rig.health.is_aside(one) for one in TARGETS] == [True, True, False, False, False]
    assert rig.idle()


@pytest.mark.parametrize("error", [EngineFailed("x", denied=True), EngineFailed("x", answers=True)])
async def test_F04_what_callers_bring_about_uses_up_no_failover_of_others(error: EngineFailed) -> None:
    rig = Rig()
    for _ in range(500):
        with pytest.raises(EngineFailed):
            await rig.run([error, error, error])
    assert len(rig.started) <= 500 * 1.2 + 10
    for _ in range(10):
        assert (await rig.run([EngineFailed("x"), None])).attempts == 2
    with pytest.raises(EngineFailed):
        for _ in range(10):
            await rig.run([EngineFailed("x"), None])


async def test_no_more_than_three_targets_are_asked() -> None:
    rig = Rig()
    with pytest.raises(EngineFailed, match="third"):
        await rig.run([EngineFailed("first"), EngineFailed("second"), EngineFailed("third")])
    assert rig.started == TARGETS[:3]
    assert rig.idle()


async def test_F04_a_failing_fleet_is_not_asked_twice_for_everything() -> None:
    """In the long run upstream attempts stay at 1.2 times the requests."""
    rig = Rig()
    for _ in range(500):
        with pytest.raises(EngineFailed):
            await rig.run([EngineFailed("x") for _ in range(3)])
    assert len(rig.started) <= 500 * 1.2 + 10


async def test_a_caller_who_is_gone_gets_no_second_attempt() -> None:
    rig = Rig()
    rig.caller.gone = True
    with pytest.raises(ClientGone):
        await rig.run([None])
    assert rig.started == []
    assert rig.idle()


@pytest.mark.parametrize("provider", [PROVIDER, PAID], ids=lambda p: cast(Any, p).id)
async def test_B05_a_hang_up_aborts_only_what_stops_costing(provider: Provider) -> None:
    rig = Rig()
    handles: list[Handle] = []

    def start(_: Target) -> Started:
        handles.append(Handle(None, rig.caller.hang_up))
        return handles[-1], rig.take

    facts = cast(Settlement, Facts())
    await rig.attempts.run(Plan([target(1, provider)], "only"), facts, cast(Reply, rig.caller), start)
    assert isinstance(handles[0].aborted, ClientGone) is provider.cancel_stops_billing


def test_the_policy_is_what_makes_plans() -> None:
    rig = Rig()
    plan = LeastBusy(rig.load, rig.health).plan("m", TARGETS)
    assert sorted(t.backend.id for t in plan.targets) == sorted(t.backend.id for t in TARGETS)


async def test_what_is_not_as_asked_is_asked_of_the_next_and_sets_nobody_aside() -> None:
    rig = Rig()
    rig.unfit = [EngineFailed("not as asked", answers=True)]
    facts = await rig.run([None, None])
    assert (facts.attempts, facts.routing_reason) == (2, "failover")
    assert not any(rig.health.is_aside(one) for one in TARGETS)
    rig.unfit = [EngineFailed("given up")]
    await rig.run([None, None])
    assert rig.health.is_aside(TARGETS[0])
