"""Money as integers. Prices are nano-units of the currency per million tokens, costs are nano-units; no floats anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec import Struct

NANO = 1_000_000_000
_MTOK = 1_000_000
_PLACES = 9
_MAX_PRICE = 1_000_000
PRICE_CLASSES = ("input", "cached_input", "output", "reasoning", "request", "documents")
_DECIMAL = re.compile(r"([0-9]+)(?:\.([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Price:
    """One immutable version of a model's prices. The four classes are disjoint: `input` counts tokens that were not
    cached, `output` counts tokens that are not reasoning. `request` is per request, `documents` per
    thousand. `tier_id`: it holds for projects on that tier only.
    """

    version: int
    model_id: str
    valid_from_ms: int
    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    request: int = 0
    documents: int = 0
    tier_id: str | None = None


class TokenCounts(Struct, frozen=True):
    """Disjoint classes of tokens; none is negative."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cached_input

    @property
    def completion(self) -> int:
        return self.output + self.reasoning

    @property
    def total(self) -> int:
        return self.input + self.cached_input + self.output + self.reasoning


def cost_nano(price: Price, tokens: TokenCounts) -> int:
    """The exact sum in nano-units, rounded half up once, at the end."""
    scaled = (
        tokens.input * price.input
        + tokens.cached_input * price.cached_input
        + tokens.output * price.output
        + tokens.reasoning * price.reasoning
    )
    return (scaled + _MTOK // 2) // _MTOK + price.request


def bound_nano(price: Price | None, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens can cost, whatever classes they turn out to be of; without the price of the request."""
    if price is None:
        return 0
    scaled = input_tokens * max(price.input, price.cached_input) + output_tokens * max(price.output, price.reasoning)
    return -(-scaled // _MTOK)


def parse_amount(text: str) -> int:
    """A decimal such as "1.80" as nano-units. ValueError when it is no plain non-negative decimal with ≤ 9 places."""
    plain = _DECIMAL.fullmatch(text)
    if plain is None:
        raise ValueError("must be a plain decimal number such as 1.80")
    whole, places = plain[1].lstrip("0") or "0", (plain[2] or "").rstrip("0")
    if len(places) > _PLACES:
        raise ValueError(f"has more than {_PLACES} decimal places")
    nano = int(whole) * NANO + int(places.ljust(_PLACES, "0")) if len(whole) <= _PLACES else None
    if nano is None or nano > _MAX_PRICE * NANO:
        raise ValueError(f"must be between 0 and {_MAX_PRICE}")
    return nano


def format_amount(nano: int) -> str:
    """Nano-units as a decimal with at least two places and no more than needed: 1800000000 -> "1.80"."""
    sign = "-" if nano < 0 else ""
    whole, rest = divmod(abs(nano), NANO)
    places = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole}.{places.ljust(2, '0')}"
