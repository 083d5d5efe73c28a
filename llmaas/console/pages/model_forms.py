"""The form of a model: each field a text, and the declaration made of them. What the form does not know stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llmaas.console.pages.fields import Fields
from llmaas.console.pages.form_values import decimal, filled, price, wanted, whole_numbers, words
from llmaas.console.typed import shown
from llmaas.domain.energy import CARD_KEY, parse_rate
from llmaas.domain.prices import PRICE_CLASSES

_COUNTS = ("max_model_len", "max_output_tokens")
CARD_TEXTS = ("editor", "parameters", "licence", "quantisation")
LIFECYCLE = ("phase", "released", "deprecated", "retires", "successor")
NAMES = ("aliases", "kind", "owned_by", *_COUNTS, "capabilities", *LIFECYCLE)
"""Fields that a service may name in what it refuses."""


def shown_model(values: Mapping[str, Any], point: str) -> dict[str, str]:
    """A declaration as it is filled in to be changed."""
    card, lifecycle, amounts = (values.get(name, {}) for name in ("card", "lifecycle", "price"))
    filled_in = {name: str(values.get(name, "")) for name in ("kind", "owned_by", *_COUNTS)}
    filled_in["aliases"] = "\n".join(values.get("aliases", []))
    filled_in["capabilities"] = ", ".join(values.get("capabilities", []))
    filled_in |= {f"price_{name}": shown(amounts.get(name, ""), point) for name in PRICE_CLASSES}
    for name in ("price_request", "price_documents"):  # other classes mean something else when they are empty
        filled_in[name] = "" if amounts.get(name) == "0.00" else filled_in[name]
    filled_in |= {f"card_{name}": str(card.get(name, "")) for name in (*CARD_TEXTS, "description")}
    filled_in[f"card_{CARD_KEY}"] = shown(_rate(card), point)
    languages = card.get("languages", [])
    filled_in["card_languages"] = ", ".join(map(str, languages)) if isinstance(languages, list) else str(languages)
    return filled_in | {name: str(lifecycle.get(name, "")) for name in LIFECYCLE}


def read_model(fields: Fields, present: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration that the form makes of the present one; fit for use when there are no faults."""
    amounts = price(fields)
    typed = {
        "aliases": words(fields.value("aliases")),
        "kind": fields.value("kind"),
        "owned_by": fields.value("owned_by").strip(),
        "capabilities": words(fields.value("capabilities")),
        **whole_numbers(fields, _COUNTS),
        "price": amounts,
        "card": _card(fields, present.get("card", {})),
        "lifecycle": filled({name: fields.value(name).strip() for name in LIFECYCLE}),
    }
    return {"id": present["id"], **filled(typed)}


def _card(fields: Fields, present: Mapping[str, Any]) -> dict[str, Any]:
    rate = decimal(fields, f"card_{CARD_KEY}")
    if rate:
        try:
            parse_rate(rate)
        except ValueError:
            fields.faults[f"card_{CARD_KEY}"] = wanted(fields.t)
    typed: dict[str, Any] = {name: fields.value(f"card_{name}").strip() for name in (*CARD_TEXTS, "description")}
    typed["languages"] = words(fields.value("card_languages"))
    unchanged = bool(rate) and Decimal(rate) == Decimal(_rate(present) or -1)
    typed[CARD_KEY] = present[CARD_KEY] if unchanged else rate
    kept = {name: value for name, value in present.items() if name not in typed}
    return {**kept, **filled(typed)}


def _rate(card: Mapping[str, Any]) -> str:
    """Energy as a plain decimal, however the card writes it; "" when it says nothing that is a number."""
    try:
        parse_rate(value := card[CARD_KEY])
    except (KeyError, ValueError):
        return ""
    return f"{Decimal(str(value)):f}"
