"""What an address of the usage pages asks for: a span of days, filters, and what a report is made by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import TypeVar
from urllib.parse import urlencode

from llmaas.console.reports import By, Measure
from llmaas.control.spans import INVERTED, MOST_DAYS, TOO_LONG, Span, month_of, months_before, read_span
from llmaas.domain.usage import Outcome, UsageFilter
from llmaas.errors import InvalidRequest

MOST_ROW_DAYS = 31
"""Of sums that only rows tell."""
_MAX_CHARS = 300
_Choice = TypeVar("_Choice", bound=StrEnum)
_FILTERS = ("model", "key", "member", "outcome", "end_user")


@dataclass(frozen=True, slots=True)
class Asked:
    """`fault`: the key of the text that says what of the address made no sense; what it asked for is then left out. `unknown`: the
    filter whose value nothing ever had. `typed`: days that could not be used, as they stand in their fields still.
    """

    span: Span
    today: date
    by: By = By.MODEL
    measure: Measure = Measure.TOKENS
    model: str = ""
    key: str = ""
    member: str = ""
    outcome: str = ""
    end_user: str = ""
    fault: str = ""
    unknown: str = ""
    typed: tuple[str, str] = ("", "")

    def with_unknown(self, name: str) -> Asked:
        """Days that make no sense are told first."""
        return self if self.fault else dataclasses.replace(self, fault="unknown", unknown=name)

    @property
    def first_shown(self) -> str:
        return self.typed[0] if any(self.typed) else str(self.span.first)

    @property
    def last_shown(self) -> str:
        return self.typed[1] if any(self.typed) else str(self.span.last)

    @property
    def told(self) -> dict[str, object]:
        """What the text of `fault` says."""
        if self.unknown:
            return {"name": getattr(self, self.unknown)}
        return {"first": self.typed[0] or self.span.first, "last": self.typed[1] or self.span.last, "most": MOST_DAYS}

    def where(self, project_id: str) -> UsageFilter:
        return UsageFilter(
            project_id=project_id,
            from_ms=self.span.from_ms,
            to_ms=self.span.to_ms,
            model_id=self.model or None,
            key_id=self.key or None,
            member_id=self.member or None,
            outcome=self.outcome or None,
            end_user=self.end_user or None,
        )

    @property
    def filters(self) -> dict[str, str]:
        """Those that are set."""
        return {name: value for name in _FILTERS if (value := getattr(self, name))}

    def query(self, **changes: str) -> str:
        """The query of an address that asks for the same but for some changes; "" takes something away."""
        said = {
            **({} if "month" in changes else self.span.query),
            "by": self.by,
            "measure": self.measure,
            **self.filters,
            **changes,
        }
        return urlencode({name: value for name, value in said.items() if value})

    @property
    def month_before(self) -> str:
        return months_before(self.span.first, 2)[1]

    @property
    def month_after(self) -> str:
        """Empty when it has not begun."""
        following = month_of(self.span.last).last + timedelta(1)
        return f"{following:%Y-%m}" if following <= self.today else ""

    @property
    def export_query(self) -> str:
        """For the export of the admin API, whose end of a span is not within."""
        days = {"from": str(self.span.first), "to": str(self.span.last + timedelta(1))}
        return urlencode({**days, **self.filters})


def read_asked(query: Mapping[str, str], today: date) -> Asked:
    """Never raises: an address that somebody typed wrong shows this month, and says so."""
    said = {name: query.get(name, "")[:_MAX_CHARS] for name in (*_FILTERS, "month", "from", "to", "by", "measure")}
    fault = ""
    try:
        span = read_span(today, month=said["month"], first=said["from"], last=said["to"])
    except InvalidRequest as error:
        span = month_of(today)
        fault = {INVERTED: "inverted", TOO_LONG: "too_long"}.get(error.message, "span")
    if span == dataclasses.replace(month_of(span.first), month=""):
        span = month_of(span.first)
    by = _choice(By, said["by"], By.MODEL)
    asked = Asked(
        span=span,
        today=today,
        by=by,
        measure=_choice(Measure, said["measure"], Measure.TOKENS),
        model=said["model"],
        key=said["key"],
        member=said["member"],
        outcome=said["outcome"],
        end_user=said["end_user"],
        fault=fault,
        typed=(said["from"], said["to"]) if fault else ("", ""),
    )
    if asked.outcome and asked.outcome not in set(Outcome):
        asked = asked.with_unknown("outcome")
    if (by is By.END_USER or asked.end_user) and len(span.days) > MOST_ROW_DAYS:
        return dataclasses.replace(asked, by=By.MODEL if by is By.END_USER else by, end_user="", fault="long_span")
    return asked


def _choice(choices: type[_Choice], text: str, otherwise: _Choice) -> _Choice:
    try:
        return choices(text)
    except ValueError:
        return otherwise
