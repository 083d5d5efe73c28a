"""Forms about API keys: their fields as texts, and the API's own forms made of them. What is wrong is told by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from llmaas.admin_api.keys import KeyChanges, LimitsForm, NewKey
from llmaas.console.pages.fields import Fields
from llmaas.console.pages.form_values import amount_field, amounts, whole_numbers
from llmaas.console.texts import Words
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


@dataclass(frozen=True, slots=True)
class KeyForm:
    """`typed`: limits as they stand in their fields; `limits`: as they were read. `faults`: by field, what is wrong with it.
    `etag`: of the key that is changed. `owner`: the user that it is to belong to; "" for who makes it.
    """

    name: str = ""
    expires: str = ""
    models: tuple[str, ...] = ()
    networks: str = ""
    owner: str = ""
    typed: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int | str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    etag: str = ""

    @property
    def is_limited(self) -> bool:
        return bool(self.networks.strip()) or any(self.typed.values())

    def new_key(self) -> NewKey:
        """Only of a form without faults."""
        return NewKey(
            name=self.name.strip(),
            expires_days=int(self.expires) if self.expires else None,
            models=self.models,
            networks=self.ranges,
            limits=self._limits,
            owner=self.owner or None,
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
        return LimitsForm(**self.limits)  # type: ignore[arg-type]


def read_form(fields: Fields) -> KeyForm:
    """What was filled in, with the faults that a look at each field finds."""
    t, numbers, budgets = fields.t, whole_numbers(fields, RATES), amounts(fields, BUDGETS)
    form = KeyForm(
        name=fields.value("name"),
        expires=fields.value("expires"),
        models=fields.listed("models"),
        networks=fields.value("networks"),
        owner=fields.value("owner"),
        etag=fields.value("etag"),
        typed={name: fields.value(name).strip() for name in (*RATES, *BUDGETS)},
        limits={**numbers, **budgets},
        faults=fields.faults,
    )
    for name, text in budgets.items():
        if not parse_amount(text):
            form.faults[name] = t("keys.amount")
    if not all(map(_is_network, form.ranges)):
        form.faults["networks"] = t("keys.network")
    if not form.name.strip():
        form.faults["name"] = t("keys.name_missing")
    if form.expires not in {"", UNCHANGED, *EXPIRIES}:
        form.faults["expires"] = t("frame.whole_number")
    return form


def form_of(key: Key, t: Words) -> KeyForm:
    """As it is filled in to be changed."""
    limits = {name: value for name, value in dataclasses.asdict(key.limits).items() if value is not None}
    return KeyForm(
        name=key.name,
        expires="" if key.expires_ms is None else UNCHANGED,
        models=tuple(sorted(key.allowed_models)),
        networks="\n".join(key.networks),
        typed={name: amount_field(n, t) if name in BUDGETS else str(n) for name, n in limits.items()},
    )


def _is_network(text: str) -> bool:
    try:
        parse_network(text)
    except ValueError:
        return False
    return True
