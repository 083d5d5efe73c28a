"""`llmaas usage`: what the ledger holds, as sums or as single rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from llmaas.cli import output
from llmaas.cli.parameters import JsonFlag, span_ms, words
from llmaas.cli.place import Place, at_place
from llmaas.cli.projects import require_project
from llmaas.domain.exports import ROW_COLUMNS, class_record, row_record, sum_record
from llmaas.domain.prices import format_amount
from llmaas.domain.usage import Grouping, Outcome, UsageFilter, UsageRow, is_unpriced
from llmaas.domain.usage_names import unknown_name
from llmaas.domain.values import printable
from llmaas.errors import NotFound

if TYPE_CHECKING:
    from llmaas.datadir import Installation

_TOKEN_TYPE = "token-type"
_GROUPINGS = (*Grouping, _TOKEN_TYPE)
_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_LATEST = 10
_MOST_SHOWN = 50
_NO_PRICE = "no price"


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
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only this key.")] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="Only this model.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="ID", help="Only this backend.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only requests that ended so, for example completed.")] = None,
    end_user: Annotated[str | None, typer.Option(metavar="NAME", help="Only this `user` of the requests.")] = None,
    answer: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only the answer with this id.")] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="Only this month (UTC).")] = None,
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
    if month and (start or end):
        raise typer.BadParameter("cannot go with --from or --to", param_hint="--month")
    if outcome is not None and outcome not in tuple(Outcome):
        raise typer.BadParameter(f"{outcome!r} is none of {', '.join(Outcome)}", param_hint="--outcome")
    form = _Form(as_json, as_csv)
    groups = _groups(by)
    first_ms, end_ms = _month_ms(month) if month else (None, None)

    async def work(installation: Installation) -> None:
        now_ms = installation.clock.now_ms()
        if project is not None:
            await require_project(installation, project)
        span = span_ms(start, end, now_ms)
        where = UsageFilter(
            project_id=project,
            from_ms=first_ms if span[0] is None else span[0],
            to_ms=end_ms if span[1] is None else span[1],
            key_id=key,
            model_id=model,
            backend_id=backend,
            outcome=outcome,
            end_user=end_user,
            id=answer,
        )
        await _require_known(installation, where)
        if rows:
            await _show_rows(installation, where, form, limit)
            return
        await _show_sums(installation, where, form, groups)
        if by is None and not as_json and not as_csv:
            latest = [row async for row in installation.usage.rows(where, limit or _LATEST)]
            print(end="\n" if latest else "")
            _table_of_rows(latest, "Latest requests", ids=False)

    place.run(work)


async def _require_known(installation: Installation, where: UsageFilter) -> None:
    """Raises NotFound for a name that nothing ever had."""
    fleet = await installation.catalogue.fleet()
    unknown = await unknown_name(where, fleet=fleet, keys=installation.keys, usage=installation.usage)
    if unknown is not None:
        said = f"There is no {unknown.noun} `{printable(unknown.name)}`, and no usage of one."
        raise NotFound(said, param=unknown.noun, hint=unknown.hint or None)


def _groups(by: str | None) -> list[str]:
    groups = words(by) if by is not None else [Grouping.MODEL.value]
    for name in groups:
        if name not in _GROUPINGS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(_GROUPINGS)}", param_hint="--by")
    return groups


def _month_ms(text: str) -> tuple[int, int]:
    """The first moment of a month and of the next one."""
    try:
        first = datetime.strptime(text.strip(), "%Y-%m").replace(tzinfo=UTC)
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no month; write for example 2026-11", param_hint="--month") from None
    return round(first.timestamp()) * 1000, round(after.timestamp()) * 1000


async def _show_sums(installation: Installation, where: UsageFilter, form: _Form, groups: Sequence[str]) -> None:
    by_row = [Grouping(name) for name in groups if name != _TOKEN_TYPE]
    by_token_type = _TOKEN_TYPE in groups
    if by_token_type:
        records = [class_record(each, by_row) for each in await installation.usage.class_sums(where, by_row)]
    else:
        records = [sum_record(each, by_row) for each in await installation.usage.sums(where, by_row)]
    names = [name.replace("-", "_") for name in (*by_row, *([_TOKEN_TYPE] if by_token_type else []))]
    numbers = ["tokens"] if by_token_type else [*_TOKENS, "total_tokens", "estimated_wh"]
    columns = [*names, "requests", *numbers, "cost", "currency"]
    if form.as_json:
        output.json_list(records)
    elif form.as_csv:
        written = output.CsvTable([*columns, "unpriced_requests"])
        for record in records:
            written.add(record[c] for c in (*columns, "unpriced_requests"))
    elif records:
        if Grouping.KEY in by_row:
            known = await installation.keys.get_many(list({record["key"] for record in records}))
            records = [{**each, "name": known[each["key"]].name if each["key"] in known else ""} for each in records]
            columns.insert(columns.index("key") + 1, "name")
        shown = [c.replace("_", " ").replace(" tokens", "").replace("total", "tokens") for c in columns]
        if not by_token_type:
            free = format_amount(0)
            records = [
                {**each, "cost": _NO_PRICE} if each["unpriced_requests"] and each["cost"] == free else each
                for each in records
            ]
        output.table(shown, [[record[c] for c in columns] for record in records], title="Sums")
        await _tell_unpriced(installation, where)
    else:
        output.note("no usage yet")


async def _tell_unpriced(installation: Installation, where: UsageFilter) -> None:
    """One line for each model that had no price."""
    counts: Counter[str] = Counter()
    for total in await installation.usage.sums(where, [Grouping.MODEL]):
        counts[total.group[0] or ""] += total.unpriced_requests
    for model_id, count in sorted(counts.items()):
        if count:
            told = f"{count} request{'' if count == 1 else 's'} of {printable(model_id)}"
            output.note(
                f"no price: {told} cost nothing; give it one in the fleet file (0 where it is meant to be free)"
            )


async def _show_rows(installation: Installation, where: UsageFilter, form: _Form, limit: int | None) -> None:
    if form.as_json:
        array = output.JsonList()
        async for row in installation.usage.rows(where, limit):
            array.add(row_record(row))
        array.end()
    elif form.as_csv:
        written = output.CsvTable(ROW_COLUMNS)
        async for row in installation.usage.rows(where, limit):
            written.add(row_record(row).values())
    else:
        shown = limit or _MOST_SHOWN
        found = [row async for row in installation.usage.rows(where, shown + 1)]
        _table_of_rows(found[:shown], None, ids=True)
        if len(found) > shown:
            output.note("there are more: --limit N shows more, --json and --csv all")


def _table_of_rows(rows: Sequence[UsageRow], title: str | None, *, ids: bool) -> None:
    if not rows:
        output.note("no requests yet")
        return
    columns = [
        "started",
        "model",
        "prompt",
        "completion",
        "ttft ms",
        "total ms",
        "engine",
        "machine",
        "outcome",
        "cost",
    ]
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
        _NO_PRICE if is_unpriced(row) and not row.cost_nano else f"{format_amount(row.cost_nano)} {row.currency}",
    ]
