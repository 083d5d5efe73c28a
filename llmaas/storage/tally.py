"""What a batch of usage rows adds to the shares of budgets and to the hours: sums, in the order in which they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from llmaas.domain.budgets import DAY_MS, budget_ids, day_name
from llmaas.domain.usage import UsageRow

_HOUR_MS = 3_600_000
HOUR_KEY: tuple[str, ...] = (
    *("hour_ms", "project_id", "key_id", "model_id", "backend_id", "outcome", "price_version", "currency"),
)
_SUMMED = (
    *("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents"),
    *("cost_nano", "energy_uwh", "duration_ms"),
)
HOUR_SUMS: tuple[str, ...] = ("requests", *_SUMMED, "ttft_ms", "ttft_requests")
_HourKey = tuple[int, str, str, str, str, str, int, str]
_summed_of = attrgetter(*_SUMMED)


class Tally:
    """Remembers the name of the day at hand, which most rows of a batch are of."""

    def __init__(self) -> None:
        self._day = (-1, "")

    def shares(self, rows: Iterable[UsageRow], first_ids: Mapping[str, str]) -> list[tuple[str, int]]:
        """Budget ids with the money spent on them, in nano-units. Rows that cost nothing have none.

        `first_ids`: the first key of a rotation, by the id of each later one (`Key.first_id`); a key that is not there is the first itself.
        """
        spent: dict[tuple[str, str, int], int] = {}
        for row in rows:
            if row.cost_nano:
                of = (row.key_id, row.project_id, row.started_ms // DAY_MS)
                spent[of] = spent.get(of, 0) + row.cost_nano
        shares: dict[str, int] = {}
        for (key_id, project_id, day), nano in spent.items():
            for budget_id in budget_ids(first_ids.get(key_id, key_id), project_id, self._name(day)):
                shares[budget_id] = shares.get(budget_id, 0) + nano
        return sorted(shares.items())

    def hours(self, rows: Iterable[UsageRow]) -> list[tuple[_HourKey, Sequence[int]]]:
        """Values of HOUR_KEY, each with its HOUR_SUMS."""
        alike: dict[_HourKey, list[UsageRow]] = {}
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
            group = alike.get(key)
            if group is None:
                alike[key] = [row]
            else:
                group.append(row)
        return sorted((key, _sums(group)) for key, group in alike.items())

    def _name(self, day: int) -> str:
        if self._day[0] != day:
            self._day = (day, day_name(day))
        return self._day[1]


def _sums(rows: Sequence[UsageRow]) -> tuple[int, ...]:
    """Column by column, which takes two thirds of the time of adding row to row."""
    columns = map(sum, zip(*map(_summed_of, rows), strict=True))
    waits = [row.ttft_ms for row in rows if row.ttft_ms is not None]
    return (len(rows), *columns, sum(waits), len(waits))
