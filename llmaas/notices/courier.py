"""Takes what is to be told to where it is to be told, again and later each time until it arrives or is given up.

At least once: who receives a message twice knows it by its id.
"""

from __future__ import annotations

import msgspec
import structlog

from llmaas.clock import Clock, iso
from llmaas.domain.alerts import LOW_CREDIT, ChannelKind, Delivery, NotDelivered, Outbox
from llmaas.domain.prices import format_amount
from llmaas.notices.mail import Mailer
from llmaas.notices.webhooks import Webhooks

_LATER_S = (60, 300, 1_800, 7_200, 21_600, 43_200, 86_400)
_BATCH = 50

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.notices")
_json = msgspec.json.Encoder()


class Courier:
    """`console_url`: where people find the console, "" when it is not told."""

    def __init__(self, mailer: Mailer, webhooks: Webhooks, clock: Clock, *, console_url: str, currency: str) -> None:
        self._mailer = mailer
        self._webhooks = webhooks
        self._clock = clock
        self._console_url = console_url
        self._currency = currency

    async def tell(self, delivery: Delivery) -> None:
        """Raises NotDelivered."""
        channel = delivery.channel
        if channel.kind is ChannelKind.EMAIL:
            subject, text = self._mail(delivery)
            await self._mailer.send(channel.target, subject, text, message_id=delivery.id)
        else:
            at_s = self._clock.now_ms() // 1000
            await self._webhooks.send(
                channel.id, channel.target, self._document(delivery), message_id=delivery.id, at_s=at_s
            )

    async def deliver(self, outbox: Outbox) -> int:
        """Try all that is due now; gives how much of it arrived."""
        arrived = 0
        for delivery in await outbox.due(self._clock.now_ms(), limit=_BATCH):
            fault: str | None = None
            again_ms: int | None = None
            try:
                await self.tell(delivery)
                arrived += 1
            except NotDelivered as error:
                fault = str(error)
                if delivery.attempts < len(_LATER_S):
                    again_ms = self._clock.now_ms() + _LATER_S[delivery.attempts] * 1000
                _log.warning("alert_not_delivered", channel=delivery.channel.id, final=again_ms is None, hint=fault)
            await outbox.settle(delivery, now_ms=self._clock.now_ms(), fault=fault, again_ms=again_ms)
        return arrived

    def _document(self, delivery: Delivery) -> bytes:
        alert = delivery.alert
        data = {
            "alert_id": alert.id,
            "project_id": alert.project_id,
            "project": delivery.project_name,
            "kind": alert.kind,
            "raised": iso(alert.created_ms),
            "detail": alert.detail,
            "currency": self._currency,
            "summary": self._summary(delivery),
        }
        return _json.encode({"type": f"alert.{delivery.event}", "timestamp": iso(delivery.at_ms), "data": data})

    def _mail(self, delivery: Delivery) -> tuple[str, str]:
        mark = {"resolved": "Resolved: ", "test": "Test: "}.get(delivery.event, "")
        lines = [
            self._summary(delivery),
            "",
            f"Project: {delivery.project_name}",
            f"Since: {iso(delivery.alert.created_ms)}",
        ]
        if self._console_url:
            lines.append(f"See: {self._console_url}/projects/{delivery.alert.project_id}/billing")
        name = " ".join(delivery.project_name.split())
        return f"[llmaas] {mark}{name}: {_HEADLINES.get(delivery.alert.kind, delivery.alert.kind)}", "\n".join(
            lines
        ) + "\n"

    def _summary(self, delivery: Delivery) -> str:
        """In English, in one sentence."""
        alert, detail = delivery.alert, delivery.alert.detail
        if delivery.event == "test":
            return "This is a test: alerts of the project arrive here."
        if alert.kind == LOW_CREDIT:
            text = f"the credit fell below {self._amount(detail['threshold_nano'])}: {self._amount(detail['balance_nano'])} is left"
        elif "cap_nano" in detail:
            spent, cap = self._amount(detail["spent_nano"]), self._amount(detail["cap_nano"])
            text = f"{spent} of the monthly cap of {cap} is spent ({detail['percent']} % reached)"
        else:
            text = alert.kind
        return f"No more so: {text}." if delivery.event == "resolved" else f"{text[:1].upper()}{text[1:]}."

    def _amount(self, nano: int) -> str:
        return f"{format_amount(nano)} {self._currency}"


_HEADLINES = {LOW_CREDIT: "credit is low", "cap_80": "80 % of the monthly cap", "cap_100": "the monthly cap is reached"}
