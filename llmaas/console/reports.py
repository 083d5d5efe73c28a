"""Usage of a span by one dimension: lines of a table and a column for each day, both from the ledger's sums.

Of keys and end users there may be thousands: the database ranks them, and only the largest are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmaas.console.charts import COLOURS, Series
from llmaas.control.spans import Span
from llmaas.domain.usage import Grouping, Ranked, TokenClass, UsageFilter, UsageReader, UsageSum

_FOLD_DAYS = 92
"""Spans of more days have a column for each month."""
MOST_LINES = 100


class By(StrEnum):
    """What a report is made by."""

    MODEL = "model"
    KEY = "key"
    MEMBER = "member"
    END_USER = "end-user"
    TOKEN_CLASS = "token-class"
    OUTCOME = "outcome"


class Measure(StrEnum):
    """What a column's height is."""

    TOKENS = "tokens"
    COST = "cost"
    REQUESTS = "requests"


@dataclass(slots=True)
class Line:
    """One value of the dimension in one currency. `name` None: what has none. Energy in micro-watt-hours, an estimate."""

    name: str | None
    currency: str
    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    energy_uwh: int = 0
    ttft_ms: int = 0
    ttft_requests: int = 0
    unpriced_requests: int = 0
    by_column: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.cached_input_tokens + self.output_tokens + self.reasoning_tokens

    @property
    def mean_ttft_ms(self) -> int | None:
        return self.ttft_ms // self.ttft_requests if self.ttft_requests else None

    def take(self, part: Line) -> None:
        """The opposite."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) - getattr(part, name))

    def add(self, part: UsageSum | Line) -> None:
        """Its numbers; not its columns."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(part, name))


