"""Attempts: one target of the plan after the other until one gives its first byte; after that, never another.

A retry budget over all requests keeps a failing fleet from being asked twice for everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from llmaas.domain.catalogue import Target
from llmaas.errors import ClientGone, EngineBusy, EngineError, EngineFailed, LlmaasError, Loading
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


class Abortable(Protocol):
    def abort(self, error: LlmaasError) -> None: ...


H = TypeVar("H", bound=Abortable)
T = TypeVar("T")


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
        start: Callable[[Target], H],
        first: Callable[[H], Awaitable[T]],
    ) -> tuple[H, T]:
        """The handle of the attempt that worked and what it gave first; its target is in the settlement and counts as
        busy until `over()`. Raises the last attempt's error, or ClientGone.
        """
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
                handle = start(target)
                self._watch(reply, target, handle)
                try:
                    result = await first(handle)
                except asyncio.CancelledError:
                    handle.abort(EngineFailed("The request was given up."))
                    raise
            except (EngineError, Loading) as error:
                self._note(target, error)
                last = position + 1 == len(targets)
                if last or not error.retryable or self._budget < 1:
                    raise
                self._budget -= 1
                settlement.routing_reason = "failover"
            else:
                self._health.succeeded(target)
                return handle, result
        raise AssertionError("a plan has at least one target")

    def over(self, settlement: Settlement) -> None:
        """The request no longer runs on its target."""
        if settlement.target is not None:
            self._load.end(settlement.target)

    def broke_off(self, target: Target, error: EngineError) -> None:
        """An engine failed after its first byte."""
        self._note(target, error)

    def _watch(self, reply: Reply, target: Target, handle: Abortable) -> None:
        if target.provider.cancel_stops_billing:
            reply.on_gone(lambda: handle.abort(ClientGone("The caller hung up.")))
        else:
            # It is charged for to its end, so it is read to its end.
            reply.on_gone(_nothing)

    def _note(self, target: Target, error: EngineError | Loading) -> None:
        self._metrics.attempt_failed(target.backend.id, error.code)
        if isinstance(error, EngineError) and error.retryable:
            wish = error.retry_after_s if isinstance(error, EngineBusy) else None
            self._health.failed(target, retry_after_s=wish)
            _log.warning("attempt_failed", backend=target.backend.id, code=error.code, hint=error.hint)


def _nothing() -> None:
    return None
