"""What a batch of usage rows adds to the shares of budgets and to the hours: sums, in the order in which they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add

from llmaas.domain.budgets import DAY_MS, budget_ids, day_name
from llmaas.domain.usage import UsageRow

_HOUR_MS = 3_600_000
HOUR_KEY: tuple[str, ...] = (
    *("hour_ms", "project_id", "key_id", "model_id", "backend_id", "outcome", "price_version", "currency"),
)
HOUR_SUMS: tuple[str, ...] = (
    *("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents"),
    *("cost_nano", "energy_uwh", "duration_ms", "ttft_ms", "ttft_requests"),
)
_HourKey = tuple[int, str, str, str, str, str, int, str]


class Tally:
    """Remembers the name of the day at hand, which most rows of a batch are of."""

    def __init__(self) -> None:
        self._day = (-1, "")

    def shares(self, rows: Iterable[UsageRow]) -> list[tuple[str, int]]:
        """Budget ids with the money spent on them, in nano-units. Rows that cost nothing have none."""
        spent: dict[tuple[str, str, int], int] = {}
        for row in rows:
            if row.cost_nano:
                of = (row.key_id, row.project_id, row.started_ms // DAY_MS)
                spent[of] = spent.get(of, 0) + row.cost_nano
        shares: dict[str, int] = {}
        for (key_id, project_id, day), nano in spent.items():
            for budget_id in budget_ids(key_id, project_id, self._name(day)):
                shares[budget_id] = shares.get(budget_id, 0) + nano
        return sorted(shares.items())

    def hours(self, rows: Iterable[UsageRow]) -> list[tuple[_HourKey, Sequence[int]]]:
        """Values of HOUR_KEY, each with its HOUR_SUMS."""
        hours: dict[_HourKey, tuple[int, ...]] = {}
        for row in rows:
            started = row.started_ms
            key = (
                started - started % _HOUR_MS,
                row.project_id,
                row.key_id,
                row.model_id,
                row.backend_id or "",
                row.outcome,
                row.price_version or 0,
                row.currency,
            )
            ttft = row.ttft_ms
            adds = (
                1,
                row.input_tokens,
                row.cached_input_tokens,
                row.output_tokens,
                row.reasoning_tokens,
                row.documents,
                row.cost_nano,
                row.energy_uwh,
                row.duration_ms,
                ttft or 0,
                0 if ttft is None else 1,
            )
            before = hours.get(key)
            hours[key] = adds if before is None else tuple(map(add, before, adds))
        return sorted(hours.items())

    def _name(self, day: int) -> str:
        if self._day[0] != day:
            self._day = (day, day_name(day))
        return self._day[1]
