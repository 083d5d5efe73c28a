"""`llmaas usage`: what the ledger holds, as sums or as single rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag, instant_ms, words
from llmaas.cli.place import Place, at_place
from llmaas.cli.projects import require_project
from llmaas.domain.prices import format_amount
from llmaas.domain.usage import COLUMNS, Grouping, UsageFilter, UsageRow, UsageSum

if TYPE_CHECKING:
    from llmaas.app import Installation

_TOKEN_TYPE = "token-type"
_GROUPINGS = (*Grouping, _TOKEN_TYPE)
_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_LATEST = 10
_MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class _Form:
    as_json: bool
    as_csv: bool


@at_place
def usage(
    place: Place,
    *,
    project: Annotated[str | None, typer.Option(help="Only this project.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"Sum by: {', '.join(_GROUPINGS)}. Default: model.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this day or time (UTC), or 24h for so long ago.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to, without, this day or time.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Single requests, newest first, instead of sums.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many single requests.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show tokens and costs. Without options: sums by model, and the latest requests."""
    if as_csv and as_json:
        raise typer.BadParameter("cannot go with --json", param_hint="--csv")
    if rows and by:
        raise typer.BadParameter("cannot go with --rows", param_hint="--by")
    form = _Form(as_json, as_csv)
    groups = _groups(by)

    async def work(installation: Installation) -> None:
        now_ms = installation.clock.now_ms()
        if project is not None:
            await require_project(installation, project)
        where = UsageFilter(
            project_id=project,
            from_ms=instant_ms(start, "--from", now_ms) if start else None,
            to_ms=instant_ms(end, "--to", now_ms) if end else None,
        )
        if rows:
            await _show_rows(installation, where, form, limit)
            return
        await _show_sums(installation, where, form, groups)
        if by is None and not as_json and not as_csv:
            latest = [row async for row in installation.usage.rows(where, limit or _LATEST)]
            print(end="\n" if latest else "")
            _table_of_rows(latest, "Latest requests", ids=False)

    place.run(work)


def _groups(by: str | None) -> list[str]:
    groups = words(by) if by is not None else [Grouping.MODEL.value]
    for name in groups:
        if name not in _GROUPINGS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(_GROUPINGS)}", param_hint="--by")
    return groups


async def _show_sums(installation: Installation, where: UsageFilter, form: _Form, groups: Sequence[str]) -> None:
    by_row = [Grouping(name) for name in groups if name != _TOKEN_TYPE]
    sums = await installation.usage.sums(where, by_row)
    by_token_type = _TOKEN_TYPE in groups
    records = [record for s in sums for record in (_by_token_type if by_token_type else _in_one)(s, by_row)]
    names = [name.replace("-", "_") for name in (*by_row, *([_TOKEN_TYPE] if by_token_type else []))]
    numbers = ["tokens"] if by_token_type else [*_TOKENS, "total_tokens", "cost", "currency"]
    columns = [*names, "requests", *numbers]
    if form.as_json:
        output.json_list(records)
    elif form.as_csv:
        written = output.CsvTable(columns)
        for record in records:
            written.add(record[c] for c in columns)
    elif records:
        shown = [c.replace("_", " ").replace(" tokens", "").replace("total", "tokens") for c in columns]
        output.table(shown, [[record[c] for c in columns] for record in records], title="Sums")
    else:
        output.note("no usage yet")


def _in_one(total: UsageSum, by: Sequence[Grouping]) -> list[dict[str, Any]]:
    tokens = {name: getattr(total, name) for name in _TOKENS}
    return [
        {
            **_group_values(total, by),
            "requests": total.requests,
            **tokens,
            "total_tokens": sum(tokens.values()),
            "cost": format_amount(total.cost_nano),
            "currency": total.currency,
        }
    ]


def _by_token_type(total: UsageSum, by: Sequence[Grouping]) -> list[dict[str, Any]]:
    """Without costs: a request's cost is rounded as a whole, so its classes of tokens have no exact share in it."""
    return [
        {
            **_group_values(total, by),
            "token_type": name.removesuffix("_tokens"),
            "requests": total.requests,
            "tokens": getattr(total, name),
        }
        for name in _TOKENS
    ]


def _group_values(total: UsageSum, by: Sequence[Grouping]) -> dict[str, str | None]:
    return {name.replace("-", "_"): value for name, value in zip(by, total.group, strict=True)}


async def _show_rows(installation: Installation, where: UsageFilter, form: _Form, limit: int | None) -> None:
    if form.as_json:
        array = output.JsonList()
        async for row in installation.usage.rows(where, limit):
            array.add(_record(row))
        array.end()
    elif form.as_csv:
        written = output.CsvTable([*COLUMNS, "cost", "started"])
        async for row in installation.usage.rows(where, limit):
            written.add(_record(row).values())
    else:
        shown = limit or _MOST_SHOWN
        found = [row async for row in installation.usage.rows(where, shown + 1)]
        _table_of_rows(found[:shown], None, ids=True)
        if len(found) > shown:
            output.note("there are more: --limit N shows more, --json and --csv all")


def _record(row: UsageRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in COLUMNS}
    return {**values, "cost": format_amount(row.cost_nano), "started": output.moment(row.started_ms)}


def _table_of_rows(rows: Sequence[UsageRow], title: str | None, *, ids: bool) -> None:
    if not rows:
        output.note("no requests yet")
        return
    columns = ["started", "model", "input", "output", "ttft ms", "total ms", "engine", "machine", "outcome", "cost"]
    shown = [[*_cells(row), *([row.id] if ids else [])] for row in rows]
    output.table([*columns, *(["id"] if ids else [])], shown, title=title)


def _cells(row: UsageRow) -> list[object]:
    return [
        output.day_and_time(row.started_ms),
        row.model_id,
        row.input_tokens + row.cached_input_tokens,
        row.output_tokens + row.reasoning_tokens,
        row.ttft_ms,
        row.duration_ms,
        row.engine_type,
        row.machine_name,
        row.outcome,
        f"{format_amount(row.cost_nano)} {row.currency}",
    ]
