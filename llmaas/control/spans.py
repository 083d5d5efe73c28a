"""Spans of time that a page shows: a month, or a range of days, both of UTC, as they stand in an address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from llmaas.errors import InvalidRequest

DAY_MS = 86_400_000
MOST_DAYS = 366
INVERTED = "The first day must not be after the last."
TOO_LONG = f"At most {MOST_DAYS} days can be shown."
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Span:
    """Whole days, `first` and `last` within. `month`: `2026-11` when it is one, "" when it is a range of its own."""

    first: date
    last: date
    month: str = ""

    @property
    def from_ms(self) -> int:
        return _ms(self.first)

    @property
    def to_ms(self) -> int:
        """Not within."""
        return _ms(self.last) + DAY_MS

    @property
    def days(self) -> list[str]:
        return [str(self.first + timedelta(n)) for n in range((self.last - self.first).days + 1)]

    @property
    def query(self) -> dict[str, str]:
        """What names it in the address of a page."""
        return {"month": self.month} if self.month else {"from": str(self.first), "to": str(self.last)}


def day_of(now_ms: int) -> date:
    return datetime.fromtimestamp(now_ms / 1000, UTC).date()


def month_of(day: date) -> Span:
    following = (day.replace(day=1) + timedelta(32)).replace(day=1)
    return Span(day.replace(day=1), following - timedelta(1), f"{day:%Y-%m}")


def last_days(today: date, count: int) -> Span:
    """So many days up to and with today."""
    return Span(today - timedelta(count - 1), today)


def months_before(day: date, count: int) -> list[str]:
    """The month of that day and those before it, newest first."""
    months, first = [], day.replace(day=1)
    for _ in range(count):
        months.append(f"{first:%Y-%m}")
        first = (first - timedelta(1)).replace(day=1)
    return months


def read_span(today: date, *, month: str = "", first: str = "", last: str = "") -> Span:
    """This month when nothing is given. Raises InvalidRequest, with the field in `param`."""
    if first or last:
        start = _day(first, "from") if first else today.replace(day=1)
        end = _day(last, "to") if last else today
        if end < start:
            raise InvalidRequest(INVERTED, param="from")
        if (end - start).days >= MOST_DAYS:
            raise InvalidRequest(TOO_LONG, param="from")
        return Span(start, end)
    return month_of(_day(f"{month}-01", "month")) if month else month_of(today)


def _day(text: str, field: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("Write a day as 2026-01-31.", param=field) from None
    if not _EPOCH <= day <= date(9000, 1, 1):
        raise InvalidRequest("Write a day as 2026-01-31.", param=field)
    return day


def _ms(day: date) -> int:
    return (day - _EPOCH).days * DAY_MS
