"""`/api/v1/projects/{id}/usage` and, for admins over all projects, `/api/v1/usage`: sums, single rows, export.

The project of the path is put into the filter here and nowhere else; no parameter of a request can name another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.response import Stream

from llmaas.admin_api.shapes import Limit, PathId, moment
from llmaas.control.context import Services, TheServices
from llmaas.domain.exports import ROW_COLUMNS, class_record, csv_line, json_line, row_record, sum_record
from llmaas.domain.permissions import Permission
from llmaas.domain.projects import unknown_project
from llmaas.domain.usage import FROM_ROWS, Cursor, Grouping, Outcome, UsageFilter
from llmaas.domain.usage_names import UnknownName, unknown_name
from llmaas.errors import InvalidRequest

_TOKEN_TYPE = "token-type"
_MOST_DAYS = 31
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000
_LINES_AT_ONCE = 200
_OPTIONS = {"permission": Permission.USAGE_READ}
_Text = Annotated[str | None, QueryParameter(max_length=300)]


class ExportFormat(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


class Sums(msgspec.Struct, frozen=True):
    """`from` is within, `to` is not; null: without end. Money is a decimal in `currency`, energy an estimate.

    `unpriced_requests`: those of the requests that cost nothing because their model had no price.
    """

    start: str | None = msgspec.field(name="from")
    end: str | None = msgspec.field(name="to")
    data: list[dict[str, Any]]


class RowPage(msgspec.Struct, frozen=True):
    """`data`: rows of the ledger, newest first, every column by its name."""

    data: list[dict[str, Any]]
    next: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for, but for its project."""

    where: UsageFilter
    given: bool


def wanted(  # noqa: PLR0917 - query parameters, by their names
    start: Annotated[str | None, QueryParameter(name="from", max_length=40, description="Day or time, UTC.")] = None,
    end: Annotated[str | None, QueryParameter(name="to", max_length=40, description="Up to, without.")] = None,
    key: _Text = None,
    model: _Text = None,
    backend: _Text = None,
    outcome: Annotated[Outcome | None, QueryParameter(description="How requests ended.")] = None,
    member: _Text = None,
    end_user: _Text = None,
    answer: Annotated[str | None, QueryParameter(name="id", max_length=300)] = None,
) -> Wanted:
    """Raises InvalidRequest for times that are none, and for an end before the beginning."""
    where = UsageFilter(
        from_ms=_instant_ms(start, "from"),
        to_ms=_instant_ms(end, "to"),
        key_id=key,
        model_id=model,
        backend_id=backend,
        outcome=outcome,
        member_id=member,
        end_user=end_user,
        id=answer,
    )
    if where.from_ms is not None and where.to_ms is not None and where.to_ms < where.from_ms:
        raise InvalidRequest("`from` comes after `to`.", param="from")
    return Wanted(where, given=start is not None or end is not None)


_BY = Annotated[str, QueryParameter(max_length=200, description=f"Of {', '.join((*Grouping, _TOKEN_TYPE))}.")]
_AFTER = Annotated[str | None, QueryParameter(max_length=200, description="`next` of the page before.")]
TheWanted = NamedDependency[Wanted]
_GIVEN = {"wanted": Provide(wanted, sync_to_thread=False)}


@get("/api/v1/projects/{project_id:str}/usage", opt=_OPTIONS, dependencies=_GIVEN)
async def sum_of_project(services: TheServices, project_id: PathId, wanted: TheWanted, by: _BY = "model") -> Sums:
    """Sums of a project's usage. Without `from` and `to`: of this month."""
    return await _sums(services, await _within(services, project_id, wanted), by, given=wanted.given)


@get("/api/v1/usage", opt=_OPTIONS, dependencies=_GIVEN)
async def sum_of_all(services: TheServices, wanted: TheWanted, by: _BY = "project") -> Sums:
    """Sums over all projects."""
    return await _sums(services, await _everywhere(services, wanted), by, given=wanted.given)


@get("/api/v1/projects/{project_id:str}/usage/rows", opt=_OPTIONS, dependencies=_GIVEN)
async def rows_of_project(
    services: TheServices, project_id: PathId, wanted: TheWanted, after: _AFTER = None, limit: Limit = 50
) -> RowPage:
    """Single requests of a project, newest first."""
    return await _rows(services, await _within(services, project_id, wanted), after, limit)


@get("/api/v1/usage/rows", opt=_OPTIONS, dependencies=_GIVEN)
async def rows_of_all(services: TheServices, wanted: TheWanted, after: _AFTER = None, limit: Limit = 50) -> RowPage:
    """Single requests of all projects, newest first."""
    return await _rows(services, await _everywhere(services, wanted), after, limit)


@get("/api/v1/projects/{project_id:str}/usage/export", opt=_OPTIONS, dependencies=_GIVEN)
async def export_of_project(
    services: TheServices,
    project_id: PathId,
    wanted: TheWanted,
    file_format: Annotated[ExportFormat, QueryParameter(name="format")] = ExportFormat.CSV,
) -> Stream:
    """All rows of a project as a file of CSV or of one JSON object a line, newest first."""
    return _export(services, await _within(services, project_id, wanted), file_format)


