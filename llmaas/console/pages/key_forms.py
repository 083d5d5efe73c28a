"""Forms about API keys: their fields as texts, and the API's own forms made of them. What is wrong is told by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from litestar.datastructures import FormMultiDict

from llmaas.console.admin.keys import KeyChanges, LimitsForm, NewKey, limits_form
from llmaas.domain.addresses import parse_network
from llmaas.domain.keys import Key
from llmaas.domain.prices import parse_amount

RATES = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "output_tokens_per_hour",
    "output_tokens_per_day",
)
BUDGETS = ("budget_per_day", "budget_per_month", "budget_total")
EXPIRIES = ("30", "90", "365")
"""Days that are offered, besides never."""
UNCHANGED = "unchanged"
_MOST = 10**12
_MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class KeyForm:
    """`faults`: by field, the key of the text that says what is wrong. `etag`: of the key that is changed."""

    name: str = ""
    expires: str = ""
    models: tuple[str, ...] = ()
    networks: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""

    @property
    def is_limited(self) -> bool:
        return bool(self.networks.strip()) or any(self.limits.values())

    def new_key(self) -> NewKey:
        """Only of a form without faults."""
        return NewKey(
            name=self.name.strip(),
            expires_days=int(self.expires) if self.expires else None,
            models=self.models,
            networks=self.ranges,
            limits=self._limits,
        )

    def changes(self) -> KeyChanges:
        """Only of a form without faults. An expiry that was left alone stays the instant that it was."""
        days = msgspec.UNSET if self.expires == UNCHANGED else int(self.expires) if self.expires else None
        return KeyChanges(
            name=self.name.strip(),
            expires_days=days,
            models=self.models,
            networks=self.ranges,
            limits=self._limits,
        )

    @property
    def ranges(self) -> tuple[str, ...]:
        return tuple(self.networks.replace(",", " ").split())

    @property
    def _limits(self) -> LimitsForm:
        rates = {name: int(text) for name in RATES if (text := self.limits.get(name, ""))}
        budgets = {name: text for name in BUDGETS if (text := self.limits.get(name, ""))}
        return LimitsForm(**rates, **budgets)  # type: ignore[arg-type]


def read_form(sent: FormMultiDict) -> KeyForm:
    """What was filled in, with the faults that a look at each field finds."""
    limits = {name: str(sent.get(name, "")).strip() for name in (*RATES, *BUDGETS)}
    form = KeyForm(
        name=str(sent.get("name", "")),
        expires=str(sent.get("expires", "")),
        models=tuple(map(str, sent.getall("models", []))),
        networks=str(sent.get("networks", "")),
        etag=str(sent.get("etag", "")),
        limits={name: text.replace(",", ".") if name in BUDGETS else text for name, text in limits.items()},
    )
    faults = {name: "whole_number" for name in RATES if limits[name] and not _is_whole(limits[name])}
    faults |= {name: "amount" for name in BUDGETS if form.limits[name] and not _is_amount(form.limits[name])}
    if not all(map(_is_network, form.ranges)):
        faults["networks"] = "network"
    if not form.name.strip():
        faults["name"] = "name_missing"
    if form.expires and form.expires != UNCHANGED and not _is_whole(form.expires):
        faults["expires"] = "whole_number"
    return dataclasses.replace(form, faults=faults)


def form_of(key: Key) -> KeyForm:
    """As it is filled in to be changed."""
    limits = msgspec.structs.asdict(limits_form(key.limits))
    return KeyForm(
        name=key.name,
        expires="" if key.expires_ms is None else UNCHANGED,
        models=tuple(sorted(key.allowed_models)),
        networks="\n".join(key.networks),
        limits={name: "" if value is None else str(value) for name, value in limits.items()},
    )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and 1 <= int(text) <= _MOST


def _is_amount(text: str) -> bool:
    try:
        return parse_amount(text) > 0
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        parse_network(text)
    except ValueError:
        return False
    return True
