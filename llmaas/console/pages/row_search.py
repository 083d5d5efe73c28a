"""Single requests of a project that match a filter, found without reading through all those that do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date, datetime

from llmaas.control.spans import DAY_MS, day_of
from llmaas.domain.usage import Cursor, Grouping, Outcome, UsageFilter, UsageReader, UsageRow
from llmaas.errors import Loading

_HOUR_MS = 3_600_000
_FAILURE_HOURS = 24
_POLLS = 100
_MOST_POLLS = 1_000
_FINE = frozenset({Outcome.COMPLETED, Outcome.CLIENT_ABORTED})


async def find_rows(
    usage: UsageReader, where: UsageFilter, *, limit: int, after: Cursor | None = None
) -> list[UsageRow]:
    """What `UsageReader.page` gives. Sums say which hours hold any such row, and only those are read: a key that was used
    once a month ago is found among millions of rows. What sums do not know, such as end users, is read through.
    """
    if where.end_user or where.id or not (where.key_id or where.model_id or where.member_id or where.outcome):
        return await usage.page(where, limit=limit, after=after)
    if after is not None:
        end_ms = (after.started_ms // _HOUR_MS + 1) * _HOUR_MS
        where = dataclasses.replace(where, to_ms=end_ms if where.to_ms is None else min(where.to_ms, end_ms))
    found: list[UsageRow] = []
    days = await _times(usage, where, Grouping.DAY)
    while days and len(found) < limit:
        batch = [days.pop(0)]
        while days and sum(requests for _, requests in batch) < limit - len(found):
            batch.append(days.pop(0))
        within = _narrowed(where, batch[-1][0], batch[0][0] + DAY_MS)
        hours = await _times(usage, within, Grouping.HOUR)
        for start_ms, end_ms in _joined([hour_ms for hour_ms, _ in hours]):
            if len(found) < limit:
                part = _narrowed(where, start_ms, end_ms)
                found += await usage.page(part, limit=limit - len(found), after=after)
    return found


async def latest_failures(usage: UsageReader, project_id: str, now_ms: int, limit: int) -> list[UsageRow]:
    """Those of the last 24 hours that did not end well, newest first. That a caller left is no failure, nor is that a
    model was still loading.
    """
    first_ms = now_ms // _HOUR_MS * _HOUR_MS - (_FAILURE_HOURS - 1) * _HOUR_MS
    where = UsageFilter(project_id=project_id, from_ms=first_ms)
    ended = {part.group[0] for part in await usage.sums(where, [Grouping.OUTCOME])}
    found: list[UsageRow] = []
    for outcome in sorted(name for name in ended if name is not None and name not in _FINE):
        found += await _failed(usage, dataclasses.replace(where, outcome=outcome), limit)
    return sorted(found, key=lambda row: (row.started_ms, row.id), reverse=True)[:limit]


async def _failed(usage: UsageReader, where: UsageFilter, limit: int) -> list[UsageRow]:
    """Sums do not know of loading, so clients' polls are read and left out; of very many only the newest are read."""
    if where.outcome != Outcome.UNAVAILABLE:
        return await find_rows(usage, where, limit=limit)
    found: list[UsageRow] = []
    read, after = 0, None
    while len(found) < limit and read < _MOST_POLLS:
        rows = await find_rows(usage, where, limit=_POLLS, after=after)
        found += [row for row in rows if row.error_code != Loading.code]
        if len(rows) < _POLLS:
            break
        read, after = read + len(rows), Cursor.after(rows[-1])
    return found[:limit]


async def first_day_of(usage: UsageReader, where: UsageFilter, by: Sequence[Grouping], *, most: int) -> date | None:
    """From which day on no more rows than that are read for end users, or only the last day's; None: from the beginning."""
    rows = 0
    days = await usage.requests_from_rows(where, by)
    for day_ms, requests in sorted(((_start_ms(day), requests) for day, requests in days.items()), reverse=True):
        if rows and rows + requests > most:
            return day_of(day_ms + DAY_MS)
        rows += requests
    return None


async def _times(usage: UsageReader, where: UsageFilter, by: Grouping) -> list[tuple[int, int]]:
    """Beginnings of days or hours that hold rows, newest first, each with how many they are."""
    counts: dict[int, int] = {}
    for part in await usage.sums(where, [by]):
        start_ms = _start_ms(part.group[0] or "")
        counts[start_ms] = counts.get(start_ms, 0) + part.requests
    return sorted(counts.items(), reverse=True)


def _start_ms(text: str) -> int:
    return round(datetime.fromisoformat(text if "T" in text else f"{text}T00:00Z").timestamp() * 1000)


def _joined(hours: Sequence[int]) -> list[tuple[int, int]]:
    """Spans of hours that follow each other, newest first as the hours are."""
    spans: list[tuple[int, int]] = []
    for hour_ms in hours:
        if spans and spans[-1][0] == hour_ms + _HOUR_MS:
            spans[-1] = (hour_ms, spans[-1][1])
        else:
            spans.append((hour_ms, hour_ms + _HOUR_MS))
    return spans


def _narrowed(where: UsageFilter, start_ms: int, end_ms: int) -> UsageFilter:
    return dataclasses.replace(
        where,
        from_ms=start_ms if where.from_ms is None else max(where.from_ms, start_ms),
        to_ms=end_ms if where.to_ms is None else min(where.to_ms, end_ms),
    )
