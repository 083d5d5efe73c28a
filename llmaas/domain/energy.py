"""Energy, estimated from tokens. A model's card says `energy_kwh_per_mtok`: kilowatt-hours for a million tokens in total.

All tokens count alike, whatever their class, since the card's figure is an average over input and output; what is made
of it is an estimate and is shown as one. Integers only: a rate is in micro-watt-hours per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from llmaas.domain.prices import TokenCounts

CARD_KEY = "energy_kwh_per_mtok"
_UWH_PER_KWH = 1_000_000_000
_MTOK = 1_000_000
_MOST_KWH = 1_000
_UWH = 1_000_000


def parse_rate(value: object) -> int:
    """`0.35`, `"0.35"` or `1` as micro-watt-hours per million tokens. ValueError when it is no plain number from 0 to 1000."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number such as 0.35: kWh for a million tokens")  # noqa: TRY004 - a wrong value of a file
    try:
        kwh = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("must be a number such as 0.35: kWh for a million tokens") from None
    if not kwh.is_finite() or not 0 <= kwh <= _MOST_KWH:
        raise ValueError(f"must be between 0 and {_MOST_KWH} kWh for a million tokens")
    return int((kwh * _UWH_PER_KWH).to_integral_value())


def rate_of(card: Mapping[str, Any]) -> int:
    """The rate on a model's card; 0 when it says nothing that can be used. Read it once for each catalogue."""
    try:
        return parse_rate(card.get(CARD_KEY, 0))
    except ValueError:
        return 0


def energy_uwh(rate: int, tokens: TokenCounts) -> int:
    """Estimated micro-watt-hours, rounded half up; `rate` as `parse_rate` gives it."""
    return (tokens.total * rate + _MTOK // 2) // _MTOK


def format_wh(uwh: int) -> str:
    """Micro-watt-hours as watt-hours: 1234500 -> "1.2345"."""
    sign = "-" if uwh < 0 else ""
    whole, rest = divmod(abs(uwh), _UWH)
    places = f"{rest:06d}".rstrip("0")
    return f"{sign}{whole}.{places or '0'}"
