"""Attempts: one target of the plan after the other until one gives its first byte; after that, never another.

A retry budget over all requests keeps a failing fleet from being asked twice for everything. What callers can bring about by what they
ask has a budget of its own, so that they don't use up the failovers of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import structlog

from llmaas.domain.catalogue import Target
from llmaas.errors import (
    ClientGone,
    EngineBusy,
    EngineError,
    EngineFailed,
    LlmaasError,
    Loading,
    NoBackend,
    forget_frames,
)
from llmaas.inference.reply import Reply
from llmaas.inference.settlement import Settlement
from llmaas.metrics import Metrics
from llmaas.routing.health import Health
from llmaas.routing.load import Load
from llmaas.routing.policy import Plan

_MOST = 3
_BUDGET_SHARE = 0.2
_BUDGET_LEAST = 10.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.attempts")


T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)


class Handle(Protocol[T_co]):
    """An attempt under way."""

    async def first(self) -> T_co: ...
    def abort(self, error: LlmaasError) -> None: ...


class _Budget:
    """Second and third attempts that may be made now."""

    def __init__(self) -> None:
        self._left = _BUDGET_LEAST

    def spend(self) -> bool:
        """Take one. False: there is none."""
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self) -> bool:
        """Add the share of one more request; says whether more may be added."""
        self._left = min(self._left + _BUDGET_SHARE, _BUDGET_LEAST)
        return self._left < _BUDGET_LEAST


class Attempts:
    def __init__(self, *, load: Load, health: Health, metrics: Metrics) -> None:
        self._load = load
        self._health = health
        self._metrics = metrics
        self._after_failures = _Budget()
        self._after_odd_requests = _Budget()
        self._spent = False

    async def run(
        self,
        plan: Plan,
        settlement: Settlement,
        reply: Reply,
        start: Callable[[Target], tuple[Handle[T], Callable[[T], U]]],
    ) -> U:
        """`start` gives an attempt and what takes its first answer, which raises EngineFailed when that is not what was asked for:
        then the next target is asked. Gives what was taken of the attempt that worked, the last one started; its target is in the
        settlement and counts as busy until `over()`. Raises the last attempt's error, or ClientGone.
        """
        if self._spent:
            self._earn()
        settlement.routing_reason = plan.reason
        targets = plan.targets[:_MOST]
        denied: list[Target] = []
        for position, target in enumerate(targets):
            if reply.gone:
                raise ClientGone("The caller hung up.")
            if settlement.target is not None:
                self._load.end(settlement.target)
            settlement.target = target
            settlement.attempts += 1
            self._load.begin(target)
            try:
                handle, take = start(target)
                self._watch(reply, target, handle)
                try:
                    result = take(await handle.first())
                except asyncio.CancelledError:
                    handle.abort(EngineFailed("The request was given up."))
                    raise
                except EngineError as error:
                    handle.abort(error)
                    raise
            except (EngineError, Loading, NoBackend) as error:
                self._note(settlement, target, error)
                if position + 1 == len(targets) or not error.retryable or not self._spend(error):
                    raise
                if isinstance(error, EngineFailed) and error.denied:
                    denied.append(target)
                settlement.routing_reason = "failover"
                forget_frames(error)
            else:
                self._health.succeeded(target)
                for one in denied:
                    self._health.failed(one)  # what it refused, another one takes
                return result
        raise AssertionError("a plan has at least one target")

    def _spend(self, error: LlmaasError) -> bool:
        """Take one more attempt from the budget that this error is on; False: there is none left."""
        self._spent = True
        return (self._after_odd_requests if _may_be_asked_for(error) else self._after_failures).spend()

    def _earn(self) -> None:
        more = self._after_failures.earn()
        self._spent = self._after_odd_requests.earn() or more

    def over(self, settlement: Settlement) -> None:
        """The request no longer runs on its target."""
        if settlement.target is not None:
            self._load.end(settlement.target)

    def broke_off(self, settlement: Settlement, target: Target, error: EngineError) -> None:
        """An engine failed after its first byte."""
        self._note(settlement, target, error)

    def _watch(self, reply: Reply, target: Target, handle: Handle[Any]) -> None:
        if target.provider.cancel_stops_billing:
            reply.on_gone(handle.abort)
        else:
            # It is charged for to its end, so it is read to its end.
            reply.on_gone(_nothing)

    def _note(self, settlement: Settlement, target: Target, error: EngineError | Loading | NoBackend) -> None:
        self._metrics.attempt_failed(target.backend.id, error.code)
        if isinstance(error, EngineBusy):
            self._health.busy(target, retry_after_s=error.retry_after_s)
        elif error.retryable and not isinstance(error, Loading) and not _may_be_asked_for(error):
            self._health.failed(target)
        if error.retryable and not isinstance(error, Loading):
            _log.warning(
                "attempt_failed",
                request_id=settlement.request_id,
                model=target.deployment.model_id,
                backend=target.backend.id,
                code=error.code,
                hint=error.hint or error.message,
            )


def _may_be_asked_for(error: LlmaasError) -> bool:
    """Whether a caller could have an engine fail so by what he asks."""
    return isinstance(error, EngineFailed) and (error.answers or error.denied)


def _nothing(_gone: LlmaasError) -> None:
    return None
