"""What operators type, as the values that the fleet's declarations take. A fault is noted beside its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmaas.console.pages.fields import Fields
from llmaas.domain.prices import PRICE_CLASSES, parse_amount

_MOST = 10**12
_MOST_DIGITS = 15


def whole_numbers(fields: Fields, names: Iterable[str]) -> dict[str, int]:
    """Those that were filled in."""
    found = {}
    for name in names:
        text = fields.value(name).strip()
        if not text:
            continue
        if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and 1 <= int(text) <= _MOST:
            found[name] = int(text)
        else:
            fields.faults[name] = fields.t("fleet.whole_number")
    return found


def amounts(fields: Fields, names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Decimals of those that were filled in; a comma is taken for a point."""
    found = {}
    for name in names:
        text = fields.value(prefix + name).strip().replace(",", ".")
        if not text:
            continue
        try:
            parse_amount(text)
        except ValueError:
            fields.faults[prefix + name] = fields.t("fleet.decimal")
        else:
            found[name] = text
    return found


def price(fields: Fields, prefix: str = "price_") -> dict[str, str]:
    return amounts(fields, PRICE_CLASSES, prefix)


def words(text: str) -> list[str]:
    """Names that stand on lines of their own or between commas, each once."""
    return list(dict.fromkeys(word for part in text.replace(",", "\n").split("\n") if (word := part.strip())))


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, ())}
