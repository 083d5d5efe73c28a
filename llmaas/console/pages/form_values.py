"""What operators type, as the values that the fleet's declarations take. A fault is noted beside its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmaas.console.pages.fields import Fields
from llmaas.console.texts import Words
from llmaas.console.typed import Unclear, read_decimal, read_whole, shown
from llmaas.domain.prices import PRICE_CLASSES, format_amount, parse_amount

_MOST = 10**12


def whole_numbers(fields: Fields, names: Iterable[str]) -> dict[str, int]:
    """Those that were filled in."""
    found = {}
    for name in names:
        text = fields.value(name).strip()
        if not text:
            continue
        try:
            number = read_whole(text, fields.t.group)
        except Unclear as unclear:
            fields.faults[name] = asking(fields.t, text, unclear)
            continue
        except ValueError:
            number = 0
        if 1 <= number <= _MOST:
            found[name] = number
        else:
            fields.faults[name] = fields.t("frame.whole_number")
    return found


def decimal(fields: Fields, name: str) -> str:
    """The plain decimal that a field means; "" when it is empty or has a fault now."""
    text = fields.value(name).strip()
    try:
        return read_decimal(text) if text else ""
    except Unclear as unclear:
        fields.faults[name] = asking(fields.t, text, unclear)
    except ValueError:
        fields.faults[name] = wanted(fields.t)
    return ""


def signed_decimal(fields: Fields, name: str) -> str:
    """The same of an amount that may be negative, in the one form that an amount has: "-5.00"."""
    typed = fields.value(name).strip()
    negative = typed.startswith(("-", "\N{MINUS SIGN}"))
    number = Fields(fields.t, {name: typed[negative:]})
    plain = amounts(number, [name]).get(name, "")
    fields.faults.update(number.faults)
    return f"{'-' if negative else ''}{format_amount(parse_amount(plain))}" if plain else ""


def amounts(fields: Fields, names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Plain decimals of those that were filled in."""
    found = {}
    for name in names:
        text = decimal(fields, prefix + name)
        try:
            if text:
                parse_amount(text)
                found[name] = text
        except ValueError:
            fields.faults[prefix + name] = wanted(fields.t)
    return found


def asking(t: Words, text: str, unclear: Unclear) -> str:
    larger, smaller = unclear.readings
    whole, _, places = smaller.partition(".")
    smaller = shown(f"{whole}.{places.rstrip('0').ljust(2, '0')}", t.point)
    return t("frame.unclear", typed=text, larger=larger, smaller=smaller)


def wanted(t: Words) -> str:
    """What an amount has to look like."""
    return t("frame.amount", example=shown("1234.50", t.point))


def amount_field(nano: int | None, t: Words) -> str:
    """Money as a field shows it, so that it is read as what it is; "" for none."""
    return "" if nano is None else shown(format_amount(nano), t.point)


def price(fields: Fields, prefix: str = "price_") -> dict[str, str]:
    return amounts(fields, PRICE_CLASSES, prefix)


def words(text: str) -> list[str]:
    """Names that stand on lines of their own or between commas, each once."""
    return list(dict.fromkeys(word for part in text.replace(",", "\n").split("\n") if (word := part.strip())))


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, ())}
