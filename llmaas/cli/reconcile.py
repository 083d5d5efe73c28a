"""`llmaas ledger reconcile`: the ledger against an engine's own log, or against how the engines' counters grew.

`llmaas ledger rebuild` makes the sums anew from the rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmaas.cli import output
from llmaas.cli.parameters import span_ms
from llmaas.cli.place import Place, at_place
from llmaas.domain.reconciliation import Counters, EngineLog, read_counters
from llmaas.domain.usage import Grouping, UsageFilter
from llmaas.domain.values import printable

if TYPE_CHECKING:
    from llmaas.datadir import Installation

_TIMEOUT_S = 5.0


@at_place
def reconcile(
    place: Place,
    *,
    engine_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An engine's own log: JSON lines with id and tokens.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Counters of the engines: made when it is not there.")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="ID", help="Only this backend.")] = None,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Rows from this day or time on.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Rows before this day or time.")] = None,
) -> None:
    """Hold the ledger against what engines say; prints `ok`, or each difference on its line and leaves with 1."""
    if (engine_log is None) == (baseline is None):
        raise typer.BadParameter("give one of --engine-log and --baseline", param_hint="--engine-log")

    async def work(installation: Installation) -> list[str] | None:
        now_ms = installation.clock.now_ms()
        if baseline is not None:
            return await _by_counters(installation, baseline, backend)
        from_ms, to_ms = span_ms(start, end, now_ms)
        where = UsageFilter(backend_id=backend, from_ms=from_ms, to_ms=to_ms)
        assert engine_log is not None  # noqa: S101 - one of the two is
        return await _by_log(installation, engine_log, where)

    differences = place.run(work)
    if differences is None:
        output.note(f"{baseline} made; run the same command again when there was work")
        return
    for difference in differences:
        print(printable(difference))
    if differences:
        raise typer.Exit(1)
    print("ok")


@at_place
def rebuild(
    place: Place,
    *,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="From the day of this time on.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to the day of this time.")] = None,
) -> None:
    """Make the sums by hour and day anew from the rows, day by day. Days with rows that retention removed stay."""

    async def work(installation: Installation) -> int:
        now_ms = installation.clock.now_ms()
        span = await installation.rollups.span()
        if span is None:
            return 0
        from_ms, to_ms = span_ms(start, end, now_ms)
        first = span[0] if from_ms is None else max(span[0], from_ms)
        last = span[1] if to_ms is None else min(span[1], to_ms)
        return await installation.rollups.rebuild(first, last)

    print(f"{place.run(work)} days made anew")


async def _by_log(installation: Installation, path: Path, where: UsageFilter) -> list[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            log = EngineLog(lines)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--engine-log") from error
    rows = (row async for row in installation.usage.rows(where) if row.corrects is None)
    differences = [each async for row in rows for each in log.differences(row)]
    return [*differences, *log.left()]


async def _by_counters(installation: Installation, path: Path, backend: str | None) -> list[str] | None:
    """None: there was nothing to compare with, and now there is."""
    now_ms = installation.clock.now_ms()
    present = await _counters(installation, backend)
    if not path.exists():  # noqa: ASYNC240 - a command's own process
        made = {name: [each.prompt, each.completion] for name, each in present.items()}
        path.write_text(json.dumps({"made_ms": now_ms, "backends": made}), encoding="utf-8")  # noqa: ASYNC240 - the same
        return None
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # noqa: ASYNC240 - the same
        since_ms, engines = int(before["made_ms"]), dict(before["backends"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{path} is no baseline", param_hint="--baseline") from error
    where = UsageFilter(from_ms=since_ms, to_ms=now_ms, backend_id=backend)
    sums = {total.group[0]: total for total in await installation.usage.sums(where, [Grouping.BACKEND])}
    differences = []
    for name, counters in sorted(present.items()):
        if name not in engines:
            differences.append(f"{name}: it is not in the baseline")
            continue
        total = sums.get(name)
        mine = (0, 0)
        if total is not None:
            cached = 0 if counters.fresh_prompt else total.cached_input_tokens
            mine = (total.input_tokens + cached, total.output_tokens + total.reasoning_tokens)
        grown = (counters.prompt - engines[name][0], counters.completion - engines[name][1])
        if min(grown) < 0:
            differences.append(f"{name}: its counters began anew, so it was restarted; make another baseline")
        elif grown != mine:
            differences.append(
                f"{name}: the ledger has {mine[0]} + {mine[1]} tokens, the engine {grown[0]} + {grown[1]}"
            )
    return differences


async def _counters(installation: Installation, backend: str | None) -> dict[str, Counters]:
    """Of every backend that shows some; the others are told."""
    import httpx

    found: dict[str, Counters] = {}
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        for each in (await installation.catalogue.fleet()).backends:
            if (backend is not None and each.id != backend) or not each.base_url:
                continue
            try:
                answer = await client.get(f"{each.base_url.removesuffix('/v1')}/metrics")
                counters = read_counters(answer.text) if answer.status_code == 200 else None
            except httpx.HTTPError:
                counters = None
            if counters is None:
                output.note(f"{each.id}: shows no counters of vLLM or llama.cpp at /metrics")
            else:
                found[each.id] = counters
    return found
