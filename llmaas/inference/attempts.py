"""Attempts: one target of the plan after the other until one gives its first byte; after that, never another.

A retry budget over all requests keeps a failing fleet from being asked twice for everything.
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


class Attempts:
    def __init__(self, *, load: Load, health: Health, metrics: Metrics) -> None:
        self._load = load
        self._health = health
        self._metrics = metrics
        self._budget = _BUDGET_LEAST

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
        if self._budget < _BUDGET_LEAST:
            self._budget = min(self._budget + _BUDGET_SHARE, _BUDGET_LEAST)
        settlement.routing_reason = plan.reason
        targets = plan.targets[:_MOST]
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
                    first = await handle.first()
                except asyncio.CancelledError:
                    handle.abort(EngineFailed("The request was given up."))
                    raise
                try:
                    result = take(first)
                except EngineError as error:
                    handle.abort(error)
                    raise
            except (EngineError, Loading, NoBackend) as error:
                self._note(settlement, target, error)
                last = position + 1 == len(targets)
                if last or not error.retryable or self._budget < 1:
                    raise
                self._budget -= 1
                settlement.routing_reason = "failover"
                forget_frames(error)
            else:
                self._health.succeeded(target)
                return result
        raise AssertionError("a plan has at least one target")

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
        elif (
            error.retryable
            and not isinstance(error, Loading)
            and not (isinstance(error, EngineFailed) and error.answers)
        ):
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


def _nothing(_gone: LlmaasError) -> None:
    return None