@get("/api/v1/usage/export", opt=_OPTIONS, dependencies=_GIVEN)
async def export_of_all(
    services: TheServices,
    wanted: TheWanted,
    file_format: Annotated[ExportFormat, QueryParameter(name="format")] = ExportFormat.CSV,
) -> Stream:
    """All rows of all projects as a file."""
    return _export(services, await _everywhere(services, wanted), file_format)


async def _within(services: Services, project_id: str, wanted: Wanted) -> UsageFilter:
    if await services.projects.get(project_id) is None:
        raise unknown_project(project_id)
    where = dataclasses.replace(wanted.where, project_id=project_id)
    _require_known(await unknown_in(services, where))
    return where


async def _everywhere(services: Services, wanted: Wanted) -> UsageFilter:
    _require_known(await unknown_in(services, wanted.where))
    return wanted.where


async def unknown_in(services: Services, where: UsageFilter) -> UnknownName | None:
    """The first name of a filter that nothing ever had."""
    if all(name is None for name in (where.model_id, where.backend_id, where.key_id, where.member_id)):
        return None
    members: Collection[str] = ()
    if where.member_id is not None and where.project_id is not None:
        members = await services.users.names_in(where.project_id)
    elif where.member_id is not None and await services.users.get(where.member_id) is not None:
        members = [where.member_id]
    fleet = (await services.fleet.state()).fleet
    return await unknown_name(where, fleet=fleet, keys=services.keys, usage=services.usage, members=members)


def _require_known(unknown: UnknownName | None) -> None:
    """Raises InvalidRequest. It says the same of what is not there and of what is another project's."""
    if unknown is not None:
        hint = f": {unknown.hint}" if unknown.hint else ""
        raise InvalidRequest(f"There is no such {unknown.noun}, and no usage of one{hint}.", param=unknown.noun)


async def _sums(services: Services, where: UsageFilter, by: str, *, given: bool) -> Sums:
    if not given:
        today = datetime.fromtimestamp(services.clock.now_ms() / 1000, UTC)
        first = datetime(today.year, today.month, 1, tzinfo=UTC)
        where = dataclasses.replace(where, from_ms=round(first.timestamp()) * 1000)
    names = list(dict.fromkeys(word for part in by.split(",") if (word := part.strip())))
    groupings = [_grouping(name) for name in names if name != _TOKEN_TYPE]
    _check_window(where, groupings, services.clock.now_ms())
    if _TOKEN_TYPE in names:
        data = [class_record(each, groupings) for each in await services.usage.class_sums(where, groupings)]
    else:
        data = [sum_record(each, groupings) for each in await services.usage.sums(where, groupings)]
    return Sums(moment(where.from_ms), moment(where.to_ms), data)


async def _rows(services: Services, where: UsageFilter, after: str | None, limit: int) -> RowPage:
    try:
        place = Cursor.parse(after) if after is not None else None
    except ValueError as error:
        raise InvalidRequest(f"`after` {error}.", param="after") from error
    found = await services.usage.page(where, limit=limit + 1, after=place)
    shown = found[:limit]
    following = str(Cursor.after(shown[-1])) if len(found) > limit else None
    return RowPage([row_record(row) for row in shown], following)


def _export(services: Services, where: UsageFilter, file_format: ExportFormat) -> Stream:
    name = f"usage-{where.project_id or 'all'}.{file_format}"
    return Stream(
        _lines(services, where, file_format),
        media_type="text/csv" if file_format is ExportFormat.CSV else "application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


async def _lines(services: Services, where: UsageFilter, file_format: ExportFormat) -> AsyncIterator[str]:
    csv = file_format is ExportFormat.CSV
    lines = [csv_line(ROW_COLUMNS)] if csv else []
    async for row in services.usage.rows(where):
        record = row_record(row)
        lines.append(csv_line(record.values()) if csv else json_line(record))
        if len(lines) >= _LINES_AT_ONCE:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def _grouping(name: str) -> Grouping:
    try:
        return Grouping(name)
    except ValueError:
        raise InvalidRequest(f"`by` must name some of {', '.join((*Grouping, _TOKEN_TYPE))}.", param="by") from None


def _check_window(where: UsageFilter, by: Sequence[Grouping], now_ms: int) -> None:
    """What only rows tell is read row by row, so the span has to be short."""
    if FROM_ROWS.isdisjoint(by) and where.end_user is None:
        return
    if where.from_ms is None or (where.to_ms or now_ms) - where.from_ms > _MOST_DAYS * _DAY_MS:
        raise InvalidRequest(
            f"Sums by end user or tier take at most {_MOST_DAYS} days; give `from` and `to`.", param="from"
        )


def _instant_ms(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        given = datetime.fromisoformat(text)
        return ((given if given.tzinfo else given.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"`{field}` is no day or time such as 2026-01-31 or 2026-01-31T12:00Z.", param=field
        ) from None


ROUTES: tuple[HTTPRouteHandler, ...] = (
    *(sum_of_project, sum_of_all, rows_of_project, rows_of_all, export_of_project, export_of_all),
)