_MANY = frozenset({By.KEY, By.END_USER})
_NUMBERS = (
    *("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
    *("cost_nano", "energy_uwh", "ttft_ms", "ttft_requests", "unpriced_requests"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """`lines`: largest first. `totals`: one for each currency. `columns`: days, or months of a long span.

    `more`: how many values have no line; `rest` is what they come to, one line for each currency. `others`: the heights of
    the columns of all values that have none of their own in `by_column`.
    """

    by: By
    measure: Measure
    columns: list[str]
    lines: list[Line]
    totals: list[Line]
    more: int = 0
    rest: list[Line] = field(default_factory=list)
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not any(line.requests or line.cost_nano for line in self.totals)

    @property
    def unpriced_requests(self) -> int:
        return sum(line.unpriced_requests for line in self.totals)

    @property
    def is_monthly(self) -> bool:
        return bool(self.columns) and len(self.columns[0]) == len("2026-11")

    @property
    def main(self) -> Line:
        """The total of the currency that most was asked in; zeros without any."""
        return self.totals[0] if self.totals else Line(None, "")

    def named(self, names: Mapping[str | None, str]) -> Report:
        """With other names for its lines; those that come to have the same one are added up."""
        lines: dict[tuple[str | None, str], Line] = {}
        for line in self.lines:
            name = names.get(line.name, line.name)
            together = lines.setdefault((name, line.currency), Line(name, line.currency))
            together.add(line)
            for column, height in line.by_column.items():
                together.by_column[column] = together.by_column.get(column, 0) + height
        return dataclasses.replace(self, lines=_ordered(lines.values(), self.measure))

    def series(self) -> list[Series]:
        """Money only of the main currency: amounts of several cannot be stacked."""
        return [
            Series(line.name or "", [line.by_column.get(column, 0) for column in self.columns])
            for line in self.lines
            if self.measure is not Measure.COST or line.currency == self.main.currency
        ]


async def make_report(usage: UsageReader, where: UsageFilter, span: Span, by: By, measure: Measure) -> Report:
    """`where` holds the span already. Sums by end user may read rows, so their spans have to be short."""
    monthly = len(span.days) > _FOLD_DAYS
    time = Grouping.MONTH if monthly else Grouping.DAY
    columns = list(dict.fromkeys(day[:7] for day in span.days)) if monthly else span.days
    if by in _MANY:
        return await _ranked(usage, where, Report(by, measure, columns, [], []), time)
    totals: dict[str, Line] = {}
    if by is By.TOKEN_CLASS:
        lines = await _by_class(usage, where, time, measure, totals)
    else:
        found = await usage.sums(where, [time, Grouping(by.value)])
        lines = _by_group(found, measure, totals)
    ordered, main_first = _ordered(lines, measure), sorted(totals.values(), key=lambda line: -line.requests)
    rest: dict[str, Line] = {}
    for line in ordered[MOST_LINES:]:
        rest.setdefault(line.currency, Line(None, line.currency)).add(line)
    return Report(by, measure, columns, ordered, main_first, len(ordered[MOST_LINES:]), list(rest.values()))


async def _ranked(usage: UsageReader, where: UsageFilter, empty: Report, time: Grouping) -> Report:
    by, measure = Grouping(empty.by.value), empty.measure
    found = await usage.largest(where, by, Ranked(measure.value), time, limit=MOST_LINES, drawn=COLOURS)
    totals = summed(found.every)
    if not totals:
        return empty
    lines = [_line(part) for part in found.lines]
    names = list(dict.fromkeys(line.name for line in lines))
    # One colour is for the others when there are any.
    drawn = set(names if len(names) <= COLOURS else names[: COLOURS - 1])
    named = {(line.name, line.currency): line for line in lines if line.name in drawn}
    others: dict[str, int] = {}
    main = totals[0].currency
    for part in found.every:
        if measure is not Measure.COST or part.currency == main:
            column = part.group[0] or ""
            others[column] = others.get(column, 0) + _height(_line(part), measure)
    for part in found.columns:
        column, name = part.group[0] or "", part.group[1]
        line = named.get((name, part.currency))
        if line is not None:
            line.by_column[column] = _height(_line(part), measure)
            if measure is not Measure.COST or part.currency == main:
                others[column] -= line.by_column[column]
    rest = {total.currency: Line(None, total.currency) for total in totals}
    for total in totals:
        rest[total.currency].add(total)
    for line in lines:
        rest[line.currency].take(line)
    return dataclasses.replace(
        empty,
        lines=lines,
        totals=totals,
        more=found.count - len(lines),
        rest=[line for line in rest.values() if line.requests or line.cost_nano],
        others={column: height for column, height in others.items() if height},
    )


def _line(part: UsageSum) -> Line:
    line = Line(part.group[-1] if part.group else None, part.currency)
    line.add(part)
    return line


def _by_group(found: Iterable[UsageSum], measure: Measure, totals: dict[str, Line]) -> list[Line]:
    lines: dict[tuple[str | None, str], Line] = {}
    for part in found:
        column, name = part.group
        line = lines.setdefault((name, part.currency), Line(name, part.currency))
        line.add(part)
        totals.setdefault(part.currency, Line(None, part.currency)).add(part)
        one = Line(name, part.currency)
        one.add(part)
        line.by_column[column or ""] = line.by_column.get(column or "", 0) + _height(one, measure)
    return list(lines.values())


async def _by_class(
    usage: UsageReader, where: UsageFilter, time: Grouping, measure: Measure, totals: dict[str, Line]
) -> list[Line]:
    """Each class's tokens stand in its own field only; what has no tokens has a cost alone."""
    for part in await usage.sums(where, []):
        totals.setdefault(part.currency, Line(None, part.currency)).add(part)
    lines: dict[tuple[str, str], Line] = {}
    for found in await usage.class_sums(where, [time]):
        name = found.token_class.value
        line = lines.setdefault((name, found.currency), Line(name, found.currency))
        if found.token_class is not TokenClass.OTHER:
            line.requests += found.requests
            line.unpriced_requests += found.unpriced_requests
            setattr(line, f"{name}_tokens", getattr(line, f"{name}_tokens") + found.tokens)
        line.cost_nano += found.cost_nano
        column = found.group[0] or ""
        height = found.cost_nano if measure is Measure.COST else found.tokens
        line.by_column[column] = line.by_column.get(column, 0) + height
    return [line for line in lines.values() if line.tokens or line.cost_nano]


def _ordered(lines: Iterable[Line], measure: Measure) -> list[Line]:
    return sorted(lines, key=lambda line: (-_height(line, measure), line.name or ""))


def _height(line: Line, measure: Measure) -> int:
    if measure is Measure.COST:
        return line.cost_nano
    return line.tokens if measure is Measure.TOKENS else line.requests


def summed(parts: Sequence[UsageSum]) -> list[Line]:
    """One line for each currency, most requests first; one of zeros when there is nothing."""
    totals: dict[str, Line] = {}
    for part in parts:
        totals.setdefault(part.currency, Line(None, part.currency)).add(part)
    return sorted(totals.values(), key=lambda line: -line.requests)
