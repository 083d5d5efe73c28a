"""Probes and measurements: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from llmaas.domain.access import Caller
from llmaas.domain.ports import UsageLog
from llmaas.inference.service import InferenceService
from llmaas.metrics import Metrics
from llmaas.web.requests import Request
from llmaas.web.responses import JSON, respond


class HealthHandlers:
    def __init__(
        self, service: InferenceService, log: UsageLog, metrics: Metrics, following: Callable[[], bool]
    ) -> None:
        """`following`: whether changes of keys are heard of."""
        self._service = service
        self._following = following
        self._log = log
        self._metrics = metrics

    async def healthz(self, request: Request, _caller: Caller | None) -> None:
        """The process answers."""
        await respond(request, 200, [JSON], b'{"status":"ok"}')

    async def readyz(self, request: Request, _caller: Caller | None) -> None:
        """New work is taken, also while usage has to wait in the spool for the database; that is said."""
        if self._service.draining:
            status, body = 503, b'{"status":"draining"}'
        elif not self._log.accepting:
            status, body = 503, b'{"status":"ledger_unavailable"}'
        elif not self._following():
            status, body = 503, b'{"status":"changes_unknown"}'
        elif self._log.away:
            status, body = 200, b'{"status":"ready","degraded":"database_away"}'
        else:
            status, body = 200, b'{"status":"ready"}'
        headers = [JSON] if status == 200 else [JSON, (b"retry-after", b"2")]
        await respond(request, status, headers, body)

    async def metrics(self, request: Request, _caller: Caller | None) -> None:
        self._metrics.set_gauge("llmaas_in_flight", self._service.in_flight)
        self._metrics.set_gauge("llmaas_ledger_accepting", 1 if self._log.accepting else 0)
        self._metrics.set_gauge("llmaas_ledger_database", 0 if self._log.away else 1)
        body = self._metrics.render()
        await respond(request, 200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], body)
